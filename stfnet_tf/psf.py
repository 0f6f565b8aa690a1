"""Gaussian point spread functions on the fine grid, aware of which pixels are valid."""

import math

import numpy as np
import tensorflow as tf

# Beyond this many σ a Gaussian's weight (0.3 %) no longer matters against sensor noise.
TRUNCATE = 3.0
# Support below this is rounding: no valid pixel is within reach.
REACHED = 1e-6


def radius(sigma: float) -> int:
    """Half width in pixels of the truncated kernel of standard deviation `sigma` pixels."""
    return math.ceil(TRUNCATE * sigma)


def kernel(sigma: float) -> np.ndarray:
    """The 1-D Gaussian of standard deviation `sigma` pixels, [2 · radius + 1], sum 1."""
    offsets = np.arange(-radius(sigma), radius(sigma) + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2) if sigma > 0 else np.ones(1)
    return (weights / weights.sum()).astype(np.float32)


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
    weights = kernel(sigma)
    channels = image.shape[-1]
    columns = tf.constant(np.tile(weights[:, None, None, None], (1, 1, channels, 1)), image.dtype)
    rows = tf.transpose(columns, (1, 0, 2, 3))
    ones = [1, 1, 1, 1]
    image = tf.nn.depthwise_conv2d(image, columns, ones, "SAME")
    return tf.nn.depthwise_conv2d(image, rows, ones, "SAME")


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
    # Two wheres: the division is safe where its result is dropped, so gradients stay finite.
    reached = support > REACHED
    mean = tf.where(reached, total / tf.where(reached, support, 1.0), 0.0)
    return mean, support
