import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from data_prep import records
from stfnet_tf import model, presets, psf

BANDS = ("red", "nir")
ALL_TERMS = {"coarse_consistency": 1.0, "time_reversal": 1.0, "rest": 1.0}


def make_batch(seed=0, batch=2, size=20, share=0.8) -> dict[str, np.ndarray]:
    """A triplet whose coarse images are the fine ones, dimmer, by a noisy sensor."""
    rng = np.random.default_rng(seed)
    made = {}
    for k in ("1", "2", "3"):
        made["f" + k] = rng.uniform(0.02, 0.5, (batch, size, size, len(BANDS)))
        made["c" + k] = 0.6 * made["f" + k] + rng.normal(0, 0.01, made["f" + k].shape)
    for k in records.IMAGES:
        valid = rng.uniform(size=(batch, size, size, 1)) < share
        made[k] *= valid
        made[f"valid_{k}"] = valid
    return {k: v.astype(np.float32) for k, v in made.items()}


class Oracle(keras.layers.Layer):
    """A stream that knows the truth: it looks up which change it is shown.

    Args:
        known: Pairs of a coarse change and the fine change that belongs to it.
        gain: Of the model.
    """

    def __init__(self, known, gain):
        super().__init__()
        self.known = known
        self.gain = gain

    def call(self, inputs):
        shown = inputs[0] / self.gain
        found = tf.zeros_like(shown)
        for coarse, fine in self.known:
            same = tf.reduce_max(tf.abs(shown - coarse), axis=(1, 2, 3), keepdims=True) < 1e-5
            found = tf.where(same, fine, found)
        return found * self.gain


def build(**changes) -> model.StfNet:
    return model.StfNet(presets.build("paper", **{"bands": BANDS, **changes}))


def masked_mse(predicted, true, valid):
    weight = np.broadcast_to(valid, predicted.shape)
    return np.sum(weight * (predicted - true) ** 2) / np.sum(weight)


@pytest.mark.parametrize("supervision", ["pair", "triplet"])
def test_losses_are_the_equations(supervision):
    """Liu et al. 2019, eq. for the loss, computed again from the streams by NumPy."""
    net, batch = build(supervision=supervision, temporal_consistency=0.5), make_batch()

    def stream(which, coarse, fine):
        gain = net.config.gain
        return which([coarse * gain, fine * gain]).numpy() / gain

    b = batch
    v12, v23, v13 = (b[f"valid_c{i}"] * b[f"valid_c{j}"] for i, j in ("12", "23", "13"))
    c12, c23, c13 = (
        v * (b[f"c{j}"] - b[f"c{i}"]) for v, (i, j) in ((v12, "12"), (v23, "23"), (v13, "13"))
    )
    f13 = b["f3"] - b["f1"]
    f12 = stream(net.forward_stream, c12, b["f1"])
    f23 = stream(net.backward_stream, c23, b["f3"])
    v1, v2, v3 = (b[f"valid_f{i}"] for i in "123")
    consistency = masked_mse(f12 + f23, f13, v12 * v23 * v1 * v3)
    if supervision == "pair":
        reconstruction = masked_mse(
            stream(net.forward_stream, c13, b["f1"]), f13, v13 * v1 * v3
        ) + masked_mse(stream(net.backward_stream, c13, b["f3"]), f13, v13 * v1 * v3)
    else:
        reconstruction = masked_mse(f12, b["f2"] - b["f1"], v12 * v1 * v2) + masked_mse(
            f23, b["f3"] - b["f2"], v23 * v2 * v3
        )
    net.compile(keras.optimizers.SGD(0.0))
    found = net.test_on_batch(batch, return_dict=True)
    assert found["reconstruction"] == pytest.approx(reconstruction, rel=1e-4)
    assert found["temporal_consistency"] == pytest.approx(consistency, rel=1e-4)
    assert found["loss"] == pytest.approx(reconstruction + 0.5 * consistency, rel=1e-4)
    assert found["consistency"] == pytest.approx(np.sqrt(consistency), rel=1e-4)


@pytest.mark.parametrize("supervision", ["pair", "triplet"])
def test_an_oracle_has_no_loss(monkeypatch, supervision):
    """Streams replaced by the truth, coarse images by what the coarse sensor sees of it."""
    options = {"supervision": supervision, "ratio": 4.0, **ALL_TERMS}
    batch, sigma = make_batch(share=1.1), build(**options).config.psf_sigma
    for k in "123":
        batch[f"c{k}"] = psf.normalised_blur(batch[f"f{k}"], batch[f"valid_f{k}"], sigma)[0].numpy()
    known = [
        (sign * (batch[f"c{j}"] - batch[f"c{i}"]), sign * (batch[f"f{j}"] - batch[f"f{i}"]))
        for i, j in ("12", "23", "13")
        for sign in (1, -1)
    ]
    monkeypatch.setattr(model.streams, "build", lambda name, config: Oracle(known, config.gain))
    net = build(**options)
    net.compile(keras.optimizers.SGD(0.0))
    found = net.test_on_batch(batch, return_dict=True)
    for name in ("loss", "reconstruction", "temporal_consistency", *ALL_TERMS):
        assert found[name] < 1e-12, name
    for name in ("rmse", "consistency"):
        assert found[name] < 1e-6, name
    predicted = net({k: batch[k] for k in net.input_names})
    forward, backward = net._both_sides(batch, predicted)
    np.testing.assert_allclose(forward, batch["f2"], atol=1e-6)
    np.testing.assert_allclose(backward, batch["f2"], atol=1e-6)


def test_rmse_is_that_of_the_fused_image_over_valid_pixels():
    net, batch = build(supervision="triplet"), make_batch(seed=3)
    net.compile(keras.optimizers.SGD(0.0))
    found = net.test_on_batch(batch, return_dict=True)
    fused = net.fuse(batch)
    valid = (fused.sides.numpy() > 0) * batch["valid_f2"]
    expected = np.sqrt(masked_mse(fused.f2.numpy(), batch["f2"], valid))
    assert found["rmse"] == pytest.approx(expected, rel=1e-4)
    red = np.sqrt(masked_mse(fused.f2.numpy()[..., :1], batch["f2"][..., :1], valid))
    assert found["rmse_red"] == pytest.approx(red, rel=1e-4)


@pytest.mark.parametrize("supervision", ["pair", "triplet"])
@pytest.mark.parametrize("change", ["difference", "log", "logit"])
def test_gradients_are_finite_on_a_fully_masked_batch(supervision, change):
    net = build(supervision=supervision, change=change, coarse_filter=0.2, **ALL_TERMS)
    batch = make_batch(share=-1.0)
    with tf.GradientTape() as tape:
        terms, _ = net.loss_terms(batch, training=True)
        loss = net.loss_weights.total(terms)["loss"]
    assert float(loss) == 0.0
    for gradient in tape.gradient(loss, net.trainable_variables):
        assert gradient is None or np.all(np.isfinite(gradient))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"residual": True, "psf_fwhm": 0.1, "combination": "local", **ALL_TERMS},
        {"per_band": True},
        {"shared_streams": True},
        {"change": "log", "gain": 1.0},
    ],
    ids=["paper", "every-term", "per-band", "shared", "log"],
)
@pytest.mark.parametrize("supervision", ["pair", "triplet"])
def test_training_lowers_the_loss(changes, supervision):
    keras.utils.set_random_seed(1)
    net, batch = build(supervision=supervision, **changes), make_batch()
    net.compile(keras.optimizers.Adam(3e-3))
    values = [net.train_on_batch(batch, return_dict=True)["loss"] for _ in range(15)]
    net.reset_metrics()
    assert net.test_on_batch(batch, return_dict=True)["loss"] < 0.9 * values[0]


def test_shared_streams_have_half_the_weights():
    assert build(shared_streams=True).count_params() * 2 == build().count_params()


def test_keras_counts_no_running_sum_among_the_weights():
    net = build()
    net.compile("adam")
    net.train_on_batch(make_batch())
    assert net.count_params() == sum(np.prod(v.shape) for v in net.trainable_variables)


@pytest.mark.parametrize(
    "changes",
    [
        {"coarse_filter": 0.1, "combination": "local", "combination_sigma": 0.1},
        {"level_sigma": 0.8, "combination": "equal", "psf_fwhm": 1.0},
        {"level_sigma": 0.8, "back_projection": 0.1, "combination": "discrepancy"},
        {"combination": "local", "combination_sigma": 1.5, "back_projection": 0.85},
    ],
    ids=["filtered", "level", "level-and-back-projection", "local-and-back-projection"],
)
def test_a_tile_with_its_halo_equals_the_whole_image(changes):
    net = build(**{"psf_fwhm": 0.3, "kernel_sizes": (3, 1, 1), **changes})
    if net.config.level_sigma:
        net.measured.persistence.assign(0.3)
    from stfnet_tf import fusion

    halo = fusion.halo(net.config)
    batch = make_batch(size=2 * halo + 24, batch=1)
    # A gap that ends just outside the tile: part of what fills it comes from there.
    batch["valid_c2"][:, 5 : halo + 15] = 0
    batch["c2"] *= batch["valid_c2"]
    whole = net.fuse(batch)
    tile = net.fuse({k: v[:, 5 : 5 + 2 * halo + 6, :] for k, v in batch.items()})
    inside = slice(halo, halo + 6)
    for name in ("f2", "quality", "sides"):
        np.testing.assert_allclose(
            getattr(tile, name)[:, inside],
            getattr(whole, name)[:, 5 + halo : 5 + halo + 6],
            atol=1e-6,
        )
