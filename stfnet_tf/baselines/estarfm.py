"""ESTARFM: STARFM with two pairs, conversion coefficients and similarity by correlation.

X. Zhu, J. Chen, F. Gao, X. Chen, J. G. Masek, "An enhanced spatial and temporal adaptive
reflectance fusion model for complex heterogeneous regions", Remote Sensing of Environment 114(11),
2610–2623, 2010, doi 10.1016/j.rse.2010.05.032.
"""

import dataclasses

import numba
import numpy as np
from scipy import stats

from stfnet_tf.baselines import base

CONVERSION_MAX = 5.0
SIGNIFICANCE = 0.05
# Neighbours with fewer similar pixels than this tell nothing about the conversion.
FEWEST_NEIGHBOURS = 6


@dataclasses.dataclass(frozen=True)
class Estarfm:
    """F̂2 = Σ_k T_k (F_k + Σ_i W_i V_i (C2 − C_k)_i) over similar neighbours i and pairs k.

    A neighbour is similar where it differs from the centre by at most 2σ / m in every band of both
    fine images. W_i falls with distance and rises with the correlation between the fine and the
    coarse spectra of the neighbour over both dates. V is the slope of fine over coarse reflectance
    of all similar neighbours on both dates, 1 where the coarse change is small or the slope not
    significant. T_k is the inverse of the coarse change in the window.

    Attributes:
        window: Width of the window in fine pixels.
        classes: m, number of land-cover classes.
        least_change: Coarse change between the pairs, in reflectance, below which V = 1.
    """

    name: str = "estarfm"
    two_sided: bool = True
    window: int = 51
    classes: int = 4
    least_change: float = 0.02

    def predict(self, inputs: base.Inputs) -> base.Prediction:
        """Predicts F2."""
        sides = inputs.sides()
        both = sides[0].valid & sides[1].valid
        if not both.any():
            return base.average([side.f + side.c2 - side.c for side in sides], sides)
        fine = np.stack([side.f for side in sides]).astype(np.float64)
        coarse = np.stack([side.c for side in sides]).astype(np.float64)
        tolerance = np.array([2 * image[both].std(axis=0) / self.classes for image in fine])
        half = self.window // 2
        # A window has a centre: one of even width is a pixel wider.
        width = 2 * half + 1
        f2 = _predict(
            fine, coarse, inputs.c2.astype(np.float64), both, half, tolerance,
            _similarity(fine, coarse), self.least_change, _critical_r2(2 * width**2),
            base.inverse_change_weights(sides, width),
        )  # fmt: skip
        if both.all():
            return base.Prediction(f2.astype(np.float32), both)
        # Where only one pair is usable there is no conversion: its coarse change stands in.
        alone = base.average([side.f + side.c2 - side.c for side in sides], sides)
        f2 = np.where(both[..., None], f2, alone.f2)
        return base.Prediction(f2.astype(np.float32), alone.valid)


def _similarity(fine: np.ndarray, coarse: np.ndarray) -> np.ndarray:
    """How well the coarse spectra of a pixel follow its fine ones, −1 to 1, [height, width].

    The correlation over the bands of both dates (equation 6); with a single band two points always
    correlate perfectly, and one minus the mean normalised difference takes its place.

    Args:
        fine: [pair, height, width, bands].
        coarse: Same shape.
    """
    if fine.shape[-1] == 1:
        difference = np.abs(fine - coarse) / (np.abs(fine + coarse) + 1e-9)
        return 1 - np.clip(difference[..., 0].mean(axis=0), 0, 1)
    x, y = (np.concatenate(list(image), axis=-1) for image in (fine, coarse))
    x, y = (image - image.mean(axis=-1, keepdims=True) for image in (x, y))
    norms = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    return np.where(norms > 0, (x * y).sum(axis=-1) / np.where(norms > 0, norms, 1), 0)


def _critical_r2(most: int) -> np.ndarray:
    """Smallest significant coefficient of determination for n = 0 … most points of a line.

    F = r² (n − 2) / (1 − r²) against its distribution with 1 and n − 2 degrees of freedom.
    """
    n = np.arange(3, most + 1)
    critical = stats.f.isf(SIGNIFICANCE, 1, n - 2)
    return np.concatenate([np.ones(3), critical / (critical + n - 2)])


@numba.njit(parallel=True, cache=True)
def _predict(
    fine, coarse, c2, valid, half, tolerance, similarity, least_change, critical_r2, pair_weights
):
    """F̂2, [height, width, bands]. fine and coarse are [pair, height, width, bands]."""
    _, height, width, bands = fine.shape
    out = np.zeros((height, width, bands))
    for row in numba.prange(height):
        rows, cols = (
            np.empty((2 * half + 1) ** 2, np.int64),
            np.empty((2 * half + 1) ** 2, np.int64),
        )
        weights = np.empty((2 * half + 1) ** 2)
        for col in range(width):
            if not valid[row, col]:
                continue
            count = 0
            for i in range(max(0, row - half), min(height, row + half + 1)):
                for j in range(max(0, col - half), min(width, col + half + 1)):
                    if valid[i, j] and _similar(fine, row, col, i, j, tolerance):
                        rows[count], cols[count] = i, j
                        count += 1
            total = 0.0
            for n in range(count):
                i, j = rows[n], cols[n]
                distance = 1 + np.sqrt(float((i - row) ** 2 + (j - col) ** 2)) / half
                weights[n] = 1 / ((1 - similarity[i, j]) * distance + 1e-7)
                total += weights[n]
            for b in range(bands):
                slope = 1.0
                if count >= FEWEST_NEIGHBOURS:
                    slope = _conversion(
                        fine, coarse, b, rows[:count], cols[:count], least_change, critical_r2
                    )
                first, second = 0.0, 0.0
                for n in range(count):
                    i, j = rows[n], cols[n]
                    first += weights[n] * (c2[i, j, b] - coarse[0, i, j, b])
                    second += weights[n] * (c2[i, j, b] - coarse[1, i, j, b])
                first = fine[0, row, col, b] + slope * first / total
                second = fine[1, row, col, b] + slope * second / total
                t1, t2 = pair_weights[0, row, col, b], pair_weights[1, row, col, b]
                out[row, col, b] = (t1 * first + t2 * second) / (t1 + t2)
    return out


@numba.njit(cache=True)
def _similar(fine, row, col, i, j, tolerance):
    for k in range(fine.shape[0]):
        for b in range(fine.shape[3]):
            if abs(fine[k, i, j, b] - fine[k, row, col, b]) > tolerance[k, b]:
                return False
    return True


@numba.njit(cache=True)
def _conversion(fine, coarse, b, rows, cols, least_change, critical_r2):
    """Slope of fine over coarse reflectance of the neighbours on both dates, or 1."""
    count = rows.size
    mean_x, mean_y, change = 0.0, 0.0, 0.0
    for n in range(count):
        i, j = rows[n], cols[n]
        mean_x += coarse[0, i, j, b] + coarse[1, i, j, b]
        mean_y += fine[0, i, j, b] + fine[1, i, j, b]
        change += coarse[1, i, j, b] - coarse[0, i, j, b]
    if abs(change) / count < least_change:
        return 1.0
    mean_x, mean_y = mean_x / (2 * count), mean_y / (2 * count)
    xx, xy, yy = 0.0, 0.0, 0.0
    for n in range(count):
        for k in range(2):
            x = coarse[k, rows[n], cols[n], b] - mean_x
            y = fine[k, rows[n], cols[n], b] - mean_y
            xx += x * x
            xy += x * y
            yy += y * y
    if not (xx > 0 and yy > 0) or xy * xy / (xx * yy) < critical_r2[2 * count]:
        return 1.0
    slope = xy / xx
    return slope if 0 <= slope <= CONVERSION_MAX else 1.0


METHOD = Estarfm()
