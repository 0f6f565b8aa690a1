import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf

from stfnet_tf import psf


@pytest.mark.parametrize("sigma", [0.7, 3.0])
def test_blur_is_scipys_gaussian(sigma):
    image = np.random.default_rng(0).normal(size=(2, 20, 30, 3)).astype(np.float32)
    expected = scipy.ndimage.gaussian_filter(
        image, (0, sigma, sigma, 0), mode="constant", radius=(0, *[psf.radius(sigma)] * 2, 0)
    )
    np.testing.assert_allclose(psf.blur(image, sigma), expected, atol=1e-5)


def test_no_blur_at_sigma_0():
    image = tf.random.stateless_normal([1, 4, 4, 1], (0, 1))
    np.testing.assert_array_equal(psf.blur(image, 0.0), image)


def test_normalised_blur_is_the_weighted_mean_of_valid_pixels():
    rng = np.random.default_rng(1)
    image = rng.normal(size=(1, 9, 9, 2)).astype(np.float32)
    valid = (rng.uniform(size=(1, 9, 9, 1)) > 0.4).astype(np.float32)
    mean, support = psf.normalised_blur(image, valid, 1.0)
    kernel = np.outer(psf.kernel(1.0), psf.kernel(1.0))
    r = psf.radius(1.0)
    for row, col in [(4, 4), (0, 0), (8, 3)]:
        total = weight = 0.0
        for i in range(-r, r + 1):
            for j in range(-r, r + 1):
                if 0 <= row + i < 9 and 0 <= col + j < 9 and valid[0, row + i, col + j, 0]:
                    total += kernel[r + i, r + j] * image[0, row + i, col + j]
                    weight += kernel[r + i, r + j]
        np.testing.assert_allclose(mean[0, row, col], total / weight, atol=1e-5)
        np.testing.assert_allclose(support[0, row, col, 0], weight, atol=1e-5)


def test_nothing_valid_gives_0_and_a_finite_gradient():
    image = tf.ones([1, 5, 5, 1])
    with tf.GradientTape() as tape:
        tape.watch(image)
        mean, _ = psf.normalised_blur(image, tf.zeros_like(image), 1.0)
    np.testing.assert_array_equal(mean, 0.0)
    assert np.all(np.isfinite(tape.gradient(mean, image)))
