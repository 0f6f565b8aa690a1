"""The error to be expected of a fused pixel, from what the images look like around it.

Predictions are wrong in fine texture, on unusual surfaces and where much changes. How much so is
what `calibration` learns: E|e| = exp(b · x), for each band, of features x of the fine images and
of the fused one.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from stfnet_tf import combination, presets, psf

Batch = Mapping[str, tf.Tensor]

FEATURES = ("texture", "texture around", "unusual", "change", "change nearby")
FORWARD, BACKWARD, BOTH = range(3)

# σ, in fine pixels, of the blur that texture is what departs from, and of "here".
DETAIL = 1.0
NEAR = 1.5
# σ of "around", in coarse pixels.
AROUND = 0.5
# Added to features in units of the image's spread before the logarithm: less is noise.
FLOOR = 0.03
UNUSUAL_FLOOR = 0.1
# No error is expected to be larger than reflectance itself.
LARGEST = 1.0


def reach(config: presets.ModelConfig) -> tuple[int, int]:
    """How far, in pixels, the features look around in the fine images and in the fused one."""
    if config.expected_error == "disagreement":
        return 0, 0
    around = max(psf.radius(NEAR), psf.radius(AROUND * config.ratio))
    return psf.radius(DETAIL) + around, psf.radius(NEAR)


class ExpectedError(keras.layers.Layer):
    """E|F̂2 − F2| of each pixel and band, reflectance.

    Where both sides are weighted alike, it is that of `BOTH`; where one stands alone, that of the
    side; in between, E² = (1 − s) E²_both + s E²_side with s = (2w⁺ − 1)², as for two predictions
    with independent errors of one size: w² + (1 − w)² = ½ (1 − s) + s.

    Args:
        config: Bands and ratio.

    Attributes:
        calibrated: 1 once `calibration.calibrate` has set the others, else 0.
        coefficients: [3, bands, features + 1], for `FORWARD`, `BACKWARD`, `BOTH`; constant last.
        centre: Mean reflectance of F1 and F3, [2, bands].
        spread: Their standard deviation, reflectance, [2, bands].
        whitening: Maps F − centre to unit covariance / √bands, [2, bands, bands].
    """

    def __init__(self, config: presets.ModelConfig, **kwargs: Any):
        super().__init__(dtype="float32", trainable=False, **kwargs)
        self.config = config
        bands = len(config.bands)

        def made(name: str, shape: tuple[int, ...], initializer: Any) -> tf.Variable:
            return self.add_weight(name=name, shape=shape, initializer=initializer)

        identity = keras.initializers.Constant(np.tile(np.eye(bands), (2, 1, 1)))
        self.calibrated = made("calibrated", (), "zeros")
        self.coefficients = made("coefficients", (3, bands, len(FEATURES) + 1), "zeros")
        self.centre = made("centre", (2, bands), "zeros")
        self.spread = made("spread", (2, bands), "ones")
        self.whitening = made("whitening", (2, bands, bands), identity)
        self.built = True

    def features(
        self,
        side: int,
        fine: tf.Tensor,
        valid: tf.Tensor,
        predicted: tf.Tensor,
        known: tf.Tensor,
    ) -> tf.Tensor:
        """What the error of a prediction is regressed on.

        Args:
            side: `FORWARD` for F1, `BACKWARD` for F3.
            fine: The side's fine image, reflectance, [batch, height, width, bands].
            valid: Where it is valid, [batch, height, width, 1].
            predicted: The prediction that is in question, as `fine`.
            known: Where there is one, as `valid`.

        Returns:
            [batch, height, width, bands, features], natural logarithms.
        """
        spread = self.spread[side]
        detail = fine - psf.normalised_blur(fine, valid, DETAIL)[0]
        unusual = tf.tensordot(fine - self.centre[side], self.whitening[side], 1)
        unusual = tf.reduce_sum(unusual**2, -1, keepdims=True)
        here, _ = psf.normalised_blur(tf.concat([detail**2, unusual], -1), valid, NEAR)
        around, _ = psf.normalised_blur(detail**2, valid, AROUND * self.config.ratio)
        compared = valid * known
        change = (predicted - fine) * compared
        nearby, _ = psf.normalised_blur(change**2, compared, NEAR)
        amplitudes = [here[..., :-1], around, change**2, nearby]
        texture, around, change, nearby = (
            tf.math.log(tf.sqrt(tf.nn.relu(square)) / spread + FLOOR) for square in amplitudes
        )
        unusual = tf.math.log(tf.sqrt(tf.nn.relu(here[..., -1:])) + UNUSUAL_FLOOR)
        unusual = tf.broadcast_to(unusual, tf.shape(texture))
        return tf.stack([texture, around, unusual, change, nearby], -1)

    def call(self, images: Batch, fused: combination.Fused, weight: tf.Tensor) -> tf.Tensor:
        """The quality layer of a fused image; its own, from disagreement, until calibrated.

        Args:
            images: `f1 f3 valid_f1 valid_f3`.
            fused: What `combination.combine` made.
            weight: w⁺ where both sides stand; broadcasts against the fused image.

        Returns:
            [batch, height, width, bands], reflectance; NaN where nothing is known.
        """

        def expected():
            value = self._mixed(images, fused, weight)
            return tf.where(fused.sides > 0, value, np.nan)

        return tf.cond(self.calibrated > 0, expected, lambda: fused.quality)

    def _mixed(self, images: Batch, fused: combination.Fused, weight: tf.Tensor) -> tf.Tensor:
        known = tf.cast(fused.sides > 0, tf.float32)
        seen = [
            self.features(side, images[f], images[f"valid_{f}"], fused.f2, known)
            for side, f in ((FORWARD, "f1"), (BACKWARD, "f3"))
        ]
        forward = self._expected(FORWARD, seen[FORWARD])
        backward = self._expected(BACKWARD, seen[BACKWARD])
        both = self._expected(BOTH, (seen[FORWARD] + seen[BACKWARD]) / 2)
        # 1 or 0 where one side stands alone.
        weight = tf.where(fused.sides == 3, weight, tf.cast(fused.sides == 1, tf.float32))
        alone = (2 * weight - 1) ** 2
        side = tf.where(weight > 0.5, forward, backward)
        return tf.sqrt((1 - alone) * both**2 + alone * side**2)

    def _expected(self, which: int, features: tf.Tensor) -> tf.Tensor:
        coefficients = self.coefficients[which]
        logarithm = tf.reduce_sum(features * coefficients[:, :-1], -1) + coefficients[:, -1]
        return tf.exp(tf.minimum(logarithm, math.log(LARGEST)))
