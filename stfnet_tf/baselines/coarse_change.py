"""The known fine image plus the coarse change."""

import dataclasses

from stfnet_tf.baselines import base


@dataclasses.dataclass(frozen=True)
class CoarseChange:
    """F̂2 = F_k + (C2 − C_k), averaged over the sides k.

    Attributes:
        sigma: Standard deviation of the Gaussian that smooths the coarse change first, in coarse
            pixels; 0 takes it as it is. Noise, resampling artefacts and the rest of a
            misregistration lie above the coarse sensor's resolution and are no change.
    """

    name: str = "coarse_change"
    two_sided: bool = False
    sigma: float = 0.0

    def predict(self, inputs: base.Inputs) -> base.Prediction:
        """Predicts F2."""
        sides = inputs.sides()
        predictions = []
        for side in sides:
            change = side.c2 - side.c
            if self.sigma:
                change = base.masked_gaussian(change, side.valid, self.sigma * inputs.ratio)
            predictions.append(side.f + change)
        return base.average(predictions, sides)


METHOD = CoarseChange()
