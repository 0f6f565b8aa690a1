import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf

from stfnet_tf import combination, presets


def images(*values: float) -> list[tf.Tensor]:
    return [tf.fill([1, 6, 6, 1], value) for value in values]


def config(**changes) -> presets.ModelConfig:
    return presets.build("paper", bands=("red",), **changes)


def known(v12: float, v23: float) -> dict[str, tf.Tensor]:
    """Images of one value each, F and C alike, with the given changes."""
    values = {"1": 0.2, "2": 0.2 + v12, "3": 0.2 + v12 + v23}
    found = dict(zip(("c12", "c23"), images(v12, v23), strict=True))
    for side in "fc":
        found |= {f"{side}{k}": images(value)[0] for k, value in values.items()}
    return (
        found
        | {f"valid{k}": images(1.0)[0] for k in ("12", "23", "_f1", "_f3")}
        | {f"valid_c{k}": images(1.0)[0] for k in "123"}
    )


def weight(v12: float, v23: float, **changes) -> float:
    return float(np.mean(combination.forward_weight(known(v12, v23), config(**changes))))


@pytest.mark.parametrize("kind", ["global", "local"])
def test_the_side_that_changed_less_weighs_more(kind):
    # (1/0.03) / (1/0.03 + 1/0.01) = 0.25, up to the noise floor.
    assert weight(0.03, -0.01, combination=kind) == pytest.approx(0.25, abs=0.02)


def test_beyond_the_switch_the_nearer_date_stands_alone():
    assert weight(0.35, 0.1) == 0.0
    assert weight(0.1, -0.35) == 1.0
    assert 0 < weight(0.25, 0.1) < 0.5


def test_equal_weights():
    assert weight(0.3, 0.01, combination="equal") == 0.5


def test_discrepancy_weighs_by_roots():
    # Fine and coarse agree, so the doubts are the roots of the changes: √0.01 / (√0.01 + √0.04).
    found = weight(0.04, 0.01, combination="discrepancy")
    noise = combination.NOISE**0.5
    expected = (0.1 + noise) / (0.1 + 0.2 + 2 * noise)
    assert found == pytest.approx(expected, abs=0.01)


def test_discrepancy_doubts_the_side_whose_sensors_disagree():
    images_ = known(0.02, -0.02)
    assert np.mean(combination.forward_weight(images_, config(combination="discrepancy"))) == (
        pytest.approx(0.5, abs=1e-6)
    )
    images_["f1"] += 0.05
    assert np.mean(combination.forward_weight(images_, config(combination="discrepancy"))) < 0.4


def mean_around(image: np.ndarray, valid: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian mean over valid pixels by SciPy; 0 where none is within three sigma."""
    reach = int(np.ceil(3 * sigma))
    total, weight = (
        scipy.ndimage.gaussian_filter(
            k.astype(np.float64), (0, sigma, sigma, 0), mode="constant", radius=(0, reach, reach, 0)
        )
        for k in (image * valid, valid)
    )
    return np.where(weight > 1e-9, total / np.where(weight > 1e-9, weight, 1), 0)


def clouded() -> dict[str, np.ndarray]:
    """Random images of two bands, each behind clouds of its own."""
    rng = np.random.default_rng(0)
    shape = (1, 26, 30, 2)
    found = {}
    for name in ("f1", "f3", "c1", "c2", "c3"):
        found[name] = rng.uniform(0.05, 0.4, shape).astype(np.float32)
        cloud = scipy.ndimage.gaussian_filter(rng.normal(size=shape[1:3]), 3) > 0.05
        found[f"valid_{name}"] = (~cloud)[None, ..., None].astype(np.float32)
    for i, j, f in (("1", "2", "f1"), ("2", "3", "f3")):
        found[f"c{i}{j}"] = found[f"c{j}"] - found[f"c{i}"]
        seen = found[f"valid_c{i}"] * found[f"valid_c{j}"]
        found[f"valid{i}{j}"] = seen * found[f"valid_{f}"]
    return found


def doubt(k: dict[str, np.ndarray], date: str, sigma: float) -> np.ndarray:
    """Roots of the amplitudes of coarse change and of discrepancy, in double precision."""
    fine, coarse = f"f{date}", f"c{date}"
    changed = k[f"valid_{coarse}"] * k["valid_c2"]
    differ = k[f"valid_{fine}"] * k[f"valid_{coarse}"]
    change = mean_around(k["c2"] - k[coarse], changed, sigma / 2)
    discrepancy = mean_around(k[fine] - k[coarse], differ, sigma)
    squares = (mean_around(change**2, changed, sigma), mean_around(discrepancy**2, differ, sigma))
    return sum(np.sqrt(np.sqrt(square + combination.NOISE**2)) for square in squares)


@pytest.mark.parametrize("kind", ["global", "local", "discrepancy"])
def test_weights_behind_clouds_are_those_of_numpy(kind):
    k = clouded()
    if kind == "discrepancy":
        sides = [doubt(k, date, 0.5 * 4) for date in "13"]
    else:
        sides = []
        for side in ("12", "23"):
            change, valid = np.abs(k[f"c{side}"]), k[f"valid{side}"]
            if kind == "global":
                mean = (change * valid).sum((1, 2), keepdims=True) / valid.sum()
            else:
                mean = mean_around(change, valid, 0.5 * 4)
            sides.append(mean + combination.NOISE)
    expected = sides[1] / (sides[0] + sides[1])
    own = presets.build(
        "paper", bands=("red", "nir"), ratio=4.0, combination=kind, combination_sigma=0.5
    )
    found = combination.forward_weight({n: tf.constant(v) for n, v in k.items()}, own)
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), atol=2e-5)
    assert kind == "global" or np.ptp(expected) > 0.2


def test_levels_behind_clouds_are_those_of_scipy():
    k = clouded()
    own = presets.build("paper", bands=("red", "nir"), ratio=4.0, level_sigma=0.75)
    found = combination.levels({n: tf.constant(v) for n, v in k.items()}, own)
    for date, level in zip("13", found, strict=True):
        valid = k[f"valid_f{date}"] * k[f"valid_c{date}"]
        expected = mean_around(k[f"f{date}"] - k[f"c{date}"], valid, 0.75 * 4)
        np.testing.assert_allclose(level, expected, atol=1e-5)


def test_levels_are_the_mean_differences_of_fine_and_coarse():
    images_ = known(0.02, 0.01)
    images_["f1"] += 0.03
    level1, level3 = combination.levels(images_, config(level_sigma=0.2))
    np.testing.assert_allclose(level1, 0.03, rtol=1e-5)
    np.testing.assert_allclose(level3, 0.0, atol=1e-7)


def test_no_change_at_all_weighs_both_alike():
    assert weight(0.0, 0.0) == 0.5


def test_mean_absolute_change_counts_valid_pixels_alone():
    change = tf.constant([[[[0.1], [-0.3]], [[9.0], [0.2]]]])
    valid = tf.constant([[[[1.0], [1.0]], [[0.0], [1.0]]]])
    np.testing.assert_allclose(combination.mean_absolute_change(change, valid), [[0.2]], rtol=1e-6)
    nowhere = combination.mean_absolute_change(change, tf.zeros_like(valid))
    np.testing.assert_array_equal(nowhere, 0.0)


def test_one_side_stands_in_where_the_other_is_invalid():
    forward, backward = images(0.2, 0.4)
    valid_forward = np.ones((1, 6, 6, 1), bool)
    valid_backward = np.ones((1, 6, 6, 1), bool)
    valid_forward[0, 0], valid_backward[0, :, 0] = False, False
    # NaN where invalid must not leak.
    forward = tf.where(valid_forward, forward, np.nan)
    backward = tf.where(valid_backward, backward, np.nan)
    fused = combination.combine(
        forward, backward, tf.constant(valid_forward), tf.constant(valid_backward), 0.75, 1.0
    )
    f2, sides = fused.f2.numpy()[0, ..., 0], fused.sides.numpy()[0, ..., 0]
    np.testing.assert_allclose(f2[1:, 1:], 0.25, rtol=1e-6)
    np.testing.assert_allclose(f2[0, 1:], 0.4, rtol=1e-6)
    np.testing.assert_allclose(f2[1:, 0], 0.2, rtol=1e-6)
    assert f2[0, 0] == 0
    assert (sides[2, 2], sides[0, 2], sides[2, 0], sides[0, 0]) == (3, 2, 1, 0)
    quality = fused.quality.numpy()[0, ..., 0]
    assert np.isnan(quality[0, 0]) and np.all(np.isfinite(quality[1:, 1:]))


def test_quality_is_the_expected_error_of_two_independent_predictions():
    rng = np.random.default_rng(0)
    truth = 0.3
    s1, s2 = 0.03, 0.01
    shape = (1, 200, 200, 1)
    forward = truth + rng.normal(0, s1, shape).astype(np.float32)
    backward = truth + rng.normal(0, s2, shape).astype(np.float32)
    everywhere = tf.ones(shape, tf.bool)
    w = s2**2 / (s1**2 + s2**2)
    fused = combination.combine(forward, backward, everywhere, everywhere, w, 10.0)
    actual = np.mean(np.abs(fused.f2 - truth))
    assert np.mean(fused.quality) == pytest.approx(actual, rel=0.05)


def test_quality_of_one_side_is_the_disagreement_nearby():
    rng = np.random.default_rng(1)
    shape, sigma = (1, 20, 40, 2), 1.5
    forward, backward = rng.uniform(0.1, 0.4, (2, *shape)).astype(np.float32)
    weight = rng.uniform(0.1, 0.9, shape).astype(np.float32)
    valid_forward, valid_backward = (rng.random((2, *shape[:3], 1)) < 0.9).astype(bool)
    valid_backward[:, :, 20:] = False
    # What is not valid may be anything.
    forward = np.where(valid_forward, forward, np.nan)
    fused = combination.combine(
        *(tf.constant(k) for k in (forward, backward, valid_forward, valid_backward, weight)), sigma
    )
    both = valid_forward & valid_backward
    squares = mean_around(np.where(both, forward - backward, 0) ** 2, both, sigma)
    share = np.where(both, weight * (1 - weight), 1)
    expected = np.sqrt(2 / np.pi * share * squares)
    compared = mean_around(both, both, sigma) > 0
    known = compared & (valid_forward | valid_backward)
    expected = np.where(known, expected, np.nan)
    np.testing.assert_allclose(fused.quality, expected, atol=1e-5)
    # Far from pixels that both sides predict, nothing tells how large an error is.
    assert np.isnan(expected[:, :, 25:]).all() and np.isfinite(expected[:, :, :15]).mean() > 0.9
