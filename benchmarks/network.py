"""What the `paper` network costs: floating-point operations, and the machine's rate at them."""

from collections.abc import Callable

from stfnet_tf import presets

_MATRIX = 2048


def multiplications(config: presets.ModelConfig) -> list[int]:
    """Multiply-adds a pixel of each convolution of one stream."""
    bands = len(config.bands)
    channels = [2 * bands, *config.filters, bands]
    return [
        size**2 * before * after
        for size, before, after in zip(
            config.kernel_sizes, channels[:-1], channels[1:], strict=True
        )
    ]


def forward_flops(config: presets.ModelConfig, pixels: int) -> float:
    """Operations of both streams on so many pixels; a multiply-add is two."""
    return 2.0 * 2 * sum(multiplications(config)) * pixels


def step_flops(config: presets.ModelConfig, pixels: int) -> float:
    """Operations of a training step: forward, gradients of weights, and of what layers are given.

    The first layer's images need no gradient.
    """
    each = multiplications(config)
    return 2.0 * 2 * (3 * sum(each) - each[0]) * pixels


def matrix_product() -> tuple[Callable[[], object], float]:
    """A float32 product of two square matrices, the machine's limit, and its operations."""
    import tensorflow as tf

    a, b = (tf.random.stateless_normal((_MATRIX, _MATRIX), (1, k)) for k in range(2))
    product = tf.function(lambda: tf.matmul(a, b))
    # Twice, so that it lasts long enough to be timed.
    return lambda: (product(), product().numpy()), 2.0 * 2 * _MATRIX**3
