r"""Damages what the programs read, disturbs them while they run, and writes how each of them ended.

    python -m faults.run --output=docs/faults.md

runs all cases on one core, in less than an hour, and writes the table and, beside it, a JSON file
with every case. --only=rasters,shards runs some kinds of files, --every=20 each twentieth case,
--kills=10 fewer kills. The exit code is 1 where anything ended in a way that is forbidden. Faults
that need a small disk need the right to mount one.
"""

import collections
import dataclasses
import json
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags, logging

from data_prep import entry, errors, whole

if TYPE_CHECKING:
    from faults import judge

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
    flags.DEFINE_string("like", "", "Only damage whose name holds this text.")
    flags.DEFINE_list("faults", [], "Of the faults while running only these, by name.")
    flags.DEFINE_list(
        "merge", [], "Run nothing; make one table of the .json files of runs that shared the work."
    )
    flags.DEFINE_boolean("quick", False, "Only what needs no model, in some seconds.")
    flags.DEFINE_string("scratch_dir", None, "Folder for scratch files; the system's where empty.")


def main(argv: Sequence[str]) -> int:
    """Runs what the flags ask for and writes the table."""
    del argv
    entry.check_names("only", FLAGS.only, SUBJECTS)
    from faults import judge, processes

    began = time.monotonic()
    if FLAGS.merge:
        stated = _merged([Path(name) for name in FLAGS.merge])
    else:
        processes.warm_up()
        folder = Path(tempfile.mkdtemp(prefix="stfnet_faults_", dir=FLAGS.scratch_dir))
        folder.chmod(0o755)  # some programs run as a user who may do little
        try:
            stated = _run(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        places = ("--output", "--scratch_dir")
        given = shlex.join(k for k in sys.argv[1:] if not k.startswith(places))
        stated |= {"flags": [given], "minutes": (time.monotonic() - began) / 60}
    path = Path(FLAGS.output)
    whole.write_text(path, _document(stated))
    whole.write_text(path.with_suffix(".json"), _lines(stated))
    rows = [Row(**row) for part in ("damaged", "interrupted") for row in stated[part]]
    bad = [row for row in rows if row.kind in judge.FORBIDDEN]
    for row in bad:
        print(f"{row.kind}: {row.group}, {row.case}: {row.detail}")
    print(f"{len(rows)} cases, {len(bad) + len(stated['differing'])} of them forbidden: {path}")
    return 1 if bad or stated["differing"] else 0


def _run(folder: Path) -> dict[str, Any]:
    """All that the flags ask for, as JSON's types."""
    damaged, differing = _damaged(folder / "damaged") if FLAGS.only else ([], [])
    interrupted = _interrupted(folder / "interrupted") if FLAGS.kills or FLAGS.others else []
    stated = {
        "damaged": [dataclasses.asdict(row) for row in damaged],
        "interrupted": [dataclasses.asdict(row) for row in interrupted],
        "differing": differing,
    }
    # Where it was is no part of what happened; of a damaged path a part may have been quoted.
    text = json.dumps(stated, ensure_ascii=False)
    for place in (folder, folder.parent):
        text = text.replace(f"{place}/", "")
    return json.loads(text)


def _merged(paths: Sequence[Path]) -> dict[str, Any]:
    """What several runs wrote, as one."""
    parts = []
    for path in paths:
        try:
            parts.append(json.loads(path.read_text()))
        except (OSError, ValueError) as error:
            raise errors.InputError(
                f"--merge: expected what earlier runs wrote, found {path}: {errors.reason(error)}."
            ) from None
    lists = {
        k: [row for part in parts for row in part[k]]
        for k in ("damaged", "interrupted", "differing", "flags")
    }
    return {**lists, "minutes": sum(part["minutes"] for part in parts)}


def _damaged(folder: Path) -> tuple[list[Row], list[str]]:
    """All damaged inputs, and those that ended otherwise in an interpreter of their own."""
    from data_prep import progress
    from faults import cases

    suite = cases.Suite(folder, models=not FLAGS.quick)
    chosen = [k for k in cases.generate(FLAGS.seed) if k.subject in FLAGS.only]
    if FLAGS.quick:
        chosen = [k for k in chosen if k.program.split()[0] in ("inspect", "prepare")]
    chosen = [k for k in chosen if FLAGS.like in str(k)][:: FLAGS.every]
    rows, differing = [], []
    for number, case in enumerate(progress.track(chosen, "damaged inputs", len(chosen))):
        verdict, end = suite.run(case)
        _say(verdict, str(case))
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
    plan = [fault for fault in plan if not FLAGS.faults or fault.name in FLAGS.faults]
    rows = []
    for fault in progress.track(plan, "faults while running", len(plan)):
        began = time.monotonic()
        try:
            verdict = fault.meet(on)
        except PermissionError as error:
            verdict = judge.Verdict("not tried here", str(error))
        _say(verdict, f"{fault.name}, {fault.program}")
        rows.append(
            Row(fault.name, fault.program, verdict.kind, verdict.detail, time.monotonic() - began)
        )
    return rows


def _lines(stated: dict[str, Any]) -> str:
    """JSON with one line a case."""
    parts = [
        f"{json.dumps(key)}: "
        + (
            "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in value) + "\n]"
            if isinstance(value, list) and value
            else json.dumps(value)
        )
        for key, value in stated.items()
    ]
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _say(verdict: "judge.Verdict", case: str) -> None:
    """What must not be is told at once."""
    from faults import judge

    if verdict.kind in judge.FORBIDDEN:
        logging.error("%s: %s: %s", case, verdict.kind, verdict.detail)


def _document(stated: dict[str, Any]) -> str:
    from faults import judge

    damaged, interrupted = (
        [Row(**row) for row in stated[part]] for part in ("damaged", "interrupted")
    )
    differing = stated["differing"]
    commands = " and ".join(f"`python -m faults.run{' ' * bool(k)}{k}`" for k in stated["flags"])
    lines = ["# How the programs end when something is wrong", ""]
    lines += [
        f"Written in {stated['minutes']:.0f} minutes by "
        f"{commands}. "
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
    ]
    if damaged:
        lines += [
            "## Damaged inputs",
            "",
            "All in a folder whose name has a space, an ampersand and a letter beyond ASCII.",
            "",
            *_table(damaged, lambda row: row.group, "file"),
            "",
        ]
    if interrupted:
        lines += [
            "## Faults while running",
            "",
            "After each, the same command was run again without the fault; *recovered* means that "
            "its results are those of an undisturbed run, bit for bit, and that nothing was left "
            "behind.",
            "",
            *_table(interrupted, lambda row: f"{row.group}: {row.case}", "fault: program"),
            "",
        ]
    everything = [*damaged, *interrupted]
    lines += ["## What never may be", "", "| | cases |", "| --- | ---: |"]
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
