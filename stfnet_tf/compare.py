r"""Predicts the same dates with several methods and scores them side by side.

    python -m stfnet_tf.compare --dataset=configs/boreal2001.toml --output_dir=comparison \
        --methods=copy,starfm,estarfm,plus,trained=runs/boreal2001

A method is the name of one in `stfnet_tf.baselines`; or a preset of StfNet, such as plus or paper,
which is first fitted to each date as `fuse --fit` does (`fit_seconds`), with options as in
equal=plus:combination=equal:steps=200; or NAME=FOLDER, a StfNet that was trained before.

All methods get the same images and masks and are scored by the same measures over the same pixels:
those that are valid in the truth and that every method has predicted (`coverage` is the share that
one method predicts). Each runs in a process of its own, so that its time and memory are its own,
too: `seconds` is one prediction, after a short one that compiles and loads what the method needs;
`peak_mib` is the largest resident memory of that process, interpreter, libraries and images
included.

Prints a table and writes metrics.json, metrics.csv and, for each date, a figure of accuracy, time
and memory, a sheet of all predictions and their errors, and the APA diagram.
"""

import dataclasses
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from data_prep import entry, errors, executors, progress
from stfnet_tf import evaluate, fit_options, presets

if TYPE_CHECKING:
    from data_prep import catalog, triplets
    from stfnet_tf import cases, panels, scores
    from stfnet_tf.baselines import base

FLAGS = flags.FLAGS
WARM_UP_SIZE = 32


def define_flags() -> None:
    """Defines what only this program takes."""
    evaluate.define_data_flags()
    flags.DEFINE_list(
        "methods",
        [],
        "Names of methods; presets of StfNet, fitted to each date first "
        f"({', '.join(presets.PRESETS)}), or NAME=PRESET:OPTION=VALUE:OPTION=VALUE with options "
        "of training; NAME=FOLDER for each trained StfNet (default: every method, and plus).",
    )
    flags.DEFINE_integer("seed", 1, "Of all that draws random numbers.")
    flags.DEFINE_boolean(
        "save_predictions",
        False,
        "Also write each prediction as a raster, predictions/<method>/<date>.tif, or "
        "<t1>_<t2>_<t3>.tif where one date is predicted from several pairs.",
    )


def main(argv: Sequence[str]) -> None:
    """Runs all methods on all dates."""
    evaluate.require("dataset", "a .toml")
    evaluate.require("output_dir", "a folder")
    from stfnet_tf.baselines import base

    specs = FLAGS.methods or [*base.names(), "plus"]
    asked = {spec: found for spec in specs if (found := to_fit(spec))}
    fitted = tuple(presets.PRESETS)
    methods = {spec: base.method(spec, others=fitted) for spec in specs if spec not in asked}
    names = {spec: asked[spec][0] if spec in asked else methods[spec].name for spec in specs}
    if len(set(names.values())) < len(specs):
        raise errors.InputError(
            f"--methods: expected every name once, found {', '.join(names.values())}."
        )
    images, read = evaluate.read_cases(list(methods.values()), FLAGS.seed)
    print(
        f"Comparing {', '.join(names.values())} on {', '.join(case.label for case in read)} of "
        f"'{images.dataset.name}' into {FLAGS.output_dir}",
        flush=True,
    )
    jobs = [
        (spec, case)
        for case in read
        for spec in specs
        if spec in asked or evaluate.usable(methods[spec], case)
    ]
    if not jobs:
        raise errors.InputError(
            f"--methods: expected one that needs no later pair, because "
            f"{', '.join(case.label for case in read)} of {images.dataset.path} has none, found "
            f"{', '.join(names.values())}."
        )
    results: dict[str, dict[str, base.Prediction]] = {case.label: {} for case in read}
    costs = {}
    for spec, case in progress.track(jobs, "Predicting", len(jobs)):
        name, cost = names[spec], {}
        if spec in asked:
            folder = Path(FLAGS.output_dir) / "models" / name / "_".join(case.triplet.iso)
            run, *fitting = executors.alone(_fitted, asked[spec][1], images, case.triplet, folder)
            cost = dict(zip(("fit_seconds", "peak_mib"), fitting, strict=True))
            spec = f"{name}={run}"
        prediction, seconds, peak = executors.alone(_timed, spec, case.inputs)
        results[case.label][name] = prediction
        cost |= {"seconds": seconds, "peak_mib": max(peak, cost.get("peak_mib", 0))}
        costs[name, case.label] = cost
        if FLAGS.save_predictions:
            save(images, case, name, prediction, Path(FLAGS.output_dir) / "predictions")
    made = [results[case.label] for case in read]
    report = evaluate.make_report(images, read, made, costs)
    evaluate.publish(report, FLAGS.output_dir)
    stretches = evaluate.cases_stretch(images, read)
    for case, predictions, stretch in zip(read, made, stretches, strict=True):
        _draw(Path(FLAGS.output_dir), report, case, predictions, stretch)


def to_fit(spec: str) -> tuple[str, fit_options.FitOptions] | None:
    """The name and the options of a StfNet that is to be fitted first; None for other methods.

    Raises:
        InputError: An option that training does not have.
    """
    name, _, rest = spec.partition("=")
    if spec.split(":")[0] in presets.PRESETS:
        name, rest = spec.split(":")[0], spec
    if rest.split(":")[0] not in presets.PRESETS:
        return None
    found = fit_options.parse(rest)
    return name, dataclasses.replace(found, training={"seed": FLAGS.seed, **found.training})


def _draw(
    folder: Path,
    report: "scores.Report",
    case: "cases.Case",
    predictions: "Mapping[str, base.Prediction]",
    stretch: "panels.Stretch",
) -> None:
    from stfnet_tf import panels

    print(panels.comparison(folder / f"comparison_{case.stem}.png", report, case.label))
    path = folder / f"images_{case.stem}.png"
    print(evaluate.draw_sheet(path, case, predictions, stretch, columns=4))
    print(panels.apa_diagram(folder / f"apa_{case.stem}.png", report, case.label))


def _fitted(
    options: fit_options.FitOptions,
    images: "catalog.Catalog",
    triplet: "triplets.Triplet",
    folder: Path,
) -> tuple[Path, float, float]:
    """Fits a StfNet to one date: the run's folder, the seconds, and the peak memory in MiB."""
    from stfnet_tf import fitting

    # What an earlier comparison left would only be continued, in no time.
    shutil.rmtree(folder, ignore_errors=True)
    start = time.perf_counter()
    run = fitting.Fitter(options).fit(images, triplet, folder)
    return run, time.perf_counter() - start, executors.peak_mib()


def _timed(spec: str, inputs: "base.Inputs") -> "tuple[base.Prediction, float, float]":
    """Predicts: the prediction, the seconds, and the peak memory in MiB."""
    from stfnet_tf.baselines import base

    method = base.method(spec)
    method.predict(inputs.corner(WARM_UP_SIZE))
    start = time.perf_counter()
    prediction = method.predict(inputs)
    seconds, peak = time.perf_counter() - start, executors.peak_mib()
    detailed = base.method(spec, with_changes=True)
    if detailed != method:
        # What only the scores ask for, F̂12 and F̂23, is no part of the cost.
        prediction = detailed.predict(inputs)
    return prediction, seconds, peak


def save(
    images: "catalog.Catalog",
    case: "cases.Case",
    name: str,
    prediction: "base.Prediction",
    folder: Path,
) -> Path:
    """Writes a prediction in the digital numbers and on the grid of the fine images."""
    from data_prep import rasters

    encoding = images.encoding("fine")
    dn = encoding.digital_numbers(prediction.f2, prediction.valid)
    path = folder / name / f"{case.stem}.tif"
    path.parent.mkdir(parents=True, exist_ok=True)
    rasters.write(
        path, dn, images.grid, nodata=encoding.nodata, band_names=images.dataset.bands,
        scale=encoding.scale, offset=encoding.offset,
    )  # fmt: skip
    return path


def cli() -> None:
    """The console script."""
    define_flags()
    flags.adopt_module_key_flags(evaluate)  # --help shows what is scored, too
    entry.run(main)


if __name__ == "__main__":
    cli()
