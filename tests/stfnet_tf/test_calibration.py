import numpy as np
import pytest
import scipy.ndimage
import scipy.optimize
import scipy.stats
import tensorflow as tf

from stfnet_tf import (
    calibration,
    checkpoints,
    expected_error,
    model,
    presets,
    ridge_start,
    train_config,
    trainer,
)
from tests.stfnet_tf import shards, test_ridge_start

SIZE = 110
QUIET, BUSY = 0.002, 0.02


def test_regression_minimises_the_penalised_deviance():
    """Against SciPy's minimum of mean(y / μ + log μ) + STRENGTH / 2 · ‖slopes‖²."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 0.7, (4000, 3))
    y = np.exp(x @ [0.8, -0.4, 0.0] - 5) * np.abs(rng.normal(size=4000)) + 1e-5

    def loss(b):
        predictor = x @ b[:-1] + b[-1]
        penalty = calibration.STRENGTH / 2 * b[:-1] @ b[:-1]
        return np.mean(y * np.exp(-predictor) + predictor) + penalty

    expected = scipy.optimize.minimize(loss, [0, 0, 0, -5], tol=1e-12).x
    np.testing.assert_allclose(calibration.regress(x, y), expected, atol=1e-4)


def test_no_error_at_all_is_learned_as_none():
    x = np.random.default_rng(0).normal(size=(500, 2))
    found = np.exp(calibration.regress(x, np.zeros(500))[-1])
    assert found == pytest.approx(calibration.LEAST_ERROR)


def test_predictions_that_overflow_teach_nothing():
    features = np.random.default_rng(0).normal(size=(1, 4, 5, 2, 3)).astype(np.float32)
    error = np.ones((1, 4, 5, 2), np.float32)
    features[0, 0, 0, 1, 2], error[0, 1, 1, 0] = np.inf, np.nan
    known = np.ones((1, 4, 5, 1), np.float32)
    known[0, 2, 2] = 0
    x, y = calibration._sampled(None, *map(tf.constant, (features, error, known)))
    assert x.shape == (17, 2, 3) and y.shape == (17, 2)
    assert np.isfinite(x).all() and np.isfinite(y).all()


def make_scene(seed=0) -> tuple[dict[str, tf.Tensor], np.ndarray]:
    """A scene that changes at random, ten times as much in its right half, which is rough too.

    Returns:
        The images, F2 included, and where the right half is.
    """
    rng = np.random.default_rng(seed)
    busy = np.zeros((SIZE, SIZE, 1))
    busy[:, SIZE // 2 :] = 1
    amplitude = np.where(busy, BUSY, QUIET)

    def field():
        noise = rng.normal(size=(SIZE, SIZE, 2))
        return scipy.ndimage.gaussian_filter(noise, (0.6, 0.6, 0)) / 0.42

    ground = 0.2 + 2 * amplitude * field()
    images = {f"f{k}": ground + amplitude * field() for k in "123"}
    images |= {f"c{k}": test_ridge_start.see(images[f"f{k}"]) for k in "123"}
    batch = {k: tf.constant(v[None], tf.float32) for k, v in images.items()}
    batch |= {f"valid_{k}": tf.ones((1, SIZE, SIZE, 1)) for k in images}
    return batch, busy[..., 0] > 0


@pytest.mark.parametrize("supervision", ["pair", "triplet"])
def test_the_layer_tells_how_large_the_error_is_and_where(supervision):
    tile, busy = make_scene()
    config = test_ridge_start.config(supervision=supervision)
    net = model.StfNet(config)
    hidden = {k: v for k, v in tile.items() if not k.endswith("f2")}
    if supervision == "pair":
        ridge_start.apply(net, lambda: [hidden])
    # "pair" must not need F2.
    assert calibration.calibrate(net, lambda: [hidden if supervision == "pair" else tile])
    other, _ = make_scene(seed=1)
    fused = net.fuse({k: v for k, v in other.items() if not k.endswith("f2")})
    error = np.abs(fused.f2 - other["f2"])[0]
    expected = fused.quality.numpy()[0]
    inner = np.zeros_like(busy)
    inner[12:-12, 12:-12] = True
    # Around the step between the halves, neighbourhoods hold both.
    inner[:, SIZE // 2 - 8 : SIZE // 2 + 8] = False
    for part in (busy & inner, ~busy & inner):
        # "pair" guesses how the errors of three dates are related, "triplet" has seen it.
        within = 1.8 if supervision == "pair" else 1.2
        assert 1 / within < expected[part].mean() / error[part].mean() < within
    found = scipy.stats.spearmanr(expected[inner].ravel(), error[inner].ravel()).statistic
    perfect = np.broadcast_to(busy[..., None], error.shape)[inner].ravel()
    assert found > 0.8 * scipy.stats.spearmanr(perfect, error[inner].ravel()).statistic


@pytest.mark.parametrize("supervision", ["pair", "triplet"])
def test_streams_that_see_one_fine_image_make_the_one_sided_predictions(supervision):
    tile, _ = make_scene()
    config = presets.build(
        "paper", bands=("red", "nir"), supervision=supervision, expected_error="calibrated"
    )
    net = model.StfNet(config)
    assert calibration.calibrate(net, lambda: [tile])
    fused = net.fuse(tile)
    error, expected = np.abs(fused.f2 - tile["f2"])[0], fused.quality.numpy()[0]
    assert 0.5 < expected.mean() / error.mean() < 2


def test_one_side_alone_is_expected_to_be_worse():
    tile, _ = make_scene()
    net = model.StfNet(test_ridge_start.config())
    ridge_start.apply(net, lambda: [tile])
    calibration.calibrate(net, lambda: [tile])
    both = net.fuse(tile).quality.numpy()
    cloud = {**tile, "valid_f3": tf.zeros_like(tile["valid_f3"]), "f3": tf.zeros_like(tile["f3"])}
    alone = net.fuse(cloud).quality.numpy()
    assert np.all(np.isfinite(alone)) and alone.mean() > 1.2 * both.mean()


def test_without_a_later_pair_nothing_is_calibrated():
    tile, _ = make_scene()
    tile = {k: tf.zeros_like(v) if k[-1] == "3" else v for k, v in tile.items()}
    net = model.StfNet(test_ridge_start.config())
    before = net.expected_error.get_weights()
    assert not calibration.calibrate(net, lambda: [tile])
    for one, two in zip(before, net.expected_error.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_training_ends_with_a_calibrated_model(tmp_path):
    info = shards.write(tmp_path, {"train": (3, 1)})
    config = train_config.TrainConfig(patch_size=16, batch_size=2, steps=2, early_stopping=0)
    chosen = train_config.model_config(info, "plus", supervision="pair")
    result = trainer.run(config, chosen, tmp_path, tmp_path / "run")
    saved = checkpoints.load_model(tmp_path / "run")
    for net in (result.model, saved):
        assert net.expected_error.calibrated == 1
        np.testing.assert_array_equal(
            net.expected_error.coefficients, result.model.expected_error.coefficients
        )
    # Started again, it is left as it is.
    weights = (tmp_path / "run" / checkpoints.BEST).read_bytes()
    trainer.run(config, chosen, tmp_path, tmp_path / "run")
    assert (tmp_path / "run" / checkpoints.BEST).read_bytes() == weights


def test_features_and_coefficients_go_together():
    layer = expected_error.ExpectedError(test_ridge_start.config())
    assert layer.coefficients.shape == (3, 2, len(expected_error.FEATURES) + 1)
    assert not layer.trainable_variables
