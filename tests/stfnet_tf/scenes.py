"""A small scene on disk and a model for it, as tests of whole scenes need them."""

from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras as keras

from data_prep import catalog, dataset, grids, rasters, records
from stfnet_tf import checkpoints, fusion, model, presets, scene

BANDS = ("red", "nir")
DATES = ("2001-05-24", "2001-07-11", "2001-08-12")
FURTHER = ("2001-05-08", "2001-08-28")
CRS = "EPSG:32755"
GRID = grids.Grid(70, 50, (400000.0, 30.0, 0.0, 6200000.0, 0.0, -30.0), grids.crs_wkt(CRS))

TOML = """
name = "made"
bands = ["red", "nir"]
supervision = "pair"
[fine]
files = "fine_{year}{month}{day}.tif"
scale = 0.0001
fill = -9999
[coarse]
files = "coarse_{year}{month}{day}.tif"
scale = 0.0001
fill = -9999
ratio = 4
[dates]
train = ["2001-05-24", "2001-08-12"]
test = ["2001-07-11"]
[tiles]
size = 32
"""


def make(
    folder: Path,
    without: tuple[str, ...] = (),
    between: tuple[str, ...] = (),
    grid: grids.Grid = GRID,
    floating: bool = False,
) -> catalog.Catalog:
    """Three dates of fine and coarse images with a few clouds.

    Args:
        folder: Where the files go.
        without: Names of files that are missing.
        between: More dates that have a coarse image alone.
        grid: Of all images.
        floating: Whether they hold reflectance as float32, not digital numbers as int16.
    """
    rng = np.random.default_rng(0)
    base = rng.uniform(500, 4000, (*grid.shape, 2))
    for k, date in enumerate((*DATES, *between)):
        fine = base * (1 + 0.1 * k) + rng.normal(0, 30, base.shape)
        coarse = fine + rng.normal(0, 60, base.shape)
        for side, image in (("fine", fine), ("coarse", coarse)):
            name = f"{side}_{date.replace('-', '')}.tif"
            if name in without or (side == "fine" and date in between):
                continue
            pixels = image.astype(np.int16)
            pixels[5 * k : 5 * k + 4, 8:15] = -9999
            if floating:
                pixels = np.where(pixels == -9999, -9999, pixels * 1e-4).astype(np.float32)
            rasters.write(folder / name, pixels, grid, nodata=-9999, band_names=BANDS)
    text = TOML.replace("scale = 0.0001", "scale = 1.0") if floating else TOML
    (folder / "made.toml").write_text(text)
    return catalog.Catalog(dataset.load(folder / "made.toml", folder))


def with_gaps(folder: Path) -> catalog.Catalog:
    """Two dates more around the three, which show rows 20 to 29 that no other fine image shows."""
    rng = np.random.default_rng(7)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*DATES, *FURTHER):
        for side in ("fine", "coarse"):
            pixels = rng.integers(500, 4000, (*GRID.shape, 2)).astype(np.int16)
            if side == "fine":
                pixels[20 : 30 if name in DATES else 23] = -9999
            if (side, name) == ("coarse", DATES[1]):
                pixels[26, :40] = -9999
            path = folder / f"{side}_{name.replace('-', '')}.tif"
            rasters.write(path, pixels, GRID, nodata=-9999, band_names=BANDS)
    (folder / "made.toml").write_text(TOML)
    return catalog.Catalog(dataset.load(folder / "made.toml", folder))


def info(images: catalog.Catalog) -> records.DatasetInfo:
    """What training would know of the scene."""
    return records.DatasetInfo(
        name="made",
        bands=BANDS,
        fine=images.encoding("fine"),
        coarse=images.encoding("coarse"),
        ratio=4.0,
        psf_fwhm=1.0,
        tile_size=32,
        supervision="pair",
    )


def network(**changes) -> model.StfNet:
    """A model with weights that matter."""
    tf.random.set_seed(1)
    config = presets.build("paper", bands=BANDS, ratio=4.0, **changes)
    made = model.StfNet(config)
    rng = np.random.default_rng(5)
    made.set_weights([rng.normal(0, 0.03, w.shape) for w in made.get_weights()])
    return made


def predictor(images: catalog.Catalog, **changes) -> scene.Predictor:
    """A predictor without a training run."""
    return scene.Predictor.of("made", fusion.Fusion(network(**changes), info(images)))


def run(folder: Path, images: catalog.Catalog, **changes) -> Path:
    """What a training run leaves of such a model."""
    folder.mkdir(parents=True, exist_ok=True)
    made = network(**changes)
    made.config.save(folder)
    info(images).save(folder)
    keras.Model(made.inputs, made.outputs).save_weights(str(folder / checkpoints.BEST))
    return folder
