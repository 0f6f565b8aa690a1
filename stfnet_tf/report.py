r"""Writes a report on accuracy from the results of comparisons.

    python -m stfnet_tf.report --results=compared --output=docs/accuracy.md

reads the metrics.json of every folder below --results, as `stfnet_tf.compare` and
`stfnet_tf.evaluate` write them, and writes one chapter for each: a table of all methods, the best
in bold, the known images themselves for comparison, the command that made it, and copies of the
figures in a folder beside the document. A text about.md among them (accuracy/<name>/about.md for
the document above) introduces the chapter, whichever results it is written from. Repetitions of one
method, named method#1, method#2 …, become one line with mean and standard deviation.
"""

import json
import math
import re
import shutil
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from PIL import Image

from data_prep import entry, errors, whole

FLAGS = flags.FLAGS
RESULTS = "metrics.json"
# Measure, its heading, digits, and whether small (−1) or great (+1) values are good; 0 for costs.
COLUMNS = (
    ("rmse", "RMSE", 5, -1),
    ("cc", "CC", 3, 1),
    ("ssim", "SSIM", 3, 1),
    ("sam_deg", "SAM °", 2, -1),
    ("consistency", "consistency", 5, -1),
    ("coverage", "share predicted", 3, 0),
    ("fit_seconds", "fit s", 0, 0),
    ("seconds", "s", 1, 0),
    ("peak_mib", "MiB", 0, 0),
)
FIGURES = ("comparison_*.png", "images_*.png", "apa_*.png", "calibration_*.png")
# Sheets of images are photographs of megabytes; a document needs less. Width in pixels.
SHEETS = "images_"
SHEET_WIDTH = 1000


def define_flags() -> None:
    """Defines what this program takes."""
    flags.DEFINE_string("results", None, "Folder of comparisons, one folder each.")
    flags.DEFINE_string("output", None, "The document, a .md; figures go into a folder beside it.")
    flags.DEFINE_string("title", "Accuracy", "The document's title.")


def main(argv: Sequence[str]) -> None:
    """Writes the document."""
    del argv
    for name, wanted in (("results", "a folder of comparisons"), ("output", "a .md")):
        if not FLAGS[name].value:
            raise errors.InputError(f"--{name}: expected {wanted}, found nothing.")
    results, output = Path(FLAGS.results), Path(FLAGS.output)
    if not output.suffix:
        # The folder of figures would have its name.
        raise errors.InputError(f"--output: expected a .md, found {output}.")
    found = sorted(results.glob(f"**/{RESULTS}"))
    if not found:
        raise errors.InputError(
            f"--results: expected folders with {RESULTS}, as stfnet_tf.compare writes them, found "
            f"none below {results}."
        )
    figures = output.with_suffix("")
    chapters = [chapter(path, figures) for path in found]
    text = "\n".join([f"# {FLAGS.title}", "", *chapters])
    whole.write_text(output, text)
    print(f"{output}: {len(found)} comparison{'s' * (len(found) != 1)}")


def chapter(path: Path, figures: Path) -> str:
    """One comparison as Markdown.

    Args:
        path: Its metrics.json.
        figures: Folder whose subfolder of its name receives copies of its figures, and may hold
            its introduction.

    Raises:
        InputError: The file is not one.
    """
    try:
        results = json.loads(path.read_text())
        about, rows = results["about"], results["scores"]
        dates = list(dict.fromkeys(row["date"] for row in rows))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.InputError(
            f"{path}: expected a comparison's results, found: {errors.reason(error)}."
        ) from None
    name = path.parent.name
    lines = [f"## {name}", ""]
    introduction = figures / name / "about.md"
    if introduction.is_file():
        lines += [introduction.read_text().strip(), ""]
    triplets = dict(zip(dates, about.get("triplets", ()), strict=False))
    for date in dates:
        mine = [row for row in rows if row["date"] == date]
        unchanged = [row for row in results.get("references", ()) if row["date"] == date]
        dated = f"{date}, from {triplets[date]}" if date in triplets else date
        lines += [
            f"`{results['dataset']}`, {dated}: {mine[0]['pixels']} pixels, coarse images "
            f"{'as they are' if about.get('coregister') != 'apply' else 'registered'}"
            f"{_clouds(about.get('residual_clouds', {}))}.",
            "",
            *table(mine, unchanged),
            "",
        ]
    lines += [f"![{k.stem}]({_copied(k, figures / name, figures.parent)})" for k in _figures(path)]
    command = re.sub(
        r"\S*/(\w+)\.py ", r"python -m stfnet_tf.\1 ", about.get("command", ""), count=1
    )
    return "\n".join([*lines, "", "```", command, "```", ""])


def table(
    rows: Sequence[Mapping[str, Any]], unchanged: Sequence[Mapping[str, Any]] = ()
) -> list[str]:
    """The methods of one date as lines of a Markdown table, the lowest mean RMSE first.

    Args:
        rows: Each method's measures.
        unchanged: Those of F1, F3 and C2 as they are, on all pixels that each of them has.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["method"].split("#")[0], []).append(row)
    bands = [k for k in rows[0]["rmse"] if k != "mean"]
    bands = bands if len(bands) > 1 else []
    columns = [c for c in COLUMNS if any(_value(row, c[0]) is not None for row in rows)]
    errors_of = {k: _mean(groups[k], "rmse") for k in groups}
    # What could not be scored comes last.
    order = sorted(groups, key=lambda k: (math.isnan(errors_of[k]), errors_of[k]))
    best = {}
    for measure, _, _, direction in columns:
        known = [v for k in groups if not math.isnan(v := _mean(groups[k], measure))]
        best[measure] = (min(known) if direction < 0 else max(known)) if direction else None
    heads = ["method", *(f"RMSE {b}" for b in bands), *(head for _, head, _, _ in columns)]
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    for name in order:
        group = groups[name]
        cells = [f"{name} (× {len(group)})" if len(group) > 1 else name]
        cells += [_text([row["rmse"][b] for row in group], 4) for b in bands]
        for measure, _, digits, _ in columns:
            cell = _cell(group, measure, digits)
            bold = best[measure] is not None and _mean(group, measure) == best[measure]
            cells.append(f"**{cell}**" if bold else cell)
        lines.append("| " + " | ".join(cells) + " |")
    for row in unchanged:
        cells = [f"*{row['method']} as it is*"] + [_text([row["rmse"][b]], 4) for b in bands]
        cells += [_cell([row], measure, digits) for measure, _, digits, _ in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _value(row: Mapping[str, Any], measure: str) -> float | None:
    value = row.get(measure)
    return value.get("mean") if isinstance(value, dict) else value


def _mean(group: Sequence[Mapping[str, Any]], measure: str) -> float:
    values = [v for row in group if (v := _value(row, measure)) is not None]
    return statistics.fmean(values) if values else math.nan


def _cell(group: Sequence[Mapping[str, Any]], measure: str, digits: int) -> str:
    values = [v for row in group if (v := _value(row, measure)) is not None]
    text = _text(values, digits)
    return f"{text} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else text


def _text(values: Sequence[float | None], digits: int) -> str:
    """The mean of those that are known; a measure without a usable pixel is null."""
    known = [v for v in values if v is not None]
    return f"{statistics.fmean(known):.{digits}f}" if known else "–"


def _figures(path: Path) -> list[Path]:
    return [figure for pattern in FIGURES for figure in sorted(path.parent.glob(pattern))]


def _clouds(shares: Mapping[str, float]) -> str:
    """What was left out of the coarse images, for the end of a sentence."""
    left_out = ", ".join(f"{share:.2%} of {date}" for date, share in shares.items())
    return f", without residual clouds ({left_out})" if left_out else ""


def _copied(figure: Path, folder: Path, base: Path) -> str:
    """Copies a figure, sheets of images smaller, and returns how the document calls it.

    Raises:
        InputError: The sheet is no image.
    """
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / figure.name
    if not figure.name.startswith(SHEETS):
        shutil.copyfile(figure, copy)
        return copy.relative_to(base).as_posix()
    copy = copy.with_suffix(".jpg")
    try:
        with Image.open(figure) as sheet:
            sheet.thumbnail((SHEET_WIDTH, sheet.height))
            sheet.convert("RGB").save(copy, quality=70, optimize=True)
    except OSError as error:
        raise errors.InputError(
            f"{figure}: expected an image, found: {errors.reason(error)}."
        ) from None
    return copy.relative_to(base).as_posix()


def cli() -> None:
    """The console script."""
    define_flags()
    entry.run(main)


if __name__ == "__main__":
    cli()
