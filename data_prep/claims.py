"""One writer at a time: a lock beside a result, which a killed process lets go of by itself."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from data_prep import errors


@contextlib.contextmanager
def claim(path: str | Path) -> Iterator[None]:
    """Holds the right to write `path` for the length of a `with` block.

    The lock is the kernel's, on a hidden file beside `path`, so it ends with its process, however
    that ends. On a file system that knows no locks, nothing is held.

    Args:
        path: The result that is to be written.

    Raises:
        InputError: Another process holds it, or the folder cannot be written.
    """
    lock = Path(path).with_name(f".{Path(path).name}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = _locked(lock)
    except BlockingIOError:
        raise errors.InputError(
            f"{path}: expected to be the only program that writes it, found another at work on it."
        ) from None
    except OSError as error:
        raise errors.InputError(
            f"{lock.parent}: expected a writable folder, found: {error.strerror}."
        ) from None
    try:
        yield
    finally:
        # Removed while it is held: whoever waits for it finds out that it has another one.
        lock.unlink(missing_ok=True)
        os.close(handle)


def _locked(lock: Path) -> int:
    """Opens and locks a file that is still there once it is locked."""
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(handle).st_ino == lock.stat().st_ino:
                return handle
        except BlockingIOError:
            os.close(handle)
            raise
        except FileNotFoundError:
            pass
        except OSError:  # no locks on this file system
            return handle
        os.close(handle)
