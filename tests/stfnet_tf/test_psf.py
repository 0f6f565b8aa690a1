import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf

from stfnet_tf import psf


@pytest.mark.parametrize("sigma", [0.7, 3.0])
def test_blur_is_scipys_gaussian(sigma):
    image = np.random.default_rng(0).normal(size=(2, 20, 30, 3)).astype(np.float32)
    # Three sigma wide, rounded up to whole pixels.
    reach = {0.7: 3, 3.0: 9}[sigma]
    expected = scipy.ndimage.gaussian_filter(
        image, (0, sigma, sigma, 0), mode="constant", radius=(0, reach, reach, 0)
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


def test_one_valid_pixel_counts_as_far_as_the_kernel_reaches():
    image = np.random.default_rng(2).normal(size=(1, 15, 15, 1)).astype(np.float32)
    valid = np.zeros_like(image)
    valid[0, 7, 7] = 1
    mean, _ = psf.normalised_blur(image, valid, 2.0)
    within = np.zeros((15, 15), bool)
    within[1:14, 1:14] = True
    np.testing.assert_allclose(mean[0, ..., 0], np.where(within, image[0, 7, 7], 0), rtol=1e-5)


def test_nothing_valid_gives_0_and_a_finite_gradient():
    image = tf.ones([1, 5, 5, 1])
    with tf.GradientTape() as tape:
        tape.watch(image)
        mean, _ = psf.normalised_blur(image, tf.zeros_like(image), 1.0)
    np.testing.assert_array_equal(mean, 0.0)
    assert np.all(np.isfinite(tape.gradient(mean, image)))


@pytest.mark.parametrize("shape", [(2, 70, 45, 1), (1, 300, 7, 3), (1, 1, 2, 1), (2, 33, 32, 6)])
@pytest.mark.parametrize("sigma", [0.8, 5.0, 30.0])
@pytest.mark.parametrize("by_matrices", [False, True])
def test_either_way_of_blurring_is_the_convolution(monkeypatch, shape, sigma, by_matrices):
    monkeypatch.setattr(psf, "_by_matrices", lambda *_: by_matrices)
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    expected = image.astype(np.float64)
    for axis in (1, 2):
        weights = psf.kernel(sigma).astype(np.float64)
        expected = scipy.ndimage.correlate1d(expected, weights, axis, mode="constant")
    blur = tf.function(
        lambda x: psf.blur(x, sigma),
        input_signature=[tf.TensorSpec([None, None, None, shape[-1]])],
    )
    for found in (psf.blur(tf.constant(image), sigma), blur(image)):
        assert found.shape == shape
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_gradient_of_a_wide_blur_is_that_of_the_convolution(monkeypatch):
    image = tf.constant(np.random.default_rng(0).normal(size=(1, 50, 40, 2)), tf.float32)
    found = []
    for by_matrices in (True, False):
        monkeypatch.setattr(psf, "_by_matrices", lambda *_, chosen=by_matrices: chosen)
        with tf.GradientTape() as tape:
            tape.watch(image)
            loss = tf.reduce_sum(psf.blur(image, 6.0) ** 3)
        found.append(tape.gradient(loss, image).numpy())
    np.testing.assert_allclose(*found, atol=1e-7)
    assert np.abs(found[0]).max() > 1e-4
