"""Hundreds of damaged copies, each run through a program and judged."""

import dataclasses
import os
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from faults import damage, judge, raster_damage, samples
from faults.processes import NOBODY, End, apart, forked, spawned

RASTER_PROGRAMS = ("inspect", "prepare", "fuse")
# In what a program writes; where it damages nothing else, these are what must stay.
OUTPUT = {
    "prepare": "shards_{kind}",
    "fuse": "fused_{kind}",
    "train": "new",
    "train on": "run",
    "export": "saved",
    "fuse export": "fused_export",
    "evaluate": "scores",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One file damaged in one way, and the program that is run on it.

    Attributes:
        subject: What kind of file it is, for the table.
        file: The file, relative to the samples.
        way: The damage' name.
        damage: The damage.
        program: A key of `samples.commands`.
        seed: Of the damage.
    """

    subject: str
    file: str
    way: str
    damage: damage.Damage
    program: str
    seed: int

    def __str__(self):
        return f"{self.program}: {self.file}, {self.way}"


def generate(seed: int = 0) -> list[Case]:
    """All cases, in a fixed order."""
    made: list[Case] = []
    for subject, file, ways, programs in _plan():
        for k, (way, how) in enumerate(ways.items()):
            for program in programs if len(programs) < 3 else [programs[k % len(programs)]]:
                number = len(made)
                made.append(Case(subject, file, way, how, program, seed * 100_003 + number))
    return made


def _plan() -> Iterator[tuple[str, str, Mapping[str, damage.Damage], tuple[str, ...]]]:
    """(subject, file, ways, programs); of three programs or more each way takes the next."""
    generic = damage.GENERIC
    for kind in samples.KINDS:
        ending = "bil" if kind == "envi" else "tif"
        programs = tuple(f"{k} {kind}" for k in RASTER_PROGRAMS)
        for letter, date in (("F", samples.DATES[2]), ("C", samples.MIDDLE)):
            file = f"{kind}/{letter}_{date}.{ending}"
            yield "rasters", file, generic, programs
            own = raster_damage.FLOATING if kind == "float" else raster_damage.INTEGER
            for program in programs[1:]:
                yield "rasters", file, own | raster_damage.ANY, (program,)
            if ending == "tif":
                yield "rasters", file, raster_damage.TIFF, programs
    neighbour = {"a neighbour instead": damage.other_file}
    yield "rasters", f"tiff/C_{samples.MIDDLE}.tif", neighbour, ("fuse tiff",)
    header = f"envi/F_{samples.DATES[2]}.hdr"
    programs = tuple(f"{k} envi" for k in RASTER_PROGRAMS)
    yield "rasters", header, generic, programs
    for program in programs:
        yield "rasters", header, raster_damage.HEADER, (program,)
    swapped = {"bytes in the other order": raster_damage.byte_swapped}
    yield "rasters", header.replace(".hdr", ".bil"), swapped, programs[1:]
    yield "shards", "shards_tiff/train-00000-of-00001.tfrecord", generic, ("train",)
    info = "shards_tiff/dataset_info.json"
    yield "shards", info, generic | damage.JSON, ("train",)
    for file in (info, "shards_tiff/train-00000-of-00001.tfrecord"):
        yield "shards", file, {k: generic[k] for k in _SOME}, ("prepare tiff",)
    yield "checkpoints", "run/best.weights.h5", generic, ("fuse tiff",)
    yield "checkpoints", "run/best.weights.h5", {k: generic[k] for k in _SOME}, ("export",)
    yield "checkpoints", "run/model.json", generic | damage.JSON, ("fuse tiff",)
    yield "checkpoints", "run/dataset_info.json", generic | damage.JSON, ("export",)
    for file in ("config.json", "history.csv", "last/history.json", "last/checkpoint"):
        yield "checkpoints", f"run/{file}", {k: generic[k] for k in _SOME}, ("train on",)
    for file in ("last/step-4.index", "last/step-4.data-00000-of-00001"):
        yield "checkpoints", f"run/{file}", {k: generic[k] for k in _MANY}, ("train on",)
    yield "configurations", "tiff/set.toml", generic | damage.TEXT | damage.TOML, ("inspect tiff",)
    yield "configurations", "train.flags", generic | damage.TEXT | damage.FLAGS, ("train",)
    for file in ("saved_model.pb", "variables/variables.data-00000-of-00001"):
        yield "SavedModels", f"saved/tiff/1/{file}", generic, ("fuse export",)
    for file in ("variables/variables.index", "assets.extra/checksums.json"):
        yield (
            "SavedModels",
            f"saved/tiff/1/{file}",
            {k: generic[k] for k in _SOME},
            ("fuse export",),
        )
    card = "saved/tiff/1/assets.extra/model_card.json"
    yield "SavedModels", card, generic | damage.JSON, ("fuse export",)
    yield "results", f"fused_tiff/{samples.MIDDLE}.tif", generic, ("evaluate",)
    yield "results", f"fused_tiff/{samples.MIDDLE}_quality.tif", generic, ("evaluate",)


_SOME = (
    *("empty", "cut off at 5/16", "cut off at 15/16", "flipped bit, 0", "flipped byte, 0"),
    *("flipped byte, 1", "zeroed block, 0", "zeroed", "noise", "missing", "a folder instead"),
)
_MANY = (*_SOME, "cut off at 1/16", "cut off at 9/16", "halves swapped", "longer", "no permission")


class Suite:
    """The samples, and what the programs make of them undamaged.

    Args:
        folder: For all of it.
        models: Whether to train one; without, only some programs can be run.
    """

    def __init__(self, folder: Path, models: bool = True):
        self.work = folder / "räume & work"
        self._snapshot = folder / "snapshot"
        self._place = folder / "said"
        self._place.mkdir(parents=True, exist_ok=True)
        self._place.chmod(0o777)
        samples.make(self.work, self._place, models)
        shutil.copytree(self.work, self._snapshot, symlinks=True)
        self.commands = samples.commands(self.work)
        self._expected: dict[str, Any] = {}

    def expected(self, program: str) -> Any:
        """What a program makes of what is not damaged."""
        if program not in self._expected:
            self._restore()
            end = forked(self.commands[program], self._place)
            if end.code:
                raise RuntimeError(f"{program} ended with {end.code}: {end.err[-2000:]}")
            self._expected[program] = self._made(program, end)
        return self._expected[program]

    def run(self, case: Case, real: bool = False) -> tuple[judge.Verdict, End]:
        """Damages, runs and judges.

        Args:
            case: What to do.
            real: In an interpreter of its own.
        """
        expected = self.expected(case.program)
        self._restore()
        path = self.work / case.file
        apart(_apply, case, path)
        as_nobody = case.damage is damage.forbidden
        if as_nobody:
            _give_to_nobody(self.work)
        command = self.commands[case.program]
        end = spawned(command) if real else forked(command, self._place, as_nobody=as_nobody)
        return self._judge(case, end, expected), end

    def _judge(self, case: Case, end: End, expected: Any) -> judge.Verdict:
        verdict = judge.outcome(end)
        after = apart(judge.results, self.work)
        before = apart(judge.results, self._snapshot)
        damaged = {case.file, *(k for k in before if k.startswith(case.file))}
        folder = OUTPUT.get(case.program, OUTPUT.get(case.program.split()[0], ""))
        folder = folder.format(kind=case.program.split()[-1])
        mine = {k for k in after if k.startswith(f"{folder}/")} if folder else set()
        half = [k for k in mine - damaged if after[k].startswith("?")]
        if half:
            return judge.Verdict(judge.HALF, f"{half[0]}: {after[half[0]]}")
        if verdict is not None:
            lost = [k for k in before if k not in damaged and after.get(k) != before[k]]
            # A description's shards are part of what it says.
            described = f"{Path(case.file).parent}/dataset_info.json"
            lost = [k for k in lost if k != described and not self._replaced(case, k)]
            if verdict.kind == judge.REFUSED and lost:
                return judge.Verdict(judge.LOST, f"{lost[0]} ({verdict.detail})")
            return verdict
        made = self._made(case.program, end)
        if isinstance(made, dict) and case.file not in mine:
            # What was damaged is what it is; what was made of it counts. And a run that goes back
            # to before where it once ended does not end there again.
            if case.file.startswith("run/last/"):
                damaged.add("run/history.csv")
            made = {k: v for k, v in made.items() if k not in damaged}
            expected = {k: v for k, v in expected.items() if k not in damaged}
        if made == expected:
            again = before.get(case.file, "-") == after.get(case.file) and case.file in mine
            passed = "passed over" in end.err
            return judge.Verdict(judge.RECOVERED if again or passed else judge.SAME)
        reason = apart(_unknowable, case, self.work, self._snapshot, folder)
        if reason.startswith("!") or not reason:
            return judge.Verdict(judge.WRONG, reason or _difference(made, expected))
        masked = case.subject == "rasters" and apart(
            judge.all_masked, self.work, self._snapshot, case.file
        )
        return judge.Verdict(judge.MASKED if masked else judge.OTHER, reason)

    @staticmethod
    def _replaced(case: Case, name: str) -> bool:
        """Whether a program that stops in the middle may have renewed a file of its own result.

        A date that could be fused was; a run that stopped is as far as it came.
        """
        return (case.program.startswith("fuse") and name.startswith("fused")) or (
            case.program == "train on" and name.startswith("run/")
        )

    def _made(self, program: str, end: End) -> Any:
        if program.startswith("inspect"):
            return judge.inspected(end)
        return apart(judge.results, self.work)

    def _restore(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self._snapshot, self.work, symlinks=True)


def _apply(case: Case, path: Path) -> None:
    case.damage(path, np.random.default_rng(case.seed))


def _give_to_nobody(folder: Path) -> None:
    folder.parent.chmod(0o755)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


def _difference(made: Any, expected: Any) -> str:
    if isinstance(made, str):
        return "another table"
    names = [k for k in {**made, **expected} if made.get(k) != expected.get(k)]
    return ", ".join(f"{k}: {made.get(k, 'missing')[:80]}" for k in names[:3])


def _unknowable(case: Case, work: Path, snapshot: Path, folder: str) -> str:
    """Why nobody can know of the damage; "" where one can, "! …" where the result is wrong.

    Pixels and headers of rasters, and what a person wrote, carry no checksum.
    """
    path, original = work / case.file, snapshot / case.file
    if case.subject in ("rasters", "results"):
        if not raster_damage.reads_as_another(path, original):
            return ""
        if case.program.startswith("fuse") and path.suffix != ".hdr":
            if wrong := judge.far_from_damage(work, snapshot, case.file, folder):
                return f"! {wrong}"
        return "the raster reads as another one"
    if case.file.endswith(".toml"):
        try:
            if tomllib.loads(path.read_text()) != tomllib.loads(original.read_text()):
                return "another description"
        except ValueError:
            pass
    if case.file.endswith(".flags"):
        return "other flags"
    return ""
