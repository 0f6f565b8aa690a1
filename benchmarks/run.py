r"""Measures how fast the project is, and writes a table.

    python -m benchmarks.run --output_dir=measured [--only=training_step,reading] [--rounds=5]

writes measured/benchmarks.md and measured/benchmarks.json; --quick sees in a few minutes that all
of it works; --quote=README.md puts the table between the markers of that file. What is compared
runs in turn, and each ratio is the median of the rounds' ratios; a machine with little else to do
is still the better one. Without torch (extra `bench`), without STFNET_DATA or without an
accelerator, a sentence stands for what could not be measured.
"""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from data_prep import entry, executors

if TYPE_CHECKING:
    from benchmarks.table import Options, Report

FLAGS = flags.FLAGS
BENCHMARKS = (
    "training_step",
    "one_core",
    "end_to_end",
    "reading",
    "fusing",
    "preprocessing",
    "accuracy",
    "scaling",
    "accelerators",
    "startup",
)


def define_flags() -> None:
    """Defines what this program takes."""
    flags.DEFINE_list("only", [], f"Which to run, of {', '.join(BENCHMARKS)}; all where empty.")
    flags.DEFINE_integer("rounds", 5, "Alternating runs of each comparison.", lower_bound=1)
    flags.DEFINE_boolean("quick", False, "Small sizes: to see that all works, not to compare.")
    flags.DEFINE_integer("largest", 7000, "Height and width of the largest scene to fuse, pixels.")
    flags.DEFINE_string("output_dir", "build/benchmarks", "Folder for the table.")
    flags.DEFINE_string("quote", None, "A document that receives the table between its markers.")
    flags.DEFINE_string(
        "scratch_dir", None, "Folder for scratch files, 8 GB of them; the system's where empty."
    )


def main(argv: Sequence[str]) -> None:
    """Runs the chosen benchmarks, each in a process of its own."""
    del argv
    entry.check_names("only", FLAGS.only, BENCHMARKS)
    from benchmarks import table

    document = Path(FLAGS.quote) if FLAGS.quote else None
    if document:
        table.check_quotable(document)
    before = table.machine()
    folder = Path(tempfile.mkdtemp(prefix="stfnet_bench_", dir=FLAGS.scratch_dir))
    options = table.Options(FLAGS.rounds, FLAGS.quick, folder, FLAGS.largest)
    reports = {}
    try:
        for name in FLAGS.only or BENCHMARKS:
            print(f"Measuring {name.replace('_', ' ')}", flush=True)
            reports[name] = executors.alone(measure, name, options)
            for row in reports[name].rows:
                print(f"  {row}", flush=True)
            result = table.to_json(reports, options, before)
            paths = table.save(result, Path(FLAGS.output_dir))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if document:
        table.quote(result, document)
    print("Wrote " + " and ".join(map(str, paths)))


def measure(name: str, options: "Options") -> "Report":
    """One benchmark's report."""
    import importlib

    return importlib.import_module(f"benchmarks.{name}").run(options)


def cli() -> None:
    """The command's entry."""
    define_flags()
    entry.run(main)


if __name__ == "__main__":
    cli()
