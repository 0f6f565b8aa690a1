"""The two known fine images, weighted by time."""

import dataclasses

import numpy as np

from stfnet_tf.baselines import base


@dataclasses.dataclass(frozen=True)
class Linear:
    """F̂2 = F1 + (t2 − t1) / (t3 − t1) · (F3 − F1); with one fine image, that image.

    What a user without coarse images would do.
    """

    name: str = "linear"
    two_sided: bool = False

    def predict(self, inputs: base.Inputs) -> base.Prediction:
        """Predicts F2."""
        if inputs.f3 is None or inputs.valid_f3 is None:
            return base.weighted([inputs.f1], inputs.valid_f1[None, ..., None].astype(np.float32))
        before, after = (side.days for side in inputs.sides())
        # A date on the wanted day itself takes all the weight, but a masked pixel still needs some.
        span = max(before + after, 1)
        shares = (max(after / span, 1e-6), max(before / span, 1e-6))
        valids = (inputs.valid_f1, inputs.valid_f3)
        weights = np.stack([w * v[..., None] for w, v in zip(shares, valids, strict=True)])
        return base.weighted([inputs.f1, inputs.f3], weights.astype(np.float32))


METHOD = Linear()
