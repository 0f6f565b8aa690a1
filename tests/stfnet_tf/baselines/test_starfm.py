"""STARFM against a plain loop over its equations."""

import numpy as np

from stfnet_tf.baselines import starfm
from tests.stfnet_tf.baselines import landscapes


def by_the_book(sides, band, row, col, method):
    """Equations 1 and 7 to 12 of Gao et al. 2006 for one pixel."""
    half = method.window // 2
    weights, values = [], []
    for side in sides:
        f, c, c2 = (getattr(side, k)[..., band].astype(float) for k in ("f", "c", "c2"))
        spectral, temporal = np.abs(f - c), np.abs(c2 - c)
        similar = 2 * f.std() / method.classes
        limit = method.uncertainty * np.sqrt(2)
        for i in range(max(0, row - half), min(f.shape[0], row + half + 1)):
            for j in range(max(0, col - half), min(f.shape[1], col + half + 1)):
                if abs(f[i, j] - f[row, col]) > similar:
                    continue
                if (
                    spectral[i, j] >= spectral[row, col] + limit
                    and temporal[i, j] >= temporal[row, col] + limit
                ):
                    continue
                cost = (spectral[i, j] + 1e-4) * (1 + np.hypot(i - row, j - col) / half)
                if len(sides) > 1:
                    cost *= temporal[i, j] + 1e-4
                weights.append(1 / cost)
                values.append(f[i, j] + c2[i, j] - c[i, j])
    return np.dot(weights, values) / np.sum(weights)


def test_one_pair_and_two():
    inputs, _ = landscapes.scene(32)
    for pairs, sides in (("nearest", inputs.sides()[1:]), ("both", inputs.sides())):
        method = starfm.Starfm(pairs=pairs, window=11, classes=6)
        f2 = method.predict(inputs).f2
        for row, col in ((0, 0), (13, 20), (31, 7)):
            expected = [by_the_book(sides, band, row, col, method) for band in range(2)]
            np.testing.assert_allclose(f2[row, col], expected, rtol=2e-4)
