r"""Scores fused images against the true ones.

A trained model, on the dates of a split that it has not seen:

    python -m stfnet_tf.evaluate --dataset=configs/cia.toml --data_dir=/data \
        --model_dir=runs/cia --split=test --output_dir=scores

Rasters that are there already, named <date>.tif as `stfnet_tf.fuse` names them:

    python -m stfnet_tf.evaluate --dataset=configs/boreal2001.toml --predictions=fused \
        --output_dir=scores

Prints a table and writes metrics.json, metrics.csv and, for each date, a sheet of images, a scatter
plot for each method, the APA diagram and, where the method predicts its own error, the calibration.
"""

import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from data_prep import correction_flags, entry, errors

if TYPE_CHECKING:
    import numpy as np

    from data_prep import catalog
    from stfnet_tf import cases, panels, scores
    from stfnet_tf.baselines import base

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines what only this program takes."""
    define_data_flags()
    flags.DEFINE_string("model_dir", None, "Folder of the training run to be scored.")
    flags.DEFINE_string(
        "predictions", None, "Folder of rasters to be scored instead, <date>.tif for each date."
    )
    flags.DEFINE_list(
        "baselines",
        ["copy", "coarse_change"],
        "Methods that stand beside it in the table; empty for none.",
    )


def define_data_flags() -> None:
    """Defines which dates of which data set are scored, for every program that scores."""
    flags.DEFINE_string("dataset", None, "Description of the data set, a .toml.")
    flags.DEFINE_string(
        "data_dir", None, "Where the rasters lie, in place of the description's own root."
    )
    flags.DEFINE_enum("split", "test", ["train", "val", "test"], "Whose dates are scored.")
    flags.DEFINE_list(
        "dates",
        [],
        "Dates to score, as 2001-07-11 or, to say from what to predict, as t1/t2/t3 (default: all "
        "of the split's).",
    )
    correction_flags.define(("off", "apply"))
    flags.adopt_module_key_flags(correction_flags)
    flags.DEFINE_string("output_dir", None, "Folder that receives tables and pictures.")


def main(argv: Sequence[str]) -> None:
    """Scores one model, or one folder of rasters, beside simple methods."""
    require("dataset", "a .toml")
    require("output_dir", "a folder")
    if bool(FLAGS.model_dir) == bool(FLAGS.predictions):
        raise errors.InputError(
            "--model_dir, --predictions: expected one of the two, found "
            f"{'both' if FLAGS.model_dir else 'neither'}."
        )
    from stfnet_tf.baselines import base

    methods = [base.method(name, flag="baselines") for name in FLAGS.baselines]
    if FLAGS.model_dir:
        methods.append(base.method(f"stfnet={FLAGS.model_dir}", with_changes=True))
    images, read = read_cases(methods)
    subject = FLAGS.model_dir or FLAGS.predictions
    print(
        f"Scoring {subject} on {', '.join(case.label for case in read)} of "
        f"'{images.dataset.name}' into {FLAGS.output_dir}",
        flush=True,
    )
    results: list[dict[str, base.Prediction]] = []
    for case in read:
        made = {m.name: m.predict(case.inputs) for m in methods if usable(m, case)}
        if FLAGS.predictions:
            made["predictions"] = read_prediction(images, Path(FLAGS.predictions), case)
        results.append(made)
    report = make_report(images, read, results, {})
    publish(report, FLAGS.output_dir)
    draw(Path(FLAGS.output_dir), report, read, results, cases_stretch(images, read))


def require(name: str, wanted: str) -> None:
    """Raises the sentence about a flag that is missing."""
    if not FLAGS[name].value:
        raise errors.InputError(f"--{name}: expected {wanted}, found nothing.")


def read_cases(
    methods: "Sequence[base.Method]", seed: int = 0
) -> "tuple[catalog.Catalog, list[cases.Case]]":
    """The dates that the flags ask for, read whole.

    Raises:
        InputError: There are none, or a trained model is for other bands.
    """
    from stfnet_tf import cases
    from stfnet_tf.baselines import stfnet

    images = cases.open_catalog(
        FLAGS.dataset, FLAGS.data_dir, FLAGS.coregister, FLAGS.residual_clouds
    )
    for method in methods:
        if isinstance(method, stfnet.Stfnet):
            method.check_bands(images.dataset.bands)
    read = cases.read_all(images, cases.choose(images, FLAGS.split, FLAGS.dates), seed)
    for note in images.notes:  # there are none before an image is looked at
        print(f"Assumed: {note}")
    return images, read


def usable(method: "base.Method", case: "cases.Case") -> bool:
    """Whether a method has what it needs for a case; says so where it has not."""
    if method.two_sided and case.inputs.f3 is None:
        print(f"{method.name}: left out on {case.label}, which has no later pair.")
        return False
    return True


def read_prediction(
    images: "catalog.Catalog", folder: Path, case: "cases.Case"
) -> "base.Prediction":
    """A fused raster and, where there is one, its quality raster.

    Raises:
        InputError: There is none, or it cannot be read as `fused_rasters.read` does.
    """
    import numpy as np

    from stfnet_tf import fused_rasters
    from stfnet_tf.baselines import base

    path = folder / f"{case.stem}.tif"
    if not path.is_file():
        # As stfnet_tf.fuse names it, whatever it was predicted from.
        path = folder / f"{case.triplet.t2}.tif"
    if not path.is_file():
        raise errors.InputError(f"{path}: expected the fused image of {case.label}, found none.")
    f2, valid = fused_rasters.read(path, images)
    quality = None
    quality_path = path.with_name(f"{path.stem}_quality.tif")
    if quality_path.is_file():
        layers = fused_rasters.read_quality(quality_path, images)
        quality = np.where(valid[..., None], layers, np.nan)
    return base.Prediction(f2, valid, quality)


def make_report(
    images: "catalog.Catalog",
    read: "Sequence[cases.Case]",
    results: "Sequence[Mapping[str, base.Prediction]]",
    costs: Mapping[tuple[str, str], Mapping[str, float]],
) -> "scores.Report":
    """Scores all predictions of all dates, each date over the pixels that all methods have.

    Args:
        images: The data set.
        read: The cases.
        results: For each case, the predictions by method.
        costs: `seconds` and `peak_mib` by (method, label).
    """
    import numpy as np

    import stfnet_tf
    from stfnet_tf import scores

    rows, references = [], []
    calibrations: dict[str, dict[str, tuple[scores.Calibration, ...]]] = {}
    bands = images.dataset.bands
    for case, made in zip(read, results, strict=True):
        valid = np.logical_and.reduce([case.valid, *(p.valid for p in made.values())])

        def rate(name, image, valid, changes=None, case=case):
            return scores.score(
                case.truth, image, valid, bands=bands, ratio=case.inputs.ratio, method=name,
                date=case.label, changes=changes,
            )  # fmt: skip

        for name, prediction in made.items():
            changes = None
            if prediction.changes is not None and case.inputs.f3 is not None:
                both = case.inputs.valid_f1 & case.inputs.valid_f3
                f13 = np.where(both[..., None], case.inputs.f3 - case.inputs.f1, np.nan)
                changes = (*prediction.changes, f13)
            cost = costs.get((name, case.label), {})
            coverage = float(prediction.valid[case.valid].mean()) if case.valid.any() else math.nan
            row = rate(name, prediction.f2, valid, changes)
            rows.append(row.with_extras(coverage=coverage, **cost))
            if prediction.quality is not None:
                calibrations.setdefault(name, {})[case.label] = _calibrations(
                    prediction.quality, prediction.f2 - case.truth, valid, bands
                )
        for name in ("f1", "f3", "c2"):
            image = getattr(case.inputs, name)
            if image is not None:
                mask = case.valid & getattr(case.inputs, f"valid_{name}")
                references.append(rate(name.upper(), image, mask))
    about = {
        "command": shlex.join(sys.argv),
        "description": str(images.dataset.path),
        "split": FLAGS.split,
        "triplets": [str(case.triplet) for case in read],
        "pixels": "valid in the truth and in the prediction of every method",
        "consistency": "over those of the pixels where F1, F3 and both predicted changes are known",
        "coverage": "share of the truth's valid pixels that a method predicts",
        "coregister": images.dataset.coregister,
        "residual_clouds": {
            date.isoformat(): mask.share for date, mask in sorted(images.clouds.items())
        },
        "ratio": read[0].inputs.ratio,
        "versions": {"stfnet_tf": stfnet_tf.__version__, "numpy": np.__version__},
    }
    dataset = images.dataset
    return scores.Report(
        dataset.name, tuple(rows), tuple(references), calibrations, about, dataset.quantity
    )


def _calibrations(
    quality: "np.ndarray", error: "np.ndarray", valid: "np.ndarray", bands: Sequence[str]
) -> "tuple[scores.Calibration, ...]":
    """Each band by itself, then all of them as one."""
    import numpy as np

    from stfnet_tf import scores

    made = [
        scores.calibrate(quality[..., b], error[..., b], valid, band)
        for b, band in enumerate(bands)
    ]
    if len(bands) > 1:
        everywhere = np.broadcast_to(valid[..., None], error.shape)
        made.append(scores.calibrate(quality, error, everywhere, "all bands"))
    return tuple(made)


def publish(report: "scores.Report", output_dir: str) -> None:
    """Prints the tables and writes metrics.json and metrics.csv."""
    from rich import console

    terminal = console.Console()
    # A pipe has no width: the table is not to be squeezed into 80 columns there.
    if not terminal.is_terminal:
        terminal = console.Console(width=260)
    terminal.print(report.table())
    if report.calibrations:
        terminal.print(report.quality_table())
    for path in report.save(output_dir):
        print(path)


def cases_stretch(
    images: "catalog.Catalog", read: "Sequence[cases.Case]"
) -> "list[panels.Stretch]":
    """For each case the stretch of its pictures, from its known fine images."""
    from stfnet_tf import panels

    stretches = []
    for case in read:
        known = [(case.inputs.f1, case.inputs.valid_f1)]
        if case.inputs.f3 is not None and case.inputs.valid_f3 is not None:
            known.append((case.inputs.f3, case.inputs.valid_f3))
        fine, valid = zip(*known, strict=True)
        dataset = images.dataset
        stretches.append(panels.Stretch.of(fine, valid, dataset.bands, dataset.quantity))
    return stretches


def draw(
    folder: Path,
    report: "scores.Report",
    read: "Sequence[cases.Case]",
    results: "Sequence[Mapping[str, base.Prediction]]",
    stretches: "Sequence[panels.Stretch]",
) -> None:
    """Draws what is scored of each date; simple methods get no pictures of their own."""
    from stfnet_tf import panels

    for case, made, stretch in zip(read, results, stretches, strict=True):
        date = case.stem
        name, prediction = list(made.items())[-1]
        print(draw_sheet(folder / f"images_{date}.png", case, {name: prediction}, stretch))
        score = next(s for s in report.scores if (s.method, s.date) == (name, case.label))
        valid = case.valid & prediction.valid
        path = folder / f"scatter_{date}.png"
        print(panels.scatter(path, case.truth, prediction.f2, valid, score, report.quantity))
        print(panels.apa_diagram(folder / f"apa_{date}.png", report, case.label))
        for method, dates in report.calibrations.items():
            if case.label in dates:
                path = folder / f"calibration_{date}.png"
                title = f"{method}, {case.label}: expected and true error"
                print(panels.calibration(path, dates[case.label], title, report.quantity))


def draw_sheet(
    path: Path,
    case: "cases.Case",
    made: "Mapping[str, base.Prediction]",
    stretch: "panels.Stretch",
    columns: int = 3,
) -> Path:
    """Draws F1, F3, C2, the truth, and each method's prediction with its error."""
    from stfnet_tf import panels

    inputs = case.inputs
    truth = panels.Panel(f"true F2, {case.triplet.t2}", case.truth, case.valid)
    row: list[panels.Panel | None] = [
        panels.Panel(f"F1, {case.triplet.t1}", inputs.f1, inputs.valid_f1)
    ]
    if inputs.f3 is not None and inputs.valid_f3 is not None:
        row.append(panels.Panel(f"F3, {case.triplet.t3}", inputs.f3, inputs.valid_f3))
    else:
        row.append(None)  # so that each prediction keeps its error beside it
    row.append(panels.Panel(f"C2, {case.triplet.t2}", inputs.c2, inputs.valid_c2))
    if len(made) > 1:
        row.append(truth)
    for name, prediction in made.items():
        predicted = panels.Panel(f"predicted F2, {name}", prediction.f2, prediction.valid)
        row.append(predicted)
        if len(made) == 1:
            row.append(truth)
        row.append(panels.error_panel(f"error, {name}", predicted, truth))
    return panels.sheet(path, row, stretch, columns=columns, title=str(case.triplet))


def cli() -> None:
    """The console script."""
    define_flags()
    entry.run(main)


if __name__ == "__main__":
    cli()
