"""What can be said about a data set before anything is done with it, as JSON's types."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

from data_prep import executors, registration, residual_clouds, triplets, unstated_gaps
from data_prep.catalog import Catalog
from data_prep.dataset import Date
from data_prep.grids import Grid
from data_prep.registration import Registration


def look(images: Catalog, executor: Executor) -> tuple[dict[str, Any], Catalog]:
    """All that can be said about a data set, as JSON's types.

    Args:
        images: The catalog; its dataset's `coregister` says whether shifts are looked for.
        executor: A `concurrent.futures.Executor`.

    Returns:
        What there is to say, None for what cannot be told, and "nan" for a fill of NaN; and the
        catalog with the corrections that its description wants.

    Raises:
        InputError: A raster that cannot be read, or a process that was killed.
    """
    described = images.dataset
    dates = sorted({*images.fine_dates, *images.coarse_dates})
    jobs = [(side, date) for date in dates for side in ("fine", "coarse") if images.has(side, date)]
    seen = executors.in_order(
        executor,
        _look_at,
        [(images.of([date]), side, date) for side, date in jobs],
        "looking at images",
        f"{described.path}: expected every process to look at its images, found one killed (out "
        f"of memory?); fewer --workers need less.",
    )
    looks = dict(zip(jobs, seen, strict=True))
    registered = None
    if described.coregister != "off":
        # A first look may look at everything; what is prepared and fused never sees the fine
        # image of a date to be predicted (registration.known_dates).
        registered = registration.estimate(images, executor, images.fine_dates)
    corrected = images
    if registered and described.coregister == "apply":
        corrected = Catalog(described, registered.shifts)
    clouds = residual_clouds.find(corrected, executor)
    if described.coarse.residual_clouds == "reject":
        corrected = corrected.without(clouds)
    formed = triplets.of(images)
    found = {
        "name": described.name,
        "root": str(described.root),
        "bands": list(described.bands),
        "supervision": described.supervision,
        "grid": _grid(images.grid),
        "coarse_grid": _grid(images.native_grid("coarse", images.coarse_dates[0])),
        "fine": _encoding(images, "fine"),
        "coarse": _encoding(images, "coarse"),
        "ratio": _ratio(images, registered),
        "assumed": list(images.notes),
        "dates": [_entry(images, date, looks, registered) for date in dates],
        "registration": _registration(images, registered),
        "residual_clouds": {
            "mode": described.coarse.residual_clouds,
            "shares": {date.isoformat(): mask.share for date, mask in clouds.items()},
        },
        "passed_over": {
            date.isoformat(): share
            for date, share in triplets.passed_over(
                images, formed["test"], triplets.known_dates(images, formed)
            ).items()
        },
        "triplets": {split: [list(t.iso) for t in some] for split, some in formed.items()},
    }
    return found, corrected


def _look_at(images: Catalog, side: str, date: Date) -> dict[str, Any]:
    """One image: its file, shares of valid pixels and of zeros, the mean reflectance by band."""
    reduced = registration.Reduced.read(images, side, date)
    weight = reduced.weight.sum(dtype=float)
    total = (reduced.values * reduced.weight[..., None]).sum((0, 1), dtype=float)
    encoding = images.encoding(side)
    mean = total / weight * encoding.scale + encoding.offset if weight else []
    return {
        "file": images.file(side, date),
        "date": images.source_date(side, date).isoformat(),
        "valid": float(weight / reduced.weight.size),
        "mean": [float(k) for k in mean],
        "zeros": unstated_gaps.share(images, side, date),
    }


def _encoding(images: Catalog, side: str) -> dict[str, Any]:
    stated = dataclasses.asdict(images.encoding(side))
    fill = stated["fill"]
    return {**stated, "fill": "nan" if fill is not None and _known(fill) is None else fill}


def _grid(grid: Grid) -> dict[str, Any]:
    return {
        "height": grid.height,
        "width": grid.width,
        "geotransform": list(grid.geotransform) if grid.geotransform else None,
        "described": grid.describe(),
    }


def _ratio(images: Catalog, registered: Registration | None) -> dict[str, Any]:
    """The ratio that is used, that of the grids, and the blur that the coarse images suggest."""
    sure = [k for k in registered.found if k.confidence > 0] if registered else []
    best = max(sure, key=lambda k: k.confidence, default=None)
    return {
        "used": images.ratio,
        "of_grids": images.grid_ratio(images.coarse_dates[0]),
        "psf_fwhm": images.dataset.coarse.psf_fwhm,
        "psf_fwhm_suggested": registration.sharpness(images, best) if best else None,
    }


def _entry(
    images: Catalog, date: Date, looks: Mapping, registered: Registration | None
) -> dict[str, Any]:
    entry: dict[str, Any] = {"date": date.isoformat()}
    for side in ("fine", "coarse"):
        entry[side] = looks.get((side, date))
    shift = next((k for k in registered.found if k.date == date), None) if registered else None
    if registered and shift:
        rows, cols = registered.shifts[date]
        entry["shift"] = {
            "rows": rows,
            "cols": cols,
            "measured": [shift.rows, shift.cols],
            "uncertainty": shift.uncertainty,
            "confidence": shift.confidence,
            "reference": shift.reference.isoformat(),
        }
        entry["correlation"] = {
            when: [_known(value) for value in getattr(shift, when)] for when in ("before", "after")
        }
    return entry


def _registration(images: Catalog, registered: Registration | None) -> dict[str, Any] | None:
    if registered is None:
        return None
    return {
        "mode": images.dataset.coregister,
        "told": registered.told,
        "rows": registered.rows,
        "cols": registered.cols,
        "consistent": registered.consistent,
        "mean_correlation": [
            _mean([v for k in registered.found for v in getattr(k, when)])
            for when in ("before", "after")
        ],
    }


def _known(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else value


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if _known(value) is not None]
    return sum(known) / len(known) if known else None
