"""STARFM: the spatial and temporal adaptive reflectance fusion model.

F. Gao, J. Masek, M. Schwaller, F. Hall, "On the blending of the Landsat and MODIS surface
reflectance: predicting daily Landsat surface reflectance", IEEE TGRS 44(8), 2207–2218, 2006, doi
10.1109/TGRS.2006.872081.
"""

import dataclasses
from collections.abc import Sequence

import numba
import numpy as np

from stfnet_tf.baselines import base

# Added to spectral and temporal differences, so that a perfect neighbour weighs much but not all:
# one digital number of reflectance × 10⁴.
DIFFERENCE_FLOOR = 1e-4


@dataclasses.dataclass(frozen=True)
class Starfm:
    """Weighted mean of F_k + C2 − C_k over spectrally similar neighbours, band by band.

    A neighbour is similar where its fine reflectance differs from the centre's by at most 2σ / m (σ
    of the whole band, m classes). Of these, one counts where it tells more than the centre: its
    fine–coarse or its temporal difference is no larger than the centre's plus the sensors'
    uncertainty. It weighs 1 / (S · T · D): spectral difference |F_k − C_k|, temporal difference
    |C_k − C2|, distance 1 + d / half width.

    Attributes:
        pairs: `nearest` predicts from the pair nearer in time; `both` pools the neighbours of both.
        window: Width of the window in fine pixels.
        classes: m, number of land-cover classes: more classes, stricter similarity.
        uncertainty: Of fine and of coarse reflectance.
    """

    name: str = "starfm"
    two_sided: bool = False
    pairs: str = "nearest"
    window: int = 51
    classes: int = 40
    uncertainty: float = 0.005

    def predict(self, inputs: base.Inputs) -> base.Prediction:
        """Predicts F2."""
        sides = inputs.sides()
        if self.pairs == "both" and len(sides) == 2:
            return self._predict_from(sides)
        ordered = sorted(sides, key=lambda side: side.days)
        nearest = self._predict_from(ordered[:1])
        if len(ordered) == 1 or nearest.valid.all():
            return nearest
        # The other pair stands in where the nearer one is masked.
        other = self._predict_from(ordered[1:])
        f2 = np.where(nearest.valid[..., None], nearest.f2, other.f2)
        return base.Prediction(f2, nearest.valid | other.valid)

    def _predict_from(self, sides: Sequence[base.Side]) -> base.Prediction:
        valid = np.stack([side.valid for side in sides])
        planes = []
        for band in range(sides[0].f.shape[-1]):
            f, c, c2 = (
                np.stack([getattr(side, name)[..., band] for side in sides]).astype(np.float32)
                for name in ("f", "c", "c2")
            )
            tolerance = np.array(
                [
                    2 * float(p[v].std()) / self.classes if v.any() else 0.0
                    for p, v in zip(f, valid, strict=True)
                ]
            )
            planes.append(
                _weigh_neighbours(
                    f, np.abs(f - c), c2 - c, valid, self.window // 2, tolerance,
                    self.uncertainty * np.sqrt(2), len(sides) > 1,
                )
            )  # fmt: skip
        return base.Prediction(np.stack(planes, axis=-1), np.any(valid, axis=0))


@numba.njit(parallel=True, cache=True)
def _weigh_neighbours(f, spectral, change, valid, half, tolerance, uncertainty, use_temporal):
    """F̂2 of one band from one pair or two; all images are [pair, height, width].

    With a single pair the temporal difference is left out of the weight: within a window it is
    nearly constant, and what varies is noise. With two it decides between the pairs.
    """
    pairs, height, width = f.shape
    out = np.zeros((height, width), np.float32)
    for row in numba.prange(height):
        top, bottom = max(0, row - half), min(height, row + half + 1)
        for col in range(width):
            left, right = max(0, col - half), min(width, col + half + 1)
            weights, total = 0.0, 0.0
            for k in range(pairs):
                if not valid[k, row, col]:
                    continue
                centre = f[k, row, col]
                most_spectral = spectral[k, row, col] + uncertainty
                most_temporal = abs(change[k, row, col]) + uncertainty
                for i in range(top, bottom):
                    for j in range(left, right):
                        if abs(f[k, i, j] - centre) > tolerance[k] or not valid[k, i, j]:
                            continue
                        s, t = spectral[k, i, j], abs(change[k, i, j])
                        if s >= most_spectral and t >= most_temporal:
                            continue
                        distance = 1 + np.sqrt(float((i - row) ** 2 + (j - col) ** 2)) / half
                        cost = (s + DIFFERENCE_FLOOR) * distance
                        if use_temporal:
                            cost *= t + DIFFERENCE_FLOOR
                        weights += 1 / cost
                        total += (f[k, i, j] + change[k, i, j]) / cost
            if weights > 0:
                out[row, col] = total / weights
    return out


METHOD = Starfm()
