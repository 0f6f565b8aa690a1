"""Faults while a program runs: kills, signals, full disks, rivals, a wrong clock, a read-only disk.

After each the same command is run again without a fault, and its results must be those of a run
that nothing disturbed.
"""

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from faults import judge, samples
from faults.processes import ENVIRONMENT, Command, End, Running, apart, forked

PROGRAMS = ("prepare", "train", "fuse", "export")
QUICK = ("prepare",)
OUTPUTS = {"prepare": "shards_tiff", "train": "new", "fuse": "fused_tiff", "export": "exported"}
# Its own end: training answers SIGTERM by saving.
SIGNALS = {signal.SIGINT: (130,), signal.SIGTERM: (143, 75)}
# Kilobytes of disks that are too small, for most programs.
DISKS = (16, 64, 160)
# In seconds.
YEAR = 365 * 86400


class Interruptions:
    """The samples, and what undisturbed runs make of them.

    Args:
        folder: For all of it.
        seed: Of the moments.
        programs: Some of `PROGRAMS`.
    """

    def __init__(self, folder: Path, seed: int = 0, programs: Sequence[str] = PROGRAMS):
        self._rng = np.random.default_rng(seed)
        self._work = folder / "run"
        self._snapshot = folder / "snapshot"
        self._place = folder / "said"
        self._rival = folder / "rival"
        for place in (self._place, self._rival):
            place.mkdir(parents=True, exist_ok=True)
        samples.make(self._work, self._place, models=programs != QUICK)
        shutil.copytree(self._work, self._snapshot)
        commands = samples.commands(self._work)
        fuse = tuple(k for k in commands["fuse tiff"].flags if k != "--overwrite")
        self._commands = {
            "prepare": commands["prepare tiff"],
            "train": commands["train"],
            "fuse": Command("stfnet_tf.fuse", fuse),
            "export": Command(
                "stfnet_tf.export",
                (
                    *(f"--model_dir={self._work / 'run'}", "--version=1"),
                    f"--export_dir={self._output('export')}",
                ),
            ),
        }
        self._whole: dict[str, dict[str, str]] = {}
        self._seconds: dict[str, float] = {}
        for program in programs:
            self._restore(program)
            end = forked(self._commands[program], self._place)
            if end.code:
                raise RuntimeError(f"{program} ended with {end.code}: {end.err[-2000:]}")
            self._whole[program], self._seconds[program] = self._results(program), end.seconds

    def kill(self, program: str) -> judge.Verdict:
        """SIGKILL at a random moment, then the same command again."""
        share = 1.0
        while True:
            self._restore(program)
            running = Running(self._commands[program], self._place)
            time.sleep(share * self._moment(program))
            running.signal(signal.SIGKILL)
            if running.end().code == -signal.SIGKILL:
                return self._half(program) or self._again(program)
            share *= 0.8  # it was done already

    def stop(self, program: str, number: signal.Signals) -> judge.Verdict:
        """SIGINT or SIGTERM at a random moment, then the same command again."""
        self._restore(program)
        running = Running(self._commands[program], self._place)
        # Before that the interpreter starts, and has no manners yet.
        time.sleep(0.02 + self._moment(program))
        running.signal(number)
        end = running.end()
        if "Traceback" in end.err:
            return judge.Verdict(judge.TRACEBACK, end.err.strip().splitlines()[-1])
        if end.code not in (*SIGNALS[number], 0):
            return judge.Verdict(judge.KILLED, f"exit code {end.code}: {end.err[-300:]}")
        if end.code and "Stopped by" not in end.err + end.out:
            return judge.Verdict(judge.TRACEBACK, f"exit code {end.code}, no sentence: {end.err}")
        return self._half(program) or self._again(program)

    def fill_disk(self, program: str, kilobytes: int) -> judge.Verdict:
        """An output folder on a disk that is too small, then on one that is not."""
        self._restore(program)
        with _disk(self._output(program), f"size={kilobytes}k") as remount:
            end = forked(self._commands[program], self._place)
            verdict = judge.outcome(end) or judge.Verdict(judge.SAME, "it was large enough")
            if verdict.kind != judge.REFUSED:
                return verdict
            if half := self._half(program):
                return half
            remount("size=64m")
            again = self._again(program)
            return again if again.kind in judge.FORBIDDEN else verdict

    def forbid_writing(self, program: str) -> judge.Verdict:
        """A finished result on a read-only disk, and a command that would replace it."""
        shutil.rmtree(self._work)
        shutil.copytree(self._snapshot, self._work)
        command = self._commands[program]
        if program == "fuse":
            command = Command(command.module, (*command.flags, "--overwrite", "--window=40"))
            # Another model, so that there is something to be done.
            _scaled(self._work / "run")
        if program == "prepare":
            command = Command(command.module, (*command.flags, "--tile_size=16"))
        with _disk(self._output(program), "size=64m", self._snapshot) as remount:
            before = self._results(program)
            remount("ro")
            verdict = judge.outcome(forked(command, self._place))
            after = self._results(program)
        if after != before:
            return judge.Verdict(judge.LOST, str(after))
        return verdict or judge.Verdict(judge.WRONG, "it claims to have written")

    def rival(self, program: str) -> judge.Verdict:
        """The same command twice at a time."""
        self._restore(program)
        runs = [Running(self._commands[program], k) for k in (self._place, self._rival)]
        ends = [k.end() for k in runs]
        verdicts = [judge.outcome(end) for end in ends]
        for verdict in verdicts:
            if verdict and verdict.kind != judge.REFUSED:
                return verdict
        refused = [k for k in verdicts if k]
        if len(refused) == 2:
            return judge.Verdict(judge.LOST, f"both refused: {refused[0].detail}")
        if (found := self._results(program)) != self._whole[program]:
            return judge.Verdict(judge.WRONG, _difference(found, self._whole[program]))
        if refused:
            return judge.Verdict(judge.REFUSED, f"one wins; the other: {refused[0].detail}")
        return judge.Verdict(judge.SAME, "one after the other, as it came")

    def turn_clock_back(self, program: str) -> judge.Verdict:
        """All that an earlier run read and wrote is from the future."""
        self._restore(program)
        end = forked(self._commands[program], self._place)
        later = time.time() + YEAR
        for path in self._output(program).rglob("*"):
            os.utime(path, (later, later))
        if program == "export":
            shutil.rmtree(self._output(program) / "tiff" / "1")
        end = forked(self._commands[program], self._place)
        verdict = judge.outcome(end)
        if verdict:
            return verdict
        if (found := self._results(program)) != self._whole[program]:
            return judge.Verdict(judge.WRONG, _difference(found, self._whole[program]))
        return judge.Verdict(judge.SAME)

    def kill_worker(self, program: str, kind: str) -> judge.Verdict:
        """One of several worker processes of `fuse` dies; then the same command again."""
        self._restore(program)
        command = self._commands[program]
        flags = [*command.flags, f"--executor={kind}", "--workers=2"]
        with subprocess.Popen(
            [sys.executable, "-m", command.module, *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | ENVIRONMENT,
        ) as running:
            deadline = time.monotonic() + 40
            workers: list[int] = []
            while running.poll() is None and not workers and time.monotonic() < deadline:
                workers = _busy_workers(running.pid)
                time.sleep(0.02)
            time.sleep(float(self._rng.uniform(0, 3)))
            for pid in workers[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            try:
                out, err = running.communicate(timeout=90)
                end = End(running.returncode, out, err, 0.0)
            except subprocess.TimeoutExpired:
                running.kill()
                return judge.Verdict(judge.HANG)
        verdict = judge.outcome(end)
        if verdict and verdict.kind != judge.REFUSED:
            return verdict
        if half := self._half(program):
            return half
        again = self._again(program)
        if again.kind in judge.FORBIDDEN:
            return again
        return verdict or judge.Verdict(judge.RECOVERED)

    def _output(self, program: str) -> Path:
        return self._work / OUTPUTS[program]

    def _restore(self, program: str) -> None:
        """The samples without what the program would make."""
        shutil.rmtree(self._work, ignore_errors=True)
        shutil.copytree(self._snapshot, self._work)
        shutil.rmtree(self._output(program), ignore_errors=True)

    def _moment(self, program: str) -> float:
        return float(self._rng.uniform(0, self._seconds[program]))

    def _results(self, program: str) -> dict[str, str]:
        found = apart(judge.results, self._work)
        return {k: v for k, v in found.items() if k.startswith(f"{OUTPUTS[program]}/")}

    def _half(self, program: str) -> judge.Verdict | None:
        """What is there under its final name must be whole."""
        found = self._results(program)
        for name, said in found.items():
            if said.startswith("?"):
                return judge.Verdict(judge.HALF, f"{name}: {said}")
        return None

    def _again(self, program: str) -> judge.Verdict:
        end = forked(self._commands[program], self._place)
        found = self._results(program)
        if program == "export" and end.code == 2 and found == self._whole[program]:
            return judge.Verdict(judge.RECOVERED, "it was whole already")
        if verdict := judge.outcome(end):
            return judge.Verdict(judge.LOST, f"run again: {verdict}")
        if found != self._whole[program]:
            return judge.Verdict(judge.WRONG, _difference(found, self._whole[program]))
        left = _leftovers(self._output(program))
        if left:
            return judge.Verdict(judge.HALF, f"left behind: {left}")
        return judge.Verdict(judge.RECOVERED)


def _difference(found: dict[str, str], expected: dict[str, str]) -> str:
    names = [k for k in {**found, **expected} if found.get(k) != expected.get(k)]
    return f"not as undisturbed: {', '.join(names[:4])}"


def _leftovers(folder: Path) -> list[str]:
    """Scratch that a program should have swept away."""
    scratch = (".writing-*", ".*.tmp", "*.tmp", ".*.lock", "writing.*")
    return [str(k) for pattern in scratch for k in folder.rglob(pattern)]


def _scaled(run: Path) -> None:
    """Other weights for a run, by the project's own writer."""

    def scale(folder: str) -> None:
        from stfnet_tf import checkpoints

        model = checkpoints.load_model(folder)
        model.set_weights([2 * weight for weight in model.get_weights()])
        checkpoints.save_model(model, folder)

    apart(scale, str(run))


def _busy_workers(parent: int) -> list[int]:
    """Worker processes below a process that have loaded what they need."""
    import psutil

    try:
        children = psutil.Process(parent).children(recursive=True)
        return [
            k.pid
            for k in children
            if any("spawn_main" in part for part in k.cmdline()) and k.memory_info().rss > 2**27
        ]
    except psutil.Error:
        return []


@contextlib.contextmanager
def _disk(
    folder: Path, options: str, holding: Path | None = None
) -> Iterator[Callable[[str], Any]]:
    """A small disk mounted at a folder; yields a function that mounts it otherwise.

    Raises:
        PermissionError: Mounting is not allowed here.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def mount(wanted: str) -> None:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", wanted, "tmpfs", str(folder)],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise PermissionError(f"mount: {done.stderr.strip()}")

    mount(options)
    try:
        if holding and (held := holding / folder.name).exists():
            shutil.copytree(held, folder, dirs_exist_ok=True)
        yield lambda wanted: mount(f"remount,{wanted}")
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@dataclasses.dataclass(frozen=True)
class Fault:
    """One fault that a program meets.

    Attributes:
        name: For the table.
        program: Which program.
        method: Of `Interruptions`.
        arguments: What it takes beside the program.
    """

    name: str
    program: str
    method: str
    arguments: tuple[Any, ...] = ()

    def meet(self, on: Interruptions) -> judge.Verdict:
        """Lets it happen."""
        return getattr(on, self.method)(self.program, *self.arguments)


def plan(kills: int, others: int, programs: Sequence[str] = PROGRAMS) -> list[Fault]:
    """`kills` kills in all, and each other fault `others` times, or once where times do not count.

    Args:
        kills: Shared out among the programs.
        others: Of each kind and program; 0 leaves all of them out.
        programs: Some of `PROGRAMS`.
    """
    made = [Fault("SIGKILL", programs[k % len(programs)], "kill") for k in range(kills)]
    if not others:
        return made
    for program in programs:
        for _ in range(others):
            made += [Fault(k.name, program, "stop", (k,)) for k in SIGNALS]
            made.append(Fault("two at a time", program, "rival"))
        for size in DISKS[:others]:
            made.append(Fault("full disk", program, "fill_disk", (size,)))
        made.append(Fault("read-only disk", program, "forbid_writing"))
        made.append(Fault("clock turned back", program, "turn_clock_back"))
    if "fuse" not in programs:
        return made
    for kind, name in (("processes", "worker killed"), ("dask", "Dask worker killed")):
        made += [Fault(name, "fuse", "kill_worker", (kind,))] * others
    return made
