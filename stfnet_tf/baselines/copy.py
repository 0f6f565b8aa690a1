"""The known fine image that is nearest in time, unchanged."""

import dataclasses

from stfnet_tf.baselines import base


@dataclasses.dataclass(frozen=True)
class Copy:
    """F̂2 = F of the nearer date; where that is invalid, of the other one.

    The bar that every method must pass: it uses no coarse image at all.
    """

    name: str = "copy"
    two_sided: bool = False

    def predict(self, inputs: base.Inputs) -> base.Prediction:
        """Predicts F2."""
        images = [(inputs.sides()[0].days, inputs.f1, inputs.valid_f1)]
        if inputs.f3 is not None and inputs.valid_f3 is not None:
            images.append((inputs.sides()[1].days, inputs.f3, inputs.valid_f3))
        images.sort(key=lambda image: image[0])
        f2, valid = images[0][1], images[0][2]
        for _, image, usable in images[1:]:
            f2 = image * (usable & ~valid)[..., None] + f2 * valid[..., None]
            valid = valid | usable
        return base.Prediction((f2 * valid[..., None]).astype("float32"), valid)


METHOD = Copy()
