"""Two predictions of one image, from before and from after, to one (Liu et al. 2019, II-D).

F̂2⁺ = g⁻¹(g(F1) + F̂12) and F̂2⁻ = g⁻¹(g(F3) − F̂23) are weighted by how little the coarse image
changed on each side: w⁺ = (1/v12) / (1/v12 + 1/v23) = v23 / (v12 + v23).
"""

import typing
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from stfnet_tf import presets, psf

# A change below this reflectance is noise, so neither side is preferred for it.
NOISE = 1e-3


class Fused(typing.NamedTuple):
    """What is known of F2; all [batch, height, width, ·].

    Attributes:
        f2: Reflectance, [.., bands]; 0 where `sides` is 0.
        quality: Expected absolute error, reflectance, [.., bands]; NaN where it is not known,
            which is where no two predictions are near to be compared.
        sides: uint8, [.., 1]: 3 both streams, 1 forward only, 2 backward only, 0 none.
    """

    f2: tf.Tensor
    quality: tf.Tensor
    sides: tf.Tensor


def absolute_change(c12: tf.Tensor, valid: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Σ|C12| over each image's valid pixels, and how many those are.

    Args:
        c12: Coarse change, [batch, height, width, bands].
        valid: [batch, height, width, 1].

    Returns:
        [batch, bands] and [batch, 1]; v12 = mean|C12| is their quotient.
    """
    valid = tf.cast(valid, c12.dtype)
    return tf.reduce_sum(tf.abs(c12) * valid, (1, 2)), tf.reduce_sum(valid, (1, 2))


def mean_absolute_change(c12: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    """v12 = mean|C12| of each image, [batch, bands]; 0 for one without a valid pixel."""
    total, count = absolute_change(c12, valid)
    return total / tf.maximum(count, 1.0)


def forward_weight(
    known: Mapping[str, tf.Tensor],
    config: presets.ModelConfig,
    v12: tf.Tensor | None = None,
    v23: tf.Tensor | None = None,
) -> tf.Tensor:
    """w⁺, the weight of F̂2⁺ where both predictions exist.

    Args:
        known: Reflectance [batch, height, width, bands] and masks [batch, height, width, 1]: `c12
            c23` with `valid12 valid23`, the changes and where the predictions stand; `f1 f3 c1 c2
            c3` with `valid_f1` …, the images.
        config: `combination` and its parameters.
        v12: With "global": the whole image's mean|C12|, [batch, bands], where `c12` is only a
            tile of it; taken from `c12` when None.
        v23: The same for `c23`.

    Returns:
        Broadcasts against [batch, height, width, bands], within 0–1.
    """
    if config.combination == "equal":
        return tf.fill([1, 1, 1, 1], 0.5)
    if config.combination == "global":
        v12 = mean_absolute_change(known["c12"], known["valid12"]) if v12 is None else v12
        v23 = mean_absolute_change(known["c23"], known["valid23"]) if v23 is None else v23
        v12, v23 = v12[:, None, None, :], v23[:, None, None, :]
        weight = (v23 + NOISE) / (v12 + v23 + 2 * NOISE)
        weight = tf.where(v12 - v23 > config.switch, 0.0, weight)
        return tf.where(v23 - v12 > config.switch, 1.0, weight)
    if config.combination == "local":
        sigma = config.combination_sigma * config.ratio
        v12, _ = psf.normalised_blur(tf.abs(known["c12"]), known["valid12"], sigma)
        v23, _ = psf.normalised_blur(tf.abs(known["c23"]), known["valid23"], sigma)
        return (v23 + NOISE) / (v12 + v23 + 2 * NOISE)
    doubt1, doubt3 = (_doubt(known, config, k) for k in "13")
    return doubt3 / (doubt1 + doubt3)


def _doubt(known: Mapping[str, tf.Tensor], config: presets.ModelConfig, date: str) -> tf.Tensor:
    """√|change| + √|discrepancy|, amplitudes around each pixel: how far to doubt one side.

    The change is the coarse one between the side's date and t2; the discrepancy is what the fine
    and the coarse image of the side's date differ by, which may have changed until t2.
    """
    sigma = config.combination_sigma * config.ratio
    fine, coarse, middle = (known[f"{k}"] for k in (f"f{date}", f"c{date}", "c2"))
    valid_change = known[f"valid_c{date}"] * known["valid_c2"]
    valid_both = known[f"valid_f{date}"] * known[f"valid_c{date}"]
    change, _ = psf.normalised_blur(middle - coarse, valid_change, sigma / 2)
    discrepancy, _ = psf.normalised_blur(fine - coarse, valid_both, sigma)
    return sum(
        (psf.normalised_blur(field**2, valid, sigma)[0] + NOISE**2) ** 0.25
        for field, valid in ((change, valid_change), (discrepancy, valid_both))
    )


def levels(
    known: Mapping[str, tf.Tensor], config: presets.ModelConfig
) -> tuple[tf.Tensor, tf.Tensor]:
    """What fine and coarse image of t1 and of t3 differ by at large, reflectance.

    Args:
        known: As for `forward_weight`.
        config: `level_sigma`.

    Returns:
        G ∗ (F1 − C1) and G ∗ (F3 − C3), [batch, height, width, bands].
    """
    sigma = config.level_sigma * config.ratio
    return tuple(  # type: ignore[return-value]
        psf.normalised_blur(
            known[f"f{k}"] - known[f"c{k}"], known[f"valid_f{k}"] * known[f"valid_c{k}"], sigma
        )[0]
        for k in "13"
    )


def combine(
    forward: tf.Tensor,
    backward: tf.Tensor,
    valid_forward: tf.Tensor,
    valid_backward: tf.Tensor,
    weight: tf.Tensor,
    sigma: float,
) -> Fused:
    """F̂2 = w⁺ F̂2⁺ + (1 − w⁺) F̂2⁻; where one side is invalid the other stands alone.

    The quality layer follows from two predictions with independent errors whose weights are
    inverse to their variances, which is optimistic, since both share the coarse image of t2 and its
    errors: the variance of their mean is w⁺ (1 − w⁺) E[(F̂2⁺ − F̂2⁻)²], the
    expectation taken over a neighbourhood; for a Gaussian, E|e| = √(2/π) · √variance. Where one
    side stands alone, its error is of the order of the disagreement itself, which is then not
    known at the pixel and is taken from the neighbourhood.

    Args:
        forward: F̂2⁺, reflectance, [batch, height, width, bands].
        backward: F̂2⁻.
        valid_forward: Where F̂2⁺ stands, bool, [batch, height, width, 1].
        valid_backward: Where F̂2⁻ stands.
        weight: w⁺, broadcasts against `forward`.
        sigma: σ, in pixels, of the neighbourhood of the quality layer.

    Returns:
        The fused image, its quality and where it comes from.
    """
    # Masks as numbers: products of broadcast masks take a third of the time of selections.
    stands, other = (tf.cast(k, forward.dtype) for k in (valid_forward, valid_backward))
    both = stands * other
    weight = both * weight + (stands - both)
    rest = other - other * weight
    # What is not valid may be no number, and would spread.
    f2 = tf.math.multiply_no_nan(forward, weight) + tf.math.multiply_no_nan(backward, rest)

    disagreement = tf.math.multiply_no_nan(forward - backward, both)
    variance, support = psf.normalised_blur(disagreement**2, both, sigma)
    share = both * weight * rest + (1.0 - both)
    quality = tf.sqrt(2.0 / 3.14159265 * share * variance)

    sides = tf.cast(valid_forward, tf.uint8) + 2 * tf.cast(valid_backward, tf.uint8)
    compared = (sides > 0) & (support > psf.REACHED)
    return Fused(f2, tf.where(compared, quality, np.nan), sides)
