"""Sentences for disks that are full or cannot be written, whatever a library makes of them."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from data_prep import errors

# A library may have removed what did not fit before it said so.
_PROBE = 2**20


@contextlib.contextmanager
def naming_full(folder: str | Path) -> Iterator[None]:
    """Where a `with` block fails and its folder cannot be written, says that instead.

    TensorFlow, HDF5 and Keras each have their own exceptions, and words, for a full disk.

    Args:
        folder: What the block writes to.

    Raises:
        InputError: The folder cannot be written; otherwise what the block raises.
    """
    try:
        yield
    except errors.InputError:
        raise
    except Exception:
        if reason := _unwritable(Path(folder)):
            raise errors.InputError(
                f"{folder}: could not be written: {reason}; what is there is whole, and the same "
                f"command goes on once there is room."
            ) from None
        raise


def _unwritable(folder: Path) -> str:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_PROBE))
    except OSError as error:
        return errors.reason(error)
    return ""
