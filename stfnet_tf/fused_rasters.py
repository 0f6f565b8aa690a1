"""Reading fused rasters back, our own and those of other programs, as reflectance on a fine grid.

A raster is read where it says that it lies, whichever way its rows run. What it does not state is
assumed, and said, only where one assumption is by far the likeliest.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import logging

from data_prep import catalog, errors, grids, rasters, records

# No land reflects twice the light that falls on it, and no index is as large.
_LARGEST = 2.0
# Corners of pixels that coincide differ by less, in pixels.
_TOLERANCE = 0.01


def read(path: str | Path, images: catalog.Catalog, step: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """A fused image.

    Args:
        path: The raster, with a band for each of the data set's, by name or in its order, and
            maybe an alpha band.
        images: The data set, whose fine grid the image is brought onto.
        step: Reads every n-th row and column alone, from overviews where there are any.

    Returns:
        Reflectance, 0 where there is none, [height, width, bands] of float32; and where there is
        some, [height, width] of bool.

    Raises:
        InputError: It cannot be read, has other bands or lies elsewhere, or what its numbers mean
            cannot be told.
    """
    bands, stated = images.dataset.bands, rasters.info(str(path))
    numbers = list(range(1, stated.bands + 1))
    if len(numbers) > len(bands):
        numbers = [k for k in numbers if k not in stated.alphas]
    if len(numbers) != len(bands):
        raise errors.InputError(
            f"{path}: expected {len(bands)} bands ({', '.join(bands)}) as in "
            f"{images.dataset.path}, found {len(numbers)}."
        )
    own = [stated.band_names[k - 1].lower() for k in numbers]
    named = all(own.count(band.lower()) == 1 for band in bands)
    places = [numbers[own.index(band.lower()) if named else k] for k, band in enumerate(bands)]
    pixels, valid = _on_grid(str(path), places, images, step)
    scale, offset = _coding(str(path), stated, pixels[valid], images.encoding("fine"))
    return np.where(valid[..., None], pixels * scale + offset, 0).astype(np.float32), valid


def read_quality(path: str | Path, images: catalog.Catalog) -> np.ndarray:
    """The errors to be expected of a fused image, NaN where unknown, [height, width, bands]."""
    step = rasters.info(str(path)).scale or 1.0
    layers = []
    for k in range(len(images.dataset.bands)):
        steps, valid = _on_grid(str(path), [k + 1], images)
        layers.append(np.where(valid & (steps[..., 0] >= 0), steps[..., 0] * step, np.nan))
    return np.stack(layers, -1)


def _on_grid(
    path: str, bands: Sequence[int], images: catalog.Catalog, step: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Some bands as they are stored, on the fine grid, and where they hold something."""
    target, stated = images.grid, rasters.info(path)
    grid = _placed(path, stated.grid, target, images)
    if grid.shape == target.shape and grid.offset_in(target) == (0, 0):
        height, width = (-(-n // step) for n in target.shape)
        return catalog.read_usable(path, bands, grid.window, shape=(height, width))
    resampling = "nearest" if _coincide(grid, target) else "bilinear"
    if resampling != "nearest":
        logging.warning(
            "%s: interpolated onto the fine grid, %s, from %s; that smooths it.",
            *(path, target.describe(), stated.grid.describe()),
        )
    window = grids.footprint(target, grid, resampling)
    if window is None:
        raise errors.InputError(
            f"{path}: expected a raster that overlaps the fine grid of {images.dataset.path} "
            f"({target.describe()}), found no common area with {stated.grid.describe()}."
        )
    pixels, usable = catalog.read_usable(path, bands, window)
    pixels, share = grids.warp(pixels, grid.crop(window), target, resampling, usable)
    return pixels[::step, ::step], share[::step, ::step] >= 0.5


def _placed(path: str, grid: grids.Grid, target: grids.Grid, images: catalog.Catalog) -> grids.Grid:
    """The raster's grid in the fine grid's system."""
    if grid.geotransform and target.geotransform:
        both = grid.has_crs and target.has_crs
        # Map coordinates without a system are taken as they are.
        return grid if both else dataclasses.replace(grid, crs=target.crs)
    if grid.shape != target.shape:
        raise errors.InputError(
            f"{path}: expected a raster that states where it lies, or one of the fine grid's "
            f"{target.width} × {target.height} pixels, as in {images.dataset.path}, found "
            f"{grid.describe()}."
        )
    return target


def _coincide(grid: grids.Grid, target: grids.Grid) -> bool:
    """Whether the pixels of both are the same ones, whichever way rows and columns run."""
    if not grid.same_crs(target):
        return False
    rows, cols = np.array([0, target.height, 0]), np.array([0, 0, target.width])
    there = grids.locate(target, grid, rows, cols)
    sides = np.linalg.norm(there[1:] - there[0], axis=1)
    whole = np.allclose(there, np.rint(there), rtol=0, atol=_TOLERANCE)
    return whole and np.allclose(sides, target.shape, rtol=0, atol=_TOLERANCE)


def _coding(
    path: str, stated: rasters.Info, values: np.ndarray, fine: records.Encoding
) -> tuple[float, float]:
    """Scale and offset: as stated, else those of the fine images if its numbers are such.

    Args:
        path: The raster, for messages.
        stated: What it states.
        values: Its valid pixels, as stored.
        fine: How the fine images' numbers state reflectance.

    Raises:
        InputError: It does not state them, and its numbers tell of no others.
    """
    if stated.scale is not None:
        # As of the fine images: some programs state the divisor.
        scale = 1 / stated.scale if stated.scale > 1 else stated.scale
        return scale, stated.offset or 0.0
    floating = stated.dtype.startswith("float")
    remedy = "gdal_edit.py -scale states what it is"
    if floating and fine.dtype != "float32":
        typical = float(np.median(np.abs(values))) if values.size else 0.0
        if typical > _LARGEST:
            raise errors.InputError(
                f"{path}: expected reflectance in {stated.dtype} pixels without a scale, found "
                f"numbers about {typical:.3g}; {remedy}."
            )
        logging.warning("%s: states no scale; its %s taken as reflectance.", path, stated.dtype)
        return 1.0, 0.0
    if not floating and fine.dtype == "float32" and fine.scale == 1:
        raise errors.InputError(
            f"{path}: expected reflectance in floating point as the fine images have it, or a "
            f"scale, found {stated.dtype} pixels without one; {remedy}."
        )
    if not floating and stated.dtype != fine.dtype:
        logging.warning(
            "%s: states no scale; its %s taken for digital numbers like the fine images' %s.",
            *(path, stated.dtype, fine.dtype),
        )
    return fine.scale, fine.offset
