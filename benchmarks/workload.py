"""What the benchmarks work on: scenes of any size on disk, shards of them, and models.

The scenes are made up, but cost what real ones cost: six bands of int16 reflectance with texture
and sensor noise, so that nothing compresses better than a satellite image does; coarse images on
the fine grid, as the public data sets (CIA, LGC, AHB …) offer them, or on a grid of their own.
"""

import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from data_prep import catalog, dataset, grids, preparation, rasters, records, triplets
from data_prep.grids import Grid

if TYPE_CHECKING:
    import tensorflow as tf

    from stfnet_tf import input_pipeline

BANDS = ("blue", "green", "red", "nir", "swir1", "swir2")
DATES = tuple(datetime.date(2001, 10, 8) + datetime.timedelta(16 * k) for k in range(3))
TRIPLET = triplets.Triplet(DATES[0], DATES[1], DATES[2])
RATIO = 16
PIXEL = 25.0
CRS = "EPSG:32755"
_PATTERN = 1000  # pixels after which a scene repeats itself
_STRIP = 500

_TOML = """
name = "{name}"
bands = [{bands}]
supervision = "triplet"
[fine]
files = "fine_{{year}}{{month}}{{day}}.tif"
scale = 0.0001
fill = -9999
[coarse]
files = "{coarse}_{{year}}{{month}}{{day}}.tif"
scale = 0.0001
fill = -9999
ratio = {ratio}
resampling = "{resampling}"
[dates]
train = ["{t1}", "{t2}", "{t3}"]
test = []
[tiles]
size = 256
"""


def grid(size: int) -> Grid:
    """A square fine grid of `size` pixels."""
    return Grid(size, size, (396000.0, PIXEL, 0.0, 6152000.0, 0.0, -PIXEL), grids.crs_wkt(CRS))


def coarse_grid(size: int) -> Grid:
    """A grid of pixels `RATIO` times as large that covers it."""
    count = -(-size // RATIO)
    pixel = PIXEL * RATIO
    return Grid(count, count, (396000.0, pixel, 0.0, 6152000.0, 0.0, -pixel), grids.crs_wkt(CRS))


def make(folder: Path, size: int, native: bool = False, truth: bool = True) -> Path:
    """Writes a scene of three dates, fine and coarse, and its description.

    Args:
        folder: Where; what is there already is kept.
        size: Height and width of the fine images, pixels.
        native: Whether coarse images of their own pixel size are to be read, instead of those
            that lie on the fine grid.
        truth: Whether the fine image of the middle date is there.

    Returns:
        The description, a `.toml`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for k, date in enumerate(DATES):
        stamp = f"{date:%Y%m%d}"
        fine, coarse = _pattern(k)
        if truth or date != TRIPLET.t2:
            _write(folder / f"fine_{stamp}.tif", fine, grid(size))
        if native:
            blocks = ndimage.zoom(coarse, (1 / RATIO, 1 / RATIO, 1), order=1)
            _write(folder / f"native_{stamp}.tif", blocks, coarse_grid(size))
        else:
            _write(folder / f"coarse_{stamp}.tif", coarse, grid(size))
    described = folder / ("native.toml" if native else "scene.toml")
    t1, t2, t3 = DATES
    described.write_text(
        _TOML.format(
            name=f"scene{size}",
            bands=", ".join(f'"{band}"' for band in BANDS),
            coarse="native" if native else "coarse",
            resampling="bilinear",
            ratio=RATIO,
            t1=t1,
            t2=t2,
            t3=t3,
        )
    )
    return described


def open_scene(described: Path) -> catalog.Catalog:
    """The scene's images."""
    return catalog.Catalog(dataset.load(described))


def info(images: catalog.Catalog) -> records.DatasetInfo:
    """What training would know of the scene."""
    return records.DatasetInfo(
        name=images.dataset.name,
        bands=BANDS,
        fine=images.encoding("fine"),
        coarse=images.encoding("coarse"),
        ratio=float(RATIO),
        psf_fwhm=1.0,
        tile_size=images.dataset.tile_size,
        supervision="triplet",
    )


def shards(folder: Path, size: int) -> Path:
    """Writes the shards of a scene unless they are there already; returns their folder."""
    described = make(folder / f"scene{size}", size)
    target = folder / f"records{size}"
    preparation.prepare(dataset.load(described), target, workers=1)
    return target


def batches(source: "input_pipeline.Shards", batch_size: int, patch_size: int) -> "tf.data.Dataset":
    """Training batches as the trainer asks for them."""
    from stfnet_tf import input_pipeline

    return input_pipeline.training(
        source,
        batch_size=batch_size,
        patch_size=patch_size,
        crops=input_pipeline.crops_per_tile(source.info, patch_size),
        seed=1,
    )


def _pattern(index: int) -> tuple[np.ndarray, np.ndarray]:
    """Fine and coarse image of a date, digital numbers [_PATTERN, _PATTERN, 6]."""
    rng = np.random.default_rng(0)
    land = sum(
        weight * ndimage.gaussian_filter(rng.normal(size=(_PATTERN, _PATTERN)), s, mode="wrap") * s
        for weight, s in ((900, 2), (1200, 8), (1500, 32))
    )
    bands = np.linspace(0.4, 1.4, len(BANDS))
    surface = 2000 + land[..., None] * bands * (1 + 0.15 * index) + 120 * index
    noise = np.random.default_rng(1 + index)
    fine = surface + noise.normal(0, 25, surface.shape)
    coarse = ndimage.gaussian_filter(surface, (RATIO / 2, RATIO / 2, 0), mode="wrap")
    coarse += noise.normal(0, 5, surface.shape)
    return tuple(np.clip(v, 1, 10000).astype(np.int16) for v in (fine, coarse))  # type: ignore


def _write(path: Path, pattern: np.ndarray, on: Grid) -> None:
    """Repeats a pattern over a grid, strip by strip."""
    if path.is_file():
        return
    height, width = pattern.shape[:2]
    columns = np.arange(on.width) % width
    # Uncompressed, as CSIRO's sets are: GDAL's decompression is not what is measured.
    options = ("COMPRESS=NONE",)
    with rasters.create(
        path, on, bands=len(BANDS), dtype="int16", nodata=-9999, options=options
    ) as raster:
        for row in range(0, on.height, _STRIP):
            window = grids.Window(row, 0, min(_STRIP, on.height - row), on.width)
            rows = np.arange(row, row + window.height) % height
            raster.write(window, pattern[rows][:, columns])
