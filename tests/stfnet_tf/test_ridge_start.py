import tracemalloc

import numpy as np
import pytest
import scipy.ndimage
import sklearn.linear_model
import tensorflow as tf

from stfnet_tf import model, presets, ridge_start, streams

BANDS = ("red", "nir")
SIGMA = 4.0  # of the coarse sensor, fine pixels


def config(**changes) -> presets.ModelConfig:
    fwhm = SIGMA * presets.FWHM_PER_SIGMA / 6
    own = {"bands": BANDS, "supervision": "pair", "ratio": 6.0, "psf_fwhm": fwhm}
    return presets.build("plus", **{**own, **changes})


def see(image: np.ndarray) -> np.ndarray:
    """What the coarse sensor sees of a fine image."""
    return scipy.ndimage.gaussian_filter(image, (SIGMA, SIGMA, 0), mode="nearest", truncate=3)


def make_tile(seed=0, size=150, cloud=False) -> dict[str, tf.Tensor]:
    """A scene whose F2 is a linear map of F1 and F3, pixel by pixel."""
    rng = np.random.default_rng(seed)
    patches = scipy.ndimage.gaussian_filter(rng.normal(size=(2, size, size, 2)), (0, 3, 3, 0))
    f1, f3 = 0.2 + 0.4 * patches
    f3 = f3 + 0.5 * (f1 - 0.2)
    weights1, weights3 = np.array([[0.2, 0.5], [0.1, 0.3]]), np.array([[0.6, -0.2], [0.0, 0.4]])
    f2 = f1 @ weights1 + f3 @ weights3 + 0.05
    made = {"f1": f1, "f2": f2, "f3": f3, "c1": see(f1), "c2": see(f2), "c3": see(f3)}
    batch = {k: tf.constant(v[None], tf.float32) for k, v in made.items()}
    valid = np.ones((1, size, size, 1), np.float32)
    batch |= {f"valid_{k}": tf.constant(valid) for k in made}
    if cloud:
        clear = valid.copy()
        clear[:, 20:50, 30:60] = 0
        batch["valid_f1"] = tf.constant(clear)
        batch["f1"] *= clear
    return batch


def test_ridge_is_scikit_learns_at_the_same_strength():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 4)) * [1, 5, 0.1, 2]
    y = x @ rng.normal(size=(4, 2)) + rng.normal(0, 2.0, (300, 2))
    moments = ridge_start.Moments(4, 2)
    for part in np.split(np.arange(300), 3):
        moments.add(x[part], y[part])
    weights, strength = ridge_start.ridge(moments, cells=300)
    standardised = (x - x.mean(0)) / x.std(0)
    for b in range(2):
        other = sklearn.linear_model.Ridge(alpha=strength[b] * 300)
        other.fit(standardised, y[:, b])
        np.testing.assert_allclose(weights[:, b], other.coef_ / x.std(0), rtol=1e-6)


def test_weights_count_samples():
    rng = np.random.default_rng(6)
    x, y, times = rng.normal(size=(50, 3)), rng.normal(size=(50, 2)), rng.integers(0, 4, 50)
    weighted, repeated = ridge_start.Moments(3, 2), ridge_start.Moments(3, 2)
    weighted.add(x, y, times[:, None])
    repeated.add(np.repeat(x, times, 0), np.repeat(y, times, 0))
    assert weighted.count == repeated.count == times.sum()
    for one, other in zip(weighted.centred(), repeated.centred(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)


def test_the_strength_is_that_of_the_greatest_marginal_likelihood():
    """Of y ~ N(0, σ² (1 + Z Zᵀ / (n s))), σ the likeliest, from the covariance of all samples."""
    rng = np.random.default_rng(7)
    n = 60
    x = rng.normal(size=(n, 4)) * [1, 5, 0.1, 2]
    y = x @ rng.normal(size=(4, 5)) * [1, 0.2, 0.1, 0.05, 0.02] + rng.normal(0, 1.0, (n, 5))
    z, centred = (x - x.mean(0)) / x.std(0), y - y.mean(0)
    likelihood = np.empty((len(ridge_start.STRENGTHS), 5))
    for k, s in enumerate(ridge_start.STRENGTHS):
        covariance = np.eye(n) + z @ z.T / (n * s)
        squares = np.einsum("ib,ij,jb->b", centred, np.linalg.inv(covariance), centred)
        likelihood[k] = -0.5 * n * np.log(squares) - 0.5 * np.linalg.slogdet(covariance)[1]
    best = ridge_start.STRENGTHS[likelihood.argmax(0)]
    least = 4 / (n - 4)
    assert len(set(best)) > 3 and best.min() < least < np.median(best)
    # However often a sample is repeated, there is no more to learn from.
    for times in (1, 10):
        moments = ridge_start.Moments(4, 5)
        moments.add(np.repeat(x, times, 0), np.repeat(y, times, 0))
        _, strength = ridge_start.ridge(moments, cells=n)
        np.testing.assert_allclose(strength, np.maximum(best, least))


def test_evidence_shrinks_noise_and_keeps_signal():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(400, 3))
    moments = ridge_start.Moments(3, 2)
    moments.add(x, np.stack([x @ [1.0, -2.0, 0.5], rng.normal(size=400)], 1))
    weights, strength = ridge_start.ridge(moments, cells=400)
    np.testing.assert_allclose(weights[:, 0], [1.0, -2.0, 0.5], atol=0.02)
    assert np.all(np.abs(weights[:, 1]) < 0.05) and strength[1] > 10 * strength[0]


def test_too_few_cells_teach_nothing():
    rng = np.random.default_rng(3)
    moments = ridge_start.Moments(12, 6)
    moments.add(rng.normal(size=(500, 12)), rng.normal(size=(500, 6)))
    weights, strength = ridge_start.ridge(moments, cells=4)
    assert not weights.any() and np.all(np.isinf(strength))


def test_what_changes_otherwise_counts_less():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(2000, 3))
    slopes = np.array([[1.0, -2.0, 0.5], [0.0, 0.3, 1.0]]).T
    y = x @ slopes + rng.normal(0, 0.1, (2000, 2))
    burnt = np.arange(2000) < 150
    y[burnt] = x[burnt] @ [[-3.0, 0.0], [2.0, 2.0], [0.0, -1.0]] - 4.0
    weights, _ = ridge_start.robust_ridge(x, y, cells=2000)
    assert np.abs(weights - slopes).max() < 0.1
    moments = ridge_start.Moments(3, 2)
    moments.add(x, y)
    assert np.abs(ridge_start.ridge(moments, cells=2000)[0] - slopes).max() > 0.25
    # Huber's M-estimate of one response, found by scikit-learn in its own way.
    other = sklearn.linear_model.HuberRegressor(epsilon=2.0, alpha=0.0).fit(x, y[:, 1])
    alone, _ = ridge_start.robust_ridge(x, y[:, 1:], cells=2000)
    np.testing.assert_allclose(alone[:, 0], other.coef_, atol=0.02)


@pytest.mark.parametrize("cells", [10**6, 400])
def test_reweighting_by_hand(cells):
    """Least squares three times, with Huber's weights from what the one before has left."""
    rng = np.random.default_rng(8)
    n = 1000
    x = rng.normal(size=(n, 2))
    y = x @ [[1.0, 0.5], [-1.0, 2.0]] + rng.normal(0, [0.1, 0.4], (n, 2))
    y[:300] += x[:300, :1] * [4.0, -3.0] + [1.0, 2.0]
    design, weights = np.column_stack([x, np.ones(n)]), np.ones(n)
    for _ in range(3):
        root = np.sqrt(weights)[:, None]
        slopes = np.linalg.lstsq(design * root, y * root, rcond=None)[0]
        used, residual = weights, y - design @ slopes
        # 0.6745 of a normal distribution's standard deviation is its median absolute deviation.
        units = residual / (np.median(np.abs(residual), 0) / 0.6745)
        weights = 2 / np.maximum(np.sqrt((units**2).mean(1)), 2)
    found, strength = ridge_start.robust_ridge(x, y, cells)
    least = max(2 / (cells * used.mean() - 2), ridge_start.STRENGTHS[0])
    np.testing.assert_allclose(strength, least, rtol=0.02)
    np.testing.assert_allclose(found, slopes[:2] / (1 + least), atol=0.008)


def test_what_is_compared_is_what_scipy_makes_of_the_images():
    own = config()
    rng = np.random.default_rng(9)
    fine = rng.uniform(0.1, 0.4, (50, 56, 3))
    change = rng.uniform(-0.1, 0.1, (50, 56, 2))
    seen_fine, seen_coarse = (
        (scipy.ndimage.gaussian_filter(rng.normal(size=(50, 56)), 4) > -0.05)[..., None]
        for _ in range(2)
    )

    def mean_around(image, valid, sigma):
        reach = int(np.ceil(3 * sigma))
        total, weight = (
            scipy.ndimage.gaussian_filter(
                k.astype(float), (sigma, sigma, 0), mode="constant", radius=(reach, reach, 0)
            )
            for k in (image * valid, valid)
        )
        return total / np.maximum(weight, 1e-9), weight

    seen, support = mean_around(fine, seen_fine, SIGMA)
    use = seen_coarse & (support > 0.5)
    # Two coarse pixels of 6 wide; a sample every 6 // 4 pixels.
    x, y = (image - mean_around(image, use, 2 * 6.0)[0] for image in (seen, change))
    given = (fine, seen_fine, change, seen_coarse)
    found = ridge_start.compared(*(tf.constant(k[None], tf.float32) for k in given), own)
    for one, expected in zip(found, (x, y), strict=True):
        np.testing.assert_allclose(one, expected[use[..., 0]], atol=2e-6)
    # Of larger coarse pixels there are fewer samples, in the middle of each quarter.
    wide = config(ratio=12.0, psf_fwhm=own.psf_fwhm / 2)
    found = ridge_start.compared(*(tf.constant(k[None], tf.float32) for k in given), wide)
    y = change - mean_around(change, use, 2 * 12.0)[0]
    np.testing.assert_allclose(found[1], y[1::3, 1::3][use[1::3, 1::3, 0]], atol=2e-6)


def test_a_cell_is_what_one_point_spread_function_covers():
    valid = np.zeros((1, 24, 20, 1), np.float32)
    valid[:, :16, :18] = 1
    assert ridge_start.independent_cells(valid, config(psf_fwhm=2.0)) == 16 * 18 / (6 * 2) ** 2


@pytest.mark.parametrize(("size", "passes"), [(18, 0), (60, 1)])
def test_a_band_of_which_nothing_can_be_learned_is_held_back(size, passes):
    net = model.StfNet(config())
    ridge_start.apply(net, lambda: [make_tile(size=size)])
    for name, stream in (("forward", net.forward_stream), ("backward", net.backward_stream)):
        np.testing.assert_array_equal(streams.gate(stream, name).passes, passes)


def test_a_wider_kernel_starts_from_its_centre():
    tile, fused = make_tile(size=60), []
    for size in (1, 3):
        net = model.StfNet(config(kernel_sizes=(size,)))
        ridge_start.apply(net, lambda: [tile])
        fused.append(net.fuse(tile).f2.numpy())
    np.testing.assert_allclose(fused[1], fused[0], atol=1e-6)
    assert np.abs(fused[0] - (tile["f1"] + tile["f3"]).numpy() / 2).max() > 0.01


def test_streams_of_one_fine_image_start_from_that_one():
    """Where F2 follows from F1 alone, seeing F3 as well adds nothing."""
    tile = make_tile()
    f2 = tile["f1"].numpy() @ np.array([[0.7, 0.2], [0.1, 0.5]], np.float32) + 0.05
    tile |= {"f2": tf.constant(f2), "c2": tf.constant(see(f2[0])[None])}
    wrong = []
    for both_fine in (False, True):
        net = model.StfNet(config(both_fine=both_fine, combination="equal", level_sigma=0.0))
        ridge_start.apply(net, lambda: [tile])
        layer = streams.output_layer(net.forward_stream, "forward", net.config)
        assert layer.kernel.shape[2] == len(BANDS) * (1 + both_fine)
        f12 = net({k: tile[k] for k in net.input_names}, training=False)["f12"]
        wrong.append(float(tf.sqrt(tf.reduce_mean((tile["f1"] + f12 - f2) ** 2))))
    still = float(tf.sqrt(tf.reduce_mean((tile["f1"] - f2) ** 2)))
    assert wrong[0] < 0.1 * still and wrong[1] < 0.1 * still


def test_a_scar_leaves_the_rest_of_the_scene_alone():
    tile = make_tile(size=240)
    f2 = tile["f2"].numpy().copy()
    f2[:, 150:200, 150:200] = 0.02
    tile["f2"] = tf.constant(f2)
    tile["c2"] = tf.constant(see(f2[0])[None])
    net = model.StfNet(config())
    ridge_start.apply(net, lambda: [{k: v for k, v in tile.items() if not k.endswith("f2")}])
    undisturbed = model.StfNet(config())
    ridge_start.apply(undisturbed, lambda: [make_tile(size=240)])
    far = np.s_[0, 30:110, 30:110]
    errors = [
        float(tf.sqrt(tf.reduce_mean((k.fuse(tile).f2 - f2)[far] ** 2))) for k in (net, undisturbed)
    ]
    assert errors[0] < 1.5 * errors[1]


def test_samples_of_a_large_scene_are_thinned_alike(monkeypatch):
    monkeypatch.setattr(ridge_start, "MOST_SAMPLES", 1000)
    samples = ridge_start._Samples()
    for tile in range(7):
        samples.add(np.full((400, 2), tile), np.full((400, 1), tile))
    x, y = samples.all()
    assert (x[:, :1] == y).all() and len(x) <= 1000
    assert [int((y == tile).sum()) for tile in range(7)] == [100] * 7


def test_what_is_thinned_out_does_not_stay_in_memory():
    x, y = np.zeros((3, 5000, 12), np.float32), np.zeros((3, 5000, 6), np.float32)
    kept = []
    tracemalloc.start()
    for most in (2**20, 1000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ridge_start, "MOST_SAMPLES", most)
            samples = ridge_start._Samples()
            for tile in zip(x, y, strict=True):
                samples.add(*map(np.copy, tile))
        kept.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert kept[1] < kept[0] / 10


# Under a cloud in F1 the backward stream stands alone, with a stand-in for F1.
@pytest.mark.parametrize(("cloud", "share"), [(False, 0.25), (True, 0.4)])
def test_a_linear_change_is_found_from_the_coarse_images_alone(cloud, share):
    tile = make_tile(cloud=cloud)
    hidden = {k: v for k, v in tile.items() if not k.endswith("f2")}
    net = model.StfNet(config())
    before = net.fuse(hidden)
    ridge_start.apply(net, lambda: [hidden])
    after = net.fuse(hidden)
    inner = np.s_[0, 30:-30, 30:-30]

    def rmse(fused):
        return float(np.sqrt(np.mean((fused.f2 - tile["f2"])[inner] ** 2)))

    assert rmse(after) < share * rmse(before)


def test_a_hidden_image_is_expected_to_be_what_the_other_tells():
    rng = np.random.default_rng(5)
    tile = make_tile()
    f1 = tile["f1"].numpy()
    mixing, constant = np.array([[0.5, 0.2], [-0.3, 1.1]]), np.array([0.05, -0.02])
    f3 = f1 @ mixing + constant + rng.normal(0, 1e-3, f1.shape)
    seen = np.ones((*f1.shape[:3], 1))
    seen[:, 20:40, 30:50] = 0
    tile["f3"] = tf.constant(np.where(seen, f3, 0), tf.float32)
    tile["valid_f3"] = tf.constant(seen, tf.float32)
    net = model.StfNet(config())
    ridge_start.apply(net, lambda: [tile])
    other = net.stream_inputs("12", tile)["other"].numpy()
    hidden = np.broadcast_to(seen == 0, f1.shape)
    assert np.abs(other - f3)[hidden].mean() < 2e-3
    np.testing.assert_array_equal(other[~hidden], tile["f3"].numpy()[~hidden])


def test_tiles_add_up():
    whole = make_tile()
    net, twice = model.StfNet(config()), model.StfNet(config())
    ridge_start.apply(net, lambda: [whole, make_tile(seed=1)])
    ridge_start.apply(twice, lambda: [make_tile(seed=1), whole])
    for one, two in zip(net.get_weights(), twice.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("bias3", "expected"), [(0.05, 1.0), (-0.05, 0.0)])
def test_persistence_is_whether_the_sensors_keep_differing(bias3, expected):
    tile = make_tile()
    tile["c1"] += 0.05
    tile["c3"] += bias3
    net = model.StfNet(config())
    ridge_start.apply(net, lambda: [tile])
    assert float(net.measured.persistence) == pytest.approx(expected, abs=0.05)


def test_persistence_by_hand():
    own = config(level_sigma=0.5)
    rng = np.random.default_rng(10)
    shape = (1, 30, 34, 2)
    tile = {}
    for k in "13":
        # The bands' spreads, and how much of the discrepancy stays, are not alike.
        tile[f"f{k}"] = 0.3 + rng.normal(0, 1, shape) * [0.02, 0.1]
    stays = rng.normal(0, 1, shape) * [0.03, 0.01]
    for k in "13":
        passes = rng.normal(0, 1, shape) * [0.03, 0.02]
        tile[f"c{k}"] = tile[f"f{k}"] - stays - passes
    known = np.ones((*shape[:3], 1))
    for k, part in (("f1", np.s_[:, :5]), ("f3", np.s_[:, -5:]), ("c1", np.s_[:, :, :4]),
                    ("c3", np.s_[:, :, -4:])):  # fmt: skip
        valid = np.ones_like(known)
        valid[part] = 0
        known *= valid
        tile[f"valid_{k}"] = valid
        tile[k] = np.where(valid > 0, tile[k], 0)
    sigma, reach = 0.5 * 6, 9
    blurred = [
        scipy.ndimage.gaussian_filter(
            k, (0, sigma, sigma, 0), mode="constant", radius=(0, reach, reach, 0)
        )
        for k in (*((tile[f"f{k}"] - tile[f"c{k}"]) * known for k in "13"), known)
    ]
    where = known[..., 0] > 0
    first, last = (k[where] / blurred[2][where] for k in blurred[:2])
    variance = np.concatenate([tile[f"f{k}"][where] for k in "13"]).var(0)
    correlation = 2 * (first * last / variance).sum() / ((first**2 + last**2) / variance).sum()
    persistence = ridge_start._Persistence(2)
    assert persistence.value() == 1.0  # until anything is measured
    persistence.add({k: tf.constant(v, tf.float32) for k, v in tile.items()}, own)
    assert 0.2 < correlation < 0.8
    expected = 2 * correlation / (1 + correlation)
    assert persistence.value() == pytest.approx(expected, abs=1e-5)


def test_training_from_the_start_makes_the_sides_agree():
    tile = make_tile()
    rng = np.random.default_rng(0)
    for k in ("c1", "c2", "c3"):
        tile[k] += rng.normal(0, 0.003, tile[k].shape).astype(np.float32)
    net = model.StfNet(config(temporal_consistency=1.0))
    ridge_start.apply(net, lambda: [tile])
    from tf_keras import optimizers

    net.compile(optimizers.Adam(1e-3))
    first = net.test_on_batch(tile, return_dict=True)
    for _ in range(20):
        net.train_on_batch(tile)
    net.reset_metrics()
    last = net.test_on_batch(tile, return_dict=True)
    assert last["loss"] < first["loss"]
    assert last["temporal_consistency"] < first["temporal_consistency"]


def test_no_tile_is_no_start():
    with pytest.raises(ValueError, match="got none"):
        ridge_start.apply(model.StfNet(config()), lambda: [])
