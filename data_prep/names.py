"""Names of rasters that are more than paths: files within archives, sub-datasets of containers.

GDAL opens "/vsizip//data/2001.zip/L.tif" and 'NETCDF:"/data/2001.nc":red'. To `pathlib` they are
odd paths whose doubled slashes it drops. As GDAL has it, "/vsizip/2001.zip/L.tif" is relative and
"/vsizip//data/2001.zip/L.tif" is not.
"""

import re
from pathlib import Path

# Virtual file systems over a file of this machine; others are networks or memory.
_ARCHIVE = re.compile(r"(?P<before>/vsi(?:zip|tar|gzip|7z|rar)/)(?P<file>.+)", re.DOTALL)
_SUBDATASET = re.compile(
    r"(?P<before>HDF4_\w+:\w+:|GTIFF_DIR:\w+:|[A-Za-z]\w+:)"
    r'(?P<quote>"?)(?P<file>(?<=")[^"]+|[^":]+)(?P=quote)(?P<after>(?::.*)?)',
    re.DOTALL,
)


def absolute(name: str, folder: Path) -> str:
    """The name with its path made absolute, or relative to the working directory as `folder` is.

    Args:
        name: A path, or a name as GDAL has it.
        folder: What the name is relative to.
    """
    if match := _ARCHIVE.fullmatch(name):
        inner = match["file"]
        if braced := re.fullmatch(r"\{(.+)\}(.*)", inner, re.DOTALL):
            inner = f"{{{absolute(braced[1], folder)}}}{braced[2]}"
        elif not inner.startswith("/"):
            inner = f"{folder}/{inner}"
        return match["before"] + inner
    if name.startswith("/vsi"):
        return name
    if (match := _SUBDATASET.fullmatch(name)) and not (folder / name).exists():
        before, quote, after = match.group("before", "quote", "after")
        file = match["file"]
        # What follows a scheme, as in http://…, is no path.
        inner = file if file.startswith("//") else absolute(file, folder)
        return f"{before}{quote}{inner}{quote}{after}"
    return str(folder / name)


def file_of(name: str) -> str:
    """The raster's file: of a sub-dataset its container, otherwise the name itself."""
    match = _SUBDATASET.fullmatch(name)
    return match["file"] if match and not Path(name).exists() else name


def on_disk(name: str) -> Path | None:
    """The file of this machine that a raster lies in, whose time and size change with it.

    Args:
        name: A path, or a name as GDAL has it.

    Returns:
        The path itself, the archive or the container; None where there is no such thing, as for
        what lies on a network.
    """
    file = file_of(name)
    within = False
    while match := _ARCHIVE.fullmatch(file):
        within, file = True, match["file"].removeprefix("{").replace("}", "", 1)
    if file.startswith("/vsi") or (file != name and file.startswith("//")):
        return None
    path = Path(file)
    if not within:
        return path
    return next((part for part in (path, *path.parents) if part.is_file()), path)


def inside(name: str) -> str:
    """What a name says beside the path on disk: "" for a path, the member for an archive's."""
    path = on_disk(name)
    if path is None:
        return name
    return "" if Path(name) == path else name.replace(str(path), "")
