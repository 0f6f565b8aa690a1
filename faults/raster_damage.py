"""Ways in which a raster is whole and still wrong; each a function of the path and a generator."""

import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import grids, rasters
from faults.damage import Damage, Generator, replacing

# A TIFF's tags for width, height, bits a sample and samples a pixel.
_WIDTH, _HEIGHT, _SAMPLES = 256, 257, 277


def _rewritten(change: Callable[[dict[str, Any], Generator], dict[str, Any]]) -> Damage:
    """Writes the raster again with changed pixels, grid or statements."""

    def apply(path: Path, rng: Generator) -> None:
        stated = rasters.info(str(path))
        pixels = rasters.read(str(path))
        names = stated.band_names if any(stated.band_names) else None
        made: dict[str, Any] = {"pixels": pixels, "grid": stated.grid, "band_names": names}
        made |= {"nodata": stated.nodata}
        made |= change(made, rng)
        rasters.close_all()
        driver = "ENVI" if path.suffix == ".bil" else "GTiff"
        interleave = "BIL" if driver == "ENVI" else None
        rasters.write(path, made.pop("pixels"), made.pop("grid"), driver=driver,
                      interleave=interleave, **made)  # fmt: skip

    return apply


def stored_as(dtype: str) -> Damage:
    """Another type of pixel."""
    return _rewritten(lambda made, _: {"pixels": made["pixels"].astype(dtype)})


def holding(value: float) -> Damage:
    """A block of pixels that hold a value that nothing declares."""

    def change(made, rng):
        pixels = made["pixels"].copy()
        row, col = (rng.integers(max(n * 2 // 3, 1)) for n in pixels.shape[:2])
        pixels[
            row : row + max(pixels.shape[0] // 4, 1), col : col + max(pixels.shape[1] // 4, 1)
        ] = value
        return {"pixels": pixels}

    return _rewritten(change)


def _moved(grid: grids.Grid, pixels: float) -> grids.Grid:
    return grid.moved(pixels, pixels)


def _tag(number: int, value: int) -> Damage:
    """Overwrites the value of a tag in a TIFF's first directory."""

    def apply(path: Path, _: Generator) -> None:
        content = bytearray(path.read_bytes())
        (start,) = struct.unpack_from("<I", content, 4)
        (count,) = struct.unpack_from("<H", content, start)
        for k in range(count):
            entry = start + 2 + 12 * k
            tag, kind = struct.unpack_from("<HH", content, entry)
            if tag == number:
                struct.pack_into("<I" if kind == 4 else "<H", content, entry + 8, value % 2**16)
                struct.pack_into("<HII", content, entry + 2, 4, 1, value)
        path.write_bytes(content)

    return apply


ANY: dict[str, Damage] = {
    "bands swapped": _rewritten(
        lambda made, _: {
            "pixels": made["pixels"][..., ::-1].copy(),
            "band_names": made["band_names"] and made["band_names"][::-1],
        }
    ),
    "one band missing": _rewritten(
        lambda made, _: {
            "pixels": made["pixels"][..., :1].copy(),
            "band_names": made["band_names"] and made["band_names"][:1],
        }
    ),
    "stored as uint8": stored_as("uint8"),
    "stored as uint16": stored_as("uint16"),
    "stored as float64": stored_as("float64"),
    "no georeference": _rewritten(
        lambda made, _: {"grid": grids.Grid(made["grid"].width, made["grid"].height)}
    ),
    "on the other side of the Earth": _rewritten(
        lambda made, _: {"grid": _moved(made["grid"], 1e5)}
    ),
    "half as large": _rewritten(
        lambda made, _: {
            "pixels": made["pixels"][: made["pixels"].shape[0] // 2],
            "grid": made["grid"].crop(
                grids.Window(0, 0, made["grid"].height // 2, made["grid"].width)
            ),
        }
    ),
    "all fill": _rewritten(lambda made, _: {"pixels": np.full_like(made["pixels"], -9999)}),
}
INTEGER: dict[str, Damage] = {
    "fill −28672 as reflectance": holding(-28672),
    "fill 32767 as reflectance": holding(32767),
    "fill 0 as reflectance": holding(0),
    "declared fill": holding(-9999),
}
FLOATING: dict[str, Damage] = {
    "NaN": holding(np.nan),
    "infinite": holding(np.inf),
    "minus infinite": holding(-np.inf),
    "largest float": holding(3.4e38),
}
TIFF: dict[str, Damage] = {
    "a width of 2³¹ − 1": _tag(_WIDTH, 2**31 - 1),
    "a height of 2³¹ − 1": _tag(_HEIGHT, 2**31 - 1),
    "a width of a million": _tag(_WIDTH, 10**6),
    "a height of a million": _tag(_HEIGHT, 10**6),
    "a width of 0": _tag(_WIDTH, 0),
    "60000 samples a pixel": _tag(_SAMPLES, 60000),
}
HEADER: dict[str, Damage] = replacing(
    ("bytes in the other order", r"byte order\s*=.*", "byte order = 1"),
    ("2³¹ − 1 samples", r"samples\s*=.*", "samples = 2147483647"),
    ("2³¹ − 1 lines", r"lines\s*=.*", "lines = 2147483647"),
    ("a million lines", r"lines\s*=.*", "lines = 1000000"),
    ("minus one line", r"lines\s*=.*", "lines = -1"),
    ("half as many lines", r"lines\s*=.*", "lines = 24"),
    ("60000 bands", r"bands\s*=.*", "bands = 60000"),
    ("three bands", r"bands\s*=.*", "bands = 3"),
    ("pixels of uint16", r"data type\s*=.*", "data type = 12"),
    ("pixels of float32", r"data type\s*=.*", "data type = 4"),
    ("pixels of type 99", r"data type\s*=.*", "data type = 99"),
    ("an offset of a million", r"header offset\s*=.*", "header offset = 1000000"),
    ("an interleave that is none", r"interleave\s*=.*", "interleave = xyz"),
    ("no map", r"map info\s*=.*", ""),
)


def byte_swapped(path: Path, _: Generator) -> None:
    """Bare pixels of two bytes in the other order."""
    pixels = np.frombuffer(path.read_bytes(), np.int16)
    path.write_bytes(pixels.byteswap().tobytes())


def reads_as_another(path: Path, original: Path) -> bool:
    """Whether a raster reads from beginning to end without an error, as another one than it was.

    Nothing in such a file tells that it was damaged.
    """
    try:
        found, expected = (_all_of(k) for k in (path, original))
    except Exception:
        return False
    return found != expected


def _all_of(path: Path) -> list:
    name = str(path.with_suffix(".bil") if path.suffix == ".hdr" else path)
    stated = rasters.info(name)
    if stated.grid.width * stated.grid.height > 10**8:
        raise ValueError("too large to be what it says")
    pixels = rasters.read(name)
    return [re.sub(r"\s+", " ", str(stated)), pixels.tobytes()]


def changed_pixels(path: Path, original: Path) -> np.ndarray | None:
    """Where two rasters on one grid differ, (H, W) bool; None where they cannot be compared."""
    try:
        one, other = rasters.info(str(path)), rasters.info(str(original))
        if one != other:
            return None
        differ = rasters.read(str(path)) != rasters.read(str(original))
    except Exception:
        return None
    return differ.any(-1)
