"""Tiny data sets that the tests make: a smooth random land, seen by two sensors."""

from pathlib import Path

import numpy as np
from scipy import ndimage

from data_prep import grids, rasters
from data_prep.grids import Grid

UTM = grids.crs_wkt("EPSG:32655")
SINUSOIDAL = "+proj=sinu +R=6371007.181 +units=m +no_defs"
DATES = ("2001-10-08", "2001-10-17", "2001-11-02")
BANDS = ("green", "nir")


def grid(height: int, width: int, *, size: float = 30.0, x: float = 5e5, y: float = 6e6) -> Grid:
    """A UTM grid whose first pixel starts at (x, y)."""
    return Grid(width, height, (x, size, 0.0, y, 0.0, -size), UTM)


def land(height: int, width: int, bands: int = 2, seed: int = 0, detail: float = 4.0) -> np.ndarray:
    """Digital numbers of 500 to 4000 with structure at many scales, (H, W, B) int16."""
    noise = np.random.default_rng(seed).normal(size=(bands, height, width))
    layers = [ndimage.gaussian_filter(noise, (0, s, s)) * s for s in (detail, 3 * detail, 20.0)]
    image = np.moveaxis(sum(layers), 0, -1)
    low, high = image.min((0, 1)), image.max((0, 1))
    return (500 + 3500 * (image - low) / (high - low)).astype(np.int16)


def blocks(image: np.ndarray, ratio: int) -> np.ndarray:
    """Means over ratio × ratio pixels, (H / ratio, W / ratio, B) int16."""
    height, width, bands = image.shape
    cut = image.reshape(height // ratio, ratio, width // ratio, ratio, bands)
    return np.rint(cut.mean((1, 3))).astype(np.int16)


def make(
    folder: Path,
    height: int = 96,
    width: int = 80,
    ratio: int = 8,
    dates: tuple[str, ...] = DATES,
    more: str = "",
) -> Path:
    """A data set of GeoTIFFs with coarse pixels `ratio` times as large; returns its TOML."""
    folder.mkdir(parents=True, exist_ok=True)
    fine = grid(height, width)
    coarse = grid(height // ratio, width // ratio, size=30.0 * ratio)
    for k, date in enumerate(dates):
        image = land(height, width, seed=k)
        rasters.write(folder / f"F_{date}.tif", image, fine)
        rasters.write(folder / f"C_{date}.tif", blocks(image, ratio), coarse)
    return describe(folder, dates, more)


def describe(folder: Path, dates: tuple[str, ...] = DATES, more: str = "") -> Path:
    """Writes the TOML of `make`'s files."""
    listed = ", ".join(f'"{date}"' for date in dates)
    path = folder / "tiny.toml"
    path.write_text(
        f"""
name = "tiny"
bands = ["green", "nir"]
[fine]
files = "F_{{year}}-{{month}}-{{day}}.tif"
scale = 0.0001
valid_range = [0, 10000]
[coarse]
files = "C_{{year}}-{{month}}-{{day}}.tif"
scale = 0.0001
valid_range = [0, 10000]
[dates]
train = [{listed}]
[tiles]
size = 32
{more}
"""
    )
    return path
