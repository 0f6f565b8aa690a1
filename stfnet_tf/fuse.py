r"""Fuses images: writes the fine image of days on which only the coarse one exists.

What it needs: a fine and a coarse image of a day before (t1) and, if there is one, of a day after
(t3), and the coarse image of each day between (t2). They are described once, in a .toml, or named
one by one; and a model: of a training run, of an export, or none yet.

A described data set and a trained model; the description's test dates, some others, or all:

    python -m stfnet_tf.fuse --dataset=configs/cia.toml --data_dir=/data --model_dir=runs/cia \
        --output_dir=fused [--dates=2002-01-12,2002-02-13 | --dates=all]

Each date is fused from the nearest known ones before and after it; those of which clouds leave
little are passed over (triplets.min_clear in the description), and named. Pixels that neither of
the two shows are filled from the next ones (triplets.fill), with --fit by models of their own.

No model yet: --fit first trains one for each date on the very images ("pair" mode, which needs no
fine image of t2). Training's flags count, but have other defaults: --preset=plus and with it
--steps=100 --batch_size=1 --crops_per_tile=1 --noaugment --early_stopping=5
--least_improvement=0.001 --panels=1, and patches as large as the scene, up to 512 pixels:

    python -m stfnet_tf.fuse --fit --dataset=mine.toml --dates=all --output_dir=fused

No description either: one raster a date and side, all bands in it. Dates are read from the file
names, or given by --t1, --t2 and --t3; leave --f3 and --c3 out where there is no later pair. Where
the sides have other bands, --fine_bands and --coarse_bands say by number which ones are meant:

    python -m stfnet_tf.fuse --fit --f1=L_20010524.tif --c1=M_20010524.tif \
        --c2=M_20010711.tif,M_20010719.tif --f3=L_20010812.tif --c3=M_20010812.tif \
        --fine_scale=0.0001 --coarse_scale=0.0001 --output_dir=fused

Writes <date>.tif, a Cloud-Optimized GeoTIFF in the digital numbers and on the grid of the fine
images, and <date>_quality.tif: for each band the absolute error to be expected, and for each pixel
whether both sides (3), the earlier (1), the later (2) or none (0) gave it, and 4 more where these
are those of further dates. What to expect is learned where errors are known
(--expected_error=calibrated, as in the preset plus); with the preset paper it is how far the two
sides disagree, and true errors are larger; of a model that was fitted without a later pair it is
not known. Where the true image of a date is known, its RMSE is printed. --plot draws all dates of
the run into dates.png.

Several dates are fused in several processes (--workers), or on a Dask cluster (--executor=dask
--dask_scheduler=tcp://host:8786); the files are the same. The same command again fuses what is
missing: dates whose rasters were made from the same images by the same model are left as they are,
and rasters made from anything else are not replaced without --overwrite.
"""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags, logging

from data_prep import correction_flags, dates, entry, errors
from stfnet_tf import fit_options, train

if TYPE_CHECKING:
    from data_prep import catalog, dataset, named_rasters, triplets
    from stfnet_tf import scene, series

FLAGS = flags.FLAGS
# Flags that stand in for a description.
RASTERS = ("f1", "c1", "c2", "f3", "c3")
# Share of the pixels that is told as 0.0 %.
_NOTHING = 0.0005


def define_flags() -> None:
    """Defines what only this program takes."""
    flags.DEFINE_string("dataset", None, "Description of the rasters, a .toml.")
    flags.DEFINE_string(
        "data_dir", None, "Where the rasters lie, in place of the description's own root."
    )
    flags.DEFINE_string(
        "model_dir",
        None,
        "Folder of the training run to fuse with; with --fit, where the fitted models are kept, "
        "one folder a date (default: model/ in --output_dir).",
    )
    flags.DEFINE_string("output_dir", None, "Folder that receives the rasters.")
    flags.DEFINE_list(
        "dates",
        None,
        "Dates to fuse, as 2002-01-12,20020213,2002044; 'all' for every date with a coarse image "
        "and no known fine one (default: the description's test dates, or those of --c2).",
    )
    flags.DEFINE_string(
        "saved_model", None, "An exported version, such as saved_models/cia/1, to fuse with."
    )
    flags.DEFINE_boolean("fit", False, "First train a model for each date on these very images.")
    correction_flags.define()
    flags.adopt_module_key_flags(correction_flags)
    flags.DEFINE_integer(
        "window",
        640,
        "Height and width of what is fused at a time, in pixels; changes speed and memory, not "
        "the result.",
        lower_bound=32,
    )
    flags.DEFINE_boolean(
        "overwrite", False, "Replace rasters that were made from other images or by another model."
    )
    flags.DEFINE_boolean("plot", False, "Draw all dates of the run into dates.png in --output_dir.")
    define_place()
    define_rasters()


def define_place() -> None:
    """Defines where the dates are worked on."""
    flags.DEFINE_enum(
        "executor", "processes", ["processes", "dask"], "Where the dates are worked on."
    )
    flags.DEFINE_integer(
        "workers",
        0,
        "Processes on this machine; 0 takes one a core, as far as there are dates and memory, and "
        "no other than this one for a single date or small scenes.",
        lower_bound=0,
    )
    flags.DEFINE_string(
        "dask_scheduler", "", "Address of a Dask scheduler; with none, a cluster is started here."
    )


def define_rasters() -> None:
    """Defines the flags that name rasters without a description."""
    flags.DEFINE_string(
        "f1",
        None,
        "Fine image of t1, a raster with all bands, in place of --dataset. As any other, a path or "
        'a name as GDAL has it: /vsizip/all.zip/L.tif, NETCDF:"all.nc":red.',
    )
    flags.DEFINE_string("c1", None, "Coarse image of t1, on any grid.")
    flags.DEFINE_multi_string(
        "c2",
        None,
        "Coarse images of the dates to fuse, with commas between them, or one by one where a name "
        "has a comma itself: --c2=a.tif --c2=b,c.tif.",
    )
    flags.DEFINE_string("f3", None, "Fine image of t3, where there is one.")
    flags.DEFINE_string("c3", None, "Coarse image of t3.")
    flags.DEFINE_string("t1", None, "Date of --f1 and --c1 (default: that in their names).")
    flags.DEFINE_multi_string(
        "t2", None, "Dates of --c2, likewise, in its order (default: those in its names)."
    )
    flags.DEFINE_string("t3", None, "Date of --f3 and --c3 (default: that in their names).")
    for side in ("fine", "coarse"):
        flags.DEFINE_list(
            f"{side}_bands",
            None,
            f"Numbers, from 1, of the bands of the {side} rasters to take, such as 2,3,4, in the "
            "order of --bands (default: those that the rasters name so, else all as they lie).",
        )
        flags.DEFINE_float(
            f"{side}_scale",
            None,
            f"Reflectance per digital number of the {side} rasters (default: as they state).",
        )
        flags.DEFINE_float(
            f"{side}_offset", None, "Reflectance at digital number 0 (default: as they state)."
        )
        flags.DEFINE_float(
            f"{side}_fill", None, 'Digital number for "no data" (default: as they state).'
        )
        flags.DEFINE_list(
            f"{side}_range", None, "Least and greatest usable digital number (default: any)."
        )
        flags.DEFINE_string(
            f"{side}_crs",
            None,
            f"Coordinate reference system of {side} rasters that state none, such as EPSG:32613.",
        )


def main(argv: Sequence[str]) -> None:
    """Fuses the chosen dates."""
    _check_flags()
    from data_prep import named_rasters

    with contextlib.nullcontext() if FLAGS.dataset else named_rasters.naming_flags():
        _fuse()


def _fuse() -> None:
    from data_prep import catalog, corrections, levels, overlap, unstated_gaps

    output_dir = Path(FLAGS.output_dir)
    described = described_images()
    plain = catalog.Catalog(described)
    chosen = choose(plain, FLAGS.dates)
    images = corrections.corrected(plain, dates={date for t in chosen for date in t.all_dates})
    outer = list(dict.fromkeys(date for t in chosen for date in (t.t1, t.t3) if date))
    levels.check(images, outer)
    unstated_gaps.check(images, outer)
    for note in images.notes:  # there are none before an image is looked at
        print(f"Assumed: {note}")
    from stfnet_tf import date_sheet, series  # TensorFlow loads here.

    source = model_source(output_dir)
    plan = series.Plan.of(images, source, chosen, output_dir, FLAGS.overwrite)
    if plan.finished:
        print(
            f"Finished already, from the same images and model: {len(plan.finished)} of "
            f"{_counted(chosen)} in {output_dir}"
        )
    if plan.missing:
        print(
            f"Fusing {_counted(plan.missing)} of '{described.name}' "
            f"({images.grid.width} × {images.grid.height} × {len(described.bands)}) with "
            f"{source.path} into {output_dir}",
            flush=True,
        )
    place = series.Place(FLAGS.executor, FLAGS.workers, FLAGS.dask_scheduler)
    for fused in plan.run(FLAGS.window, place):
        print(summary(fused, described), flush=True)
        if fused.known < _NOTHING:
            logging.warning(
                "%s: next to nothing could be fused: on %s %s.",
                *(fused.path, fused.triplet),
                overlap.describe(images, fused.triplet, overlap.FUSING),
            )
    if FLAGS.plot:
        print(date_sheet.draw(images, chosen, output_dir))


def _check_flags() -> None:
    """Flags that are missing or exclude each other, before anything heavy is loaded."""
    given = [f"--{name}" for name in RASTERS if FLAGS[name].value]
    if bool(FLAGS.dataset) == bool(given):
        raise errors.InputError(
            "--dataset: expected a .toml, or rasters by --f1, --c1, --c2 (--f3, --c3), found "
            f"{'both' if given else 'nothing'}."
        )
    if not FLAGS.output_dir:
        raise errors.InputError("--output_dir: expected a folder, found nothing.")
    if sum(map(bool, (FLAGS.fit or FLAGS.model_dir, FLAGS.saved_model))) != 1:
        raise errors.InputError(
            "--model_dir, --saved_model, --fit: expected a run, an export, or --fit to train a "
            f"model, found {'more than one' if FLAGS.saved_model else 'nothing'}."
        )


def _counted(dates: Sequence) -> str:
    return f"{len(dates)} date{'s' * (len(dates) != 1)}"


def described_images() -> "dataset.Dataset":
    """The data set that the flags describe, in a .toml or raster by raster.

    Raises:
        InputError: A file or flag is not what is expected.
    """
    from data_prep import dataset, named_rasters

    if FLAGS.dataset:
        described = dataset.load(FLAGS.dataset, FLAGS.data_dir)
    else:
        described = named_rasters.describe(_named_rasters())
    described = correction_flags.applied(described)
    # A worker process elsewhere has another working directory.
    return dataclasses.replace(described, root=described.root.absolute())


def _named_rasters() -> "named_rasters.NamedRasters":
    """The rasters that the flags name."""
    from data_prep import named_rasters

    def coding(side: str) -> named_rasters.StatedEncoding:
        values = {k: FLAGS[f"{side}_{k}"].value for k in ("scale", "offset", "fill")}
        return named_rasters.StatedEncoding(
            bands=_numbers(f"{side}_bands"),
            valid_range=_range(f"{side}_range"),
            crs=FLAGS[f"{side}_crs"].value or "",
            **values,
        )

    given = {name: FLAGS[name].value or "" for name in RASTERS if name != "c2"}
    return named_rasters.NamedRasters(
        **given,
        c2=coarse_rasters(FLAGS.c2 or ()),
        t1=dates.parse("t1", FLAGS.t1) if FLAGS.t1 else None,
        t2=tuple(dates.parse("t2", text) for k in FLAGS.t2 or () for text in k.split(",")),
        t3=dates.parse("t3", FLAGS.t3) if FLAGS.t3 else None,
        bands=tuple(FLAGS.bands or ()),
        usual=_model_bands(),
        fine=coding("fine"),
        coarse=coding("coarse"),
        ratio=FLAGS.ratio,
    )


def coarse_rasters(given: Sequence[str]) -> tuple[str, ...]:
    """The rasters that --c2 names; a comma in the name of one that is there does not split it."""
    from data_prep import rasters

    split = ([k] if rasters.exists(k) else k.split(",") for k in given)
    return tuple(name for names in split for name in names if name)


def _model_bands() -> tuple[str, ...]:
    """The bands of the model that is named, which the rasters are taken to have."""
    from stfnet_tf import model_card, presets

    if FLAGS.fit:
        return ()
    if FLAGS.saved_model:
        return tuple(model_card.load(FLAGS.saved_model)["bands"])
    return presets.ModelConfig.load(FLAGS.model_dir).bands


def _numbers(flag: str) -> tuple[int, ...]:
    given = FLAGS[flag].value or ()
    try:
        return tuple(map(int, given))
    except ValueError:
        raise errors.InputError(
            f"--{flag}: expected band numbers such as 2,3,4, found {','.join(given)}."
        ) from None


def _range(flag: str) -> tuple[float, float] | None:
    given = FLAGS[flag].value
    if not given:
        return None
    try:
        low, high = map(float, given)
        if low < high:
            return low, high
    except ValueError:
        pass
    raise errors.InputError(
        f"--{flag}: expected the least and the greatest number, such as 0,10000, found "
        f"{','.join(given)}."
    )


def model_source(output_dir: Path) -> "series.Source":
    """Where the model comes from."""
    from stfnet_tf import series

    if FLAGS.saved_model:
        return series.Source(Path(FLAGS.saved_model), exported=True)
    if FLAGS.fit:
        return series.Source(Path(FLAGS.model_dir or output_dir / "model"), fit=asked_of_fit())
    return series.Source(Path(FLAGS.model_dir))


def asked_of_fit() -> fit_options.FitOptions:
    """What the flags ask of a fit."""
    training, model = train.asked()
    preset = {} if FLAGS["preset"].using_default_value else {"preset": FLAGS.preset}
    return fit_options.FitOptions(**preset, training=training, model=model)


def choose(images: "catalog.Catalog", named: Sequence[str] | None) -> "list[triplets.Triplet]":
    """The triplets to fuse, with those that fill gaps; dates that are passed over are printed.

    Args:
        images: The catalog.
        named: Dates, or "all", or None for the test dates.

    Raises:
        InputError: A date cannot be read or cannot be fused.
    """
    from data_prep import triplets

    formed = triplets.of(images)
    known = triplets.known_dates(images, formed)
    chosen = _chosen(images, named, {t.t2: t for t in formed["test"]}, known)
    if passed := triplets.passed_over(images, chosen, known):
        told = ", ".join(f"{date} ({100 * share:.0f} % clear)" for date, share in passed.items())
        print(
            f"Passed over, because further dates show far more (triplets.min_clear = "
            f"{images.dataset.min_clear:g}): {told}"
        )
    return [triplets.filled(images, triplet, known) for triplet in chosen]


def _chosen(
    images: "catalog.Catalog",
    named: Sequence[str] | None,
    test: "Mapping[dataset.Date, triplets.Triplet]",
    known: "Sequence[dataset.Date]",
) -> "list[triplets.Triplet]":
    from data_prep import triplets

    described = images.dataset
    if not named:
        if not test:
            raise errors.InputError(
                f"--dates: expected dates to fuse, because {described.path} names no test dates; "
                f"'all' fuses every date that has a coarse image alone."
            )
        return list(test.values())
    if list(named) == ["all"]:
        wanted = [d for d in images.coarse_dates if d not in known]
        around = triplets.around(wanted, known, described, images.clear_share)
        made = [test.get(t.t2, t) for t in around]
        if len(made) < len(wanted):
            print(f"Left out: {len(wanted) - len(made)} dates without a fine image before them.")
        return made
    chosen = []
    for text in named:
        date = dates.parse("dates", text)
        if not images.has("coarse", date):
            there = ", ".join(map(str, images.coarse_dates[:40]))
            raise errors.InputError(
                f"--dates: expected dates with a coarse image ({there}), found {date}."
            )
        others = [d for d in known if d != date]
        around = triplets.around([date], others, described, images.clear_share)
        if date not in test and not around:
            raise errors.InputError(
                f"--dates: expected a date after a known fine image, the first of which is of "
                f"{known[0] if known else 'no date'}; found {date}."
            )
        chosen.append(test.get(date) or around[0])
    return chosen


def summary(fused: "scene.Fused", dataset: "dataset.Dataset") -> str:
    """What to tell a user about a fused date."""
    line = f"{fused.path}: {100 * fused.known:.1f} % of the pixels fused, from {fused.triplet}"
    if fused.filled:
        dates = ", ".join(str(k) for k in fused.triplet.fill)
        line += f"; {100 * fused.filled:.1f} % that these do not show from {dates}"
    if fused.rmse is None:
        return line
    found = zip(dataset.bands, fused.rmse, strict=True)
    values = ", ".join(f"{band} {value:.5f}" for band, value in found)
    mean = sum(fused.rmse) / len(fused.rmse)
    return (
        f"{line}\n  RMSE in {dataset.quantity} over {fused.pixels} known pixels: {values}; mean "
        f"{mean:.5f}"
    )


def cli() -> None:
    """The console script."""
    train.define_flags()
    define_flags()
    flags.adopt_module_key_flags(train)  # --help shows training's flags, which count with --fit
    entry.run(main)


if __name__ == "__main__":
    cli()
