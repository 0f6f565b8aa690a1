"""Learns how large an error to expect: `expected_error`'s coefficients, where errors are known.

With F2 unknown ("pair"), two things tell of the error. Where it is large: F3 predicted from the
earlier side alone, and F1 from the later one, are wrong by what can be seen at every pixel. How
large it is on this date: the two one-sided predictions of F2 differ by their errors. Both are
regressed on the same features. In "triplet" mode the true errors on the dates of training and
validation, whose F2 is known, take their place.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import tensorflow as tf
from absl import logging
from sklearn import exceptions, linear_model

from stfnet_tf import combination, expected_error, psf, ridge_start, streams
from stfnet_tf import model as stfnet_model
from stfnet_tf.expected_error import BACKWARD, BOTH, FORWARD

Batch = Mapping[str, tf.Tensor]
Tiles = Callable[[], Iterable[Batch]]
Sample = tuple[np.ndarray, np.ndarray]
# Features, error, and where the error is known.
Errors = tuple[tf.Tensor, tf.Tensor, tf.Tensor]

# How many tiles teach, how many pixels of each, and how few pixels teach nothing.
TILES = 16
PIXELS = 10_000
LEAST_PIXELS = 300
# Of the ridge on the slopes, in units of the mean over pixels.
STRENGTH = 0.03
LEAST_ERROR = 1e-6
# A low-passed coarse change is trusted where at least this share of the filter fell on valid ones.
LEAST_SUPPORT = 0.05


def regress(features: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Gamma regression with a logarithmic link and a ridge on the slopes.

    Args:
        features: [pixels, features].
        errors: Not negative, [pixels].

    Returns:
        [features + 1], the constant last.
    """
    found = linear_model.GammaRegressor(alpha=STRENGTH, solver="newton-cholesky", tol=1e-7)
    with warnings.catch_warnings():
        # Errors that are all alike leave nothing to search for, which another solver finishes.
        warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
        found.fit(features.astype(np.float64), np.maximum(errors, LEAST_ERROR, dtype=np.float64))
    return np.append(found.coef_, found.intercept_)


def calibrate(model: stfnet_model.StfNet, tiles: Tiles) -> bool:
    """Sets a trained model's `expected_error` from tiles; "pair" mode does not look at F2.

    Args:
        model: A `StfNet` whose configuration has `expected_error` "calibrated".
        tiles: Gives batches of whole tiles, in reflectance, each time that it is called; they
            hold `f2` and `valid_f2` in "triplet" mode.

    Returns:
        Whether there was enough to learn from; without, the layer is left as it was.
    """
    layer = model.expected_error
    maps = _OneSided(model) if model.config.supervision == "pair" else None
    moments = [ridge_start.Moments(len(model.config.bands), 1) for _ in range(2)]
    for tile in tiles():
        for side, f in ((FORWARD, "f1"), (BACKWARD, "f3")):
            seen = tile[f].numpy()[tile[f"valid_{f}"].numpy()[..., 0] > 0]
            moments[side].add(seen, seen[:, :1])
        if maps:
            maps.learn(tile)
    if not all(m.count for m in moments):
        logging.info("Expected error: not calibrated, because there is no later pair.")
        return False
    _set_units(layer, moments)
    if maps:
        maps.solve()
    samples: list[list[Sample]] = [[], [], []]
    rng = np.random.default_rng(0)
    for tile in tiles():
        found = _pair_errors(model, maps, tile) if maps else _triplet_errors(model, tile)
        for kind, (features, error, known) in found:
            samples[kind].append(_sampled(rng, features, error, known))
    if maps:
        samples[BACKWARD] = samples[FORWARD]
    if any(sum(len(y) for _, y in kind) < LEAST_PIXELS for kind in samples):
        logging.info("Expected error: not calibrated, because too few pixels are known.")
        return False
    coefficients = np.stack([_regress_bands(kind) for kind in samples])
    if maps:
        coefficients[BOTH] = _of_both(coefficients[FORWARD], coefficients[BOTH])
    layer.coefficients.assign(coefficients)
    layer.calibrated.assign(1.0)
    return True


def _of_both(alone: np.ndarray, difference: np.ndarray) -> np.ndarray:
    """From what is known in "pair" mode to the error of the mean of both sides.

    Two statements bracket what is likely. Were one-sided errors, of size p, independent, the mean
    of both would be wrong by p / √2. Were the land a random walk from t1 to t3, it would be wrong
    by half of what the one-sided predictions of F2 differ by, d / 2. Their geometric mean is
    taken. (Were each date to depart from a common state by chance, it would be p √3 / 2.)
    """
    middle = (alone + difference) / 2
    middle[:, -1] += (math.log(1 / math.sqrt(2)) + math.log(1 / 2)) / 2
    return middle


def _set_units(layer: expected_error.ExpectedError, moments: list[ridge_start.Moments]) -> None:
    """Centre, spread and whitening of F1 and F3."""
    covariances = [m.centred()[0] for m in moments]
    spread = [np.sqrt(np.diag(c)) + 1e-6 for c in covariances]
    whitening = []
    for covariance, unit in zip(covariances, spread, strict=True):
        # In units of the spread, so that no band's noise floor depends on how bright it is.
        correlation = covariance / np.outer(unit, unit) + 1e-4 * np.eye(len(unit))
        values, vectors = np.linalg.eigh(correlation)
        whitening.append(vectors / np.sqrt(values * len(unit)) / unit[:, None])
    layer.centre.assign([m.x / m.count for m in moments])
    layer.spread.assign(spread)
    layer.whitening.assign(whitening)


def _sampled(
    rng: np.random.Generator, features: tf.Tensor, error: tf.Tensor, known: tf.Tensor
) -> Sample:
    """Up to `PIXELS` of the pixels where the error is known: [n, bands, features], [n, bands].

    Predictions so large that their squares overflow are left out.
    """
    finite = tf.reduce_all(tf.math.is_finite(features), (-2, -1))
    finite &= tf.reduce_all(tf.math.is_finite(error), -1)
    places = np.flatnonzero((known.numpy()[..., 0] > 0) & finite.numpy())
    if len(places) > PIXELS:
        places = np.sort(rng.choice(places, PIXELS, replace=False))
    bands, count = features.shape[-2:]
    return (
        tf.reshape(features, (-1, bands, count)).numpy()[places],
        np.abs(tf.reshape(error, (-1, bands)).numpy()[places]),
    )


def _regress_bands(samples: list[Sample]) -> np.ndarray:
    """`regress` for each band, [bands, features + 1]."""
    features, errors = (np.concatenate(part) for part in zip(*samples, strict=True))
    return np.stack([regress(features[:, b], errors[:, b]) for b in range(errors.shape[1])])


def _mean_features(
    layer: expected_error.ExpectedError, tile: Batch, fused: combination.Fused
) -> tf.Tensor:
    known = tf.cast(fused.sides > 0, tf.float32)
    return sum(
        layer.features(side, tile[f], tile[f"valid_{f}"], fused.f2, known) / 2
        for side, f in ((FORWARD, "f1"), (BACKWARD, "f3"))
    )


def _triplet_errors(model: stfnet_model.StfNet, tile: Batch) -> list[tuple[int, Errors]]:
    """Errors where F2 is known: of each side by itself, and of both together."""
    layer = model.expected_error
    found = []
    for side, f, (predicted, known) in zip(
        (FORWARD, BACKWARD), ("f1", "f3"), model.sides(tile).values(), strict=True
    ):
        features = layer.features(side, tile[f], tile[f"valid_{f}"], predicted, known)
        found.append((side, (features, predicted - tile["f2"], known * tile["valid_f2"])))
    fused = model.fuse(tile)
    both = tf.cast(fused.sides == 3, tf.float32) * tile["valid_f2"]
    features = _mean_features(layer, tile, fused)
    return [*found, (BOTH, (features, fused.f2 - tile["f2"], both))]


def _pair_errors(
    model: stfnet_model.StfNet, maps: "_OneSided", tile: Batch
) -> list[tuple[int, Errors]]:
    """Errors of F̂3 from F1 and of F̂1 from F3, and how far the two predictions of F2 differ."""
    layer, outer = model.expected_error, tile["valid_f1"] * tile["valid_f3"]
    f3, known3 = maps.predict("1", "3", tile)
    f1, known1 = maps.predict("3", "1", tile)
    found = [
        (FORWARD, (layer.features(side, tile[f], outer, predicted, known), error, known * outer))
        for side, f, predicted, known, error in (
            (FORWARD, "f1", f3, known3, f3 - tile["f3"]),
            (BACKWARD, "f3", f1, known1, f1 - tile["f1"]),
        )
    ]
    forward, known12 = maps.predict("1", "2", tile)
    backward, known23 = maps.predict("3", "2", tile)
    fused = model.fuse(tile)
    both = tf.cast(fused.sides == 3, tf.float32) * known12 * known23
    return [*found, (BOTH, (_mean_features(layer, tile, fused), forward - backward, both))]


class _OneSided:
    """Predictions of a fine image from one other date's.

    Streams that see one fine image make them by themselves. Where they see both, which would tell
    the answer, a linear map of the one fine image stands for them, fitted at the coarse
    resolution as in `ridge_start`.

    Args:
        model: In "pair" mode.
    """

    WAYS = (("1", "3"), ("3", "1"), ("1", "2"), ("3", "2"))

    def __init__(self, model: stfnet_model.StfNet):
        self._model = model
        config = model.config
        bands = len(config.bands)
        self._moments = {way: ridge_start.Moments(bands, bands) for way in self.WAYS}
        self._cells = dict.fromkeys(self.WAYS, 0.0)
        self._maps: dict[tuple[str, str], tf.Tensor] = {}
        self._project = streams.BackProjection(
            config.psf_sigma, config.back_projection_sigma or config.ratio
        )

    def learn(self, tile: Batch) -> None:
        """Adds a tile."""
        if not self._model.config.both_fine:
            return
        for way in self.WAYS:
            own, change, valid = self._seen(way, tile)
            x, y = ridge_start.compared(
                tile[f"f{own}"], tile[f"valid_f{own}"], change, valid, self._model.config
            )
            self._moments[way].add(x, y)
            self._cells[way] += ridge_start.independent_cells(valid, self._model.config)

    def solve(self) -> None:
        """Fits the maps to all tiles."""
        if not self._model.config.both_fine:
            return
        for way, moments in self._moments.items():
            weights, _ = ridge_start.ridge(moments, self._cells[way])
            self._maps[way] = tf.constant(weights, tf.float32)

    def predict(self, own: str, other: str, tile: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        """The fine image of date `other` from that of date `own`, and where it is known."""
        if not self._model.config.both_fine:
            side = "12" if own == "1" else "23"
            if other == "2":
                return self._model.sides(tile)[side]
            return self._model.across(side, tile)
        _, change, valid = self._seen((own, other), tile)
        mapped = tf.tensordot(tile[f"f{own}"], self._maps[own, other], 1)
        mapped = self._project([mapped, change, valid, tile[f"valid_f{own}"]])
        reached = psf.blur(valid, self._project.sigma) > LEAST_SUPPORT
        return tile[f"f{own}"] + mapped, tf.cast(reached, tf.float32) * tile[f"valid_f{own}"]

    def _seen(self, way: tuple[str, str], tile: Batch) -> tuple[str, tf.Tensor, tf.Tensor]:
        own, other = way
        valid = tile[f"valid_c{own}"] * tile[f"valid_c{other}"]
        return own, (tile[f"c{other}"] - tile[f"c{own}"]) * valid, valid
