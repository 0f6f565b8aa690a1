"""LBF: local binary features of trees, mapped to the fine change by one regression, in stages.

After S. Ren, X. Cao, Y. Wei, J. Sun, "Face alignment at 3000 fps via regressing local binary
features", CVPR 2014, 1685–1692, doi 10.1109/CVPR.2014.218: there trees look at a landmark's
neighbourhood and a global regression moves the whole shape; here they look at a pixel's.
"""

import dataclasses

import numpy as np
from scipy import sparse
from sklearn import ensemble, linear_model, preprocessing

from stfnet_tf.baselines import base

TRAINING_PIXELS = 10_000
PREDICTED_AT_ONCE = 50_000


@dataclasses.dataclass(frozen=True)
class Lbf:
    """Stage by stage, the forest's leaves tell what is still missing of the fine change.

    A stage grows an ensemble of shallow trees on a pixel's neighbourhood in the near fine image,
    the coarse change and the change predicted so far. Which leaf of each tree a pixel falls into,
    as one 1 among zeros, is its sparse binary feature; one ridge regression from all leaves of all
    trees to all bands predicts what is missing. The first stage starts from the coarse change. It
    learns from both known outer changes, (s·C13, F1) → s·F13 and (s·C31, F3) → s·F31, whole and
    halved (s = 0.5), because the wanted change lies somewhere on the way and trees cannot
    extrapolate. The two predictions of F2 are weighted by the inverse of the local coarse change.

    Attributes:
        stages: Number of stages.
        trees: In the ensemble of a stage.
        depth: Of a tree, so that it has at most 2^depth leaves.
        ridge: Weight of the regression's squares.
        shrinkage: Share of the predicted rest that a stage adds.
        shares: s, the shares of the outer change that are learned from.
    """

    name: str = "lbf"
    two_sided: bool = True
    stages: int = 3
    trees: int = 20
    depth: int = 6
    ridge: float = 1000.0
    shrinkage: float = 0.5
    shares: tuple[float, ...] = (0.5, 1.0)

    def predict(self, inputs: base.Inputs) -> base.Prediction:
        """Predicts F2."""
        forward, backward = sides = inputs.sides()
        valid = forward.valid & backward.valid
        known = [
            (share * (there.c - here.c), here)
            for share in self.shares
            for here, there in ((forward, backward), (backward, forward))
        ]
        wanted = [(side.c2 - side.c, side) for side in sides]
        if not valid.any():
            return base.average([side.f + change for change, side in wanted], sides)
        truth = [
            share * (there.f - here.f)
            for share in self.shares
            for here, there in ((forward, backward), (backward, forward))
        ]
        rng = np.random.default_rng(inputs.seed)
        pixels = rng.permutation(np.flatnonzero(valid))[:TRAINING_PIXELS]
        guess = [change.copy() for change, _ in known]
        changes = [change.copy() for change, _ in wanted]
        for stage in range(self.stages):
            x = [
                _features(change, here.f, g, valid, inputs.ratio)
                for (change, here), g in zip(known, guess, strict=True)
            ]
            rest = [t - g for t, g in zip(truth, guess, strict=True)]
            learned = Stage.fit(
                np.concatenate([_rows(image)[pixels] for image in x]),
                np.concatenate([_rows(image)[pixels] for image in rest]),
                self, inputs.seed + stage,
            )  # fmt: skip
            guess = [g + self.shrinkage * learned(image) for g, image in zip(guess, x, strict=True)]
            x = [
                _features(change, side.f, g, side.valid, inputs.ratio)
                for (change, side), g in zip(wanted, changes, strict=True)
            ]
            changes = [
                g + self.shrinkage * learned(image) for g, image in zip(changes, x, strict=True)
            ]
        weights = base.inverse_change_weights(sides, 2 * round(inputs.ratio) + 1)
        result = base.weighted([s.f + c for s, c in zip(sides, changes, strict=True)], weights)
        return dataclasses.replace(result, changes=base.between(changes, sides))


@dataclasses.dataclass(frozen=True)
class Stage:
    """Trees, the code of their leaves and the regression from leaves to change."""

    forest: ensemble.ExtraTreesRegressor
    encoder: preprocessing.OneHotEncoder
    regression: linear_model.Ridge
    scale: np.ndarray

    @classmethod
    def fit(cls, x: np.ndarray, y: np.ndarray, options: Lbf, seed: int) -> "Stage":
        """Grows the trees on x, [n, features], and y, [n, bands]; fits the regression."""
        scale = y.std(axis=0) + 1e-9
        forest = ensemble.ExtraTreesRegressor(
            options.trees, max_depth=options.depth, min_samples_leaf=20, max_features=0.5,
            random_state=seed,
        )  # fmt: skip
        target = y / scale
        forest.fit(x, target[:, 0] if target.shape[1] == 1 else target)
        leaves = forest.apply(x)
        encoder = preprocessing.OneHotEncoder(handle_unknown="ignore", dtype=np.float32)
        regression = linear_model.Ridge(alpha=options.ridge, solver="sparse_cg")
        regression.fit(sparse.csr_matrix(encoder.fit_transform(leaves)), target)
        return cls(forest, encoder, regression, scale)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """What is missing, [height, width, bands]."""
        rows = _rows(features)
        parts = [
            self.regression.predict(
                self.encoder.transform(self.forest.apply(rows[start : start + PREDICTED_AT_ONCE]))
            )
            for start in range(0, len(rows), PREDICTED_AT_ONCE)
        ]
        return np.concatenate(parts).reshape(*features.shape[:2], -1) * self.scale


def _features(
    change: np.ndarray, fine: np.ndarray, guess: np.ndarray, valid: np.ndarray, ratio: float
) -> np.ndarray:
    """A pixel's neighbourhood, float32, [height, width, features].

    The fine image, its differences to two neighbourhood means and its local spread, the coarse
    change as it is and smoothed, and how the predicted change differs from its surroundings. The
    means are over valid pixels alone.
    """
    near, far = (base.masked_gaussian(fine, valid, sigma) for sigma in (1.5, ratio / 2))
    spread = np.sqrt(base.masked_gaussian((fine - near) ** 2, valid, 1.5))
    smooth = base.masked_gaussian(change, valid, ratio)
    around = guess - base.masked_gaussian(guess, valid, 1.5)
    parts = [fine, fine - near, fine - far, spread, change, smooth, around]
    return np.concatenate(parts, axis=-1).astype(np.float32)


def _rows(image: np.ndarray) -> np.ndarray:
    return image.reshape(-1, image.shape[-1])


METHOD = Lbf()
