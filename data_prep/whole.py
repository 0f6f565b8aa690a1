"""Files that are there whole or not at all, whoever else writes them at the same time.

    whole.write_text(folder / "accuracy.md", text)
    with whole.replacing(folder / "images.png") as scratch:
        figure.savefig(scratch)

Each writer has a scratch name of its own, so that the last one to finish gives the file its content
and none finds half of another's.
"""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from data_prep import errors


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A scratch name beside `path`, with its suffix; what is written there takes the name.

    Raises:
        InputError: It cannot be written: folder, permission, a full disk.
    """
    path = Path(path)
    scratch = path.with_name(f".writing-{uuid.uuid4().hex}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield scratch
        scratch.replace(path)
    except OSError as error:
        raise errors.InputError(f"{path}: could not be written: {errors.reason(error)}.") from None
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Writes a text in UTF-8, as `replacing`; returns the path."""
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")
    return Path(path)
