"""One stream: a coarse change and its neighbouring fine image to the fine change."""

import tf_keras as keras

from stfnet_tf import presets


def build(name: str, config: presets.ModelConfig) -> keras.Model:
    """Builds one stream of Liu et al. 2019 as a functional model.

    The fine image holds the texture that the coarse one has lost, and change depends on what is
    there to change: this is the paper's temporal dependence.

    Args:
        name: "forward" maps (C12, F1) to F̂12; "backward" maps (C23, F3) to F̂23.
        config: The model's configuration.

    Returns:
        A model of two inputs, `coarse_change` and `fine`, both [batch, height, width, bands], to
        the fine change in the same units and shape, float32.
    """
    bands = len(config.bands)
    coarse_change = keras.Input((None, None, bands), name="coarse_change")
    fine = keras.Input((None, None, bands), name="fine")
    if config.per_band:
        slices = [(slice(b, b + 1), f"{name}_{band}") for b, band in enumerate(config.bands)]
    else:
        slices = [(slice(None), name)]
    predicted = [
        _convolutions(coarse_change[..., s], fine[..., s], prefix, config) for s, prefix in slices
    ]
    change = predicted[0]
    if len(predicted) > 1:
        change = keras.layers.Concatenate(name=f"{name}_bands", dtype="float32")(predicted)
    if config.residual:
        change = keras.layers.Add(name=f"{name}_residual", dtype="float32")([change, coarse_change])
    return keras.Model([coarse_change, fine], change, name=f"{name}_stream")


def _convolutions(coarse_change, fine, prefix: str, config: presets.ModelConfig):
    """Conv + ReLU for each of `config.filters`, then a linear convolution to the bands."""
    x = keras.layers.Concatenate(name=f"{prefix}_stack")([coarse_change, fine])
    outputs = coarse_change.shape[-1]
    for k, (filters, size) in enumerate(
        zip(config.filters, config.kernel_sizes, strict=False), start=1
    ):
        x = keras.layers.Conv2D(
            filters, size, padding="same", activation="relu", name=f"{prefix}_conv{k}"
        )(x)
    return keras.layers.Conv2D(
        outputs,
        config.kernel_sizes[-1],
        padding="same",
        # A residual stream starts as the trivial predictor, fine + coarse change.
        kernel_initializer="zeros" if config.residual else "glorot_uniform",
        # Changes are small; half precision would round them.
        dtype="float32",
        name=f"{prefix}_conv{len(config.kernel_sizes)}",
    )(x)
