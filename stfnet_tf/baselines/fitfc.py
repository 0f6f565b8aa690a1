"""FIT-FC: regression model fitting, spatial filtering and residual compensation.

Q. Wang, P. M. Atkinson, "Spatio-temporal fusion for daily Sentinel-2 images", Remote Sensing of
Environment 204, 31–42, 2018, doi 10.1016/j.rse.2017.10.046.
"""

import dataclasses

import numpy as np

from stfnet_tf.baselines import base, windows


@dataclasses.dataclass(frozen=True)
class FitFc:
    """F̂2 = spatial filter of (a·F_k + b) plus the coarse residual, averaged over the sides k.

    Regression model fitting: in a window of coarse pixels around each pixel, C2 ≈ a·C_k + b by
    least squares, band by band; the fine image follows the same line. Spatial filtering: the mean
    over spectrally similar neighbours of F_k takes away the blocks that the local lines leave.
    Residual compensation: C2 − (a·C_k + b) is brought to the fine grid and filtered alike.

    Attributes:
        coarse_window: Width of the window of the regression, in coarse pixels.
        window: Width of the window of the filter, in fine pixels.
        neighbours: Number of similar pixels of the filter.
    """

    name: str = "fitfc"
    two_sided: bool = False
    coarse_window: int = 5
    window: int = 31
    neighbours: int = 20

    def predict(self, inputs: base.Inputs) -> base.Prediction:
        """Predicts F2."""
        sides = inputs.sides()
        return base.average([self._predict_from(side, inputs.ratio) for side in sides], sides)

    def _predict_from(self, side: base.Side, ratio: float) -> np.ndarray:
        size = round(self.coarse_window * ratio) // 2 * 2 + 1
        slope, intercept = _local_lines(side.c, side.c2, side.valid, size)
        residual = side.c2 - (slope * side.c + intercept)
        return windows.mean_of_similar(
            side.f, slope * side.f + intercept + residual, side.valid, self.window, self.neighbours
        )


def _local_lines(
    x: np.ndarray, y: np.ndarray, valid: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Slope and intercept of y over x in the window around each pixel, [height, width, bands].

    The slope is 1 where x does not vary.
    """
    x, y = x.astype(np.float64), y.astype(np.float64)
    # Moments around the image's mean: the running sums would lose a small variance otherwise.
    centre = x[valid].mean(axis=0) if valid.any() else np.zeros(x.shape[-1])
    d = x - centre
    mean_x, mean_y = base.masked_mean(d, valid, size), base.masked_mean(y, valid, size)
    variance = base.masked_mean(d * d, valid, size) - mean_x**2
    covariance = base.masked_mean(d * y, valid, size) - mean_x * mean_y
    varies = variance > 1e-12
    slope = np.where(varies, covariance / np.where(varies, variance, 1), 1)
    return slope, mean_y - slope * (mean_x + centre)


METHOD = FitFc()
