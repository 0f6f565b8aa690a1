"""One writer at a time: a lock beside a result, which a killed process lets go of by itself."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import filelock

from data_prep import errors


@contextlib.contextmanager
def hold(path: str | Path) -> Iterator[None]:
    """Holds the right to write `path` for the length of a `with` block.

    The lock is the kernel's, on a hidden file beside `path`, so it ends with its process, however
    that ends.

    Args:
        path: The result that is to be written.

    Raises:
        InputError: Another process holds it, or the folder cannot be written.
    """
    file = _file(path)
    lock = filelock.FileLock(file, blocking=False)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
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
        lock.release()


def sweep(path: str | Path) -> None:
    """Removes what a killed process left of its lock on `path`; one that is held stays."""
    if _file(path).exists():
        with contextlib.suppress(errors.InputError), hold(path):
            pass


def _file(path: str | Path) -> Path:
    return Path(path).with_name(f".{Path(path).name}.lock")
