import numpy as np
import pytest
import scipy.signal
import tensorflow as tf

from stfnet_tf import presets, streams


def paper(bands: str, **changes) -> presets.ModelConfig:
    return presets.build("paper", bands=tuple(bands), **changes)


@pytest.mark.parametrize(("bands", "parameters"), [("abcdef", 46358), ("a", 18433)])
def test_paper_has_the_published_number_of_parameters(bands, parameters):
    assert streams.build("forward", paper(bands)).count_params() == parameters


def test_a_network_a_band_is_b_one_band_networks():
    assert streams.build("forward", paper("abc", per_band=True)).count_params() == 3 * 18433


def test_paper_sees_17_pixels():
    stream = streams.build("forward", paper("ab"))
    # Positive weights, so that no ReLU hides a path.
    stream.set_weights([np.abs(w) + 0.01 for w in stream.get_weights()])
    change, fine = tf.ones([1, 41, 41, 2]), tf.ones([1, 41, 41, 2])
    with tf.GradientTape() as tape:
        tape.watch(fine)
        centre = stream([change, fine])[0, 20, 20, 0]
    seen = np.argwhere(np.any(tape.gradient(centre, fine)[0].numpy() != 0, -1))
    np.testing.assert_array_equal(seen.min(0), [12, 12])
    np.testing.assert_array_equal(seen.max(0), [28, 28])
    assert paper("ab").receptive_field == 17


def convolve(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """'same' cross-correlation by SciPy; x [h, w, i], kernel [k, k, i, o]."""
    out = np.zeros((*x.shape[:2], kernel.shape[3]))
    for o in range(kernel.shape[3]):
        for i in range(kernel.shape[2]):
            out[..., o] += scipy.signal.correlate2d(x[..., i], kernel[:, :, i, o], "same")
    return out + bias


def test_paper_agrees_with_scipy():
    rng = np.random.default_rng(2)
    stream = streams.build("forward", paper("ab"))
    stream.set_weights([rng.normal(0, 0.05, w.shape) for w in stream.get_weights()])
    change, fine = rng.normal(0, 0.1, (2, 1, 23, 19, 2)).astype(np.float32)
    x = np.concatenate([change[0], fine[0]], -1).astype(np.float64)
    weights = [w.astype(np.float64) for w in stream.get_weights()]
    for kernel, bias in zip(weights[0:4:2], weights[1:4:2], strict=True):
        x = np.maximum(convolve(x, kernel, bias), 0)
    expected = convolve(x, *weights[4:])
    np.testing.assert_allclose(stream([change, fine])[0], expected, atol=1e-5)


def test_paper_starts_from_weights_within_one_over_the_root_of_their_inputs():
    # Of 12, 32 and 16 channels, in windows of 81, 25 and 25 pixels.
    inputs = (972, 800, 400)
    kernels = streams.build("forward", paper("abcdef")).get_weights()[::2]
    for kernel, n in zip(kernels, inputs, strict=True):
        bound = n**-0.5
        assert np.prod(kernel.shape[:3]) == n
        assert 0.95 * bound < np.abs(kernel).max() <= bound
        # Of a uniform distribution.
        assert np.std(kernel) == pytest.approx(bound / 3**0.5, rel=0.05)


def test_untrained_residual_stream_returns_the_coarse_change():
    stream = streams.build("forward", paper("ab", residual=True))
    change, fine = np.random.default_rng(3).normal(size=(2, 1, 9, 9, 2)).astype(np.float32)
    np.testing.assert_array_equal(stream([change, fine]), change)


@pytest.mark.parametrize("per_band", [False, True])
def test_every_layer_has_a_name_of_ours(per_band):
    names = [
        layer.name
        for layer in streams.build("forward", paper("ab", per_band=per_band)).layers
        if layer.weights
    ]
    assert all(name.startswith("forward") for name in names)


def test_back_projection_gives_the_coarse_sensor_what_it_saw():
    """At scales beyond the filter, PSF ∗ F̂12 is C12, whatever the network said."""
    project = streams.BackProjection(psf_sigma=1.0, sigma=2.0)
    rng = np.random.default_rng(4)
    wrong = rng.normal(0, 0.01, (1, 60, 60, 1)).astype(np.float32)
    coarse = np.full((1, 60, 60, 1), 0.03, np.float32)
    ones = np.ones((1, 60, 60, 1), np.float32)
    corrected = project([wrong, coarse, ones, ones]).numpy()
    smooth = scipy.ndimage.gaussian_filter(corrected[0, ..., 0], 6)
    np.testing.assert_allclose(smooth, 0.03, atol=1e-3)
    # What varies from pixel to pixel stays the network's.
    detail = scipy.ndimage.laplace(corrected[0, 5:-5, 5:-5, 0])
    assert (
        np.corrcoef(detail.ravel(), scipy.ndimage.laplace(wrong[0, 5:-5, 5:-5, 0]).ravel())[0, 1]
        > 0.99
    )


def test_back_projection_carries_the_coarse_change_over_a_gap():
    project = streams.BackProjection(psf_sigma=1.0, sigma=3.0)
    ones = np.ones((1, 30, 30, 1), np.float32)
    known = ones.copy()
    known[:, 12:16, 12:16] = 0
    coarse = np.where(known > 0, 0.02, 99.0).astype(np.float32)
    corrected = project([np.zeros_like(ones), coarse, known, ones])
    np.testing.assert_allclose(corrected, 0.02, atol=1e-6)


def test_a_stream_that_does_not_see_the_coarse_change_has_fewer_weights():
    config = paper("ab", both_fine=True, coarse_input=False, back_projection=0.5)
    stream = streams.build("forward", config)
    assert stream.get_layer("forward_conv1").weights[0].shape[2] == 4
    assert stream.input_names == ["coarse_change", "fine", "other", "valid_coarse", "valid_fine"]
