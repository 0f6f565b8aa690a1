import h5py
import numpy as np
import pytest
from osgeo import gdal
from scipy.io import netcdf_file

from data_prep import errors, grids, rasters
from data_prep.grids import Grid, Window
from tests.data_prep import tiny

FEET = "EPSG:2227"  # in US survey feet of 1200 / 3937 m


@pytest.mark.parametrize("resampling", ["AVERAGE", "NEAREST"])
@pytest.mark.parametrize("shape, count", [((256, 256), 0), ((260, 90), 1), ((520, 1096), 3)])
def test_overviews_are_those_that_gdal_would_make(tmp_path, shape, count, resampling):
    image = tiny.land(*shape, 2).astype(np.int16)
    image[: shape[0] // 3, 5:77] = -1
    chosen = (f"OVERVIEW_RESAMPLING={resampling}", "BLOCKSIZE=256")
    path, plain, expected = (tmp_path / f"{k}.tif" for k in ("cog", "plain", "expected"))
    rasters.write(path, image, tiny.grid(*shape), driver="COG", nodata=-1, options=chosen)
    rasters.write(plain, image, tiny.grid(*shape), nodata=-1)
    gdal.GetDriverByName("COG").CreateCopy(str(expected), gdal.Open(str(plain)), options=chosen)
    opened = [gdal.Open(str(k)) for k in (path, expected)]
    made, wanted = (
        [band.GetOverview(k).ReadAsArray() for k in range(band.GetOverviewCount())]
        for band in (k.GetRasterBand(2) for k in opened)
    )
    assert len(made) == len(wanted) == count
    for ours, theirs in zip(made, wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_overviews_of_an_odd_size_reach_its_end(tmp_path):
    image = tiny.land(513, 300, 1).astype(np.int16)
    rasters.write(tmp_path / "cog.tif", image, tiny.grid(513, 300), driver="COG")
    opened = gdal.Open(str(tmp_path / "cog.tif"))
    found = [opened.GetRasterBand(1).GetOverview(k) for k in range(2)]
    assert [(k.YSize, k.XSize) for k in found] == [(257, 150), (129, 75)]
    # Two rows and columns as one, but for the half row that 257 rows of two have too many.
    np.testing.assert_allclose(
        found[0].ReadAsArray()[-1], image[-2:].mean((0, 2)).reshape(150, 2).mean(1), atol=1
    )


@pytest.mark.parametrize("resampling", ["AVERAGE", "none of GDAL's"])
def test_finishing_leaves_the_cache_as_large_as_it_was(tmp_path, resampling):
    before = gdal.GetCacheMax()
    image = tiny.land(300, 300, 1).astype(np.int16)
    options = (f"OVERVIEW_RESAMPLING={resampling}",)
    path = tmp_path / "cog.tif"
    try:
        rasters.write(path, image, tiny.grid(300, 300), driver="COG", options=options)
    except errors.InputError:
        assert resampling != "AVERAGE"
    assert path.exists() == (resampling == "AVERAGE")
    assert gdal.GetCacheMax() == before > rasters._FINISHING_CACHE


@pytest.mark.parametrize("driver", ["GTiff", "ENVI", "COG"])
@pytest.mark.parametrize("dtype", ["int16", "uint16", "uint8", "float32"])
def test_what_is_written_is_read(tmp_path, driver, dtype):
    image = tiny.land(40, 30, 3).astype(dtype)
    path = tmp_path / "image.bil"
    rasters.write(
        path,
        image,
        tiny.grid(40, 30),
        driver=driver,
        nodata=7,
        band_names=["a", "b", "c"],
        scale=1e-4,
        offset=-0.1,
        tags={"SOURCE": "test"},
    )
    assert (rasters.read(str(path)) == image).all()
    assert (
        rasters.read(str(path), [3, 1], Window(5, 6, 7, 8)) == image[5:12, 6:14][..., [2, 0]]
    ).all()
    info = rasters.info(str(path))
    assert info.grid.geotransform == (5e5, 30, 0, 6e6, 0, -30)
    assert info.grid.same_crs(tiny.grid(1, 1))
    assert info.dtype == dtype and info.nodata == 7 and info.band_names == ("a", "b", "c")
    assert info.scale == 1e-4 and info.offset == -0.1
    assert not list(tmp_path.glob(".writing-*"))


@pytest.mark.parametrize(
    ("options", "expected"),
    [((), "DEFLATE"), (("COMPRESS=NONE",), None), (("COMPRESS=LZW",), "LZW")],
)
def test_an_option_takes_the_place_of_the_default(tmp_path, options, expected):
    path = tmp_path / "x.tif"
    rasters.write(path, tiny.land(9, 8, 3), tiny.grid(9, 8), options=options)
    found = gdal.Open(str(path)).GetMetadata("IMAGE_STRUCTURE").get("COMPRESSION")
    assert found == expected


@pytest.mark.parametrize("interleave", ["BSQ", "BIL", "BIP"])
def test_envi_interleaves_are_read_by_their_header(tmp_path, interleave):
    image = tiny.land(9, 8, 3)
    rasters.write(tmp_path / "x.int", image, tiny.grid(9, 8), driver="ENVI", interleave=interleave)
    header = (tmp_path / "x.hdr").read_text()
    assert f"interleave = {interleave.lower()}" in header
    assert str(tmp_path) not in header
    assert (rasters.read(str(tmp_path / "x.int")) == image).all()


@pytest.mark.parametrize(
    ("driver", "names", "colours"),
    [
        ("COG", ("blue", "green", "red", "nir"), ["Blue", "Green", "Red", "Undefined"]),
        ("GTiff", ("blue", "green", "red", "nir"), ["Blue", "Green", "Red", "Undefined"]),
        ("COG", ("green", "red", "nir"), ["Gray", "Undefined", "Undefined"]),
        ("ENVI", ("blue", "green", "red"), ["Undefined"] * 3),
    ],
)
def test_viewers_are_told_which_bands_are_red_green_and_blue(tmp_path, driver, names, colours):
    image = np.ones((20, 30, len(names)), np.int16)
    path = tmp_path / "x"
    rasters.write(path, image, tiny.grid(20, 30), driver=driver, band_names=names)
    assert driver == "ENVI" or [k.name for k in tmp_path.iterdir()] == ["x"]
    told = gdal.Info(str(path), format="json")["bands"]
    assert [band["colorInterpretation"] for band in told] == colours


def test_an_image_that_fails_half_way_leaves_nothing(tmp_path):
    path = tmp_path / "x.tif"
    with (
        pytest.raises(KeyboardInterrupt),
        rasters.create(path, tiny.grid(64, 64), bands=1, dtype="int16") as raster,
    ):
        raster.write(Window(0, 0, 32, 64), np.ones((32, 64, 1), np.int16))
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_unwritable_folder_is_a_readable_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.InputError, match=r"file.*folder"):
        rasters.write(tmp_path / "file" / "x.tif", tiny.land(4, 4), tiny.grid(4, 4))


def test_missing_file_band_and_foreign_format(tmp_path):
    with pytest.raises(errors.InputError, match="no such file"):
        rasters.info(str(tmp_path / "none.tif"))
    (tmp_path / "x.tif").write_text("this is no raster")
    with pytest.raises(errors.InputError, match=r"x\.tif.*expected a raster"):
        rasters.info(str(tmp_path / "x.tif"))
    rasters.write(tmp_path / "y.tif", tiny.land(4, 4), tiny.grid(4, 4))
    with pytest.raises(errors.InputError, match=r"y\.tif.*expected band 3, found 2 bands"):
        rasters.read(str(tmp_path / "y.tif"), [3])


def test_bands_may_have_masks_of_their_own(tmp_path):
    rasters.write(tmp_path / "x.tif", tiny.land(6, 8), tiny.grid(6, 8))
    masks = np.full((6, 8, 2), 255, np.uint8)
    masks[:2, :, 0], masks[:, 5:, 1] = 0, 0
    rasters.write(tmp_path / "masks.tif", masks, tiny.grid(6, 8))

    def source(file, band):
        return (
            f'<SimpleSource><SourceFilename relativeToVRT="1">{file}</SourceFilename>'
            f"<SourceBand>{band}</SourceBand></SimpleSource>"
        )

    bands = "".join(
        f'<VRTRasterBand dataType="Int16" band="{k}">{source("x.tif", k)}<MaskBand>'
        f'<VRTRasterBand dataType="Byte">{source("masks.tif", k)}</VRTRasterBand></MaskBand>'
        "</VRTRasterBand>"
        for k in (1, 2)
    )
    path = tmp_path / "masked.vrt"
    path.write_text(f'<VRTDataset rasterXSize="8" rasterYSize="6">{bands}</VRTDataset>')
    assert rasters.info(str(path)).masked
    window = Window(1, 3, 4, 5)
    for numbers in ([1], [2], [1, 2], [2, 1]):
        expected = (masks[..., np.array(numbers) - 1] > 0).all(-1)[window.slices]
        assert (rasters.read_mask(str(path), numbers, window) == expected).all()


def test_truncated_file(tmp_path):
    path = tmp_path / "x.tif"
    rasters.write(path, tiny.land(300, 300), tiny.grid(300, 300))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(errors.InputError, match=r"x\.tif.*truncated|x\.tif.*expected a raster"):
        rasters.read(str(path))


def test_neighbouring_tiles_are_joined(tmp_path):
    image, grid = tiny.land(20, 30), tiny.grid(20, 30)
    for k, window in enumerate([Window(0, 0, 20, 18), Window(0, 18, 20, 12)]):
        rasters.write(tmp_path / f"{k}.tif", image[window.slices], grid.crop(window))
    files = tuple(str(tmp_path / f"{k}.tif") for k in range(2))
    assert rasters.info(files).grid.shape == (20, 30)
    assert (rasters.read(files, (), Window(2, 10, 5, 15)) == image[2:7, 10:25]).all()


@pytest.mark.parametrize(
    "image, moved, message",
    [
        (tiny.land(20, 12).astype(np.uint16), 0, "expected int16 pixels as in its neighbour"),
        (tiny.land(20, 12), 0.5, "expected pixels that continue those of its neighbour"),
    ],
)
def test_tiles_that_would_be_left_out_or_misplaced_are_refused(tmp_path, image, moved, message):
    grid = tiny.grid(20, 30)
    rasters.write(tmp_path / "0.tif", tiny.land(20, 18), grid.crop(Window(0, 0, 20, 18)))
    rasters.write(tmp_path / "1.tif", image, grid.crop(Window(0, 18, 20, 12)).moved(moved, 0))
    with pytest.raises(errors.InputError, match=rf"1\.tif: {message}"):
        rasters.info((str(tmp_path / "0.tif"), str(tmp_path / "1.tif")))


@pytest.mark.parametrize("dtype, value", [("int16", -32768), ("uint16", 65535), ("float32", None)])
def test_gaps_between_tiles_are_not_black(tmp_path, dtype, value):
    grid = tiny.grid(20, 30)
    for k, window in enumerate([Window(0, 0, 10, 18), Window(10, 18, 10, 12)]):
        rasters.write(
            tmp_path / f"{k}.tif", tiny.land(10, window.width).astype(dtype), grid.crop(window)
        )
    files = tuple(str(tmp_path / f"{k}.tif") for k in range(2))
    gap = rasters.read(files, (1,), Window(0, 20, 5, 5))
    assert np.isnan(gap).all() if value is None else (gap == value).all()
    assert (
        np.isnan(rasters.info(files).nodata)
        if value is None
        else rasters.info(files).nodata == value
    )


@pytest.mark.parametrize(
    "grid, options, message",
    [
        (tiny.grid(20, 30), {"scale": 2e-4}, "band scale"),
        (Grid(30, 20, (5e5, 30.0, 0.0, 6e6, 0.0, 30.0), tiny.UTM), {}, "positive NS resolution"),
        (Grid(30, 20), {}, "ungeoreferenced"),
    ],
)
def test_no_tile_is_left_out_in_silence(tmp_path, grid, options, message):
    west, east = Window(0, 0, 20, 18), Window(0, 18, 20, 12)
    first, second = (grid.crop(k) if grid.geotransform else grid for k in (west, east))
    rasters.write(tmp_path / "0.tif", tiny.land(*first.shape), first)
    rasters.write(tmp_path / "1.tif", tiny.land(*second.shape), second, **options)
    with pytest.raises(errors.InputError, match=rf"expected neighbouring tiles, found.*{message}"):
        rasters.info((str(tmp_path / "0.tif"), str(tmp_path / "1.tif")))


def test_alpha_of_tiles_is_that_of_the_joined_image(tmp_path):
    image, grid = tiny.land(20, 30, 3).astype(np.uint16), tiny.grid(20, 30)
    image[..., 2] = 65535
    image[3:9, 10:25, 2] = 0
    for k, window in enumerate([Window(0, 0, 20, 18), Window(0, 18, 20, 12)]):
        rasters.write(tmp_path / f"{k}.tif", image[window.slices], grid.crop(window))
        tile = gdal.OpenEx(str(tmp_path / f"{k}.tif"), gdal.OF_UPDATE)
        tile.GetRasterBand(3).SetColorInterpretation(gdal.GCI_AlphaBand)
        del tile
    files = tuple(str(tmp_path / f"{k}.tif") for k in range(2))
    assert rasters.info(files).alphas == (3,)
    np.testing.assert_array_equal(rasters.read(files), image)


@pytest.mark.parametrize("count", [1, 2])
def test_a_container_is_no_raster(tmp_path, count):
    for k in range(count):
        made = gdal.GetDriverByName("netCDF").CreateMultiDimensional(str(tmp_path / f"{k}.nc"))
        root = made.GetRootGroup()
        sides = [root.CreateDimension(name, None, None, 8) for name in "yx"]
        for name in ("red", "nir"):
            root.CreateMDArray(name, sides, gdal.ExtendedDataType.Create(gdal.GDT_Int16))
        del root, sides, made
    files = tuple(str(tmp_path / f"{k}.nc") for k in range(count))
    with pytest.raises(errors.InputError, match=r"0\.nc: .* a container of .* one: red, nir\."):
        rasters.info(files if count > 1 else files[0])


def test_tiles_in_different_systems_are_refused(tmp_path):
    rasters.write(tmp_path / "0.tif", tiny.land(4, 4), tiny.grid(4, 4))
    other = Grid(4, 4, tiny.grid(4, 4).geotransform, grids.crs_wkt("EPSG:32656"))
    rasters.write(tmp_path / "1.tif", tiny.land(4, 4), other)
    with pytest.raises(errors.InputError, match=r"1\.tif.*neighbour"):
        rasters.info((str(tmp_path / "0.tif"), str(tmp_path / "1.tif")))


def test_a_container_of_one_variable_has_it_as_a_sub_dataset(tmp_path):
    pixels = np.arange(12, dtype=np.int16).reshape(3, 4)
    with netcdf_file(tmp_path / "one.nc", "w") as file:
        for name, size in (("y", 3), ("x", 4)):
            file.createDimension(name, size)
        file.createVariable("ndvi", "i2", ("y", "x"))[:] = pixels
    with h5py.File(tmp_path / "one.h5", "w") as file:
        file["ndvi"] = pixels
    for file in ("one.nc", "one.h5"):
        found = rasters.subdataset(str(tmp_path / file), "ndvi")
        assert sorted(rasters.read(found)[..., 0].ravel()) == list(range(12))
        with pytest.raises(errors.InputError, match=r"one sub-dataset 'evi', found .*ndvi"):
            rasters.subdataset(str(tmp_path / file), "evi")


def test_sub_datasets_are_found_by_their_last_part(tmp_path):
    path = str(tmp_path / "grids.h5")
    with h5py.File(path, "w") as file:
        for k, name in enumerate(("500m/I1", "500m/QF", "1km/M1", "1km/QF")):
            file[name] = np.full((2, 3), k, np.int16)
    for name, value in (("I1", 0), ("M1", 2), ("//500m/QF", 1), ("//1km/QF", 3)):
        assert (rasters.read(rasters.subdataset(path, name)) == value).all()
    for name in ("QF", "F", "1"):  # twice there, and only the ends of names
        with pytest.raises(errors.InputError, match=f"one sub-dataset '{name}', found //1km/M1"):
            rasters.subdataset(path, name)
