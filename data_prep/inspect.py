"""The first look at a data set: what was found, how well the two sensors fit, what will be done.

    python -m data_prep.inspect --dataset=configs/boreal2001.toml --plot=look.png

Prints the grids, a table of the dates (valid shares, correlation and shift between coarse and
fine), and the triplets that training and testing will see. `--json` prints the same as JSON.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from data_prep import entry, errors

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

FLAGS = flags.FLAGS


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
    from data_prep import catalog, dataset, executors, survey

    described = dataset.load(FLAGS.dataset, FLAGS.data_dir)
    mode = FLAGS.coregister or described.coregister
    if not FLAGS.coregister and mode == "off":
        mode = "report"
    images = catalog.Catalog(dataclasses.replace(described, coregister=mode))
    images.check()
    with executors.make(FLAGS.executor, FLAGS.workers, FLAGS.dask_scheduler) as executor:
        found, corrected = survey.look(images, executor)
    if FLAGS.json:
        print(json.dumps(found, indent=2))
    else:
        show(found)
    if FLAGS.plot:
        from data_prep import quicklook  # matplotlib loads here

        quicklook.plot(corrected, found, FLAGS.plot)
        if not FLAGS.json:
            print(f"Picture: {FLAGS.plot}")


def show(found: Mapping[str, Any]) -> None:
    """Prints what `look` found as tables."""
    from rich import console

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
    out.print(_date_table(found))
    for sentence in _doubts(found):
        out.print(f"[bold]warning:[/bold] {sentence}")
    if sentence := _residual_clouds(found["residual_clouds"]):
        out.print(sentence)
    if found["registration"]:
        out.print(_correlation_table(found))
        _say_registration(out, found)
    for split, some in found["triplets"].items():
        out.print(f"{split}: {len(some)} triplet{'s' * (len(some) != 1)}")
        for triplet in some[:6]:
            out.print("   " + " → ".join(triplet) + (" (one-sided)" if len(triplet) < 3 else ""))
        if some[6:]:
            out.print(f"   … and {len(some) - 6} more")
    if passed := found["passed_over"]:
        told = ", ".join(f"{date} ({share:.0%} clear)" for date, share in passed.items())
        out.print(f"passed over for further dates that show far more (triplets.min_clear): {told}")
    if alone := _alone(found):
        out.print(
            f"coarse image alone: {len(alone)} date{'s' * (len(alone) != 1)} after a known pair; "
            f"stfnet_tf.fuse --dates=all fuses them"
        )


def _date_table(found: Mapping[str, Any]) -> "Table":
    from rich import table

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


def _correlation_table(found: Mapping[str, Any]) -> "Table":
    from rich import table

    shown = table.Table(
        title="correlation of coarse and blurred fine, before → after the shift",
        title_justify="left",
    )
    for name in ("date", *found["bands"]):
        shown.add_column(name)
    for seen in found["dates"]:
        if correlation := seen.get("correlation"):
            pairs = zip(correlation["before"], correlation["after"], strict=True)
            shown.add_row(
                seen["date"], *(" → ".join(_shown(value) for value in pair) for pair in pairs)
            )
    return shown


def _alone(found: Mapping[str, Any]) -> list[str]:
    """The dates of a coarse image without a fine one that follow a date with both."""
    pairs = [k["date"] for k in found["dates"] if k["fine"] and k["coarse"]]
    alone = [k["date"] for k in found["dates"] if not k["fine"]]
    return [date for date in alone if pairs and date > pairs[0]]


def _doubts(found: Mapping[str, Any]) -> list[str]:
    """What seems to be wrong with the images, of each kind the first date's."""
    from data_prep import levels, unstated_gaps

    both = [k for k in found["dates"] if k["fine"] and k["coarse"]]
    kinds = [[levels.doubt(k["date"], k["fine"]["mean"], k["coarse"]["mean"]) for k in both]]
    for side in ("fine", "coarse"):
        seen = [k for k in found["dates"] if k[side]]
        kinds.append([unstated_gaps.doubt(side, k["date"], k[side]["zeros"]) for k in seen])
    return [next(filter(None, kind)) for kind in kinds if any(kind)]


def _residual_clouds(found: Mapping[str, Any]) -> str:
    """Which coarse images seem to show clouds that nothing masks, and what is done about it."""
    if not (shares := found["shares"]):
        return ""
    named = [f"{date} ({share:.2%})" for date, share in list(shares.items())[:6]]
    if len(shares) > len(named):
        named.append(f"{len(shares) - len(named)} more")
    if found["mode"] == "reject":
        done = 'are left out; coarse.residual_clouds = "keep" takes them for what they are'
    else:
        done = 'are kept; coarse.residual_clouds = "reject" leaves them out'
    return (
        f"residual clouds: parts of the coarse images of {', '.join(named)} are far brighter in "
        f"every band than on the dates before and after, and {done}"
    )


def _shown(correlation: float | None) -> str:
    return "–" if correlation is None else f"{correlation:.3f}"


def _say_registration(out: "Console", found: Mapping[str, Any]) -> None:
    registered = found["registration"]
    if not registered["told"]:
        out.print("shift: none can be told from these images; the coarse ones stay where they are")
        return
    before, after = registered["mean_correlation"]
    agree = "agree" if registered["consistent"] else "do NOT agree with each other"
    out.print(
        f"shift: coarse images match the fine ones when moved {registered['rows']:+.2f} rows "
        f"(+ is down) and {registered['cols']:+.2f} columns (+ is right), median in fine pixels; "
        f"the dates {agree}"
    )
    if before is not None:
        done = (
            "is undone" if registered["mode"] == "apply" else "is NOT undone (--coregister=apply)"
        )
        out.print(f"mean correlation {before:.3f} → {after:.3f}; the shift {done}")


def cli() -> None:
    """The console script."""
    define_flags()
    entry.run(main)


if __name__ == "__main__":
    cli()
