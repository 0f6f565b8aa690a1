"""Programs as they run for a user, but started at once: forked from a process that has loaded all.

The parent imports TensorFlow and GDAL and computes nothing, so a child is what a fresh interpreter
would be after its imports. `spawned` starts a real one, to show that it ends alike.
"""

import contextlib
import dataclasses
import importlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags

HANG = 60.0
"""Seconds after which a program counts as hanging."""
NOBODY = 65534
ENVIRONMENT = {
    # One core, and the same sums of floats whatever else the machine does.
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TF_USE_LEGACY_KERAS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}
MODULES = (
    *("data_prep.inspect", "data_prep.write_tfrecords", "data_prep.preparation"),
    *("data_prep.survey", "stfnet_tf.train", "stfnet_tf.trainer", "stfnet_tf.fuse"),
    *("stfnet_tf.series", "stfnet_tf.date_sheet", "stfnet_tf.export", "stfnet_tf.evaluate"),
    *("stfnet_tf.panels", "stfnet_tf.client", "h5py", "rich.console", "rich.table"),
)


@dataclasses.dataclass(frozen=True)
class Command:
    """A program's module, and its flags."""

    module: str
    flags: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class End:
    """How a program ended.

    Attributes:
        code: Exit code; minus the signal's number where one killed it; None where it hung.
        out: What it printed.
        err: What it logged.
        seconds: How long it took.
    """

    code: int | None
    out: str
    err: str
    seconds: float

    @property
    def sentence(self) -> str:
        """What it said of why it ended, "" where it did not."""
        said = [k for k in self.err.splitlines() if k.startswith("Error: ")]
        return said[-1] if said else ""


def warm_up() -> None:
    """Loads what the programs load, and nothing that starts a thread."""
    os.environ.update(ENVIRONMENT)
    for name in MODULES:
        importlib.import_module(name)
    # A child defines its own program's flags, some of which may be called as this program's are.
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        if not module.startswith("absl"):
            _of_parent.extend(flag.name for flag in defined)


_of_parent: list[str] = []


class Running:
    """A program that was forked; see `forked`.

    Args:
        command: What to run.
        place: Folder for what it prints.
        as_nobody: Run it as a user who owns nothing.
        environment: Variables of its own.
    """

    def __init__(
        self,
        command: Command,
        place: Path,
        as_nobody: bool = False,
        environment: dict[str, str] | None = None,
    ):
        self._files = [place / f"{name}.txt" for name in ("out", "err")]
        sys.stdout.flush()
        sys.stderr.flush()
        self._began = time.monotonic()
        self.pid = os.fork()
        if not self.pid:
            _become(command, self._files, as_nobody, environment or {})

    def signal(self, number: int) -> None:
        """Sends a signal to the program and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def end(self, patience: float = HANG) -> End:
        """Waits for the end, or makes one."""
        code = None
        while code is None and time.monotonic() - self._began < patience:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
            else:
                time.sleep(0.005)
        seconds = time.monotonic() - self._began
        if code is None:
            self.signal(signal.SIGKILL)
            os.waitpid(self.pid, 0)
        out, err = (k.read_text(errors="replace") if k.exists() else "" for k in self._files)
        return End(code, out, err, seconds)


def _become(
    command: Command, files: Sequence[Path], as_nobody: bool, environment: dict[str, str]
) -> None:
    """What the child does: the program, and no return."""
    code = 1
    try:
        os.setpgid(0, 0)
        for number, file in enumerate(files, 1):
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, number)
        sys.stdout = io.TextIOWrapper(os.fdopen(os.dup(1), "wb", 0), write_through=True)
        sys.stderr = io.TextIOWrapper(os.fdopen(os.dup(2), "wb", 0), write_through=True)
        os.environ.update(environment)
        if as_nobody:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        for name in _of_parent:
            delattr(flags.FLAGS, name)
        module = importlib.import_module(command.module)
        sys.argv = [str(module.__file__), *command.flags]
        module.cli()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def forked(command: Command, place: Path, **options: Any) -> End:
    """Runs a program in a forked child."""
    return Running(command, place, **options).end()


def spawned(command: Command) -> End:
    """Runs a program in an interpreter of its own, as a user does."""
    began = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-m", command.module, *command.flags],
            capture_output=True,
            text=True,
            timeout=HANG,
            env=os.environ | ENVIRONMENT,
        )
        return End(done.returncode, done.stdout, done.stderr, time.monotonic() - began)
    except subprocess.TimeoutExpired:
        return End(None, "", "", HANG)


def apart(function: Callable, *arguments: Any) -> Any:
    """Calls a function in a forked child, so that what it caches of files stays there.

    Returns:
        What it returns, as JSON knows it.
    """
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(read)
        code = 1
        try:
            with os.fdopen(write, "w") as pipe:
                json.dump(function(*arguments), pipe)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError(f"{function.__name__} failed, see above")
    return json.loads(text)
