"""The first look at a data set: what was found, how well the two sensors fit, what will be done.

    python -m data_prep.inspect --dataset=configs/boreal2001.toml --plot=look.png

Prints the grids, a table of the dates (valid shares, correlation and shift between coarse and
fine), and the triplets that training and testing will see. `--json` prints the same as JSON.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from data_prep import entry, errors

if TYPE_CHECKING:
    from data_prep.catalog import Catalog
    from data_prep.registration import Registration

FLAGS = flags.FLAGS

_SHEET_PIXELS = 240  # of a thumbnail
_SHEET_DATES = 16


def define_flags() -> None:
    """Defines what this program takes."""
    flags.DEFINE_string("dataset", None, "Description of the rasters, a .toml.")
    flags.DEFINE_string(
        "data_dir", None, "Where the rasters lie, in place of the description's own root."
    )
    flags.DEFINE_enum(
        "coregister",
        None,
        ["off", "report", "apply"],
        "Whether to look for a shift between coarse and fine images, and whether the picture "
        "shows it undone (default: the description's, but at least report).",
    )
    flags.DEFINE_bool("json", False, "Print JSON instead of tables.")
    flags.DEFINE_string("plot", None, "Write a picture (PNG) of all dates, masks included.")
    flags.DEFINE_enum("executor", "processes", ["processes", "dask"], "Where the work is done.")
    flags.DEFINE_integer("workers", 0, "Processes on this machine; 0 takes one a core.", 0)
    flags.DEFINE_string(
        "dask_scheduler", "", "Address of a Dask scheduler; with none, a cluster is started here."
    )


def main(argv: Sequence[str]) -> None:
    """Looks at the data set that the flags name."""
    if not FLAGS.dataset:
        raise errors.InputError("--dataset: expected a .toml, found nothing.")
    from data_prep import catalog, dataset, executors

    described = dataset.load(FLAGS.dataset, FLAGS.data_dir)
    mode = FLAGS.coregister or described.coregister
    if not FLAGS.coregister and mode == "off":
        mode = "report"
    images = catalog.Catalog(dataclasses.replace(described, coregister=mode))
    images.check()
    with executors.make(FLAGS.executor, FLAGS.workers, FLAGS.dask_scheduler) as executor:
        found = look(images, executor)
    if FLAGS.json:
        print(json.dumps(found, indent=2))
    else:
        show(found)
    if FLAGS.plot:
        shifts = {
            entry["date"]: (entry["shift"]["rows"], entry["shift"]["cols"])
            for entry in found["dates"]
            if mode == "apply" and entry.get("shift")
        }
        plot(images, found, shifts, FLAGS.plot)
        if not FLAGS.json:
            print(f"Picture: {FLAGS.plot}")


def look(images: "Catalog", executor) -> dict[str, Any]:
    """All that can be said about a data set, as JSON's types.

    Args:
        images: The catalog; its dataset's `coregister` says whether shifts are looked for.
        executor: A `concurrent.futures.Executor`.
    """
    from data_prep import registration, triplets

    described = images.dataset
    dates = sorted({*images.fine_dates, *images.coarse_dates})
    jobs = [(side, date) for date in dates for side in ("fine", "coarse") if images.has(side, date)]
    looks = dict(
        zip(
            jobs,
            executor.map(_look_at, [images] * len(jobs), *zip(*jobs, strict=True)),
            strict=True,
        )
    )
    registered = None
    if described.coregister != "off":
        # A first look may look at everything; what is prepared and fused never sees the fine
        # image of a date to be predicted (registration.known_dates).
        registered = registration.estimate(images, executor, images.fine_dates)
    formed = triplets.form(described, images.fine_dates, images.coarse_dates)
    return {
        "name": described.name,
        "root": str(described.root),
        "bands": list(described.bands),
        "supervision": described.supervision,
        "grid": _grid(images.grid),
        "coarse_grid": _grid(images.native_grid("coarse", images.coarse_dates[0])),
        "fine": dataclasses.asdict(images.encoding("fine")),
        "coarse": dataclasses.asdict(images.encoding("coarse")),
        "ratio": _ratio(images, registered),
        "assumed": list(images.notes),
        "dates": [_entry(images, date, looks, registered) for date in dates],
        "registration": _registration(images, registered),
        "triplets": {split: [list(t.iso) for t in some] for split, some in formed.items()},
    }


def _look_at(images: "Catalog", side: str, date) -> dict[str, Any]:
    """One image: its file, the share of valid pixels, the mean reflectance of each band."""
    from data_prep import registration

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
    }


def _grid(grid) -> dict[str, Any]:
    return {
        "height": grid.height,
        "width": grid.width,
        "geotransform": list(grid.geotransform) if grid.geotransform else None,
        "described": grid.describe(),
    }


def _ratio(images: "Catalog", registered: "Registration | None") -> dict[str, Any]:
    """The ratio that is used, that of the grids, and the blur that the coarse images suggest."""
    from data_prep import registration

    sure = [k for k in registered.found if k.confidence > 0] if registered else []
    best = max(sure, key=lambda k: k.confidence, default=None)
    return {
        "used": images.ratio,
        "of_grids": images.grid_ratio(images.coarse_dates[0]),
        "psf_fwhm": images.dataset.coarse.psf_fwhm,
        "psf_fwhm_suggested": registration.sharpness(images, best) if best else None,
    }


def _entry(
    images: "Catalog", date, looks: Mapping, registered: "Registration | None"
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
        entry["correlation"] = {"before": list(shift.before), "after": list(shift.after)}
    return entry


def _registration(images: "Catalog", registered: "Registration | None") -> dict[str, Any] | None:
    if registered is None:
        return None
    return {
        "mode": images.dataset.coregister,
        "rows": registered.rows,
        "cols": registered.cols,
        "consistent": registered.consistent,
        "mean_correlation": [
            _mean([v for k in registered.found for v in getattr(k, when)])
            for when in ("before", "after")
        ],
    }


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if value == value]
    return sum(known) / len(known) if known else None


def show(found: Mapping[str, Any]) -> None:
    """Prints what `look` found as tables."""
    from rich import console, table

    # A pipe or a file has no width of its own.
    out = console.Console(highlight=False, soft_wrap=True)
    if not out.is_terminal:
        out.width = 160
    ratio = found["ratio"]
    out.print(f"[bold]{found['name']}[/bold] in {found['root']}")
    out.print(f"bands: {', '.join(found['bands'])}; supervision: {found['supervision']}")
    for side, grid in (("fine", "grid"), ("coarse", "coarse_grid")):
        encoding = found[side]
        out.print(
            f"{side}: {found[grid]['described']}; {encoding['dtype']} × {encoding['scale']:g}"
            f"{encoding['offset']:+g}, fill {encoding['fill']}"
        )
    suggested = ratio["psf_fwhm_suggested"]
    out.print(
        f"ratio: one coarse pixel is {ratio['used']:.2f} fine pixels (the grids': "
        f"{ratio['of_grids']:.2f}); point spread function {ratio['psf_fwhm']:g} coarse pixels wide"
        + (f", the images suggest about {suggested:g}" if suggested else "")
    )
    for note in found["assumed"]:
        out.print(f"assumed: {note}")
    out.print(_date_table(table, found))
    if found["registration"]:
        out.print(_correlation_table(table, found))
        _say_registration(out, found)
    for split, some in found["triplets"].items():
        out.print(f"{split}: {len(some)} triplets")
        for triplet in some[:6]:
            out.print("   " + " → ".join(triplet) + (" (one-sided)" if len(triplet) < 3 else ""))
        if some[6:]:
            out.print(f"   … and {len(some) - 6} more")


def _date_table(table, found: Mapping[str, Any]):
    shown = table.Table(title="images", title_justify="left")
    shown.add_column("date")
    names = ["fine valid", "coarse valid"]
    if found["registration"]:
        names += ["rows", "cols", "±", "confidence"]
    for name in names:
        shown.add_column(name, justify="right")
    for seen in found["dates"]:
        row = [f"{seen[side]['valid']:.1%}" if seen[side] else "–" for side in ("fine", "coarse")]
        if found["registration"] and (shift := seen.get("shift")):
            row += [
                f"{shift['rows']:+.2f}",
                f"{shift['cols']:+.2f}",
                f"{shift['uncertainty']:.2f}",
                f"{shift['confidence']:.2f}",
            ]
        shown.add_row(seen["date"], *row)
    return shown


def _correlation_table(table, found: Mapping[str, Any]):
    shown = table.Table(
        title="correlation of coarse and blurred fine, before → after the shift",
        title_justify="left",
    )
    for name in ("date", *found["bands"]):
        shown.add_column(name)
    for seen in found["dates"]:
        if correlation := seen.get("correlation"):
            pairs = zip(correlation["before"], correlation["after"], strict=True)
            shown.add_row(seen["date"], *(f"{first:.3f} → {then:.3f}" for first, then in pairs))
    return shown


def _say_registration(out, found: Mapping[str, Any]) -> None:
    registered = found["registration"]
    before, after = registered["mean_correlation"]
    agree = "agree" if registered["consistent"] else "do NOT agree with each other"
    out.print(
        f"shift: coarse images match the fine ones when moved {registered['rows']:+.2f} rows "
        f"(down) and {registered['cols']:+.2f} columns (right), median in fine pixels; the dates "
        f"{agree}"
    )
    if before is not None:
        done = (
            "is undone" if registered["mode"] == "apply" else "is NOT undone (--coregister=apply)"
        )
        out.print(f"mean correlation {before:.3f} → {after:.3f}; the shift {done}")


def plot(
    images: "Catalog",
    found: Mapping[str, Any],
    shifts: Mapping[str, tuple[float, float]],
    path: str,
) -> None:
    """Writes a sheet: fine and coarse of every date side by side, what is invalid in magenta."""
    import datetime

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from data_prep import catalog

    moved = catalog.Catalog(
        images.dataset, {datetime.date.fromisoformat(k): v for k, v in shifts.items()}
    )
    entries = [k for k in found["dates"] if k["fine"]] or found["dates"]
    if len(entries) > _SHEET_DATES:
        step = len(entries) / _SHEET_DATES
        entries = [entries[int(k * step)] for k in range(_SHEET_DATES)]
    columns = min(4, len(entries))
    rows = -(-len(entries) // columns)
    figure, axes = pyplot.subplots(
        2 * rows, columns, figsize=(2.6 * columns, 5.6 * rows), squeeze=False
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for side_row, side in enumerate(("fine", "coarse")):
        thumbnails = [_thumbnail(moved, side, k["date"]) if k[side] else None for k in entries]
        stretched = _stretched(moved, [t for t in thumbnails if t is not None])
        pictures = iter(stretched)
        for k, (seen, thumbnail) in enumerate(zip(entries, thumbnails, strict=True)):
            axis = axes[2 * (k // columns) + side_row, k % columns]
            if thumbnail is None:
                continue
            axis.imshow(next(pictures), interpolation="nearest")
            axis.set_title(f"{side} {seen['date']}\n{seen[side]['valid']:.0%} valid", fontsize=8)
    figure.suptitle(f"{found['name']}: {', '.join(_shown_bands(images))}", fontsize=10)
    figure.tight_layout()
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.with_name(f".{target.name}.tmp")
        figure.savefig(scratch, format="png", dpi=120)
        scratch.replace(target)
    except OSError as error:
        raise errors.InputError(
            f"--plot: expected a file that can be written, found {path}: {error.strerror}."
        ) from None
    finally:
        pyplot.close(figure)


def _shown_bands(images: "Catalog") -> list[str]:
    """Three bands for red, green and blue, or the only one."""
    bands = list(images.dataset.bands)
    for chosen in (["red", "green", "blue"], ["nir", "red", "green"]):
        if set(chosen) <= set(bands):
            return chosen
    return bands[:3] if len(bands) >= 3 else bands[:1]


def _thumbnail(images: "Catalog", side: str, date: str):
    """Every n-th pixel, row of tiles by row of tiles: digital numbers (h, w, 1 or 3), validity."""
    import datetime

    import numpy as np

    from data_prep.rasters import Window

    height, width = images.grid.shape
    step = max(1, -(-max(height, width) // _SHEET_PIXELS))
    bands = [images.dataset.bands.index(k) for k in _shown_bands(images)]
    day = datetime.date.fromisoformat(date)
    strips, masks = [], []
    for row in range(0, height, 256 * step):
        rows = min(256 * step, height - row)
        for first in range(row, row + rows, 256):
            count = min(256, height - first)
            image = images.read(side, day, Window(first, 0, count, width))
            start = -first % step
            strips.append(image.dn[start::step, ::step][..., bands])
            masks.append(image.valid[start::step, ::step])
    return np.concatenate(strips).astype(np.float32), np.concatenate(masks)


def _stretched(images: "Catalog", thumbnails: Sequence):
    """Pictures in 0–1 with one stretch for all dates of a side, the 2nd to 98th percentile."""
    import numpy as np

    valid = [dn[good] for dn, good in thumbnails if good.any()]
    if not valid:
        return [np.zeros((*good.shape, 3)) for _, good in thumbnails]
    low, high = np.percentile(np.concatenate(valid), [2, 98], axis=0)
    pictures = []
    for dn, good in thumbnails:
        picture = np.clip((dn - low) / np.maximum(high - low, 1e-9), 0, 1)
        picture = np.repeat(picture, 3, -1) if picture.shape[-1] == 1 else picture
        picture[~good] = (1.0, 0.0, 1.0)
        pictures.append(picture)
    return pictures


def cli() -> None:
    """The console script."""
    define_flags()
    entry.run(main)


if __name__ == "__main__":
    cli()
