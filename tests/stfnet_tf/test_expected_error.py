import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf

from stfnet_tf import combination, expected_error, fusion, model, presets
from tests.stfnet_tf import test_fusion

BANDS = ("red", "nir")
SIZE = 40


def config(**changes) -> presets.ModelConfig:
    own = {"bands": BANDS, "ratio": 6.0, "psf_fwhm": 1.0, "supervision": "pair"}
    return presets.build("plus", **{**own, **changes})


def make_images(seed=0, size=SIZE) -> dict[str, np.ndarray]:
    """F1 and F3 with gaps, and a prediction with a gap of its own."""
    rng = np.random.default_rng(seed)
    made = {k: rng.uniform(0.05, 0.4, (1, size, size, 2)) for k in ("f1", "f3", "f2")}
    valid = {f"valid_{k}": rng.random((1, size, size, 1)) > 0.1 for k in ("f1", "f3")}
    made["f2"][0, 5:9, 7:20] = 0
    images = {k: v * valid.get(f"valid_{k}", 1) for k, v in (made | valid).items()}
    return {k: v.astype(np.float32) for k, v in images.items()}


def set_up(layer: expected_error.ExpectedError, seed=1) -> None:
    """Gives every variable some value."""
    rng = np.random.default_rng(seed)
    layer.centre.assign(rng.uniform(0.1, 0.3, (2, 2)))
    layer.spread.assign(rng.uniform(0.02, 0.1, (2, 2)))
    layer.whitening.assign(rng.normal(0, 10, (2, 2, 2)))
    coefficients = rng.normal(0, 0.3, (3, 2, len(expected_error.FEATURES) + 1))
    coefficients[..., -1] -= 4
    layer.coefficients.assign(coefficients)
    layer.calibrated.assign(1.0)


def mean_around(image: np.ndarray, valid: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian mean over valid pixels, by SciPy; [height, width, ·]."""
    kwargs = {"sigma": (sigma, sigma, 0), "mode": "constant", "radius": None, "truncate": 3.0}
    kwargs["radius"] = (int(np.ceil(3 * sigma)),) * 2 + (0,)
    weight = scipy.ndimage.gaussian_filter(np.float64(valid), **kwargs)
    total = scipy.ndimage.gaussian_filter(np.float64(image * valid), **kwargs)
    return total / weight


def by_hand(layer: expected_error.ExpectedError, side: int, images, known) -> np.ndarray:
    """The features by NumPy and SciPy, [height, width, bands, features]."""
    name = ("f1", "f3")[side]
    fine, valid, f2 = images[name][0], images[f"valid_{name}"][0], images["f2"][0]
    spread = layer.spread[side].numpy()
    detail = fine - mean_around(fine, valid, 1.0)
    texture = np.sqrt(mean_around(detail**2, valid, 1.5)) / spread
    around = np.sqrt(mean_around(detail**2, valid, 3.0)) / spread
    white = (fine - layer.centre[side].numpy()) @ layer.whitening[side].numpy()
    unusual = np.sqrt(mean_around((white**2).sum(-1, keepdims=True), valid, 1.5))
    both = valid * known
    change = np.abs(f2 - fine) * both
    nearby = np.sqrt(mean_around(change**2, both, 1.5)) / spread
    unusual = np.broadcast_to(np.log(unusual + 0.1), texture.shape)
    logs = [np.log(v + 0.03) for v in (texture, around, change / spread, nearby)]
    return np.stack([logs[0], logs[1], unusual, logs[2], logs[3]], -1)


def fused_of(images, sides) -> combination.Fused:
    quality = tf.fill(images["f2"].shape, 0.123)
    return combination.Fused(tf.constant(images["f2"]), quality, tf.constant(sides, tf.uint8))


@pytest.mark.parametrize("side", [expected_error.FORWARD, expected_error.BACKWARD])
def test_features_are_those_of_numpy(side):
    layer, images = expected_error.ExpectedError(config()), make_images()
    set_up(layer)
    known = (images["f2"] > 0).any(-1, keepdims=True).astype(np.float32)
    name = ("f1", "f3")[side]
    found = layer.features(side, images[name], images[f"valid_{name}"], images["f2"], known)
    np.testing.assert_allclose(found[0], by_hand(layer, side, images, known[0]), atol=2e-4)


def test_the_layer_mixes_what_both_and_each_side_expect():
    layer, images = expected_error.ExpectedError(config()), make_images()
    set_up(layer)
    sides = np.full((1, SIZE, SIZE, 1), 3)
    sides[0, 5:9, 7:20], sides[0, 20:30], sides[0, 30:] = 0, 1, 2
    weight = np.random.default_rng(3).random((1, SIZE, SIZE, 2)).astype(np.float32)
    found = layer(images, fused_of(images, sides), weight).numpy()[0]
    known = (sides[0] > 0).astype(np.float32)
    x1, x3 = (by_hand(layer, side, images, known) for side in (0, 1))
    coefficients = layer.coefficients.numpy()

    def expected(which, x):
        return np.exp((x * coefficients[which, :, :-1]).sum(-1) + coefficients[which, :, -1])

    forward, backward, both = expected(0, x1), expected(1, x3), expected(2, (x1 + x3) / 2)
    np.testing.assert_allclose(found[20:30], forward[20:30], rtol=2e-3)
    np.testing.assert_allclose(found[30:], backward[30:], rtol=2e-3)
    assert np.all(np.isnan(found[5:9, 7:20]))
    alone = (2 * weight[0] - 1) ** 2
    mixed = np.sqrt(
        (1 - alone) * both**2 + alone * np.where(weight[0] > 0.5, forward, backward) ** 2
    )
    np.testing.assert_allclose(found[:5], mixed[:5], rtol=2e-3)


def test_until_calibrated_it_is_the_disagreement():
    layer, images = expected_error.ExpectedError(config()), make_images()
    sides = np.full((1, SIZE, SIZE, 1), 3)
    np.testing.assert_allclose(layer(images, fused_of(images, sides), 0.5), 0.123)


def test_what_is_masked_changes_nothing():
    layer, images = expected_error.ExpectedError(config()), make_images()
    set_up(layer)
    sides = np.full((1, SIZE, SIZE, 1), 3)
    sides[0, 5:9, 7:20] = 0
    before = layer(images, fused_of(images, sides), 0.4)
    other = {k: v.copy() for k, v in images.items()}
    for k in ("f1", "f3"):
        other[k][np.broadcast_to(images[f"valid_{k}"] == 0, other[k].shape)] = 0.9
    other["f2"][0, 5:9, 7:20] = 0.9
    after = layer(other, fused_of(other, sides), 0.4)
    valid = (images["valid_f1"] * images["valid_f3"])[0, ..., 0] > 0
    np.testing.assert_allclose(after[0].numpy()[valid], before[0].numpy()[valid], rtol=1e-5)


def test_a_tile_with_its_halo_equals_the_whole_image():
    cfg = config(ratio=2.0, psf_fwhm=0.5, level_sigma=0.5, combination_sigma=0.5)
    net = model.StfNet(cfg)
    set_up(net.expected_error)
    halo = fusion.halo(cfg)
    rng = np.random.default_rng(0)
    size = 2 * halo + 24
    batch = {k: rng.uniform(0.05, 0.4, (1, size, size, 2)) for k in ("f1", "f3", "c1", "c2", "c3")}
    batch |= {f"valid_{k}": rng.random((1, size, size, 1)) > 0.1 for k in tuple(batch)}
    batch = {k: v.astype(np.float32) * batch.get(f"valid_{k}", 1) for k, v in batch.items()}
    whole = net.fuse(batch).quality.numpy()
    tile = net.fuse({k: v[:, 5 : 5 + 2 * halo + 6] for k, v in batch.items()}).quality.numpy()
    assert np.isfinite(whole).mean() > 0.9
    np.testing.assert_allclose(
        tile[:, halo : halo + 6], whole[:, 5 + halo : 5 + halo + 6], rtol=1e-4, atol=1e-6
    )


def test_the_exported_graph_holds_the_calibration(tmp_path):
    info = test_fusion.make_info()
    net = model.StfNet(config(ratio=info.ratio))
    set_up(net.expected_error)
    made, images = fusion.Fusion(net, info), test_fusion.make_images()
    module = tf.Module()
    module.parameters = list(net.variables)
    tf.saved_model.save(module, str(tmp_path), signatures=made.signatures)
    loaded = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    found = loaded(**{k: tf.constant(v) for k, v in images.items()})["quality"]
    expected = made.serving_default(**images)["quality"]
    np.testing.assert_array_equal(found, expected)
    net.expected_error.calibrated.assign(0.0)
    assert np.any(made.serving_default(**images)["quality"] != expected)
