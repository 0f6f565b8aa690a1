import os
import signal
import subprocess
import sys
import time

import pytest

from data_prep import disk, entry, errors, memory

PROGRAM = """
import sys, time
from absl import flags
from data_prep import entry
flags.DEFINE_string("what", "", "")
def main(argv):
    what = flags.FLAGS.what
    if what in ("wait", "mangle"):
        print("waiting", flush=True)
        try:
            time.sleep(60)
        except BaseException:
            if what == "wait":
                raise
            sys.excepthook(*sys.exc_info())  # as PyErr_Print does
            raise TypeError("what C code made of it") from None
        finally:
            print("tidied up", flush=True)
    if what == "write":
        open("/nowhere/x", "w")
    if what == "memory":
        raise MemoryError
    if what == "wrong":
        {}["x"]
    if what == "say":
        print("little")
    if what == "talk":
        for k in range(100_000):
            print(k)
entry.run(main)
"""


def start(*flags, **options):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *flags],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("number", "code", "name"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")]
)
@pytest.mark.parametrize("what", ["wait", "mangle"])  # as it came, and what C code made of it
def test_signals_end_in_a_sentence_after_tidying_up(what, number, code, name):
    with start(f"--what={what}") as running:
        assert running.stdout.readline() == "waiting\n"
        time.sleep(0.1)
        running.send_signal(number)
        out, err = running.communicate(timeout=20)
    assert running.returncode == code
    assert out == "tidied up\n"
    assert f"Stopped by {name}" in err and "Traceback" not in err


def test_what_the_system_refuses_is_a_sentence():
    for what, said in (("write", "/nowhere/x"), ("memory", "free memory")):
        with start(f"--what={what}") as running:
            _, err = running.communicate(timeout=20)
        assert running.returncode == errors.EXIT_BAD_INPUT
        assert err.startswith("Error: ") and said in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--wat=say", "Error: Unknown command line flag 'wat'"),
        ("--flagfile=/nowhere.flags", "Error: Unable to open flagfile"),
    ],
)
def test_flags_that_absl_refuses_are_a_sentence(given, said):
    with start(given) as running:
        _, err = running.communicate(timeout=20)
    assert running.returncode == errors.EXIT_BAD_INPUT
    assert err.startswith(said) and err.endswith("(--help lists all flags).\n")


def test_what_the_program_does_wrong_is_a_traceback():
    with start("--what=wrong") as running:
        _, err = running.communicate(timeout=20)
    assert running.returncode == 1 and "KeyError" in err


@pytest.mark.parametrize("flag", ["--what=talk", "--what=say", "--help"])
def test_nobody_listening_is_no_error(flag):
    read, write = os.pipe()
    os.close(read)
    with start("--what=talk") as whole:
        assert len(whole.communicate(timeout=20)[0].splitlines()) == 100_000
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, flag], stdout=write, stderr=subprocess.PIPE
    ) as running:
        os.close(write)
        _, err = running.communicate(timeout=20)
    assert running.returncode == 128 + signal.SIGPIPE and err == b""


def test_a_flag_file_that_is_no_text(tmp_path):
    (tmp_path / "x.flags").write_bytes(b"--what=\xff\xfe")
    with start(f"--flagfile={tmp_path / 'x.flags'}") as running:
        _, err = running.communicate(timeout=20)
    assert running.returncode == errors.EXIT_BAD_INPUT
    assert "x.flags: expected a text file of flags" in err and "Traceback" not in err


def test_more_memory_than_there_is():
    memory.require(2**20, "--window=32", "less")
    with pytest.raises(errors.InputError, match=r"--window=9: expected at least 1048576.0 GiB"):
        memory.require(2**50, "--window=9", "less")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(ZeroDivisionError), disk.naming_full(tmp_path):
        _ = 1 / 0
    with pytest.raises(errors.InputError, match="gone: could not be written: No such file"):
        with disk.naming_full(tmp_path / "gone"):
            _ = 1 / 0
    with pytest.raises(errors.InputError, match="of its own"), disk.naming_full(tmp_path / "gone"):
        raise errors.InputError("of its own")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FileNotFoundError(2, "No such file or directory", "/a/b"), "No such file or directory"),
        (OSError("cannot identify image file"), "cannot identify image file"),
        (ValueError("first.\nsecond"), "first"),
        (ValueError(), "ValueError"),
    ],
)
def test_what_an_exception_says_is_one_line_without_the_file(error, said):
    assert errors.reason(error) == said


def test_names_that_a_flag_does_not_know_are_refused():
    entry.check_names("only", ["b", "a"], ("a", "b", "c"))
    with pytest.raises(errors.InputError, match="--only: expected some of a, b; found 'x'"):
        entry.check_names("only", ["b", "x"], ("a", "b"))
