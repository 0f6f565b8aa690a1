"""FIT-FC's regression and filter against plain computations."""

import datetime

import numpy as np

from stfnet_tf.baselines import base, fitfc, windows


def test_local_lines_are_least_squares():
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0.1, 0.4, (2, 20, 22, 1))
    valid = rng.random((20, 22)) < 0.8
    slope, intercept = fitfc._local_lines(x, y, valid, 7)
    for row, col in ((0, 0), (10, 10), (19, 5)):
        window = np.s_[max(0, row - 3) : row + 4, max(0, col - 3) : col + 4]
        inside = valid[window]
        expected = np.polyfit(x[window][inside][:, 0], y[window][inside][:, 0], 1)
        found = [slope[row, col, 0], intercept[row, col, 0]]
        np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_a_constant_image_changes_by_the_difference():
    x = np.full((9, 9, 1), 0.2)
    slope, intercept = fitfc._local_lines(x, x + 0.05, np.ones((9, 9), bool), 5)
    np.testing.assert_allclose(slope, 1)
    np.testing.assert_allclose(intercept, 0.05, atol=1e-12)


def test_the_regression_looks_at_coarse_pixels():
    """Within a coarse pixel nothing varies: a window of as many fine pixels would see no slope."""
    rng = np.random.default_rng(2)
    c1 = np.kron(rng.uniform(0.1, 0.4, (6, 6, 1)), np.ones((8, 8, 1)))
    f1 = c1 + rng.normal(0, 0.01, c1.shape)
    t1 = datetime.date(2001, 1, 1)
    inputs = base.Inputs(
        f1, c1, 0.1 + 1.5 * c1, *np.ones((3, 48, 48), bool),
        dates=(t1, t1 + datetime.timedelta(8), None), ratio=8.0,
    )  # fmt: skip
    found = fitfc.FitFc(coarse_window=5, neighbours=1).predict(inputs)
    np.testing.assert_allclose(found.f2, 0.1 + 1.5 * f1, atol=1e-5)


def test_mean_of_similar_by_sorting():
    rng = np.random.default_rng(1)
    guide = rng.random((18, 16, 2)).astype(np.float32)
    image = rng.random((18, 16, 3))
    valid = rng.random((18, 16)) < 0.9
    result = windows.mean_of_similar(guide, image, valid, window=9, neighbours=6)
    for row, col in zip(*np.nonzero(valid), strict=True):
        rows, cols = np.mgrid[
            max(0, row - 4) : min(18, row + 5), max(0, col - 4) : min(16, col + 5)
        ]
        inside = valid[rows, cols]
        i, j = rows[inside], cols[inside]
        difference = ((guide[i, j] - guide[row, col]) ** 2).sum(axis=-1)
        best = np.argsort(difference, kind="stable")[:6]
        i, j = i[best], j[best]
        weights = 1 / (1 + np.hypot(i - row, j - col) / 4)
        expected = (weights[:, None] * image[i, j]).sum(axis=0) / weights.sum()
        np.testing.assert_allclose(result[row, col], expected, rtol=1e-6)
    assert (result[~valid] == 0).all()
