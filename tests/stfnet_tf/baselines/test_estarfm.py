"""ESTARFM against a plain computation with NumPy's and SciPy's own statistics."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from stfnet_tf.baselines import estarfm
from tests.stfnet_tf.baselines import landscapes


def by_the_book(inputs, row, col, method):
    """Equations 2 to 19 of Zhu et al. 2010 for one pixel, all bands."""
    half = method.window // 2
    bands = inputs.f1.shape[-1]
    window = np.s_[max(0, row - half) : row + half + 1, max(0, col - half) : col + half + 1]
    f1, f3, c1, c2, c3 = (getattr(inputs, k).astype(float) for k in ("f1", "f3", "c1", "c2", "c3"))
    similar = np.ones(f1[window].shape[:2], bool)
    for f in (f1, f3):
        tolerance = 2 * f.reshape(-1, bands).std(axis=0) / method.classes
        similar &= (np.abs(f[window] - f[row, col]) <= tolerance).all(axis=-1)
    i, j = np.nonzero(similar)
    i, j = i + window[0].start, j + window[1].start
    x = np.concatenate([f1[i, j], f3[i, j]], axis=1)
    y = np.concatenate([c1[i, j], c3[i, j]], axis=1)
    correlation = np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(x, y, strict=True)])
    distance = 1 + np.hypot(i - row, j - col) / half
    weights = 1 / ((1 - correlation) * distance + 1e-7)
    weights /= weights.sum()
    result = np.zeros(bands)
    for b in range(bands):
        slope = 1.0
        if abs((c3 - c1)[i, j, b].mean()) >= method.least_change:
            line = stats.linregress(
                np.concatenate([c1[i, j, b], c3[i, j, b]]),
                np.concatenate([f1[i, j, b], f3[i, j, b]]),
            )
            if line.pvalue < 0.05 and 0 <= line.slope <= 5:
                slope = line.slope
        predictions, strengths = [], []
        for f, c in ((f1, c1), (f3, c3)):
            change = (c2 - c)[..., b]
            predictions.append(f[row, col, b] + slope * np.dot(weights, change[i, j]))
            strengths.append(1 / (abs(change[window].mean()) + 1e-6))
        result[b] = np.average(predictions, weights=strengths)
    return result


def test_against_the_equations():
    inputs, _ = landscapes.scene(32)
    method = estarfm.Estarfm(window=15)
    f2 = method.predict(inputs).f2
    for row, col in ((0, 0), (16, 11), (31, 31), (5, 27)):
        np.testing.assert_allclose(f2[row, col], by_the_book(inputs, row, col, method), rtol=1e-5)


def test_a_window_of_even_width_may_be_full_of_similar_pixels():
    inputs, _ = landscapes.scene(20)
    rng = np.random.default_rng(0)
    plain = {k: rng.uniform(0.2, 0.2005, (20, 20, 2)).astype(np.float32) for k in ("f1", "f3")}
    for image in plain.values():
        # Raises the tolerance for all others.
        image[0, 0] = 0.6
    inputs = dataclasses.replace(inputs, **plain, c3=inputs.c1 + np.float32(0.1))
    method = estarfm.Estarfm(window=6)
    f2 = method.predict(inputs).f2
    expected = by_the_book(inputs, 11, 10, method)
    np.testing.assert_allclose(f2[11, 10], expected, rtol=1e-5)
    np.testing.assert_array_equal(f2, estarfm.Estarfm(window=7).predict(inputs).f2)


def test_critical_r2_is_that_of_the_f_test():
    table = estarfm._critical_r2(60)
    for n in (5, 12, 60):
        r = np.sqrt(table[n])
        t = r * np.sqrt((n - 2) / (1 - r * r))
        assert 2 * stats.t.sf(t, n - 2) == pytest.approx(0.05)


def test_similarity_of_one_band():
    fine = np.array([0.2, 0.3]).reshape(2, 1, 1, 1)
    coarse = np.array([0.2, 0.1]).reshape(2, 1, 1, 1)
    # Normalised differences 0 and 0.5.
    assert estarfm._similarity(fine, coarse)[0, 0] == pytest.approx(0.75, abs=1e-6)
