"""Gaussian point spread functions on the fine grid, aware of which pixels are valid."""

import functools
import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

# Beyond this many σ a Gaussian's weight (0.3 %) no longer matters against sensor noise.
TRUNCATE = 3.0
# Support below this is rounding: no valid pixel is within reach.
REACHED = 1e-6
# Of a band matrix, in a training step's graphs, at least; as measured, 13 to 26.
COPIES = 12


def radius(sigma: float) -> int:
    """Half width in pixels of the truncated kernel of standard deviation `sigma` pixels."""
    return math.ceil(TRUNCATE * sigma)


def kernel(sigma: float) -> np.ndarray:
    """The 1-D Gaussian of standard deviation `sigma` pixels, [2 · radius + 1], sum 1."""
    offsets = np.arange(-radius(sigma), radius(sigma) + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2) if sigma > 0 else np.ones(1)
    return (weights / weights.sum()).astype(np.float32)


# Nothing here branches on a tensor; AutoGraph would only make the graph slow to build.
@tf.autograph.experimental.do_not_convert
def blur(image: tf.Tensor, sigma: float) -> tf.Tensor:
    """Convolves each channel with a Gaussian; outside the image is 0.

    Args:
        image: [batch, height, width, channels].
        sigma: Standard deviation in pixels; 0 returns the image.

    Returns:
        Same shape and dtype.
    """
    if sigma <= 0:
        return image
    if _by_matrices(sigma, image.shape[-1]):
        return _blur_by_matrices(image, sigma)
    weights = kernel(sigma)
    channels = image.shape[-1]
    columns = tf.constant(np.tile(weights[:, None, None, None], (1, 1, channels, 1)), image.dtype)
    rows = tf.transpose(columns, (1, 0, 2, 3))
    ones = [1, 1, 1, 1]
    image = tf.nn.depthwise_conv2d(image, columns, ones, "SAME")
    return tf.nn.depthwise_conv2d(image, rows, ones, "SAME")


def least_memory(sigma: float) -> int:
    """Bytes that blurs of one width take in a training step, however small its images are."""
    rows = _most_rows(sigma)
    return COPIES * 4 * rows * (rows + 2 * radius(sigma))


def _by_matrices(sigma: float, channels: int) -> bool:
    """Whether products with band matrices are faster than a depthwise convolution.

    As measured, a pixel costs the convolution 20 + 2 · radius ns however few channels it has, and
    the products 18 ns a channel however wide the kernel is.
    """
    return 18 * channels < 20 + 2 * radius(sigma)


def _blur_by_matrices(image: tf.Tensor, sigma: float) -> tf.Tensor:
    """`blur` along the rows, then along the columns, as products of matrices."""
    blurred = _traced_once(sigma, image.dtype)(image)
    blurred.set_shape(image.shape)
    return blurred


@functools.cache
def _traced_once(sigma: float, dtype: tf.DType) -> Callable[[tf.Tensor], tf.Tensor]:
    """A graph of its own, built once for all sizes: a model has dozens of blurs."""

    def once(image):
        band = tf.constant(_band(_most_rows(sigma), sigma), image.dtype)
        for _ in range(2):
            image = tf.transpose(_blur_columns(image, band), (0, 2, 1, 3))
        return image

    @tf.custom_gradient
    def both(image):
        # A symmetric kernel with zeros outside is its own adjoint.
        return once(image), once

    return tf.function(both, [tf.TensorSpec([None] * 4, dtype)], autograph=False)


def _most_rows(sigma: float) -> int:
    """Height of the highest block of rows that is blurred at a time."""
    return max(2 * radius(sigma), 64)


def _blur_columns(image: tf.Tensor, band: tf.Tensor) -> tf.Tensor:
    """Convolves along the height: [batch, height, width, channels] to the same.

    `band` is that of the highest block, [rows, rows + 2 · radius].

    The height is cut into blocks no lower than the kernel's radius, so that a block is reached by
    its two neighbours alone: three products with parts of one band matrix.
    """
    most = band.shape[0]
    reach = (band.shape[1] - most) // 2
    batch, height, width, channels = (
        static or dynamic
        for static, dynamic in zip(image.shape, tf.unstack(tf.shape(image)), strict=True)
    )
    block = tf.maximum(reach, tf.minimum(most, height))
    count = -(-height // block)
    below = count * block - height
    blocks = tf.reshape(
        tf.pad(image, [[0, 0], [0, below], [0, 0], [0, 0]]),
        tf.stack([batch, count, block, width * channels]),
    )
    weights = band[:block, : block + 2 * reach]
    blurred = tf.matmul(weights[:, reach : reach + block], blocks)
    above = tf.matmul(weights[:reach, :reach], blocks[:, :-1, block - reach :])
    after = tf.matmul(weights[block - reach :, reach + block :], blocks[:, 1:, :reach])
    rest = block - reach
    blurred += tf.pad(above, [[0, 0], [1, 0], [0, rest], [0, 0]])
    blurred += tf.pad(after, [[0, 0], [0, 1], [rest, 0], [0, 0]])
    whole = tf.reshape(blurred, tf.stack([batch, count * block, width, channels]))
    return whole[:, :height]


@functools.cache
def _band(rows: int, sigma: float) -> np.ndarray:
    """[rows, rows + 2 · radius]: row i weighs what lies at i − radius … i + radius."""
    weights = kernel(sigma)
    band = np.zeros((rows, rows + len(weights) - 1), np.float32)
    for row in range(rows):
        band[row, row : row + len(weights)] = weights
    return band


@tf.autograph.experimental.do_not_convert
def normalised_blur(
    image: tf.Tensor, valid: tf.Tensor, sigma: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Gaussian mean over the valid pixels alone (Knutsson and Westin 1993).

    Args:
        image: [batch, height, width, channels].
        valid: [batch, height, width, 1], 1 where valid, 0 elsewhere.
        sigma: Standard deviation in pixels.

    Returns:
        The mean, same shape as `image`, 0 where no valid pixel is within reach; and the support
        [batch, height, width, 1], the share of the kernel's weight that fell on valid pixels.
    """
    valid = tf.cast(valid, image.dtype)
    support = blur(valid, sigma)
    total = blur(image * valid, sigma)
    # Two wheres: the division is safe where its result is dropped, so gradients stay finite. One
    # quotient serves all channels.
    reached = support > REACHED
    return total * tf.where(reached, 1.0 / tf.where(reached, support, 1.0), 0.0), support
