import numpy as np
import pytest

from data_prep import observation
from data_prep.observation import Atmosphere, Clouds, Lattice, Sensor


def test_footprints_are_gaussian_means_at_sub_pixel_places():
    # The mean of a plane under a symmetric kernel is its value at the centre; that of a square
    # about it is larger by the variance.
    r, c = np.mgrid[0:120, 0:120] + 0.5
    image = np.stack([2 * r - 3 * c, (r - 60.3) ** 2], -1).astype(np.float64)
    seen = observation.footprints(image, np.array([60.3]), np.array([50.8]), sigma=6.0)
    assert seen[0, 0] == pytest.approx(2 * 60.3 - 3 * 50.8, abs=2e-3)
    assert seen[0, 1] == pytest.approx(36.0, rel=5e-3)


def test_footprints_at_the_border_are_means_of_what_is_there():
    image = np.full((40, 40, 1), 0.3)
    rows, cols = np.array([0.2, 39.9]), np.array([39.5, 0.1])
    np.testing.assert_allclose(observation.footprints(image, rows, cols, 5.0), 0.3, atol=1e-6)


@pytest.mark.parametrize("shear", [-2, 0, 1])
def test_a_sheared_lattice_gives_back_a_smooth_field(shear):
    # Ground position of pixel (i, j): x = j − shear · i + …, y = i, in pixels.
    i, j = np.mgrid[0:24, 0:60] + 0.5

    def field(y, x):
        return np.sin(y / 2.2) + np.cos(x / 2.5)

    values = field(i, j + shear * i)[..., None]
    values[:2] = np.nan  # no data beyond the border
    lattice = Lattice(values, shear)
    rows, cols = np.meshgrid(np.linspace(8, 16, 31), np.linspace(20, 40, 33), indexing="ij")
    np.testing.assert_allclose(
        lattice.at(rows, cols)[..., 0], field(rows, cols + shear * rows), atol=5e-3
    )


def test_the_best_shear_makes_rows_upright():
    for skew in (-1.45, -0.4, 0.0, 0.8, 2.2):
        row_step, col_step = np.array([18.5, 18.5 * skew]), np.array([0.0, 18.5])
        shear = observation.best_shear(row_step, col_step)
        lengths = [np.hypot(*(row_step - k * col_step)) for k in range(-4, 5)]
        assert shear == range(-4, 5)[int(np.argmin(lengths))]


def test_clouds_cover_their_share_and_shadows_lie_beside_them():
    clouds = Clouds((400, 500), 0.12, np.random.default_rng(4))
    cloud, shadow = clouds.opacity(0, 400)
    assert (cloud > 0).mean() == pytest.approx(0.12, abs=0.03)
    # The shadow is the cloud, 15 rows down and 10 columns to the left.
    np.testing.assert_allclose(shadow[15:, :-10], cloud[:-15, 10:], atol=1e-6)
    part = clouds.opacity(100, 180)
    np.testing.assert_allclose(part[0], cloud[100:180], atol=1e-4)
    np.testing.assert_allclose(part[1], shadow[100:180], atol=1e-4)


def test_a_clear_sky_changes_nothing():
    cloud, shadow = Clouds((50, 60), 0.0, np.random.default_rng(0)).opacity(0, 50)
    surface = np.random.default_rng(1).uniform(0, 0.5, (50, 60, 6)).astype(np.float32)
    np.testing.assert_array_equal(observation.under_clouds(surface, cloud, shadow), surface)


def test_clouds_are_bright_shadows_dark_and_the_mask_says_so():
    surface = np.broadcast_to(
        np.array([0.05, 0.08, 0.08, 0.3, 0.25, 0.2], np.float32), (40, 40, 6)
    ).copy()
    surface[:10] = [0.05, 0.05, 0.04, 0.02, 0.01, 0.01]
    cloud, shadow = np.zeros((40, 40), np.float32), np.zeros((40, 40), np.float32)
    cloud[20:25, 20:25] = 1
    shadow[32, 10] = 1
    light = observation.under_clouds(surface, cloud, shadow)
    assert (light[22, 22, :4] > 0.5).all()
    np.testing.assert_allclose(light[32, 10] / surface[32, 10], 1 - observation._SHADE, rtol=1e-5)
    expected = np.full((40, 40), observation.CLEAR)
    expected[:10] = observation.WATER
    expected[30:35, 8:13] = observation.SHADOW  # grown by two pixels
    expected[18:27, 18:27] = observation.CLOUD
    np.testing.assert_array_equal(observation.cloud_mask(surface, cloud, shadow), expected)


def test_a_sensor_adds_its_response_the_atmosphere_and_noise():
    sensor = Sensor((1.1, 0.9), (0.01, -0.02), (0.005, 0.001), 1.0)
    atmosphere = Atmosphere(np.array([1.02, 0.99]), np.array([0.003, 0.0]))
    light = np.full((200, 200, 2), 0.2, np.float32)
    seen = observation.measure(light, sensor, atmosphere, np.random.default_rng(0))
    expected = [0.2 * 1.1 * 1.02 + 0.013, 0.2 * 0.9 * 0.99 - 0.02]
    np.testing.assert_allclose(seen.mean((0, 1)), expected, atol=2e-4)
    np.testing.assert_allclose(seen.std((0, 1)), [0.005, 0.001], rtol=0.03)
