"""The shift between coarse and fine images, to a fraction of a fine pixel.

The fine image, blurred by the coarse sensor's point spread function, is what the coarse image
would be if both lay at the same place. A masked phase correlation (scikit-image) finds the shift
roughly; least squares over all valid pixels and bands refine it: with b the bands of the blurred
fine image, c a band of the coarse image moved by the shift s, and gains g and an offset o,

    minimise over s, g, o:  Σ_bands Σ_pixels (c(x − s) − g·b(x) − o)² / var(c)

by Gauss-Newton steps along the gradient of g·b. Everything is done on pixels averaged to a
quarter of a coarse pixel: finer detail is not in a coarse image.

A date that is to be predicted has no fine image, or one that must not be looked at: its coarse
image is compared with the nearest known fine images before and after it, all their bands together.
"""

import dataclasses
import math
from collections.abc import Sequence
from concurrent.futures import Executor

import numpy as np
from absl import logging
from scipy import ndimage
from skimage import registration as phase

from data_prep import executors, tiles
from data_prep.catalog import Catalog
from data_prep.dataset import Date, predicted

_FWHM_TO_SIGMA = 1 / (2 * math.sqrt(2 * math.log(2)))
_STEPS = 12
# Fine images on either side that stand for one that is not known.
_NEAREST = 1
# Enough for a fraction of a pixel, and a bound on memory for scenes of any size.
_MOST_PIXELS = 1500**2
_LEAST_PIXELS = 64
# Of reduced pixels: halved, a gradient can still be told.
_LEAST_SIDE = 4
# Below that confidence a date takes the shift of the others.
_LEAST_CONFIDENCE = 0.3
# Shifts of one series agree when none is further than this from their median, in coarse pixels.
_AGREEMENT = 0.25
# What change between two dates may feign, in coarse pixels.
_CHANGE_ERROR = 0.05


@dataclasses.dataclass(frozen=True)
class Shift:
    """What was found for one coarse image.

    Attributes:
        date: The coarse image's date.
        reference: The date of the fine image that it was compared with.
        rows: Fine pixels by which the coarse image is to be moved down.
        cols: … and to the right.
        uncertainty: Standard error of the shift, fine pixels, from the spread over the quarters
            of the scene.
        confidence: 0 (nothing found) to 1: the correlation after the shift, less where the
            uncertainty is a good part of a coarse pixel.
        before: Coarse–fine correlation of each band as it is.
        after: … and after the shift.
    """

    date: Date
    reference: Date
    rows: float
    cols: float
    uncertainty: float
    confidence: float
    before: tuple[float, ...]
    after: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Registration:
    """What was found for all coarse images.

    Attributes:
        found: One a date.
        rows: Median over the confident dates that have a fine image, fine pixels down.
        cols: … and to the right.
        spread: Standard deviation of those dates about the median, fine pixels.
        consistent: Whether all confident dates agree to a quarter of a coarse pixel.
        ratio: Coarse pixel size over fine pixel size.
    """

    found: tuple[Shift, ...]
    rows: float
    cols: float
    spread: float
    consistent: bool
    ratio: float

    @property
    def told(self) -> bool:
        """Whether any date is sure of its shift; where none is, nothing is moved."""
        return any(shift.confidence >= _LEAST_CONFIDENCE for shift in self.found)

    @property
    def shifts(self) -> dict[Date, tuple[float, float]]:
        """What to move each coarse image by.

        The median where a date alone is not sure. A date compared with the fine images of other
        dates is drawn to the median by its uncertainty: what grew or was flooded in between
        looks a little like a shift.
        """
        shifts = {}
        for shift in self.found:
            trust = float(shift.confidence >= _LEAST_CONFIDENCE)
            if shift.reference != shift.date:
                noise = max(shift.uncertainty, _CHANGE_ERROR * self.ratio)
                trust *= self.spread**2 / (self.spread**2 + noise**2)
            shifts[shift.date] = (
                self.rows + trust * (shift.rows - self.rows),
                self.cols + trust * (shift.cols - self.cols),
            )
        return shifts


def known_dates(catalog: Catalog) -> list[Date]:
    """Fine dates that may be looked at: all but those to be predicted."""
    tested = predicted(catalog.dataset.dates.test)
    return [date for date in catalog.fine_dates if date not in tested]


def estimate(
    catalog: Catalog, executor: Executor | None = None, known: Sequence[Date] | None = None
) -> Registration:
    """Finds the shift of every coarse image.

    Args:
        catalog: The images; its own shifts are left out of account.
        executor: Where the dates are worked on; here and now where None.
        known: Fine dates that may be looked at; `known_dates` where None.

    Raises:
        InputError: A raster that cannot be read, or a process that was killed.
    """
    plain = Catalog(catalog.dataset)
    known = known_dates(plain) if known is None else list(known)
    compared = {date: _references(date, known) for date in plain.coarse_dates}
    found = tuple(
        executors.in_order(
            executor or executors.Here(),
            estimate_date,
            [(plain.of([date, *some]), date, some) for date, some in compared.items()],
            "looking for shifts",
            f"{catalog.dataset.path}: expected every process to look for its shifts, found one "
            f"killed (out of memory?); fewer --workers need less.",
        )
    )
    sure = [k for k in found if k.confidence >= _LEAST_CONFIDENCE]
    own = [k for k in sure if k.reference == k.date] or sure
    rows = float(np.median([k.rows for k in own])) if own else 0.0
    cols = float(np.median([k.cols for k in own])) if own else 0.0
    off = [math.hypot(k.rows - rows, k.cols - cols) for k in sure]
    apart = [abs(v) for k in own for v in (k.rows - rows, k.cols - cols)]
    spread = max(1.4826 * float(np.median(apart)) if apart else 0.0, 0.1)
    consistent = max(off, default=0.0) <= _AGREEMENT * plain.ratio
    return Registration(found, rows, cols, spread, consistent, plain.ratio)


def registered(catalog: Catalog, executor: Executor | None = None) -> Catalog:
    """The catalog as its description's `coregister` wants it, and a log of what was found.

    Args:
        catalog: The images as they are.
        executor: Where the dates are worked on; here and now where None.

    Returns:
        With "apply" a catalog whose coarse images are moved; otherwise the one given.
    """
    mode = catalog.dataset.coregister
    if mode == "off":
        return catalog
    found = estimate(catalog, executor)
    for shift in found.found:
        logging.info(
            "%s: coarse to be moved %+.2f rows, %+.2f columns (± %.2f, confidence %.2f).",
            shift.date,
            shift.rows,
            shift.cols,
            shift.uncertainty,
            shift.confidence,
        )
    if found.told:
        logging.info(
            "Median shift %+.2f rows, %+.2f columns; the dates %s.",
            found.rows,
            found.cols,
            "agree" if found.consistent else "do NOT agree",
        )
    else:
        logging.warning("%s: no shift can be told; the coarse images stay.", catalog.dataset.path)
    return Catalog(catalog.dataset, found.shifts) if mode == "apply" else catalog


def estimate_date(catalog: Catalog, date: Date, known: Sequence[Date]) -> Shift:
    """Finds the shift of one coarse image.

    Args:
        catalog: The images, without shifts.
        date: The coarse image's date.
        known: Fine dates that may be looked at.
    """
    coarse = Reduced.read(catalog, "coarse", date)
    references = _references(date, known)
    fines = [Reduced.read(catalog, "fine", k).blurred(_sigma(catalog)) for k in references]
    best = _shift(catalog, date, references, fines, coarse)
    if date not in known and date in catalog.fine_dates:
        # For the log and the table: the shift above was found without this image.
        own = Reduced.read(catalog, "fine", date).blurred(_sigma(catalog))
        before, after = (
            _correlations(own, coarse.moved(by))
            for by in ((0.0, 0.0), (best.rows / own.step, best.cols / own.step))
        )
        best = dataclasses.replace(best, before=before, after=after)
    return best


def sharpness(catalog: Catalog, shift: Shift) -> float:
    """The width of the point spread function that the coarse image itself suggests.

    Returns:
        Of some widths (full width at half maximum, coarse pixels) the one by which the blurred
        fine image resembles the moved coarse image most.
    """
    fine = Reduced.read(catalog, "fine", shift.reference)
    coarse = Reduced.read(catalog, "coarse", shift.date)
    moved = coarse.moved((shift.rows / coarse.step, shift.cols / coarse.step))
    scores = {}
    for width in (0.5, 0.7, 1.0, 1.2, 1.4, 1.7, 2.0, 2.4, 2.8):
        blurred = fine.blurred(width * catalog.ratio * _FWHM_TO_SIGMA)
        scores[width] = float(np.mean(_correlations(blurred, moved)))
    return max(scores, key=lambda width: scores[width])


def _references(date: Date, known: Sequence[Date]) -> list[Date]:
    """Dates of the fine images that a coarse one is compared with, the nearest first."""
    if date in known:
        return [date]
    before, after = [d for d in known if d < date], [d for d in known if d > date]
    return sorted([*before[-_NEAREST:], *after[:_NEAREST]], key=lambda d: abs(d - date))


def _sigma(catalog: Catalog) -> float:
    """Standard deviation of the point spread function in fine pixels."""
    return catalog.dataset.coarse.psf_fwhm * catalog.ratio * _FWHM_TO_SIGMA


@dataclasses.dataclass(frozen=True)
class Reduced:
    """An image averaged over `step` × `step` pixels: values (H, W, B), weight (H, W) in 0–1."""

    values: np.ndarray
    weight: np.ndarray
    step: int

    @classmethod
    def read(cls, catalog: Catalog, side: str, date: Date) -> "Reduced":
        height, width = catalog.grid.shape
        step = max(1, int(catalog.ratio / 4), math.ceil(math.sqrt(height * width / _MOST_PIXELS)))
        step = min(step, height, width)
        rows, cols = height // step, width // step
        values = np.zeros((rows, cols, len(catalog.dataset.bands)), np.float32)
        weight = np.zeros((rows, cols), np.float32)
        for window in tiles.windows(rows, cols, max(1, 1024 // step)):
            image = catalog.read(
                side,
                date,
                dataclasses.replace(
                    window,
                    row=window.row * step,
                    col=window.col * step,
                    height=window.height * step,
                    width=window.width * step,
                ),
            )
            shape = (window.height, step, window.width, step)
            valid = image.valid.reshape(shape)
            share = valid.mean((1, 3))
            dn = np.where(image.valid[..., None], image.dn, 0).reshape(*shape, -1)
            total = dn.mean((1, 3), dtype=np.float64)
            values[window.slices] = total / np.maximum(share, 1e-9)[..., None]
            weight[window.slices] = share
        return cls(values, weight, step)

    def blurred(self, sigma: float) -> "Reduced":
        """By a Gaussian of `sigma` fine pixels; invalid pixels carry no weight."""
        sigmas = (sigma / self.step, sigma / self.step)
        # What lies beyond the border was not seen either: it has no weight.
        weight = ndimage.gaussian_filter(self.weight, sigmas, mode="constant")
        spread = ndimage.gaussian_filter(
            self.values * self.weight[..., None], (*sigmas, 0), mode="constant"
        )
        values = spread / np.maximum(weight, 1e-6)[..., None]
        # A blurred pixel counts when most of its footprint was seen and it was itself.
        return Reduced(values, np.where(weight > 0.97, self.weight, 0), self.step)

    def moved(self, by: tuple[float, float]) -> "Reduced":
        """By rows and columns of its own pixels, interpolated linearly."""
        values, weight = self.values, self.weight
        for axis, amount in enumerate(by):
            values, weight = (_slid(k, amount, axis) for k in (values, weight))
            # Edges are repeated above; nothing is known beyond them.
            places = np.arange(weight.shape[axis]) - amount
            inside = (places >= 0) & (places <= weight.shape[axis] - 1)
            weight = weight * (inside[:, None] if axis == 0 else inside)
        return Reduced(values, np.where(weight > 0.99, weight, 0), self.step)

    def halved(self) -> "Reduced":
        """Averaged over 2 × 2 of its pixels."""
        rows, cols = (n // 2 for n in self.weight.shape)
        values = self.values[: 2 * rows, : 2 * cols].reshape(rows, 2, cols, 2, -1).mean((1, 3))
        weight = self.weight[: 2 * rows, : 2 * cols].reshape(rows, 2, cols, 2).min((1, 3))
        return Reduced(values, weight, 2 * self.step)


def _slid(values: np.ndarray, amount: float, axis: int) -> np.ndarray:
    """`values` moved along an axis: out[x] = values[x − amount]."""
    whole = math.floor(amount)
    part = np.float32(amount - whole)
    places = np.arange(values.shape[axis]) - whole
    near, far = (
        values.take(np.clip(k, 0, values.shape[axis] - 1), axis) for k in (places, places - 1)
    )
    return near + part * (far - near)


def _shift(
    catalog: Catalog,
    date: Date,
    references: Sequence[Date],
    fines: Sequence[Reduced],
    coarse: Reduced,
) -> Shift:
    step, ratio = coarse.step, catalog.ratio
    limit = (catalog.dataset.max_shift or max(1.5 * ratio, 4.0)) / step
    best = np.full(2, np.nan)
    if min(coarse.weight.shape) >= _LEAST_SIDE:
        start = _rough(fines[0], coarse, limit)
        best = _refined(fines, coarse, start, np.ones_like(coarse.weight), limit)
    seen = bool(np.isfinite(best).all())
    quarters = _quarters(coarse.weight.shape) if seen else []
    parts = [_refined(fines, coarse, best, quarter, limit) for quarter in quarters]
    parts = [part for part in parts if np.isfinite(part).all()]
    uncertainty = 0.25 * ratio
    if len(parts) > 1:
        spread = 1.4826 * np.median(np.abs(np.array(parts) - best), axis=0)
        uncertainty = float(np.hypot(*spread)) * step / math.sqrt(len(parts))
    best = best if seen else np.zeros(2)
    moved = coarse.moved((best[0], best[1]))
    after, k = max((_correlations(fine, moved), k) for k, fine in enumerate(fines))
    before = _correlations(fines[k], coarse)
    confidence = max(float(np.mean(after)), 0.0) * math.exp(-uncertainty / (0.25 * ratio))
    if not seen or np.hypot(*best) > limit or not np.mean(after) >= np.mean(before):
        confidence = 0.0
    return Shift(
        date,
        references[k],
        float(best[0] * step),
        float(best[1] * step),
        uncertainty,
        confidence,
        before,
        after,
    )


def _quarters(shape: tuple[int, ...]) -> list[np.ndarray]:
    rows, cols = np.indices(shape)
    lower, right = rows >= shape[0] / 2, cols >= shape[1] / 2
    return [(lower == a) & (right == b) for a in (False, True) for b in (False, True)]


def _rough(fine: Reduced, coarse: Reduced, limit: float) -> tuple[float, float]:
    """Shift to two pixels by masked phase correlation of the bands' normalised sum."""
    halves = [k.halved() for k in (fine, coarse)]
    images = [_normalised(k) for k in halves]
    masks = [k.weight > 0.5 for k in halves]
    if min(mask.sum() for mask in masks) < _LEAST_PIXELS:
        return 0.0, 0.0
    found = phase.phase_cross_correlation(
        *images, reference_mask=masks[0], moving_mask=masks[1], overlap_ratio=0.5
    )[0]
    rows, cols = (2.0 * float(k) for k in found)
    return (rows, cols) if math.hypot(rows, cols) <= limit else (0.0, 0.0)


def _normalised(image: Reduced) -> np.ndarray:
    """One band that all bands have a part in, low frequencies that carry no place taken out."""
    total = np.zeros(image.weight.shape)
    good = image.weight > 0
    for k in range(image.values.shape[-1]):
        band = image.values[..., k]
        mean, std = (band[good].mean(), band[good].std()) if good.any() else (0.0, 1.0)
        total += np.where(good, (band - mean) / (std or 1.0), 0)
    return total


def _refined(
    fines: Sequence[Reduced],
    coarse: Reduced,
    start: tuple[float, float] | np.ndarray,
    part: np.ndarray,
    limit: float,
) -> np.ndarray:
    """Gauss-Newton from a rough shift; rows and columns of the reduced pixels, [2].

    Not a number where too few pixels are seen in all images.
    """
    shift = np.array(start, float)
    basis = np.concatenate([fine.values for fine in fines], -1)
    gradients = np.gradient(basis, axis=(0, 1))
    seen = np.prod([fine.weight for fine in fines], axis=0) * part
    known = slice(0, basis.shape[-1])
    for _ in range(_STEPS):
        moved = coarse.moved((shift[0], shift[1]))
        good = seen * moved.weight > 0.5
        if good.sum() < _LEAST_PIXELS:
            return np.full(2, np.nan)
        columns = np.concatenate([k[good] for k in (basis, *gradients, moved.values)], -1)
        columns = columns.astype(np.float64) - columns.mean(0, dtype=np.float64)
        products = columns.T @ columns
        # Gains and offsets are solved for and taken out of both sides.
        inverse = np.linalg.pinv(products[known, known], rcond=1e-6, hermitian=True)
        fitted = inverse @ products[known]
        rest = products - products[:, known] @ fitted
        normal, right = np.zeros((2, 2)), np.zeros(2)
        for wanted in range(3 * known.stop, len(products)):
            slope = np.zeros((2, len(products)))
            slope[0, known.stop : 2 * known.stop] = fitted[:, wanted]
            slope[1, 2 * known.stop : 3 * known.stop] = fitted[:, wanted]
            variance = max(products[wanted, wanted], 1e-12)
            normal += slope @ rest @ slope.T / variance
            right += slope @ rest[:, wanted] / variance
        # Moving the coarse image by +δ adds −δ·∇c to it.
        step = np.linalg.lstsq(normal, right, rcond=None)[0]
        step *= min(1.0, 4.0 / max(float(np.hypot(*step)), 1e-12))
        shift += step
        if np.hypot(*step) < 1e-3 or np.hypot(*shift) > 2 * limit:
            break
    return shift


def _correlations(fine: Reduced, coarse: Reduced) -> tuple[float, ...]:
    good = (fine.weight > 0.5) & (coarse.weight > 0.5)
    if good.sum() < 3:
        return (math.nan,) * fine.values.shape[-1]
    return tuple(
        float(np.corrcoef(fine.values[..., k][good], coarse.values[..., k][good])[0, 1])
        for k in range(fine.values.shape[-1])
    )
