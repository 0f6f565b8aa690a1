"""One writer at a time: a lock beside a result, which a killed process lets go of by itself."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from absl import logging

from data_prep import errors

# What a file system without locks answers.
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


@contextlib.contextmanager
def hold(path: str | Path) -> Iterator[None]:
    """Holds the right to write `path` for the length of a `with` block.

    The lock is the kernel's, on a hidden file beside `path`, so it ends with its process, however
    that ends. A file system that has no locks is written without one, after a warning.

    Args:
        path: The result that is to be written.

    Raises:
        InputError: Another process holds it, or the folder cannot be written.
    """
    file = _file(path)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _locked(file)
    except BlockingIOError:
        raise errors.InputError(
            f"{path}: expected to be the only program that writes it, found another at work on it."
        ) from None
    except OSError as error:
        raise errors.InputError(
            f"{file.parent}: expected a folder that can be written and locked, found: "
            f"{error.strerror}."
        ) from None
    try:
        yield
    finally:
        # Removed while it is held: whoever has it open finds out that it is another one by then.
        file.unlink(missing_ok=True)
        os.close(descriptor)


def sweep(path: str | Path) -> None:
    """Removes what a killed process left of its lock on `path`; one that is held stays."""
    if _file(path).exists():
        with contextlib.suppress(errors.InputError), hold(path):
            pass


def _locked(file: Path) -> int:
    """Opens a file, which is made where it is missing, and locks it; returns its descriptor."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its last holder may have removed it before it was locked here: then it guards nothing.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), file.stat()):
                    return descriptor
        except OSError as error:
            if error.errno in _NO_LOCKS:
                logging.warning(
                    "%s: on a file system without locks; a second program that writes there would "
                    "not be noticed.",
                    file.parent,
                )
                return descriptor
            os.close(descriptor)
            raise
        os.close(descriptor)


def _file(path: str | Path) -> Path:
    return Path(path).with_name(f".{Path(path).name}.lock")
