"""ELM: an extreme learning machine from coarse to fine change.

X. Liu, C. Deng, S. Wang, G.-B. Huang, B. Zhao, P. Lauren, "Fast and accurate spatiotemporal fusion
based upon extreme learning machine", IEEE GRSL 13(12), 2039–2043, 2016, doi
10.1109/LGRS.2016.2622726.
"""

import dataclasses

import numpy as np
from scipy import special
from sklearn import linear_model

from stfnet_tf.baselines import base

TRAINING_PIXELS = 20_000
PREDICTED_AT_ONCE = 20_000


@dataclasses.dataclass(frozen=True)
class Elm:
    """Fine change of a pixel from the coarse change around it and the fine image of the near date.

    One hidden layer with random weights, h = sigmoid(W x + b), and output weights in closed form by
    ridge regression: F̂_kl = C_kl + β h. It learns from both known outer changes, (C13, F1) → F13
    and (C31, F3) → F31, and predicts F12 from (C12, F1) and F32 from (C32, F3). The two predictions
    are weighted by the inverse of the local coarse change.

    The letter maps coarse patches to fine ones. Here, as in the later StfNet, the fine image of the
    near date is an input too, and one pixel is predicted at a time, so no patch borders appear.

    Attributes:
        hidden: Number of hidden nodes.
        radius: Of the window of coarse change that is seen, in steps of half a coarse pixel.
        ridge: Weight of the output weights' squares.
    """

    name: str = "elm"
    two_sided: bool = True
    hidden: int = 200
    radius: int = 2
    ridge: float = 1e4

    def predict(self, inputs: base.Inputs) -> base.Prediction:
        """Predicts F2."""
        forward, backward = sides = inputs.sides()
        valid = forward.valid & backward.valid
        outer = (backward.c - forward.c, forward.c - backward.c)
        wanted = [side.c2 - side.c for side in sides]
        if not valid.any():
            return base.average(
                [s.f + change for s, change in zip(sides, wanted, strict=True)], sides
            )
        rng = np.random.default_rng(inputs.seed)
        pixels = rng.permutation(np.flatnonzero(valid))[:TRAINING_PIXELS]
        x, y = [], []
        for change, here, there in ((outer[0], forward, backward), (outer[1], backward, forward)):
            features = self._features(change, here.f, valid, inputs.ratio)
            x.append(features.reshape(-1, features.shape[-1])[pixels])
            y.append((there.f - here.f - change).reshape(-1, change.shape[-1])[pixels])
        machine = Machine.fit(np.concatenate(x), np.concatenate(y), self.hidden, self.ridge, rng)
        changes = [
            change + machine(self._features(change, side.f, side.valid, inputs.ratio))
            for change, side in zip(wanted, sides, strict=True)
        ]
        weights = base.inverse_change_weights(sides, 2 * round(inputs.ratio) + 1)
        result = base.weighted([s.f + c for s, c in zip(sides, changes, strict=True)], weights)
        return dataclasses.replace(result, changes=base.between(changes, sides))

    def _features(
        self, change: np.ndarray, fine: np.ndarray, valid: np.ndarray, ratio: float
    ) -> np.ndarray:
        """Coarse change in a window and fine reflectance, [height, width, features].

        Those of a valid pixel do not depend on what invalid ones hold.
        """
        step = max(1, round(ratio / 2))
        shifts = range(-self.radius * step, self.radius * step + 1, step)
        pad = self.radius * step
        known = base.nearest_valid(change, valid)
        padded = np.pad(known, ((pad, pad), (pad, pad), (0, 0)), mode="edge")
        height, width = change.shape[:2]
        window = [
            padded[pad + r : pad + r + height, pad + c : pad + c + width]
            for r in shifts
            for c in shifts
        ]
        smooth = base.masked_gaussian(fine, valid, 1.5)
        return np.concatenate([*window, fine, fine - smooth], axis=-1)


@dataclasses.dataclass(frozen=True)
class Machine:
    """One random hidden layer and its fitted output.

    Attributes:
        centre, scale: Of the features.
        weights, biases: Of the hidden layer, [features, hidden] and [hidden].
        output: The ridge regression of the targets, each scaled to unit variance.
        output_scale: What they were divided by, [bands].
    """

    centre: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    biases: np.ndarray
    output: linear_model.Ridge
    output_scale: np.ndarray

    @classmethod
    def fit(
        cls, x: np.ndarray, y: np.ndarray, hidden: int, ridge: float, rng: np.random.Generator
    ) -> "Machine":
        """Draws the hidden layer and solves for the output, x [n, features], y [n, bands]."""
        features = x.shape[-1]
        weights = rng.standard_normal((features, hidden)) / np.sqrt(features)
        biases = rng.uniform(-1, 1, hidden)
        machine = cls(
            x.mean(axis=0), x.std(axis=0) + 1e-9, weights, biases,
            linear_model.Ridge(alpha=ridge), y.std(axis=0) + 1e-9,
        )  # fmt: skip
        machine.output.fit(machine._hidden(x), y / machine.output_scale)
        return machine

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Prediction for an image of features, [height, width, bands]."""
        rows = features.reshape(-1, features.shape[-1])
        parts = [
            self.output.predict(self._hidden(rows[start : start + PREDICTED_AT_ONCE]))
            for start in range(0, len(rows), PREDICTED_AT_ONCE)
        ]
        return np.concatenate(parts).reshape(*features.shape[:2], -1) * self.output_scale

    def _hidden(self, x: np.ndarray) -> np.ndarray:
        return special.expit((x - self.centre) / self.scale @ self.weights + self.biases)


METHOD = Elm()
