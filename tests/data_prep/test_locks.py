import contextlib
import errno
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_prep import errors, locks

ROOT = Path(__file__).parents[2]


def test_a_second_writer_is_refused_until_the_first_is_done(tmp_path):
    path = tmp_path / "new" / "2001-07-11.tif"
    with locks.hold(path):
        with pytest.raises(errors.InputError, match=r"2001-07-11\.tif: expected to be the only"):
            with locks.hold(path):
                pass
        with locks.hold(path.with_name("another.tif")):
            pass
    with locks.hold(path):
        pass
    assert not list(path.parent.iterdir())


def test_a_killed_process_lets_go(tmp_path):
    path = tmp_path / "result"
    script = (
        "import sys, time\nfrom data_prep import locks\n"
        "with locks.hold(sys.argv[1]):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(errors.InputError, match="another at work"), locks.hold(path):
            pass
        holder.kill()
        holder.wait()
    start = time.monotonic()
    with locks.hold(path):
        assert time.monotonic() - start < 1


def test_a_lock_that_is_removed_before_it_is_taken_is_taken_anew(tmp_path, monkeypatch):
    path = tmp_path / "result"
    owner = contextlib.ExitStack()
    owner.enter_context(locks.hold(path))
    flock = fcntl.flock

    def late(descriptor, operation):
        owner.close()  # the owner is done between the opening of its file and this
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with locks.hold(path):
        with pytest.raises(errors.InputError, match="another at work"), locks.hold(path):
            pass
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks_is_written_after_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(descriptor, operation):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locks.hold(tmp_path / "result"):
        assert "without locks" in caplog.text
    assert not list(tmp_path.iterdir())


def test_only_a_lock_that_nobody_holds_is_swept(tmp_path):
    path = tmp_path / "result"
    locks.sweep(path)
    with locks.hold(path):
        (file,) = tmp_path.iterdir()
        locks.sweep(path)
        assert file.exists()
    file.touch()
    locks.sweep(path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.InputError, match="expected a folder that can be written"):
        with locks.hold(tmp_path / "file" / "result"):
            pass
