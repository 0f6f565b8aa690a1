"""Initial weights of linear streams in closed form, from the coarse images alone.

What a pixel's change has to do with what it looks like before and after is learned where it can
be seen without F2: at the coarse sensor's resolution. The fine images, blurred by its point
spread function, are the regressors; the coarse change is the response; the weights hold at the
fine grid because a linear map of pixels and a blur change places. Only what varies within a few
coarse pixels is compared, since what varies more slowly comes in by back-projection. The ridge's
strength is, for each band, that of the greatest marginal likelihood (MacKay 1992), so nothing is
tuned. A place that changed otherwise than the rest, a field that burnt, must not shape the weights
of all others, so residuals that are too large count less (Huber 1981).

Before that, two things are measured on the pixels that F1 and F3 share: what one fine image tells
of the other, for pixels where the other is hidden; and how much of the fine images' discrepancy
from the coarse ones persists from one date to the other, which tells how much to expect at t2.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import tensorflow as tf
from absl import logging

from stfnet_tf import model as stfnet_model
from stfnet_tf import presets, psf, streams

# What varies over more than this many coarse pixels (σ) is left to back-projection.
HIGH_PASS = 2.0
# Samples a coarse pixel along each axis; more would repeat what the point spread function blurs.
SAMPLING = 4
STRENGTHS = np.exp(np.linspace(np.log(1e-3), np.log(1e3), 40))
# Residuals beyond this many robust standard deviations count less, which is found out this often.
CUT = 2.0
REWEIGHTED = 2
# Samples of a side that are kept in memory; of a larger scene every second, fourth … one.
MOST_SAMPLES = 2**20

Batch = Mapping[str, tf.Tensor]
Tiles = Callable[[], Iterable[Batch]]


@dataclasses.dataclass
class Moments:
    """Sums over samples of regressors x [n, K] and responses y [n, B]; tiles add up."""

    regressors: int
    responses: int

    def __post_init__(self):
        k, b = self.regressors, self.responses
        self.count = 0.0
        self.x, self.y = np.zeros(k), np.zeros(b)
        self.xx, self.xy, self.yy = np.zeros((k, k)), np.zeros((k, b)), np.zeros(b)

    def add(self, x: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> None:
        """Adds samples, each with a weight [n, 1]; 1 where None."""
        x, y = x.astype(np.float64), y.astype(np.float64)
        weighted = x if weights is None else weights * x
        self.count += len(x) if weights is None else float(weights.sum())
        self.x += weighted.sum(0)
        self.y += (y if weights is None else weights * y).sum(0)
        self.xx += weighted.T @ x
        self.xy += weighted.T @ y
        self.yy += (y**2 if weights is None else weights * y**2).sum(0)

    def centred(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Covariances of x [K, K], of x and y [K, B], and variances of y [B]."""
        x, y = self.x / self.count, self.y / self.count
        return (
            self.xx / self.count - np.outer(x, x),
            self.xy / self.count - np.outer(x, y),
            self.yy / self.count - y**2,
        )


def ridge(moments: Moments, cells: float) -> tuple[np.ndarray, np.ndarray]:
    """Ridge regression whose strength, for each response, is of the greatest evidence.

    Args:
        moments: Of the samples.
        cells: How many of the samples are independent.

    Returns:
        Weights [K, B] and strengths [B], relative to standardised regressors; a strength is never
        below what K weights on so few cells need, and infinite where nothing can be learned.
    """
    k = moments.regressors
    least = k / max(cells - k, 1e-3)
    if moments.count == 0 or least > STRENGTHS[-1] / 10:
        infinite = np.full(moments.responses, np.inf)
        return np.zeros((k, moments.responses)), infinite
    covariance, cross, variance = moments.centred()
    spread = np.sqrt(np.diag(covariance)) + 1e-12
    values, vectors = np.linalg.eigh(covariance / np.outer(spread, spread))
    values = np.maximum(values, 1e-9)
    along = vectors.T @ (cross / spread[:, None])
    left = np.stack([variance - (along**2 / (values + s)[:, None]).sum(0) for s in STRENGTHS])
    evidence = -0.5 * cells * np.log(np.maximum(left, 1e-9 * variance + 1e-30))
    evidence -= 0.5 * np.log1p(values / STRENGTHS[:, None]).sum(1)[:, None]
    strength = np.maximum(STRENGTHS[evidence.argmax(0)], least)
    weights = vectors @ (along / (values[:, None] + strength)) / spread[:, None]
    return weights, strength


def robust_ridge(x: np.ndarray, y: np.ndarray, cells: float) -> tuple[np.ndarray, np.ndarray]:
    """`ridge` in which what changed otherwise than the rest, such as a burn scar, counts less.

    Huber's weights by iterated reweighting: a sample at d > `CUT` counts CUT / d, d² the mean over
    responses of its squared residual in units of their median absolute deviation.

    Args:
        x: Regressors [n, K].
        y: Responses [n, B].
        cells: How many of the samples are independent.

    Returns:
        Weights and strengths, as `ridge`.
    """
    weights = np.ones((len(x), 1))
    for round_ in range(REWEIGHTED + 1):
        moments = Moments(x.shape[1], y.shape[1])
        moments.add(x, y, weights)
        share = float(weights.mean()) if len(x) else 1.0
        slopes, strength = ridge(moments, cells * share)
        if round_ < REWEIGHTED and len(x):
            residual = (y - moments.y / moments.count) - (x - moments.x / moments.count) @ slopes
            deviation = np.median(np.abs(residual), 0) / 0.6745 + 1e-12
            distance = np.sqrt(np.mean((residual / deviation) ** 2, 1, keepdims=True))
            weights = CUT / np.maximum(distance, CUT)
    return slopes, strength


class _Samples:
    """Regressors and responses of all tiles, thinned alike where there are very many."""

    def __init__(self):
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []
        self._step = 1

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        self._parts.append(_every(self._step, x, y))
        while sum(len(part) for part, _ in self._parts) > MOST_SAMPLES:
            self._step *= 2
            self._parts = [_every(2, x, y) for x, y in self._parts]

    def all(self) -> tuple[np.ndarray, np.ndarray]:
        """[n, K] and [n, B]."""
        x, y = zip(*self._parts, strict=True)
        return np.concatenate(x), np.concatenate(y)


def _every(step: int, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every `step`-th sample; copies, because a part of an array keeps all of it in memory."""
    return x[::step].copy(), y[::step].copy()


def apply(model: stfnet_model.StfNet, tiles: Tiles) -> None:
    """Sets the weights of a model's streams, and what is measured, from the tiles' images.

    F2 is not looked at.

    Args:
        model: Its configuration has `start` "ridge".
        tiles: Gives batches of whole tiles, in reflectance, each time that it is called; each
            triplet of them teaches.

    Raises:
        ValueError: There is no tile.
    """
    config = model.config
    bands = len(config.bands)
    samples = {k: _Samples() for k in ("12", "23")}
    independent = 0.0
    _measure(model, tiles())
    for tile in tiles():
        for side, (x, y) in _samples(model, tile).items():
            samples[side].add(x, y)
        known = tile["valid_c1"] * tile["valid_c2"]
        independent += independent_cells(known, config)
    if not independent:
        raise ValueError("expected tiles with valid coarse pixels, got none")
    for side, name, stream in (
        ("12", "forward", model.forward_stream),
        ("23", "backward", model.backward_stream),
    ):
        weights, strength = robust_ridge(*samples[side].all(), independent)
        layer = streams.output_layer(stream, name, config)
        kernel = np.zeros(layer.kernel.shape, np.float32)
        # The pixel's own weights; those of its neighbours, where the kernel has any, start at 0.
        kernel[kernel.shape[0] // 2, kernel.shape[1] // 2] = weights
        layer.set_weights([kernel, np.zeros(bands, np.float32)])
        streams.gate(stream, name).passes.assign(np.isfinite(strength).astype(np.float32))
        logging.info("Ridge start, %s stream: strengths %s.", name, np.round(strength, 4))


def _measure(model: stfnet_model.StfNet, tiles: Iterable[Batch]) -> None:
    """What one fine image tells of the other, and how far their discrepancies persist."""
    config = model.config
    bands = len(config.bands)
    moments = {k: Moments(bands, bands) for k in ("12", "23")}
    shared = 0.0
    level = _Persistence(bands)
    for tile in tiles:
        known = tile["valid_f1"] * tile["valid_f3"]
        where = known.numpy()[..., 0] > 0
        first, last = (tile[k].numpy()[where] for k in ("f1", "f3"))
        moments["12"].add(first, last)
        moments["23"].add(last, first)
        shared += independent_cells(known, config)
        if config.level_sigma:
            level.add(tile, config)
    for side, found in moments.items():
        if found.count and config.both_fine:
            weights, _ = ridge(found, shared)
            constant = (found.y - found.x @ weights) / found.count
            model.stand_in(side).learn(weights, constant)
    if config.level_sigma:
        model.measured.persistence.assign(level.value())
        logging.info("Ridge start: persistence %.3f.", level.value())


def _samples(model: stfnet_model.StfNet, tile: Batch) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For each side, blurred fine images [n, K] and coarse changes [n, B], both high-passed.

    K is 2 B where a stream sees both fine images.
    """
    found = {}
    for side, own in (("12", "1"), ("23", "3")):
        inputs = model.stream_inputs(side, tile)
        fine = tf.concat([inputs[k] for k in ("fine", "other") if k in inputs], -1)
        found[side] = compared(
            fine,
            tile[f"valid_f{own}"],
            inputs["coarse_change"],
            inputs["valid_coarse"],
            model.config,
        )
    return found


def compared(
    fine: tf.Tensor,
    valid_fine: tf.Tensor,
    change: tf.Tensor,
    valid_coarse: tf.Tensor,
    config: presets.ModelConfig,
) -> tuple[np.ndarray, np.ndarray]:
    """Fine images and a coarse change, at the coarse resolution and high-passed.

    Args:
        fine: Reflectance, [batch, height, width, K].
        valid_fine: [batch, height, width, 1].
        change: Coarse change, [batch, height, width, B].
        valid_coarse: [batch, height, width, 1].
        config: Ratio and point spread function.

    Returns:
        Regressors [n, K] and responses [n, B].
    """
    step = max(1, int(config.ratio // SAMPLING))
    seen, support = psf.normalised_blur(fine, valid_fine, config.psf_sigma)
    use = valid_coarse * tf.cast(support > 0.5, tf.float32)
    x, y = (
        (image - psf.normalised_blur(image, use, HIGH_PASS * config.ratio)[0]).numpy()
        for image in (seen, change)
    )
    lattice = np.s_[:, step // 2 :: step, step // 2 :: step]
    chosen = use.numpy()[lattice][..., 0] > 0
    return x[lattice][chosen], y[lattice][chosen]


def independent_cells(valid_coarse: tf.Tensor, config: presets.ModelConfig) -> float:
    """How many independent coarse values there are.

    The part of the grid that one point spread function covers holds one.
    """
    return float(tf.reduce_sum(valid_coarse)) / (config.ratio * config.psf_fwhm) ** 2


class _Persistence:
    """Intraclass correlation of F − C between t1 and t3, at `level_sigma`."""

    def __init__(self, bands: int):
        self._both = np.zeros(bands)
        self._each = np.zeros(bands)
        self._fine = np.zeros((3, bands))

    def add(self, tile: Batch, config: presets.ModelConfig) -> None:
        known = tf.reduce_prod([tile[f"valid_{k}"] for k in ("f1", "f3", "c1", "c3")], 0)
        where = known.numpy()[..., 0] > 0
        differences = [tile[f"f{k}"] - tile[f"c{k}"] for k in "13"]
        sigma = config.level_sigma * config.ratio
        first, last = (
            psf.normalised_blur(difference, known, sigma)[0].numpy()[where].astype(np.float64)
            for difference in differences
        )
        self._both += (first * last).sum(0)
        self._each += (first**2 + last**2).sum(0)
        for k in "13":
            fine = tile[f"f{k}"].numpy()[where].astype(np.float64)
            self._fine += [np.full(fine.shape[1], len(fine)), fine.sum(0), (fine**2).sum(0)]

    def value(self) -> float:
        """2ρ / (1 + ρ): what the mean of two values tells of a third one, 0–1.

        ρ is the correlation about 0, over all bands, each in units of its fine images' spread.
        """
        count, total, squares = self._fine
        if not np.all(count):
            return 1.0
        variance = np.maximum(squares / count - (total / count) ** 2, 1e-12)
        rho = 2 * np.sum(self._both / variance) / max(np.sum(self._each / variance), 1e-30)
        correlation = float(np.clip(rho, 0.0, 1.0))
        return 2 * correlation / (1 + correlation)
