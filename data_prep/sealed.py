"""JSON files that are whole when they are there, and that notice when they no longer are.

    write(folder / "model.json", {"bands": ["red", "nir"]})
    read(folder / "model.json")  # ValueError where a byte of it has changed

The content's checksum is one more key of the object. A file without it, from an earlier version or
written by hand, is taken as it is.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep import errors

SEAL = "sha256"


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Writes `content`, sealed; the file takes its name when it is whole.

    Args:
        path: The file; one program at a time may write it.
        content: What JSON can hold, with strings as keys.
    """
    plain = json.loads(json.dumps(content))
    scratch = path.with_name(f".{path.name}.tmp")
    scratch.write_text(json.dumps({**plain, SEAL: _seal(plain)}, indent=2) + "\n")
    scratch.replace(path)


def read(path: Path) -> dict[str, Any]:
    """Reads what `write` wrote.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no JSON object, or its content is not what was sealed.
    """
    try:
        content = json.loads(path.read_text())
    except RecursionError:
        raise ValueError("brackets nested too deep") from None
    if not isinstance(content, dict):
        raise ValueError(f"{type(content).__name__} where an object was expected")
    seal = content.pop(SEAL, None)
    if seal is not None and seal != _seal(content):
        raise ValueError(
            f"a checksum that its content does not have; it was damaged, or edited without "
            f"removing '{SEAL}'"
        )
    return content


def seal_files(folder: Path, path: Path) -> None:
    """Writes the checksums of all files in and below a folder, but for `path`, to `path`."""
    files = sorted(k for k in folder.rglob("*") if k.is_file() and k != path)
    write(path, {"files": {k.relative_to(folder).as_posix(): checksum(k) for k in files}})


def check_files(folder: Path, path: Path) -> None:
    """Compares the files that `seal_files` has seen with what they are now.

    Raises:
        ValueError: One has changed, is missing or cannot be read; the message names it.
    """
    name = path.name
    try:
        for name, expected in read(path)["files"].items():
            if checksum(folder / name) != expected:
                raise ValueError(f"{name} with another content than was written")
    except OSError as error:
        raise ValueError(f"{name}: {errors.reason(error)}") from None


def checksum(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
