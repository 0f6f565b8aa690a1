"""A trained StfNet behind the interface that all methods share."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_prep import errors
from stfnet_tf import presets
from stfnet_tf.baselines import base


@dataclasses.dataclass(frozen=True)
class Stfnet:
    """Both streams and their combination, as `stfnet_tf.fuse` runs them, on a whole scene at once.

    Attributes:
        model_dir: Folder of a training run.
        name: For the reports.
        bands: Names of the bands that it was trained for.
        with_changes: Whether the prediction also holds F̂12 and F̂23, in reflectance.
    """

    model_dir: str
    name: str
    bands: tuple[str, ...]
    with_changes: bool = False
    two_sided: bool = False

    @classmethod
    def of(cls, model_dir: str, name: str = "stfnet", with_changes: bool = False) -> "Stfnet":
        """The model of a folder.

        Raises:
            InputError: There is none.
        """
        config = presets.ModelConfig.load(model_dir)
        return cls(model_dir, name, tuple(config.bands), with_changes)

    def check_bands(self, bands: Sequence[str]) -> None:
        """Refuses images of other bands.

        Raises:
            InputError: They differ.
        """
        if tuple(bands) != self.bands:
            raise errors.InputError(
                f"{self.model_dir}: expected a model for the bands {', '.join(bands)}, found one "
                f"for {', '.join(self.bands)}."
            )

    def predict(self, inputs: base.Inputs) -> base.Prediction:
        """Predicts F2."""
        import tensorflow as tf

        from stfnet_tf import checkpoints

        model = checkpoints.load_model(self.model_dir)
        batch = {k: tf.constant(v[None]) for k, v in _images(inputs).items()}
        fused = model.fuse(batch)
        valid = fused.sides[0, ..., 0].numpy() > 0
        changes = None
        if self.with_changes and inputs.f3 is not None:
            streams = model({k: batch[k] for k in model.input_names}, training=False)
            forward = model.operator.add(batch["f1"], streams["f12"])
            backward = model.operator.add(batch["f3"], -streams["f23"])
            changes = (
                tf.where(streams["valid12"] > 0, forward - batch["f1"], np.nan)[0].numpy(),
                tf.where(streams["valid23"] > 0, batch["f3"] - backward, np.nan)[0].numpy(),
            )
        quality = np.where(valid[..., None], fused.quality[0].numpy(), np.nan)
        return base.Prediction(fused.f2[0].numpy(), valid, quality, changes)


def _images(inputs: base.Inputs) -> dict[str, np.ndarray]:
    """The five images and their masks, 0 where invalid; a missing later date is nowhere valid."""
    images = {}
    for name in ("f1", "f3", "c1", "c2", "c3"):
        image, valid = getattr(inputs, name), getattr(inputs, f"valid_{name}")
        if image is None:
            image, valid = np.zeros_like(inputs.f1), np.zeros(inputs.f1.shape[:2], bool)
        mask = valid[..., None].astype(np.float32)
        images[name] = image.astype(np.float32) * mask
        images[f"valid_{name}"] = mask
    return images
