"""Fused rasters of other programs are read where they lie, and as what they hold."""

import dataclasses

import numpy as np
import pytest
from absl import logging
from osgeo import gdal

from data_prep import catalog, dataset, errors, grids, rasters
from stfnet_tf import fused_rasters
from tests.data_prep import tiny

GRID = tiny.grid(96, 80)
IMAGE = tiny.land(96, 80)


@pytest.fixture
def images(tmp_path):
    return catalog.Catalog(dataset.load(tiny.make(tmp_path / "set")))


@pytest.fixture
def said(monkeypatch):
    """The warnings."""
    sentences = []
    monkeypatch.setattr(logging, "warning", lambda text, *of: sentences.append(text % of))
    return sentences


@pytest.fixture
def read(tmp_path, images):
    """Writes a raster and reads it back."""

    def write_and_read(pixels=IMAGE, grid=GRID, step=1, **options):
        path = tmp_path / "2001-10-17.tif"
        rasters.write(path, pixels, grid, **({"scale": 1e-4} | options))
        rasters.close_all()
        rasters.info.cache_clear()
        return fused_rasters.read(path, images, step)

    return write_and_read


def test_the_same_image_however_its_rows_and_columns_run(read, said):
    x, size, _, y, _, _ = GRID.geotransform
    south_up = (x, size, 0, y - 96 * size, 0, size)
    turned = grids.Grid(96, 80, (x, 0, size, y, -size, 0), tiny.UTM)
    for pixels, grid in (
        (IMAGE, GRID),
        (IMAGE[::-1], dataclasses.replace(GRID, geotransform=south_up)),
        (IMAGE.transpose(1, 0, 2), turned),
        (IMAGE, grids.Grid(80, 96)),
        (IMAGE, dataclasses.replace(GRID, crs="")),
    ):
        found, valid = read(pixels, grid)
        assert valid.all() and found.dtype == np.float32
        np.testing.assert_allclose(found, IMAGE * 1e-4, rtol=1e-6)
        small, valid = read(pixels, grid, step=7)
        assert small.shape[:2] == valid.shape == (14, 12)
    assert not said


def test_a_raster_that_lies_elsewhere_counts_where_it_lies(read, said):
    found, valid = read(np.roll(IMAGE, -40, axis=1), GRID.moved(0, 40))
    assert not valid[:, :40].any() and valid[:, 40:].all()
    np.testing.assert_allclose(found[:, 40:], IMAGE[:, 40:] * 1e-4, rtol=1e-6)
    assert not found[:, :40].any() and not said
    with pytest.raises(errors.InputError, match="found no common area with 80 × 96 pixels"):
        read(IMAGE, GRID.moved(0, 80))


def test_a_raster_on_other_pixels_is_interpolated_and_that_is_said(read, said):
    found, valid = read(IMAGE, GRID.moved(0.25, 0))
    expected = 0.25 * IMAGE[:-1] + 0.75 * IMAGE[1:]
    np.testing.assert_allclose(found[1:], expected * 1e-4, rtol=1e-4)
    assert valid.all() and "interpolated onto the fine grid" in said[0]


def test_bands_go_by_name_where_the_raster_names_them(read):
    found, _ = read(IMAGE[..., ::-1], band_names=("nir", "green"))
    np.testing.assert_allclose(found, IMAGE * 1e-4, rtol=1e-6)


def test_what_holds_nothing_is_not_valid(read):
    holed = IMAGE.copy()
    holed[3, 4, 1] = -1
    _, valid = read(holed, nodata=-1)
    assert not valid[3, 4] and valid.sum() == valid.size - 1
    floating = np.where(holed == -1, np.nan, holed * 1e-4).astype(np.float32)
    assert not read(floating, scale=None)[1][3, 4]


@pytest.mark.parametrize("kind", ["mask", "alpha"])
def test_what_a_mask_hides_is_not_valid(tmp_path, images, kind):
    path = tmp_path / "2001-10-17.tif"
    pixels = np.dstack([IMAGE, np.ones(GRID.shape, np.int16)])
    rasters.write(path, pixels if kind == "alpha" else IMAGE, GRID, scale=1e-4)
    shown = np.full(GRID.shape, 255, np.uint8)
    shown[7:30, 20:50] = 0
    opened = gdal.OpenEx(str(path), gdal.OF_UPDATE)
    if kind == "mask":
        opened.CreateMaskBand(gdal.GMF_PER_DATASET)
        opened.GetRasterBand(1).GetMaskBand().WriteArray(shown)
    else:
        opened.GetRasterBand(3).SetColorInterpretation(gdal.GCI_AlphaBand)
        opened.GetRasterBand(3).WriteArray(shown)
    del opened
    rasters.close_all()
    rasters.info.cache_clear()
    found, valid = fused_rasters.read(path, images)
    np.testing.assert_array_equal(valid, shown > 0)
    np.testing.assert_allclose(found[valid], IMAGE[valid] * 1e-4, rtol=1e-6)
    _, small = fused_rasters.read(path, images, step=2)
    np.testing.assert_allclose(small.mean(), valid.mean(), atol=0.01)


def test_each_band_has_its_own_nodata(tmp_path, images):
    holed = IMAGE.copy()
    holed[3, 4], holed[5, 6] = (-1, 7), (7, -2)
    for name, nodata, band in (("a", -1, 0), ("b", -2, 1)):
        rasters.write(tmp_path / f"{name}.tif", holed[..., band : band + 1], GRID, nodata=nodata)
    path = tmp_path / "2001-10-17.vrt"
    both = [str(tmp_path / "a.tif"), str(tmp_path / "b.tif")]
    gdal.BuildVRT(str(path), both, separate=True)
    rasters.info.cache_clear()
    _, valid = fused_rasters.read(path, images)
    assert not valid[3, 4] and not valid[5, 6] and valid.sum() == valid.size - 2


@pytest.mark.parametrize(
    ("dtype", "factor", "scale", "sentence"),
    [
        ("int16", 1, None, ""),
        ("float32", 1e-4, None, "its float32 taken as reflectance"),
        ("float64", 1e-4, None, "its float64 taken as reflectance"),
        ("uint16", 1, None, "its uint16 taken for digital numbers like the fine images' int16"),
        ("uint16", 2, 5e-5, ""),
        ("float32", 1, 1e-4, ""),
        ("int16", 1, 10000, ""),
    ],
)
def test_what_numbers_mean(read, said, dtype, factor, scale, sentence):
    found, _ = read((IMAGE * factor).astype(dtype), scale=scale)
    np.testing.assert_allclose(found, IMAGE * 1e-4, rtol=1e-5)
    assert [sentence in k for k in said] == [True] * bool(sentence)


def test_what_cannot_be_told_is_refused(read):
    with pytest.raises(errors.InputError, match="expected reflectance in float32 pixels without"):
        read(IMAGE.astype(np.float32), scale=None)
    with pytest.raises(errors.InputError, match=r"expected 2 bands \(green, nir\)"):
        read(IMAGE[..., :1])
    with pytest.raises(errors.InputError, match="one of the fine grid's 80 × 96 pixels"):
        read(IMAGE[:90], grids.Grid(80, 90))


def test_expected_errors_lie_where_their_image_does(tmp_path, images):
    steps = np.dstack([IMAGE, np.full(GRID.shape, 3, np.int16)])
    steps[0, 0, 0] = -1
    x, size, _, y, _, _ = GRID.geotransform
    south_up = dataclasses.replace(GRID, geotransform=(x, size, 0, y - 96 * size, 0, size))
    path = tmp_path / "2001-10-17_quality.tif"
    rasters.write(path, steps[::-1], south_up, scale=1e-4, nodata=-1)
    found = fused_rasters.read_quality(path, images)
    assert found.shape == IMAGE.shape and np.isnan(found).sum() == np.isnan(found[0, 0, 0]) == 1
    np.testing.assert_allclose(found[1:], IMAGE[1:] * 1e-4)
