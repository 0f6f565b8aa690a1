import numpy as np
import pytest
from osgeo import gdal
from scipy import ndimage

from data_prep import dataset, grids, rasters
from data_prep.grids import Grid, Window
from tests.data_prep import tiny


def test_every_resampling_may_be_described():
    assert tuple(grids.RESAMPLING) == dataset.RESAMPLING


def test_grid_positions_and_coordinates_are_inverse_and_by_hand():
    grid = tiny.grid(10, 20)
    x, y = grid.coordinates(np.array([2.5]), np.array([3.0]))
    assert (x[0], y[0]) == (500090.0, 5999925.0)
    rows, cols = grid.positions(x, y)
    assert rows[0] == pytest.approx(2.5) and cols[0] == pytest.approx(3.0)
    assert grid.crop(Window(1, 2, 3, 4)).geotransform[::3] == (500060.0, 5999970.0)
    assert grid.moved(1, -1).geotransform[::3] == (499970.0, 5999970.0)


def test_offset_in_tells_coinciding_pixels():
    grid = tiny.grid(10, 20)
    assert grid.crop(Window(-2, 3, 5, 5)).offset_in(grid) == (-2, 3)
    assert grid.moved(0.5, 0).offset_in(grid) is None
    assert grid.moved(0.005, -0.005).offset_in(grid) == (0, 0)
    assert grid.moved(0, 0.02).offset_in(grid) is None
    assert tiny.grid(5, 10, size=60.0).offset_in(grid) is None
    other = Grid(20, 10, grid.geotransform, grids.crs_wkt("EPSG:32656"))
    assert other.offset_in(grid) is None


def test_a_system_is_the_same_as_itself_and_none_as_none():
    transform = tiny.grid(1, 1).geotransform
    stated, none, local = (Grid(4, 4, transform, crs) for crs in (tiny.UTM, "", 'LOCAL_CS["x"]'))
    assert stated.same_crs(stated) and none.same_crs(local)
    assert not stated.same_crs(none) and not local.same_crs(stated)


FEET = "EPSG:2227"  # in US survey feet of 1200 / 3937 m


SINUSOIDAL = "+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +R=6371007.181 +units=m +no_defs"


@pytest.mark.parametrize(
    ("crs", "x", "y", "metres"),
    [
        # Mercator on a sphere: sinh(1) is the tangent of the latitude, so cos = 1 / cosh(1).
        ("EPSG:3857", 1.5e6, 6378137.0, 30 / np.cosh(1)),
        ("EPSG:3857", 1.5e6, 0.0, 30.0),
        (SINUSOIDAL, 7e6, 5e6, 30.0),  # sheared, but true in area
        (tiny.UTM, 7e5, 4e6, 30.0),
        (tiny.UTM, 1e12, 1e12, 30.0),  # nowhere
        ("EPSG:5703", 7e5, 4e6, 30.0),  # heights, which lie nowhere either
    ],
)
def test_metres_of_web_maps_are_not_those_of_the_ground(crs, x, y, metres):
    grid = Grid(2, 2, (x - 30, 30.0, 0.0, y + 30, 0.0, -30.0), grids.crs_wkt(crs))
    assert grid.pixel_metres == pytest.approx(metres, rel=1e-4)
    assert (grid.pixel_metres == 30.0) == (metres == 30.0)


@pytest.mark.parametrize(
    ("crs", "metres"),
    [
        (tiny.UTM, 20),
        (FEET, 20 * 1200 / 3937),
        ("EPSG:4326", 20 * np.pi / 180 * 6378137),
        ("", None),
    ],
)
def test_pixels_have_a_height_and_a_width(crs, metres):
    grid = Grid(4, 5, (100.0, 30.0, 0.0, 50.0, 0.0, -20.0), crs)
    assert grid.pixel_size == (20, 30)
    assert grid.pixel_metres == (metres if metres is None else pytest.approx(metres))
    turned = Grid(4, 5, (100.0, 0.0, 20.0, 50.0, 30.0, 0.0), crs)
    assert turned.pixel_size == (20, 30)


def test_whole_pixel_shift_is_exact_and_beyond_the_source_invalid():
    image, grid = tiny.land(20, 30), tiny.grid(20, 30)
    moved, share = grids.warp(image, grid, grid.moved(2, -3), "bilinear")
    assert np.abs(moved[:-2, 3:] - image[2:, :-3]).max() == 0
    assert (share[:-2, 3:] == 1).all()
    assert (share[-2:] == 0).all() and (share[:, :3] == 0).all()


def test_half_pixel_shift_is_the_mean_of_neighbours():
    image, grid = tiny.land(20, 30), tiny.grid(20, 30)
    moved, _ = grids.warp(image, grid, grid.moved(0, 0.5), "bilinear")
    expected = (image[:, 1:].astype(float) + image[:, :-1]) / 2
    np.testing.assert_allclose(moved[:, :-1], expected, atol=0.01)


def test_bilinear_up_is_numpy_interpolation():
    image = tiny.land(6, 9, 1)
    coarse, fine = tiny.grid(6, 9, size=240.0), tiny.grid(48, 72)
    up, share = grids.warp(image, coarse, fine, "bilinear")
    rows, cols = (np.arange(48) + 0.5) / 8 - 0.5, (np.arange(72) + 0.5) / 8 - 0.5
    across = np.stack([np.interp(cols, np.arange(9), row) for row in image[..., 0]])
    expected = np.stack([np.interp(rows, np.arange(6), col) for col in across.T], 1)
    np.testing.assert_allclose(up[..., 0], expected, atol=0.05)
    assert (share == 1).all()


def test_average_down_weighs_by_area():
    image = tiny.land(48, 72, 2)
    down, _ = grids.warp(image, tiny.grid(48, 72), tiny.grid(6, 9, size=240.0), "average")
    expected = image.reshape(6, 8, 9, 8, 2).mean((1, 3))
    np.testing.assert_allclose(down, expected, atol=0.01)


def test_larger_pixels_along_one_axis_blur_along_that_axis_alone():
    image = np.repeat(tiny.land(1, 72, 1), 48, 0)
    oblong = Grid(72, 6, (5e5, 30.0, 0.0, 6e6, 0.0, -240.0), tiny.UTM)
    down, _ = grids.warp(image, tiny.grid(48, 72), oblong, "bilinear")
    np.testing.assert_allclose(down, np.repeat(image[:1], 6, 0), atol=0.01)


@pytest.mark.parametrize("resampling", ["bilinear", "cubic", "average"])
def test_a_footprint_holds_all_that_larger_pixels_need(resampling):
    image, fine = tiny.land(160, 200), tiny.grid(160, 200)
    target = tiny.grid(20, 25, size=240.0).crop(Window(9, 11, 2, 3))
    needed = grids.footprint(target, fine, resampling)
    part, share = grids.warp(image[needed.slices], fine.crop(needed), target, resampling)
    whole, _ = grids.warp(image, fine, target, resampling)
    np.testing.assert_array_equal(part, whole)
    assert (share == 1).all() and needed.height < 160 and needed.width < 200


def test_nearest_keeps_type_and_values():
    image = (tiny.land(6, 9, 1).astype(np.uint32) << 16) + 1
    up, _ = grids.warp(image, tiny.grid(6, 9, size=240.0), tiny.grid(48, 72), "nearest")
    assert up.dtype == np.uint32
    assert (up == np.kron(image[..., 0], np.ones((8, 8), np.uint32))[..., None]).all()


def test_invalid_pixels_carry_no_weight():
    image, grid = tiny.land(20, 30), tiny.grid(20, 30)
    valid = np.ones((20, 30), bool)
    valid[8:12, 10:15] = False
    broken = np.where(valid[..., None], image, np.int16(-28672))
    moved, share = grids.warp(broken, grid, grid.moved(0.25, 0), "bilinear", valid)
    assert moved[share > 0].min() >= image.min() - 1
    assert (share[8:11, 10:15] == 0).all()
    np.testing.assert_allclose(share[7, 10:15], 0.75, atol=1e-6)


def test_south_up_and_north_up_give_the_same():
    image, grid = tiny.land(20, 30), tiny.grid(20, 30)
    x0, a, b, y0, c, d = grid.geotransform
    south_up = Grid(30, 20, (x0, a, b, y0 + 20 * d, c, -d), grid.crs)
    target = grid.crop(Window(3, 4, 10, 12)).moved(0.3, 0.6)
    one, _ = grids.warp(image, grid, target, "bilinear")
    other, _ = grids.warp(image[::-1], south_up, target, "bilinear")
    np.testing.assert_allclose(one, other, atol=0.01)


def test_sinusoidal_to_utm_agrees_with_gdalwarp(tmp_path):
    fine = tiny.grid(200, 240)
    sinusoidal = grids.crs_wkt(tiny.SINUSOIDAL)
    size = 463.3127
    everywhere = Grid(1, 1, (0, size, 0, 0, 0, -size), sinusoidal)
    corners = grids.locate(fine, everywhere, np.array([0, 0, 200, 200]), np.array([0, 240, 0, 240]))
    row, col = np.floor(corners.min(0)).astype(int) - 4
    height, width = (int(k) for k in np.ceil(corners.max(0)) + 4 - [row, col])
    coarse = Grid(width, height, (col * size, size, 0, -row * size, 0, -size), sinusoidal)
    image = tiny.land(height, width)
    path = tmp_path / "modis.tif"
    rasters.write(path, image, coarse)
    needed = grids.footprint(fine, coarse)
    ours, share = grids.warp(image[needed.slices], coarse.crop(needed), fine, "bilinear")
    theirs = gdal.Warp(
        "",
        str(path),
        format="MEM",
        dstSRS=fine.crs,
        outputBounds=(5e5, 6e6 - 200 * 30, 5e5 + 240 * 30, 6e6),
        width=240,
        height=200,
        resampleAlg="bilinear",
        outputType=gdal.GDT_Float32,
        errorThreshold=0.0,
    ).ReadAsArray()
    assert (share == 1).all()
    assert np.abs(ours - np.moveaxis(theirs, 0, -1)).max() < 1


def _rotated(height, width):
    """A grid of pixels of 30 m, turned by 30 degrees."""
    east, south = 30 * np.cos(np.pi / 6), 30 * np.sin(np.pi / 6)
    return Grid(width, height, (5e5, east, south, 6e6, south, -east), tiny.UTM)


@pytest.mark.parametrize("shape", [(256, 6), (5, 200), (64, 64)])
@pytest.mark.parametrize(
    "target, source",
    [
        (tiny.grid, lambda h, w: Grid(w, h, (5e5, 463.3, 0, 6e6, 0, -463.3), tiny.SINUSOIDAL)),
        (tiny.grid, lambda h, w: Grid(w, h, (5e5, 30, 0, 6e6, 0, -30), "EPSG:32654")),
        (tiny.grid, _rotated),
        (_rotated, tiny.grid),
    ],
    ids=["sinusoidal", "next zone", "from rotated", "to rotated"],
)
def test_a_warp_without_downsampling_is_an_interpolation(target, source, shape):
    target, lattice = target(*shape), source(1, 1)
    lattice = Grid(1, 1, lattice.geotransform, grids.crs_wkt(lattice.crs))
    cols, rows = np.meshgrid(np.arange(shape[1]) + 0.5, np.arange(shape[0]) + 0.5)
    places = grids.locate(target, lattice, rows.ravel(), cols.ravel())
    low = np.floor(places.min(0)).astype(int) - 3
    height, width = (int(k) for k in np.ceil(places.max(0)).astype(int) + 3 - low)
    image = np.random.default_rng(0).uniform(0, 1000, (height, width, 1)).astype(np.float32)
    on = lattice.crop(Window(int(low[0]), int(low[1]), height, width))
    warped, share = grids.warp(image, on, target, "bilinear")
    expected = ndimage.map_coordinates(image[..., 0], (places - low - 0.5).T, order=1)
    np.testing.assert_allclose(share, 1, atol=1e-6)
    np.testing.assert_allclose(warped[..., 0].ravel(), expected, atol=12)  # of up to 1000


def test_footprint_is_none_without_common_area():
    assert grids.footprint(tiny.grid(10, 10), tiny.grid(10, 10, x=9e5)) is None
