"""One stream: a coarse change and its neighbouring fine image to the fine change."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from stfnet_tf import presets, psf

# Where less of the point spread function's weight falls on valid pixels, a blurred image is not
# what the coarse sensor would see.
LEAST_SUPPORT = 0.3


def build(name: str, config: presets.ModelConfig) -> keras.Model:
    """Builds one stream as a functional model.

    The fine image holds the texture that the coarse one has lost, and change depends on what is
    there to change: this is the temporal dependence of Liu et al. 2019.

    Args:
        name: "forward" maps (C12, F1) to F̂12; "backward" maps (C23, F3) to F̂23.
        config: The model's configuration.

    Returns:
        A model of a list of inputs to the fine change in the units of the coarse change, float32
        [batch, height, width, bands]. The inputs, by name:

            coarse_change, fine          [batch, height, width, bands]
            other                        with `both_fine`: the other fine image
            outer_change                 with it and `coarse_input`: the coarse change from t1 to
                                         t3, so that the network can tell how far t2 is on the way
            valid_coarse, valid_fine     with `back_projection`: [batch, height, width, 1]
    """
    bands = len(config.bands)
    names = inputs_of(config)
    inputs = {
        k: keras.Input((None, None, 1 if k.startswith("valid") else bands), name=k) for k in names
    }
    seen = [k for k in names if not k.startswith("valid")]
    if not config.coarse_input:
        seen.remove("coarse_change")
    parts = [(slice(None), name)]
    if config.per_band:
        parts = [(slice(b, b + 1), f"{name}_{band}") for b, band in enumerate(config.bands)]
    predicted = [
        _convolutions([inputs[k][..., part] for k in seen], prefix, config)
        for part, prefix in parts
    ]
    change = predicted[0]
    if len(predicted) > 1:
        change = keras.layers.Concatenate(name=f"{name}_bands", dtype="float32")(predicted)
    if config.start == "ridge":
        change = Gate(name=f"{name}_gate")(change)
    coarse = inputs["coarse_change"]
    if config.residual:
        change = keras.layers.Add(name=f"{name}_residual", dtype="float32")([change, coarse])
    if config.back_projection:
        project = BackProjection(
            config.psf_sigma, config.back_projection_sigma, name=f"{name}_back_projection"
        )
        change = project([change, coarse, inputs["valid_coarse"], inputs["valid_fine"]])
    return keras.Model(list(inputs.values()), change, name=f"{name}_stream")


def inputs_of(config: presets.ModelConfig) -> tuple[str, ...]:
    """Names of a stream's inputs, in order; see `build`."""
    names = ["coarse_change", "fine"]
    if config.both_fine:
        names += ["other", "outer_change"] if config.coarse_input else ["other"]
    if config.back_projection:
        names += ["valid_coarse", "valid_fine"]
    return tuple(names)


def output_layer(stream: keras.Model, name: str, config: presets.ModelConfig) -> keras.layers.Layer:
    """The convolution that gives a stream's change, for a start that sets its weights."""
    return stream.get_layer(f"{name}_conv{len(config.kernel_sizes)}")


def gate(stream: keras.Model, name: str) -> "Gate":
    """The gate of a stream that starts from a regression."""
    return stream.get_layer(f"{name}_gate")


def _convolutions(seen: Sequence[tf.Tensor], prefix: str, config: presets.ModelConfig) -> tf.Tensor:
    """Conv + ReLU for each of `config.filters`, then a linear convolution to the bands."""
    x = keras.layers.Concatenate(name=f"{prefix}_stack")(list(seen))
    outputs = seen[0].shape[-1]
    # What is added to the coarse change starts at 0: the trivial predictor.
    from_zero = bool(config.residual or config.back_projection)
    for k, (filters, size) in enumerate(
        zip(config.filters, config.kernel_sizes, strict=False), start=1
    ):
        x = keras.layers.Conv2D(
            filters,
            size,
            padding="same",
            activation="relu",
            kernel_initializer="glorot_uniform" if from_zero else _small(),
            name=f"{prefix}_conv{k}",
        )(x)
    return keras.layers.Conv2D(
        outputs,
        config.kernel_sizes[-1],
        padding="same",
        kernel_initializer="zeros" if from_zero else _small(),
        # Changes are small; half precision would round them.
        dtype="float32",
        name=f"{prefix}_conv{len(config.kernel_sizes)}",
    )(x)


def _small() -> keras.initializers.Initializer:
    """Uniform within ±1/√n, n the inputs of an output: what PyTorch's convolutions start from.

    So do the re-implementations of the paper, which says nothing of it. Glorot's are twice as large
    in the last layers, and where the output does not start at 0, more of what it starts with stays
    in the prediction's level, which then differs more from seed to seed.
    """
    return keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")


class Gate(keras.layers.Layer):
    """Lets pass the bands of which something can be learned, 1, and holds back others, 0.

    A few coarse pixels fit any weights. Where the evidence is that they teach nothing, a band's
    weights must stay out of it, in training too, or they would learn those pixels by heart.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(dtype="float32", **kwargs)

    def build(self, shape: Sequence[int | None]) -> None:
        """One number a band, not trained."""
        self.passes = self.add_weight(
            name="passes", shape=shape[-1:], initializer="ones", trainable=False
        )

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return inputs * self.passes


class BackProjection(keras.layers.Layer):
    """û + G ∗ (C − PSF ∗ û): what the coarse sensor saw and û does not explain is added.

    One step of iterative back-projection (Irani and Peleg 1991). The Gaussian G keeps the coarse
    change's noise at the fine grid out, and carries it over gaps in the coarse image.

    Args:
        psf_sigma: σ of the coarse sensor's point spread function, fine pixels.
        sigma: σ of G, fine pixels.
    """

    def __init__(self, psf_sigma: float, sigma: float, **kwargs: Any):
        super().__init__(dtype="float32", **kwargs)
        self.psf_sigma = psf_sigma
        self.sigma = sigma

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        """(û, C, where C is valid, where û is valid) to the corrected change."""
        change, coarse, valid_coarse, valid_fine = inputs
        blurred, support = psf.normalised_blur(change, valid_fine, self.psf_sigma)
        known = valid_coarse * tf.cast(support > LEAST_SUPPORT, tf.float32)
        missed, _ = psf.normalised_blur(coarse - blurred, known, self.sigma)
        return change + missed
