"""Pictures of fused images and of their scores, as PNG.

Nothing here keeps state: each function builds its own figure and writes it whole or not at all.
Images are reflectance, [height, width, bands]; `valid` is [height, width] of bool. Colours and
error scales come from the known fine images alone, so that pictures of different methods and dates
of one data set can be laid side by side.
"""

import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.projections.polar import PolarAxes
from matplotlib.ticker import MaxNLocator, NullFormatter

from data_prep import false_colours, whole
from data_prep.dataset import QUANTITY
from stfnet_tf import scores

DPI = 130
INVALID_GREY = 0.5
# Where the image itself is grey.
INVALID_BLUE = (INVALID_GREY, 0.6, 0.9)
# Percentiles of the known fine images that become black and white.
STRETCH_PERCENTILES = (1.0, 99.0)
# The error scale ends at this share of the stretch, rounded to 1, 2 or 5 times a power of ten.
ERROR_SHARE = 0.12
ERROR_COLOURS = "magma"
# Colours that the colour-blind tell apart (Okabe and Ito 2008); a band called green is green.
BAND_COLOURS = {
    "blue": "#56b4e9", "green": "#009e73", "red": "#d55e00", "nir": "#cc79a7", "swir1": "#e69f00",
    "swir2": "#3a3a3a", "all bands": "#8c8c8c",
}  # fmt: skip
KNOWN_COLOUR = "#1f6fd1"
MARKERS = "osD^v<>pPX*hd8H"


@dataclasses.dataclass(frozen=True)
class Stretch:
    """Which bands are shown and how they become brightness, the same for every image.

    Attributes:
        shown: Indices of the bands shown as red, green and blue, or of the one shown in grey.
        names: Their names.
        low: Reflectance shown as black, one value for each shown band.
        high: Reflectance shown as white.
        error_limit: Reflectance error at the end of the error scale.
        quantity: What the images state, if not reflectance.
    """

    shown: tuple[int, ...]
    names: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    error_limit: float
    quantity: str = QUANTITY

    @classmethod
    def of(
        cls,
        images: Sequence[np.ndarray],
        valids: Sequence[np.ndarray],
        bands: Sequence[str],
        quantity: str = QUANTITY,
    ) -> "Stretch":
        """Derives the stretch from the known fine images.

        Args:
            images: F1, and F3 where there is one, reflectance, [height, width, bands].
            valids: Their masks.
            bands: Names of the bands.
            quantity: What the images state.
        """
        shown = false_colours.shown(bands)
        pixels = np.concatenate([i[v] for i, v in zip(images, valids, strict=True)])
        if not len(pixels):
            pixels = np.array([[0.0] * len(bands), [1.0] * len(bands)])
        low, high = np.percentile(pixels[:, shown].astype(np.float64), STRETCH_PERCENTILES, axis=0)
        high = np.maximum(high, low + 1e-3)
        return cls(
            shown,
            tuple(bands[b] for b in shown),
            tuple(map(float, low)),
            tuple(map(float, high)),
            _round_number(float(np.mean(high - low)) * ERROR_SHARE),
            quantity,
        )

    def __call__(self, image: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """The image in colour, [height, width, 3], 0–1; invalid pixels are grey, in grey blue."""
        low, high = np.array(self.low), np.array(self.high)
        colours = np.clip((np.nan_to_num(image[..., self.shown]) - low) / (high - low), 0, 1)
        invalid = INVALID_BLUE if len(self.shown) == 1 else INVALID_GREY
        return np.where(valid[..., None], np.broadcast_to(colours, (*valid.shape, 3)), invalid)


@dataclasses.dataclass(frozen=True)
class Panel:
    """One image of a sheet: reflectance, or an absolute error where `error` is set.

    `known` sets images that were there apart from those that were made.
    """

    title: str
    image: np.ndarray
    valid: np.ndarray
    error: bool = False
    known: bool = False


def error_panel(title: str, prediction: Panel, truth: Panel) -> Panel:
    """The mean over all bands of |prediction − truth|, where both are valid."""
    error = np.abs(prediction.image - truth.image).mean(axis=-1, keepdims=True)
    return Panel(title, error, prediction.valid & truth.valid, error=True)


def sheet(
    path: str | os.PathLike[str],
    panels: Sequence[Panel | None],
    stretch: Stretch,
    *,
    title: str = "",
    columns: int = 3,
) -> Path:
    """Draws images side by side with one stretch and errors with one scale.

    Args:
        path: The PNG to write.
        panels: Images in reading order, the first one known; None leaves a place empty.
        stretch: How reflectance is shown; its `error_limit` ends the error scale.
        title: Line above all.
        columns: Images in a row.
    """
    rows = math.ceil(len(panels) / columns)
    first = panels[0]
    assert first is not None
    height, width = first.valid.shape
    cell_width = 3.6
    cell_height = cell_width * height / width
    figure = _figure(cell_width * columns + 1.0, (cell_height + 0.35) * rows + 0.6)
    axes = figure.subplots(rows, columns, squeeze=False)
    colours = "/".join(stretch.names)
    figure.suptitle(f"{title}  ({colours})" if title else colours, fontsize=11)
    scale = None
    for ax, panel in zip(axes.flat, panels, strict=False):
        if panel is None:
            ax.set_visible(False)
            continue
        ax.set_title(panel.title, fontsize=10)
        if panel.error:
            shown = np.ma.masked_array(panel.image[..., 0], ~panel.valid)
            ax.set_facecolor(str(INVALID_GREY))
            scale = ax.imshow(shown, cmap=ERROR_COLOURS, vmin=0, vmax=stretch.error_limit)
        else:
            ax.imshow(stretch(panel.image, panel.valid))
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    if scale is not None:
        wide, high = figure.get_size_inches()
        long, thick = min(0.6 * high, 7.0), 0.25  # inches; matplotlib would thicken a long bar
        bar = figure.colorbar(
            scale, ax=list(axes.flat), shrink=long / high, aspect=long / thick,
            fraction=thick / wide, pad=0.01, extend="max",
        )  # fmt: skip
        bar.set_label(f"mean |error|, {stretch.quantity}", fontsize=10)
    return _save(figure, path)


def small_multiples(
    path: str | os.PathLike[str], panels: Sequence[Panel], stretch: Stretch, *, title: str = ""
) -> Path:
    """Draws many images of one place, small, all with one stretch; known ones in a frame.

    Args:
        path: The PNG to write.
        panels: Images in reading order.
        stretch: How reflectance is shown.
        title: Line above all.
    """
    height, width = panels[0].valid.shape
    # About as wide as a page in landscape, however many there are.
    columns = min(len(panels), max(1, round(math.sqrt(1.6 * len(panels) * height / width))))
    rows = math.ceil(len(panels) / columns)
    cell_width = float(np.clip(15.0 / columns, 0.8, 3.2))
    figure = _figure(
        max(cell_width * columns, 3.5), (cell_width * height / width + 0.28) * rows + 0.5
    )
    axes = figure.subplots(rows, columns, squeeze=False)
    colours = "/".join(stretch.names)
    figure.suptitle(f"{title}  ({colours})" if title else colours, fontsize=11)
    size = float(np.clip(5.0 * cell_width, 5.0, 10.0))
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_visible(False)
    for ax, panel in zip(axes.flat, panels, strict=False):
        ax.set_visible(True)
        ax.imshow(stretch(panel.image, panel.valid), interpolation="nearest")
        ax.set_title(
            panel.title, fontsize=size, pad=3, fontweight="bold" if panel.known else "normal"
        )
        for spine in ax.spines.values():
            spine.set_color(KNOWN_COLOUR if panel.known else "0.6")
            spine.set_linewidth(2.5 if panel.known else 0.4)
    return _save(figure, path)


def scatter(
    path: str | os.PathLike[str],
    reference: np.ndarray,
    prediction: np.ndarray,
    valid: np.ndarray,
    result: scores.Scores,
    quantity: str = QUANTITY,
) -> Path:
    """Draws prediction over reference as a density, a plot for each band.

    Args:
        path: The PNG to write.
        reference: True F2, [height, width, bands].
        prediction: Predicted F2, same shape.
        valid: Pixels valid in both.
        result: The scores of this prediction, whose RMSE, CC and bias are printed in the plots.
        quantity: What the images state.
    """
    columns = min(3, len(result.bands))
    rows = math.ceil(len(result.bands) / columns)
    figure = _figure(3.7 * columns, 3.6 * rows + 0.4)
    figure.suptitle(f"{result.method}, {result.date}: the brighter, the more pixels", fontsize=11)
    axes = figure.subplots(rows, columns, squeeze=False)
    for b, (ax, band) in enumerate(zip(axes.flat, result.bands, strict=False)):
        x, y = reference[..., b][valid], prediction[..., b][valid]
        both = np.concatenate([x, y]) if x.size else np.array([0.0, 1.0])
        low, high = np.percentile(both, (0.05, 99.95))
        high = max(high, low + 1e-3)
        limits = (float(low), float(high))
        counts, _, _ = np.histogram2d(x, y, bins=100, range=(limits, limits))
        ax.imshow(
            np.ma.masked_equal(counts.T, 0), origin="lower", extent=limits * 2, cmap="viridis",
            norm=LogNorm(1, max(2, counts.max())),
        )  # fmt: skip
        ax.plot(limits, limits, color="black", linewidth=0.8, linestyle="--")
        ax.set_title(band, fontsize=10)
        ax.set_xlabel(f"reference, {quantity}", fontsize=8)
        ax.set_ylabel(f"prediction, {quantity}", fontsize=8)
        ax.tick_params(labelsize=7)
        values = [result.per_band[m][b] for m in ("rmse", "cc", "bias")]
        text = "RMSE {:.4f}\nCC {:.3f}\nbias {:+.4f}".format(*values)
        ax.text(0.04, 0.96, text, transform=ax.transAxes, va="top", fontsize=8)
    for ax in axes.flat[len(result.bands) :]:
        ax.set_visible(False)
    return _save(figure, path)


def apa_diagram(path: str | os.PathLike[str], report: scores.Report, date: str) -> Path:
    """Draws the All-round Performance Assessment of every method on one date.

    Radius RMSE, angle EDGE (upright 0, left over-smoothed, right too sharp), colour AD (bias), all
    averaged over the bands; F1, F3 and C2 stand as open circles for orientation. Zhu et al. 2022,
    doi 10.1016/j.rse.2022.113002. Good methods lie close together there, so the same points stand
    beside it once more, on axes of their own range.
    """
    points = [s for s in report.scores if s.date == date and math.isfinite(s.mean("rmse"))]
    references = [s for s in report.references if s.date == date and math.isfinite(s.mean("rmse"))]
    figure = _figure(13.0, 4.8)
    figure.suptitle(
        f"{report.dataset}, {date}: all-round performance, means over bands", fontsize=11
    )
    grid = figure.add_gridspec(1, 2, width_ratios=(1.5, 1))
    polar, close = figure.add_subplot(grid[0], projection="polar"), figure.add_subplot(grid[1])
    _half_circle(polar)
    limit = max([abs(s.mean("bias")) for s in points] + [1e-4])
    dots = None
    for n, s in enumerate(points):
        look: dict[str, Any] = {
            "c": [s.mean("bias")], "cmap": "coolwarm", "vmin": -limit, "vmax": limit, "s": 70,
            "marker": MARKERS[n % len(MARKERS)], "edgecolors": "black", "linewidths": 0.7,
        }  # fmt: skip
        dots = polar.scatter(_angle_of(s.mean("edge")), s.mean("rmse"), zorder=3, **look)
        close.scatter(s.mean("edge"), s.mean("rmse"), label=s.method, zorder=3, **look)
    for s in references:
        at = (_angle_of(s.mean("edge")), s.mean("rmse"))
        polar.scatter(*at, facecolors="none", edgecolors="black", s=70, zorder=2)
        # F1 and F3 often lie on each other: one is named on the left, one on the right.
        aside, anchor = (-7, "right") if s.method == "F1" else (7, "left")
        polar.annotate(
            s.method, at, xytext=(aside, 3), textcoords="offset points", ha=anchor, fontsize=8
        )
    polar.set_ylim(0, 1.08 * max([s.mean("rmse") for s in (*points, *references)] + [1e-4]))
    polar.yaxis.set_major_locator(MaxNLocator(4))
    close.set_xlabel("EDGE (left over-smoothed, right too sharp)", fontsize=9)
    close.set_ylabel(f"RMSE, {report.quantity}", fontsize=9)
    close.grid(color="0.9")
    close.tick_params(labelsize=8)
    if dots is not None:
        close.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8, frameon=False)
        bar = figure.colorbar(
            dots, ax=polar, orientation="horizontal", shrink=0.5, pad=0.0, ticks=(-limit, 0, limit)
        )
        bar.ax.set_xticklabels((f"{-limit:.4f}", "0", f"+{limit:.4f}"))
        bar.set_label(f"AD (bias), {report.quantity}", fontsize=9)
        bar.ax.tick_params(labelsize=8)
    return _save(figure, path)


def _half_circle(ax: Axes) -> None:
    """Makes polar axes the upper half of a circle whose angle is EDGE."""
    if not isinstance(ax, PolarAxes):
        raise TypeError(f"expected polar axes, got {type(ax).__name__}")
    ax.set_thetamin(0)
    ax.set_thetamax(180)
    angles = np.linspace(0, math.pi, 9)
    ax.set_xticks(angles, [f"{_edge_of(a):+.2g}" if a != math.pi / 2 else "0" for a in angles])
    ax.set_title("radius RMSE, angle EDGE", fontsize=10)
    ax.tick_params(labelsize=8)


def calibration(
    path: str | os.PathLike[str],
    calibrations: Sequence[scores.Calibration],
    title: str,
    quantity: str = QUANTITY,
) -> Path:
    """Draws expected against true error, a curve for each band; the diagonal is perfect."""
    figure = _figure(5.4, 5.0)
    ax = figure.subplots()
    for n, c in enumerate(calibrations):
        ax.plot(
            c.predicted, c.actual, marker=MARKERS[n % len(MARKERS)], markersize=4,
            color=_band_colour(c.band, n), label=f"{c.band} (ρ = {c.spearman:.2f})",
        )  # fmt: skip
    top = max((v for c in calibrations for v in (*c.predicted, *c.actual)), default=1.0) * 1.05
    ax.plot((0, top), (0, top), color="black", linewidth=0.8, linestyle="--")
    ax.set_xlim(0, top)
    ax.set_ylim(0, top)
    ax.set_aspect("equal")
    ax.set_xlabel(f"expected error, {quantity}")
    ax.set_ylabel(f"true absolute error (mean of the bin), {quantity}")
    ax.set_title(title, fontsize=11)
    ax.legend(fontsize=9, frameon=False)
    return _save(figure, path)


def comparison(path: str | os.PathLike[str], report: scores.Report, date: str) -> Path:
    """Draws RMSE, time and memory of every method on one date, the most accurate at the top.

    The time of a method that is fitted first is that of both.
    """
    rows = sorted(
        (s for s in report.scores if s.date == date and math.isfinite(s.mean("rmse"))),
        key=lambda s: s.mean("rmse"),
        reverse=True,
    )
    bands = rows[0].bands if rows else ()
    figure = _figure(11.5, 0.36 * len(rows) + 2.0)
    figure.suptitle(f"{report.dataset}, {date}", fontsize=11)
    accuracy, time, memory = figure.subplots(1, 3, sharey=True, width_ratios=(2, 1, 1))
    places = np.arange(len(rows))
    accuracy.barh(places, [s.mean("rmse") for s in rows], color="#4878a8", label="mean over bands")
    for b, band in enumerate(bands if len(bands) > 1 else ()):
        values = [s.per_band["rmse"][b] for s in rows]
        accuracy.plot(
            values, places, marker=MARKERS[b % len(MARKERS)], linestyle="none", markersize=6,
            markeredgecolor="white", markeredgewidth=0.6, color=_band_colour(band, b), label=band,
        )  # fmt: skip
    for place, s in zip(places, rows, strict=True):
        accuracy.text(0, place, f" {s.mean('rmse'):.5f}", va="center", fontsize=8, color="white")
    accuracy.set_yticks(places, [s.method for s in rows])
    accuracy.set_xlabel(f"RMSE, {report.quantity}")
    if len(bands) > 1:
        figure.legend(fontsize=8, loc="outside lower left", ncols=len(bands) + 1, frameon=False)
    seconds = [s.mean("seconds") + np.nan_to_num(s.mean("fit_seconds")) for s in rows]
    _cost_bars(time, places, seconds, "seconds, fitting included", "log")
    _cost_bars(memory, places, [s.mean("peak_mib") for s in rows], "peak memory, MiB", "linear")
    return _save(figure, path)


def _cost_bars(
    ax: Axes, places: np.ndarray, values: Sequence[float], label: str, scale: str
) -> None:
    known = [max(v, 1e-3) if math.isfinite(v) else math.nan for v in values]
    ax.set_xlabel(label)
    if not any(map(math.isfinite, known)):
        return
    ax.set_xscale(scale)
    # Less than a decade would have labels on every tick between its powers, over each other.
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.barh(places, known, color="#9aa7b5")
    for place, value in zip(places, known, strict=True):
        if math.isfinite(value):
            text = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
            ax.text(value, place, f" {text}", va="center", fontsize=8)
    ax.margins(x=0.35)


def _band_colour(band: str, place: int) -> str:
    """The colour of a band's name, or of its place where the name tells of none."""
    return BAND_COLOURS.get(band.lower(), list(BAND_COLOURS.values())[place % len(BAND_COLOURS)])


def _angle_of(edge: float) -> float:
    return math.pi / 2 * (1 - float(np.clip(edge, -1, 1)))


def _edge_of(angle: float) -> float:
    return 1 - 2 * angle / math.pi


def _round_number(value: float) -> float:
    """The nearest of 1, 2 and 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return min((f * power for f in (1, 2, 5, 10)), key=lambda v: abs(math.log(v / value)))


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Writes the picture whole or not at all."""
    with whole.replacing(path) as scratch:
        figure.savefig(scratch, format="png")
    return Path(path)
