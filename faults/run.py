r"""Damages what the programs read, disturbs them while they run, and writes how each of them ended.

    python -m faults.run --output=docs/faults.md

runs all cases on one core, in about half an hour, and writes the table and, beside it, a JSON file
with every case. --only=rasters,shards runs some kinds of files, --every=20 each twentieth case,
--kills=10 fewer kills. The exit code is 1 where anything ended in a way that is forbidden. Faults
that need a small disk need the right to mount one.
"""

import collections
import dataclasses
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from data_prep import entry, errors

FLAGS = flags.FLAGS
SUBJECTS = ("rasters", "shards", "checkpoints", "configurations", "SavedModels", "results")
# One in so many cases runs again in an interpreter of its own.
REAL = 45


@dataclasses.dataclass(frozen=True)
class Row:
    """One case and how it ended."""

    group: str
    case: str
    kind: str
    detail: str
    seconds: float


def define_flags() -> None:
    """Defines what this program takes."""
    flags.DEFINE_string("output", "build/faults/faults.md", "The table; a .json goes beside it.")
    flags.DEFINE_list("only", list(SUBJECTS), f"Kinds of files, of {', '.join(SUBJECTS)}.")
    flags.DEFINE_integer("seed", 0, "Of all damage and all moments.")
    flags.DEFINE_integer("every", 1, "Run each so manieth case.", lower_bound=1)
    flags.DEFINE_integer("kills", 100, "Random kills, over all programs.", lower_bound=0)
    flags.DEFINE_integer(
        "others", 3, "How often each program meets each other fault while it runs.", lower_bound=0
    )
    flags.DEFINE_boolean("quick", False, "Only what needs no model, in some seconds.")
    flags.DEFINE_string("scratch_dir", None, "Folder for scratch files; the system's where empty.")


def main(argv: Sequence[str]) -> int:
    """Runs what the flags ask for and writes the table."""
    del argv
    unknown = sorted(set(FLAGS.only) - set(SUBJECTS))
    if unknown:
        raise errors.InputError(
            f"--only: expected some of {', '.join(SUBJECTS)}; found '{unknown[0]}'."
        )
    from faults import judge, processes

    processes.warm_up()
    folder = Path(tempfile.mkdtemp(prefix="stfnet_faults_", dir=FLAGS.scratch_dir))
    began = time.monotonic()
    try:
        damaged, differing = _damaged(folder / "damaged") if FLAGS.only else ([], [])
        interrupted = _interrupted(folder / "interrupted") if FLAGS.kills or FLAGS.others else []
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    rows = [*damaged, *interrupted]
    path = Path(FLAGS.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_document(damaged, interrupted, differing, time.monotonic() - began))
    stated = {"seed": FLAGS.seed, "cases": [dataclasses.asdict(row) for row in rows]}
    path.with_suffix(".json").write_text(json.dumps(stated, indent=1, ensure_ascii=False) + "\n")
    bad = [row for row in rows if row.kind in judge.FORBIDDEN]
    for row in bad:
        print(f"{row.kind}: {row.group}, {row.case}: {row.detail}")
    print(f"{len(rows)} cases, {len(bad) + len(differing)} of them forbidden: {path}")
    return 1 if bad or differing else 0


def _damaged(folder: Path) -> tuple[list[Row], list[str]]:
    """All damaged inputs, and those that ended otherwise in an interpreter of their own."""
    from data_prep import progress
    from faults import cases

    suite = cases.Suite(folder, models=not FLAGS.quick)
    chosen = [k for k in cases.generate(FLAGS.seed) if k.subject in FLAGS.only]
    if FLAGS.quick:
        chosen = [k for k in chosen if k.program.split()[0] in ("inspect", "prepare")]
    chosen = chosen[:: FLAGS.every]
    rows, differing = [], []
    for number, case in enumerate(progress.track(chosen, "damaged inputs", len(chosen))):
        verdict, end = suite.run(case)
        rows.append(Row(case.subject, str(case), verdict.kind, verdict.detail, end.seconds))
        if number % REAL == 0 and case.way != "no permission":
            real, end = suite.run(case, real=True)
            rows.append(
                Row(
                    "in an interpreter of their own", str(case), real.kind, real.detail, end.seconds
                )
            )
            if (real.kind, real.detail) != (verdict.kind, verdict.detail):
                differing.append(f"{case}: {verdict} forked, {real} by itself")
    return rows, differing


def _interrupted(folder: Path) -> list[Row]:
    from data_prep import progress
    from faults import interruptions, judge

    programs = interruptions.QUICK if FLAGS.quick else interruptions.PROGRAMS
    on = interruptions.Interruptions(folder, FLAGS.seed, programs)
    plan = interruptions.plan(FLAGS.kills, FLAGS.others, programs)
    rows = []
    for fault in progress.track(plan, "faults while running", len(plan)):
        began = time.monotonic()
        try:
            verdict = fault.meet(on)
        except PermissionError as error:
            verdict = judge.Verdict("not tried here", str(error))
        rows.append(
            Row(fault.name, fault.program, verdict.kind, verdict.detail, time.monotonic() - began)
        )
    return rows


def _document(
    damaged: Sequence[Row], interrupted: Sequence[Row], differing: Sequence[str], seconds: float
) -> str:
    from faults import judge

    lines = ["# How the programs end when something is wrong", ""]
    lines += [
        f"Written by `python -m faults.run --seed={FLAGS.seed}` in {seconds / 60:.0f} minutes. "
        "Each case is one file damaged in one way and one program run on it, or one fault while a "
        "program runs. The JSON file beside this one has all of them, with what was said.",
        "",
        "- **refused with a sentence**: exit code other than 0, one sentence, no traceback, and "
        "earlier results as they were;",
        "- **recovered**: the program repaired or passed over what was damaged, and the result is "
        "the undamaged one's, bit for bit;",
        "- **same result**: the damage changed nothing that is read;",
        "- **left out as invalid**: the damaged pixels, and no others, count as clouds do;",
        "- **read as what it says**: nothing in the file can tell that it was damaged, because "
        "pixels and headers of rasters, and what a person writes, carry no checksum. Fused rasters "
        "then differ only where the pixels do, and as far around as the model looks.",
        "",
        "## Damaged inputs",
        "",
    ]
    lines += _table(damaged, lambda row: row.group, "file")
    if interrupted:
        lines += [
            "",
            "## Faults while running",
            "",
            "After each, the same command was run again without the fault; *recovered* means that "
            "its results are those of an undisturbed run, bit for bit, and that nothing was left "
            "behind.",
            "",
            *_table(interrupted, lambda row: f"{row.group}: {row.case}", "fault: program"),
        ]
    everything = [*damaged, *interrupted]
    lines += ["", "## What never may be", "", "| | cases |", "| --- | ---: |"]
    for kind in judge.FORBIDDEN:
        found = [row for row in everything if row.kind == kind]
        lines.append(f"| {kind} | {len(found)} |")
    lines.append(f"| another end in an interpreter of its own | {len(differing)} |")
    bad = [row for row in everything if row.kind in judge.FORBIDDEN]
    lines += ["", *(f"- {row.group}, {row.case}: {row.kind}: {row.detail}" for row in bad)]
    return "\n".join(lines).rstrip() + "\n"


def _table(rows: Sequence[Row], name: Any, title: str) -> list[str]:
    counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for row in rows:
        counts[name(row)][row.kind] += 1
        counts["**all**"][row.kind] += 1
    counts["**all**"] = counts.pop("**all**", collections.Counter())
    kinds = list(counts["**all**"])
    lines = [f"| {title} | cases | {' | '.join(kinds)} |", "| --- |" + " ---: |" * (len(kinds) + 1)]
    for group, found in counts.items():
        values = " | ".join(str(found[kind]) for kind in kinds)
        lines.append(f"| {group} | {found.total()} | {values} |")
    return lines


def cli() -> None:
    """The console script."""
    define_flags()
    entry.run(main)


if __name__ == "__main__":
    cli()
