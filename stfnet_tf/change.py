"""The change operator: what "the change between two images" means.

For any invertible pointwise g, D_ij = g(F_j) − g(F_i) is additive, so D13 = D12 + D23 holds
exactly, and temporal consistency with it.
"""

import abc

import tensorflow as tf

# Reflectance below this is noise; it bounds the slope of log and logit.
FLOOR = 0.01


class ChangeOperator(abc.ABC):
    """An invertible pointwise map g of reflectance; float tensors of any shape."""

    @abc.abstractmethod
    def transform(self, reflectance: tf.Tensor) -> tf.Tensor:
        """g(reflectance)."""

    @abc.abstractmethod
    def invert(self, transformed: tf.Tensor) -> tf.Tensor:
        """g⁻¹(transformed), reflectance."""

    def between(self, earlier: tf.Tensor, later: tf.Tensor) -> tf.Tensor:
        """D_ij = g(later) − g(earlier)."""
        return self.transform(later) - self.transform(earlier)

    def add(self, reflectance: tf.Tensor, change: tf.Tensor) -> tf.Tensor:
        """The image that `change` leads to: g⁻¹(g(reflectance) + change)."""
        return self.invert(self.transform(reflectance) + change)


class Difference(ChangeOperator):
    """g(x) = x: the plain difference, the paper's choice."""

    def transform(self, reflectance):
        return reflectance

    def invert(self, transformed):
        return transformed


class Log(ChangeOperator):
    """g(x) = log(x + FLOOR), continued linearly below 0: relative change.

    The continuation keeps g invertible on the slightly negative reflectance that atmospheric
    correction leaves over dark water.
    """

    def transform(self, reflectance):
        positive = tf.maximum(reflectance, 0.0)
        return tf.math.log(positive + FLOOR) + (reflectance - positive) / FLOOR

    def invert(self, transformed):
        zero = tf.math.log(tf.constant(FLOOR, transformed.dtype))
        above = tf.maximum(transformed, zero)
        return tf.exp(above) - FLOOR + (transformed - above) * FLOOR


class Logit(ChangeOperator):
    """g(x) = log(x' / (1 − x')) with x' = x clipped to [FLOOR / 10, 1 − FLOOR / 10].

    Every prediction stays inside 0–1; what lies outside is clipped first, so g is invertible on
    the clipped range only.
    """

    def transform(self, reflectance):
        x = tf.clip_by_value(reflectance, FLOOR / 10, 1 - FLOOR / 10)
        return tf.math.log(x) - tf.math.log1p(-x)

    def invert(self, transformed):
        return tf.sigmoid(transformed)


OPERATORS: dict[str, type[ChangeOperator]] = {
    "difference": Difference,
    "log": Log,
    "logit": Logit,
}
