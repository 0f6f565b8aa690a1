"""The terms of the loss: masked means, exact over the global batch.

A term is a sum and a count, kept apart until both are summed over all replicas; so the loss, and
its gradient, are those of one device that sees the whole global batch, whatever the number of
replicas and however uneven the last batch.
"""

import typing
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from data_prep import errors
from stfnet_tf import presets, strategies


class Masked(typing.NamedTuple):
    """Sum of squared errors over valid values, and how many there were; both scalars."""

    total: tf.Tensor
    count: tf.Tensor


def squared_error(predicted: tf.Tensor, true: tf.Tensor, weight: tf.Tensor) -> Masked:
    """Σ weight (predicted − true)² over this replica's share of the batch.

    Args:
        predicted: [batch, height, width, bands].
        true: Same shape; anything, NaN included, where `weight` is 0.
        weight: [batch, height, width, 1], 0–1.

    Returns:
        The sum and Σ weight · bands. Both are 0, with a gradient of 0, where nothing is valid.
    """
    weight = tf.cast(weight, predicted.dtype)
    # Keeps an invalid pixel's NaN out of the gradient, too, in less time than a selection does.
    error = tf.math.multiply_no_nan(predicted - true, tf.sqrt(weight))
    total = 2.0 * tf.nn.l2_loss(error)
    return Masked(total, tf.reduce_sum(weight) * tf.cast(tf.shape(predicted)[-1], weight.dtype))


def global_means(terms: Mapping[str, Sequence[Masked]]) -> dict[str, tf.Tensor]:
    """This replica's share of each term: Σ over its parts of total / global count.

    Summed over the replicas, the result is the term's value over the global batch.

    Args:
        terms: For each term, its masked sums over this replica's share of the batch.
    """
    # All counts travel together.
    counts = strategies.all_sum({k: [part.count for part in parts] for k, parts in terms.items()})
    return {
        name: tf.add_n(
            [
                part.total / tf.maximum(count, 1.0)
                for part, count in zip(parts, counts[name], strict=True)
            ]
        )
        for name, parts in terms.items()
    }


class Weights:
    """The weight of each term of a model's loss.

    The weights are variables, so that a schedule can move them while a compiled step runs. The
    object is a plain one, so that Keras does not count them among the model's weights.

    Args:
        config: The initial values; a term whose weight is 0 is not computed at all, unless
            every model has it.
    """

    def __init__(self, config: presets.ModelConfig):
        stated = {name: getattr(config, name) for name in presets.LOSS_WEIGHTS}
        self.stated = {
            k: value for k, value in stated.items() if value or k in presets.ALWAYS_COMPUTED
        }
        self.variables = {
            name: tf.Variable(value, trainable=False, dtype=tf.float32, name=f"{name}_weight")
            for name, value in self.stated.items()
        }

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms that are computed."""
        return tuple(self.variables)

    def total(self, terms: Mapping[str, Sequence[Masked]]) -> dict[str, tf.Tensor]:
        """This replica's share of each term, unweighted, and of their weighted sum, "loss"."""
        values = global_means(terms)
        weighted = [self.variables[name] * value for name, value in values.items()]
        return {"loss": tf.add_n(weighted), **values}

    def stated_total(self, values: Mapping[str, float]) -> float:
        """Σ weight · term with the weights that the configuration states.

        So that the scores of two moments can be compared, whatever a schedule does in between.

        Args:
            values: Each term's value, and maybe others.
        """
        return sum(weight * values[name] for name, weight in self.stated.items())


class Schedules:
    """Which share of its stated weight each term has at a step: linear between given points.

    Args:
        weights: Of a model's loss.
        points: By term, (step, share) in ascending order of the steps; the first and the last
            share hold before and after.

    Raises:
        InputError: A term that the model's loss does not have.
    """

    def __init__(self, weights: Weights, points: Mapping[str, Sequence[tuple[int, float]]]):
        for name in points:
            if name not in weights.terms:
                raise errors.InputError(
                    f"--weight_schedules: expected terms whose weight is not 0, which are "
                    f"{', '.join(weights.terms)}; found '{name}'."
                )
        self._weights = weights
        self._points = {name: tuple(zip(*each, strict=True)) for name, each in points.items()}

    def apply(self, step: int) -> None:
        """Gives the weights the values for the step that comes after `step` of them."""
        for name, (steps, shares) in self._points.items():
            share = float(np.interp(step, steps, shares))
            self._weights.variables[name].assign(self._weights.stated[name] * share)

    def weights(self) -> dict[str, float]:
        """The present weight of each term that has a schedule."""
        return {name: float(self._weights.variables[name].numpy()) for name in self._points}
