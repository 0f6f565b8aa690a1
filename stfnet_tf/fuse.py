r"""Fuses images: writes the fine image of days on which only the coarse one exists.

With a trained model, the test dates of a described data set, or any others:

    python -m stfnet_tf.fuse --dataset=configs/cia.toml --data_dir=CIA --model_dir=runs/cia \
        --output_dir=fused [--dates=2002-01-12,2002-02-13 | --dates=all]

With no model yet, --fit first trains one on the very images ("pair" mode; --preset=plus unless
another is named; training's flags count):

    python -m stfnet_tf.fuse --fit --flagfile=configs/boreal2001.flags --output_dir=fused

Writes <date>.tif, a Cloud-Optimized GeoTIFF in the digital numbers and on the grid of the fine
images, and <date>_quality.tif: for each band an estimate of the absolute error, from how far the
two sides disagree (not calibrated: true errors are larger), and for each pixel whether both sides
(3), the earlier (1), the later (2) or none (0) gave it. Where the true image
of a date is known, its RMSE is printed.
"""

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from data_prep import entry, errors
from stfnet_tf import train

if TYPE_CHECKING:
    from data_prep import catalog, triplets
    from stfnet_tf import fitting, scene

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines what only this program takes."""
    flags.DEFINE_string("output_dir", None, "Folder that receives the rasters.")
    flags.DEFINE_list(
        "dates",
        None,
        "Dates to fuse, as 2002-01-12,2002-02-13; 'all' for every date with a coarse image and no "
        "known fine one (default: the description's test dates).",
    )
    flags.DEFINE_string(
        "saved_model", None, "An exported version, such as saved_models/cia/1, to fuse with."
    )
    flags.DEFINE_boolean("fit", False, "First train a model on these very images, in --model_dir.")
    flags.DEFINE_integer(
        "window",
        512,
        "Height and width of what is fused at a time, in pixels; changes speed and memory, not "
        "the result.",
        lower_bound=32,
    )


def main(argv: Sequence[str]) -> None:
    """Fuses the chosen dates."""
    for name, wanted in (("dataset", "a .toml"), ("output_dir", "a folder")):
        if not FLAGS[name].value:
            raise errors.InputError(f"--{name}: expected {wanted}, found nothing.")
    if sum(map(bool, (FLAGS.fit or FLAGS.model_dir, FLAGS.saved_model))) != 1:
        raise errors.InputError(
            "--model_dir, --saved_model, --fit: expected a model or the wish for one, found "
            f"{'a run and an export' if FLAGS.saved_model else 'nothing'}."
        )
    from data_prep import catalog, dataset, registration
    from stfnet_tf import fitting, scene

    described = dataset.load(FLAGS.dataset, FLAGS.data_dir)
    output_dir = Path(FLAGS.output_dir)
    images = registration.registered(catalog.Catalog(described))
    for note in images.notes:
        print(note)
    chosen = choose(images, FLAGS.dates)
    model = FLAGS.saved_model or FLAGS.model_dir or output_dir / "model"
    print(
        f"Fusing {len(chosen)} date{'s' * (len(chosen) != 1)} of '{described.name}' "
        f"({images.grid.height} × {images.grid.width} × {len(described.bands)}) with "
        f"{model} into {output_dir}",
        flush=True,
    )
    predictor = None
    for triplet in chosen:
        if FLAGS.fit:
            run = fitting.fit(described, triplet, Path(model), wishes())
            predictor = scene.Predictor.from_run(run, images)
        elif FLAGS.saved_model:
            predictor = predictor or scene.Predictor.from_saved_model(model, images)
        else:
            predictor = predictor or scene.Predictor.from_run(model, images)
        fused = scene.fuse(predictor, images, triplet, output_dir, FLAGS.window)
        print(summary(fused, described.bands), flush=True)


def wishes() -> "fitting.Wishes":
    """What the flags ask of a fit."""
    from stfnet_tf import fitting

    training, model = train.asked()
    preset = {} if FLAGS["preset"].using_default_value else {"preset": FLAGS.preset}
    return fitting.Wishes(**preset, training=training, model=model)


def choose(images: "catalog.Catalog", dates: Sequence[str] | None) -> "list[triplets.Triplet]":
    """The triplets to fuse.

    Args:
        images: The catalog.
        dates: ISO dates, or "all", or None for the test dates.

    Raises:
        InputError: A date cannot be read or cannot be fused.
    """
    from data_prep import triplets

    dataset = images.dataset
    formed = triplets.form(dataset, images.fine_dates, images.coarse_dates)
    test = {t.t2: t for t in formed["test"]}
    if not dates:
        if not test:
            raise errors.InputError(
                f"--dates: expected dates to fuse, because {dataset.path} names no test dates."
            )
        return list(test.values())
    hidden = set(test)
    known = [d for d in images.fine_dates if d not in hidden and images.has("coarse", d)]
    if list(dates) == ["all"]:
        wanted = [d for d in images.coarse_dates if d not in known]
        return [test.get(t.t2, t) for t in triplets.around(wanted, known, dataset)]
    chosen = []
    for text in dates:
        try:
            date = datetime.date.fromisoformat(text)
        except ValueError:
            raise errors.InputError(
                f"--dates: expected dates such as 2002-01-12, found '{text}'."
            ) from None
        if not images.has("coarse", date):
            there = ", ".join(map(str, images.coarse_dates[:40]))
            raise errors.InputError(
                f"--dates: expected dates with a coarse image ({there}), found {date}."
            )
        around = triplets.around([date], [d for d in known if d != date], dataset)
        if date not in test and not around:
            raise errors.InputError(
                f"--dates: expected a date after a known fine image, the first of which is of "
                f"{known[0] if known else 'no date'}; found {date}."
            )
        chosen.append(test.get(date) or around[0])
    return chosen


def summary(fused: "scene.Fused", bands: Sequence[str]) -> str:
    """What to tell a user about a fused date."""
    line = f"{fused.path}: {100 * fused.known:.1f} % of the pixels fused, from {fused.triplet}"
    if fused.rmse is None:
        return line
    values = ", ".join(f"{band} {value:.5f}" for band, value in zip(bands, fused.rmse, strict=True))
    mean = sum(fused.rmse) / len(fused.rmse)
    return (
        f"{line}\n  RMSE in reflectance over {fused.pixels} known pixels: {values}; mean {mean:.5f}"
    )


def cli() -> None:
    """The console script."""
    train.define_folders()
    train.define_flags()
    define_flags()
    flags.adopt_module_key_flags(train)  # --help shows training's flags, which count with --fit
    entry.run(main)


if __name__ == "__main__":
    cli()
