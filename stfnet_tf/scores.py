"""Accuracy measures of a fused image, and the one object that every report is written from.

In every function `x` is the reference and `y` the prediction: reflectance (0–1) of one band,
[height, width], or of all bands, [height, width, bands]; `valid`, [height, width] of bool, marks
the pixels that are usable in **both**. A measure without a usable pixel, or whose denominator is
zero, is NaN, never a number that looks like a score. What is not finite (the PSNR of equal images
is infinite) is written as `null` in JSON and as an empty cell in CSV.
"""

import csv
import dataclasses
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage, stats

from data_prep import whole
from data_prep.dataset import QUANTITY

if TYPE_CHECKING:
    from rich.table import Table

SSIM_SIGMA = 1.5
SSIM_RADIUS = 5  # an 11 × 11 window
SSIM_K1, SSIM_K2 = 0.01, 0.03
LBP_TOLERANCE = 0.005
# Stored images are whole digital numbers, so a difference of exactly the tolerance is common; it
# must not become "greater" through the rounding of float32.
LBP_ROUNDING = 1e-7
NORMALISED_DIFFERENCE_FLOOR = 1e-5
EDGE_QUANTILE = 0.9

IMAGE_MEASURES = ("sam_deg", "ergas")
# Where the best value lies: -1 smaller is better, +1 larger, 0 nearest to zero.
BEST = {
    "rmse": -1, "bias": 0, "aad": -1, "cc": 1, "psnr": 1, "ssim": 1, "uiqi": 1, "edge": 0, "lbp": 0,
    "sam_deg": -1, "ergas": -1, "consistency": -1, "coverage": 1, "seconds": -1, "peak_mib": -1,
    "fit_seconds": -1,
}  # fmt: skip


def rmse(x: np.ndarray, y: np.ndarray, valid: np.ndarray) -> float:
    """Root of the mean squared error over all valid pixels of the band at once."""
    d = _differences(x, y, valid)
    return float(np.sqrt(np.mean(d**2))) if d.size else math.nan


def bias(x: np.ndarray, y: np.ndarray, valid: np.ndarray) -> float:
    """Mean of y − x (also called the average difference, AD)."""
    d = _differences(x, y, valid)
    return float(d.mean()) if d.size else math.nan


def aad(x: np.ndarray, y: np.ndarray, valid: np.ndarray) -> float:
    """Mean of |y − x|, the average absolute difference."""
    d = _differences(x, y, valid)
    return float(np.abs(d).mean()) if d.size else math.nan


def cc(x: np.ndarray, y: np.ndarray, valid: np.ndarray) -> float:
    """Pearson's correlation coefficient; NaN where either image is constant."""
    variance_x, variance_y, covariance, _, _ = _moments(x, y, valid)
    if not (variance_x > 0 and variance_y > 0):
        return math.nan
    return float(covariance / math.sqrt(variance_x * variance_y))


def psnr(x: np.ndarray, y: np.ndarray, valid: np.ndarray) -> float:
    """10·log10(1 / MSE) in dB: the data range of reflectance is 1. Infinite for equal images."""
    error = rmse(x, y, valid)
    return math.inf if error == 0 else -20 * math.log10(error) if error > 0 else math.nan


def uiqi(x: np.ndarray, y: np.ndarray, valid: np.ndarray) -> float:
    """Universal image quality index over the whole band as one window.

    Q = 4·σxy·x̄·ȳ / ((σx² + σy²)(x̄² + ȳ²)), Wang and Bovik 2002, doi 10.1109/97.995823.
    """
    variance_x, variance_y, covariance, mean_x, mean_y = _moments(x, y, valid)
    denominator = (variance_x + variance_y) * (mean_x**2 + mean_y**2)
    return float(4 * covariance * mean_x * mean_y / denominator) if denominator > 0 else math.nan


def ssim(x: np.ndarray, y: np.ndarray, valid: np.ndarray) -> float:
    """Structural similarity: 11 × 11 Gaussian window, σ = 1.5, K1 = 0.01, K2 = 0.03, range 1.

    The mean is over windows that lie inside the image and hold valid pixels only. Wang et al. 2004,
    doi 10.1109/TIP.2003.819861.
    """
    size = 2 * SSIM_RADIUS + 1
    if min(x.shape) < size:
        return math.nan
    whole = ndimage.minimum_filter(valid.astype(np.uint8), size=size, mode="constant") > 0
    if not whole.any():
        return math.nan
    x = np.where(valid, x, 0).astype(np.float64)
    y = np.where(valid, y, 0).astype(np.float64)

    def local_mean(image: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(image, SSIM_SIGMA, radius=SSIM_RADIUS)[whole]

    mean_x, mean_y = local_mean(x), local_mean(y)
    variance_x = local_mean(x * x) - mean_x**2
    variance_y = local_mean(y * y) - mean_y**2
    covariance = local_mean(x * y) - mean_x * mean_y
    c1, c2 = SSIM_K1**2, SSIM_K2**2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    )
    return float(similarity.mean())


def edge(x: np.ndarray, y: np.ndarray, valid: np.ndarray) -> float:
    """Normalised difference of Roberts edges, where the reference has its strongest tenth of them.

    0 is perfect, negative is over-smoothed, positive is too sharp. Interior pixels whose 2 × 2
    neighbourhood is valid. Zhu et al. 2022, doi 10.1016/j.rse.2022.113002.
    """
    if min(x.shape) < 3:
        return math.nan
    v = valid
    whole = (v[1:-1, 1:-1] & v[1:-1, 2:] & v[2:, 1:-1] & v[2:, 2:]).ravel()
    edge_x, edge_y = _roberts(x).ravel()[whole], _roberts(y).ravel()[whole]
    if not edge_x.size:
        return math.nan
    strong = edge_x >= np.quantile(edge_x, EDGE_QUANTILE)
    return _normalised_difference(edge_x[strong], edge_y[strong])


def lbp(x: np.ndarray, y: np.ndarray, valid: np.ndarray) -> float:
    """Normalised difference of local binary patterns over interior pixels.

    0 is perfect, negative is over-smoothed. Interior pixels whose 3 × 3 neighbourhood is valid. Zhu
    et al. 2022, doi 10.1016/j.rse.2022.113002.
    """
    if min(x.shape) < 3:
        return math.nan
    whole = ndimage.minimum_filter(valid.astype(np.uint8), size=3, mode="constant")[1:-1, 1:-1] > 0
    if not whole.any():
        return math.nan
    return _normalised_difference(_patterns(x)[whole], _patterns(y)[whole])


def sam_deg(x: np.ndarray, y: np.ndarray, valid: np.ndarray) -> float:
    """Spectral angle between the two spectra of a pixel, in degrees, averaged over pixels.

    Args:
        x: Reference, [height, width, bands].
        y: Prediction, [height, width, bands].
        valid: [height, width] of bool.

    Returns:
        Mean of arccos(x·y / ‖x‖‖y‖) over valid pixels whose two spectra are not zero.
    """
    x, y = x[valid].astype(np.float64), y[valid].astype(np.float64)
    norms = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    usable = norms > 0
    if not usable.any():
        return math.nan
    cosine = np.sum(x * y, axis=-1)[usable] / norms[usable]
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))).mean())


def ergas(x: np.ndarray, y: np.ndarray, valid: np.ndarray, ratio: float) -> float:
    """Relative dimensionless global error of synthesis, in per cent.

    100 · (h / l) · sqrt(mean over bands (RMSE_b² / x̄_b²)), h / l = fine pixel / coarse pixel.

    Args:
        x: Reference, [height, width, bands].
        y: Prediction, [height, width, bands].
        valid: [height, width] of bool.
        ratio: Coarse pixel / fine pixel, that is l / h (16 for Landsat and MODIS 500 m).
    """
    if not valid.any():
        return math.nan
    means = x[valid].astype(np.float64).mean(axis=0)
    if (means == 0).any():
        return math.nan
    errors = np.array([rmse(x[..., b], y[..., b], valid) for b in range(x.shape[-1])])
    return float(100 / ratio * np.sqrt(np.mean((errors / means) ** 2)))


def consistency(f12: np.ndarray, f23: np.ndarray, f13: np.ndarray, valid: np.ndarray) -> float:
    """RMSE of F̂12 + F̂23 − F13 for one band: how far the two streams disagree."""
    return rmse(f13, f12 + f23, valid)


def _differences(x: np.ndarray, y: np.ndarray, valid: np.ndarray) -> np.ndarray:
    return y[valid].astype(np.float64) - x[valid].astype(np.float64)


def _moments(x: np.ndarray, y: np.ndarray, valid: np.ndarray) -> tuple[float, ...]:
    """Population variances of x and y, their covariance and their means."""
    if not valid.any():
        return (math.nan,) * 5
    x, y = x[valid].astype(np.float64), y[valid].astype(np.float64)
    mean_x, mean_y = x.mean(), y.mean()
    dx, dy = x - mean_x, y - mean_y
    # A constant image has no variance, whatever rounding leaves in its mean.
    variance_x = float(np.mean(dx * dx)) if np.ptp(x) > 0 else 0.0
    variance_y = float(np.mean(dy * dy)) if np.ptp(y) > 0 else 0.0
    return variance_x, variance_y, float(np.mean(dx * dy)), float(mean_x), float(mean_y)


def _roberts(image: np.ndarray) -> np.ndarray:
    """Roberts edges of interior pixels, [height − 2, width − 2]."""
    d = image.astype(np.float64)
    here, right, below, across = d[1:-1, 1:-1], d[1:-1, 2:], d[2:, 1:-1], d[2:, 2:]
    return np.abs(here - across) + np.abs(below - right)


def _patterns(image: np.ndarray) -> np.ndarray:
    """Local binary patterns of interior pixels as code / 255, [height − 2, width − 2]."""
    d = image.astype(np.float64)
    height, width = d.shape
    centre = d[1:-1, 1:-1]
    code = np.zeros(centre.shape)
    # Clockwise from the top left, most significant bit first.
    clockwise = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))
    for bit, (row, col) in enumerate(clockwise):
        neighbour = d[row : row + height - 2, col : col + width - 2]
        code += (neighbour - centre > LBP_TOLERANCE + LBP_ROUNDING) * 2.0 ** (7 - bit)
    return code / 255


def _normalised_difference(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.mean((y - x) / (np.abs(y + x) + NORMALISED_DIFFERENCE_FLOOR)))


@dataclasses.dataclass(frozen=True)
class Scores:
    """Every measure of one prediction.

    Attributes:
        method: Who predicted.
        date: ISO date of the predicted image.
        bands: Names of the bands.
        pixels: Number of pixels valid in reference and prediction.
        per_band: Measure -> one number a band.
        image: Measures of all bands together; `coverage`, the share of the truth's pixels that the
            method predicts at all; costs: `seconds`, `peak_mib`, and `fit_seconds` where a model
            was fitted to this very date first.
    """

    method: str
    date: str
    bands: tuple[str, ...]
    pixels: int
    per_band: Mapping[str, tuple[float, ...]]
    image: Mapping[str, float]

    def mean(self, measure: str) -> float:
        """The measure averaged over bands, or the measure itself where it is one for all bands."""
        if measure in self.image:
            return self.image[measure]
        return float(np.mean(self.per_band[measure])) if measure in self.per_band else math.nan

    def with_extras(self, **extras: float) -> "Scores":
        """A copy that also holds `coverage` and what the prediction cost."""
        return dataclasses.replace(self, image={**self.image, **extras})

    def as_dict(self) -> dict[str, Any]:
        """Plain types for JSON: the measures by band name, their mean, and those of all bands."""
        measures: dict[str, Any] = {}
        for name, values in self.per_band.items():
            by_band = {b: _number(v) for b, v in zip(self.bands, values, strict=True)}
            measures[name] = {**by_band, "mean": _number(self.mean(name))}
        measures |= {name: _number(value) for name, value in self.image.items()}
        return {"method": self.method, "date": self.date, "pixels": self.pixels, **measures}


BAND_MEASURES = {
    measure.__name__: measure for measure in (rmse, bias, aad, cc, psnr, ssim, uiqi, edge, lbp)
}
"""Measures of one band, by name, in the order of the tables."""


def score(
    reference: np.ndarray,
    prediction: np.ndarray,
    valid: np.ndarray,
    *,
    bands: Sequence[str],
    ratio: float,
    method: str,
    date: str,
    changes: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
) -> Scores:
    """Scores a predicted fine image with every measure.

    Args:
        reference: True F2, reflectance, [height, width, bands].
        prediction: Predicted F2, reflectance, same shape.
        valid: Pixels valid in both, [height, width] of bool. Pixels that are not finite in either
            image are left out as well.
        bands: Names of the bands.
        ratio: Coarse pixel / fine pixel.
        method: Name for the reports.
        date: ISO date of F2.
        changes: (F̂12, F̂23, F13), same shape, NaN where not known, adds the measure `consistency`:
            it is over those of the `valid` pixels where all three are known, because F̂2 stands
            where one of the two streams does.

    Raises:
        ValueError: The shapes do not agree.
    """
    expected = (*valid.shape, len(bands))
    for name, image in (("reference", reference), ("prediction", prediction)):
        if image.shape != expected:
            raise ValueError(f"{name} has shape {image.shape}, expected {expected}")
    valid = valid & np.isfinite(reference).all(axis=-1) & np.isfinite(prediction).all(axis=-1)
    planes = range(len(bands))
    per_band = {
        name: tuple(measure(reference[..., b], prediction[..., b], valid) for b in planes)
        for name, measure in BAND_MEASURES.items()
    }
    if changes is not None:
        f12, f23, f13 = changes
        known = valid & np.isfinite(f12 + f23 - f13).all(axis=-1)
        per_band["consistency"] = tuple(
            consistency(f12[..., b], f23[..., b], f13[..., b], known) for b in planes
        )
    together = {
        "sam_deg": sam_deg(reference, prediction, valid) if len(bands) > 1 else math.nan,
        "ergas": ergas(reference, prediction, valid, ratio),
    }
    return Scores(method, date, tuple(bands), int(valid.sum()), per_band, together)


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Does the predicted error tell the true one?

    Attributes:
        band: Name of the band, or of the bands taken together.
        spearman: Rank correlation of predicted and true absolute error, over pixels.
        predicted: Mean predicted error of each bin, reflectance; bins hold equally many pixels.
        actual: Mean absolute true error in each bin, reflectance.
        pixels: Pixels in each bin.
    """

    band: str
    spearman: float
    predicted: tuple[float, ...]
    actual: tuple[float, ...]
    pixels: tuple[int, ...]

    @property
    def means(self) -> tuple[float, float]:
        """Mean predicted and mean true error over all pixels, reflectance; NaN without any."""
        if not self.pixels:
            return math.nan, math.nan
        return (
            float(np.average(self.predicted, weights=self.pixels)),
            float(np.average(self.actual, weights=self.pixels)),
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return {**dataclasses.asdict(self), "spearman": _number(self.spearman)}


def calibrate(
    predicted: np.ndarray, error: np.ndarray, valid: np.ndarray, band: str, bins: int = 20
) -> Calibration:
    """Compares a quality layer with the true error.

    Args:
        predicted: Expected absolute error, reflectance, [height, width] or with bands.
        error: Prediction − truth, reflectance, same shape.
        valid: Same shape, of bool.
        band: Name of the band.
        bins: Number of bins; fewer where there are fewer pixels.
    """
    valid = valid & np.isfinite(predicted) & np.isfinite(error)
    p, e = predicted[valid].astype(np.float64), np.abs(error[valid].astype(np.float64))
    distinct = p.size > 1 and np.ptp(p) > 0 and np.ptp(e) > 0
    spearman = float(stats.spearmanr(p, e).statistic) if distinct else math.nan
    parts = (
        np.array_split(np.argsort(p, kind="stable"), max(1, min(bins, p.size))) if p.size else []
    )
    return Calibration(
        band,
        spearman,
        tuple(float(p[i].mean()) for i in parts),
        tuple(float(e[i].mean()) for i in parts),
        tuple(len(i) for i in parts),
    )


@dataclasses.dataclass(frozen=True)
class Report:
    """What was scored, in one object that JSON, CSV, table and pictures are all made from.

    Attributes:
        dataset: Name of the data set.
        scores: One entry for each method and date.
        references: Scores of F1, F3 and C2 themselves against the truth, for the APA diagram.
        calibrations: Method -> date -> one entry for each band.
        about: How the numbers came about (command, versions, masks).
        quantity: What the images state.
    """

    dataset: str
    scores: tuple[Scores, ...]
    references: tuple[Scores, ...] = ()
    calibrations: Mapping[str, Mapping[str, tuple[Calibration, ...]]] = dataclasses.field(
        default_factory=dict
    )
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    quantity: str = QUANTITY

    def as_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return {
            "dataset": self.dataset,
            "quantity": self.quantity,
            "about": dict(self.about),
            "scores": [s.as_dict() for s in self.scores],
            "references": [s.as_dict() for s in self.references],
            "calibration": {
                method: {date: [c.as_dict() for c in bands] for date, bands in dates.items()}
                for method, dates in self.calibrations.items()
            },
        }

    def measures(self) -> tuple[str, ...]:
        """Names of the measures that any entry has, in the order of the tables."""
        extras = ("coverage", "fit_seconds", "seconds", "peak_mib")
        known = (*BAND_MEASURES, "consistency", *IMAGE_MEASURES, *extras)
        have = {name for s in self.scores for name in (*s.per_band, *s.image)}
        return tuple(name for name in known if name in have)

    def csv(self) -> str:
        """One row for each method, date and band, and one with the mean over the bands."""
        measures = self.measures()
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("method", "date", "band", "pixels", *measures))
        for s in (*self.scores, *self.references):
            for b, band in enumerate(s.bands):
                cells = [s.per_band[m][b] if m in s.per_band else math.nan for m in measures]
                writer.writerow((s.method, s.date, band, s.pixels, *map(_cell, cells)))
            means = [s.mean(m) for m in measures]
            writer.writerow((s.method, s.date, "mean", s.pixels, *map(_cell, means)))
        return text.getvalue()

    def table(self) -> "Table":
        """The table for the terminal: RMSE by band, then every measure's mean over the bands."""
        from rich.table import Table

        table = Table(title=f"{self.dataset}: {self.quantity}, all valid pixels at once")
        table.add_column("method", no_wrap=True)
        table.add_column("date", no_wrap=True)
        # One band's RMSE and the mean of one band are the same number.
        bands = self.scores[0].bands if self.scores and len(self.scores[0].bands) > 1 else ()
        measures = self.measures()
        for name in (*(f"rmse\n{b}" for b in bands), *measures):
            table.add_column(name, justify="right")
        best = _best_rows(self.scores, measures)
        for row, s in enumerate(self.scores):
            cells = [_format("rmse", v) for v in (s.per_band["rmse"] if bands else ())]
            for m in measures:
                cell = _format(m, s.mean(m))
                cells.append(f"[bold]{cell}[/bold]" if row in best[m] else cell)
            table.add_row(s.method, s.date, *cells)
        return table

    def quality_table(self) -> "Table":
        """Does the quality layer tell the true error? One row for each method and date.

        Mean expected and mean true absolute error over all bands, and their rank correlation over
        pixels: 1 where the layer puts the pixels in the order of their errors, 0 where it does not
        tell them apart.
        """
        from rich.table import Table

        table = Table(title=f"{self.dataset}: the quality layer against the true absolute error")
        table.add_column("method", no_wrap=True)
        table.add_column("date", no_wrap=True)
        made = [(k, date, v) for k, dates in self.calibrations.items() for date, v in dates.items()]
        ranked = [f"rank corr.\n{c.band}" for c in made[0][2]] if made else []
        for name in ("expected", "true", *ranked):
            table.add_column(name, justify="right")
        for method, date, bands in made:
            means = [_format("aad", v) for v in bands[-1].means]
            table.add_row(method, date, *means, *(_format("cc", c.spearman) for c in bands))
        return table

    def save(self, output_dir: str | os.PathLike[str]) -> tuple[Path, Path]:
        """Writes metrics.json and metrics.csv into a folder and returns their paths."""
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        # allow_nan=False: a NaN that slipped through would not be JSON.
        text = json.dumps(self.as_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        return (
            whole.write_text(folder / "metrics.json", text),
            whole.write_text(folder / "metrics.csv", self.csv()),
        )


def _best_rows(scores: Sequence[Scores], measures: Iterable[str]) -> dict[str, set[int]]:
    """For each measure the rows that are best on their date (none where there is no rival)."""
    best: dict[str, set[int]] = {}
    for measure in measures:
        best[measure] = set()
        for date in {s.date for s in scores}:
            rows = [i for i, s in enumerate(scores) if s.date == date]
            key = {i: _badness(measure, scores[i].mean(measure)) for i in rows}
            least = min(key.values())
            if len(rows) > 1 and math.isfinite(least):
                best[measure] |= {i for i in rows if key[i] == least}
    return best


def _badness(measure: str, value: float) -> float:
    if math.isnan(value):
        return math.inf
    direction = BEST[measure]
    return abs(value) if direction == 0 else -direction * value


def _format(measure: str, value: float) -> str:
    if math.isnan(value):
        return "–"
    digits = {"psnr": 2, "sam_deg": 3, "ergas": 3, "seconds": 1, "fit_seconds": 0, "peak_mib": 0}
    signed = "+" if measure in ("bias", "edge", "lbp") else ""
    default = 5 if measure in ("rmse", "bias", "aad", "consistency") else 4
    return f"{value:{signed}.{digits.get(measure, default)}f}"


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _cell(value: float) -> str:
    return repr(float(value)) if math.isfinite(value) else ""
