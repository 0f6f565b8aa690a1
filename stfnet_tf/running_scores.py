"""Scores that run along with training: exact over batches and replicas of any size."""

from collections.abc import Mapping, Sequence

import tensorflow as tf
import tf_keras as keras

from stfnet_tf import losses, strategies

# The most that a loss term has; see `model.StfNet.loss_terms`.
PARTS = 2


class TermMean(keras.metrics.Metric):
    """A loss term over all batches: Σ over its parts of Σ total / Σ count."""

    def __init__(self, name: str):
        super().__init__(name=name, dtype=strategies.sum_dtype())
        self.totals = self.add_weight("totals", (PARTS,), initializer="zeros")
        self.counts = self.add_weight("counts", (PARTS,), initializer="zeros")

    def update_state(self, parts: Sequence[losses.Masked]) -> None:
        """Adds this replica's share of one batch."""
        missing = [[0, PARTS - len(parts)]]
        for sums, values in (
            (self.totals, [part.total for part in parts]),
            (self.counts, [part.count for part in parts]),
        ):
            sums.assign_add(tf.cast(tf.pad(tf.stack(values), missing), sums.dtype))

    def reset_state(self):
        for variable in (self.totals, self.counts):
            variable.assign(tf.zeros_like(variable))

    def result(self):
        means = self.totals / tf.maximum(self.counts, tf.ones_like(self.counts))
        return tf.cast(tf.reduce_sum(means), tf.float32)


class Mean(keras.metrics.Mean):
    """Keras' mean of values, of which there may be very many."""

    def __init__(self, name: str):
        super().__init__(name=name, dtype=strategies.sum_dtype())

    def result(self):
        return tf.cast(super().result(), tf.float32)


class RootMeanSquare(Mean):
    """√(Σ weight x² / Σ weight)."""

    def add(self, total: tf.Tensor, count: tf.Tensor) -> None:
        """Adds Σ weight x² and Σ weight, scalars."""
        self.total.assign_add(tf.cast(total, self.total.dtype))
        self.count.assign_add(tf.cast(count, self.count.dtype))

    def result(self):
        return tf.sqrt(super().result())


def _square_sums(error: tf.Tensor, weight: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Σ weight error² of each band, [n], and Σ weight, in one pass over the pixels.

    Args:
        error: [batch, height, width, n]; anything, NaN included, where `weight` is 0.
        weight: [batch, height, width, 1].
    """
    weight = tf.cast(weight, error.dtype)
    weighted = tf.math.multiply_no_nan(error, tf.sqrt(weight))
    return tf.reduce_sum(weighted**2, (0, 1, 2)), tf.reduce_sum(weight)


class RunningScores:
    """The loss terms and the root mean squares of one epoch, over all its valid pixels.

    A plain object, so that Keras does not count the sums among the model's weights.

    Args:
        terms: Names of the loss terms.
        bands: Band names.
    """

    def __init__(self, terms: Sequence[str], bands: Sequence[str]):
        self._bands = tuple(bands)
        self._loss = Mean(name="loss")
        self._terms = {name: TermMean(name) for name in terms}
        names = ("rmse", *(f"rmse_{band}" for band in bands), "consistency")
        self._squares = {name: RootMeanSquare(name=name) for name in names}

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """All of them; Keras resets them at each epoch."""
        return [self._loss, *self._terms.values(), *self._squares.values()]

    def update_loss(self, loss: tf.Tensor, terms: Mapping[str, Sequence[losses.Masked]]) -> None:
        """Adds one step.

        Args:
            loss: This replica's share of a sum over replicas; steps are averaged.
            terms: This replica's share of each term.
        """
        # Replicas are averaged; a share times their number averages to the global value.
        self._loss.update_state(loss * strategies.replicas())
        for name, parts in terms.items():
            self._terms[name].update_state(parts)

    def update_errors(self, error: tf.Tensor, weight: tf.Tensor) -> None:
        """Adds errors of a prediction, reflectance, to `rmse` and `rmse_<band>`.

        Args:
            error: [batch, height, width, bands].
            weight: [batch, height, width, 1].
        """
        totals, count = _square_sums(error, weight)
        self._squares["rmse"].add(tf.reduce_sum(totals), count * len(self._bands))
        for b, band in enumerate(self._bands):
            self._squares[f"rmse_{band}"].add(totals[b], count)

    def update_consistency(self, disagreement: tf.Tensor, weight: tf.Tensor) -> None:
        """Adds F̂2⁺ − F̂2⁻, reflectance, to `consistency`; shapes as for `update_errors`."""
        totals, count = _square_sums(disagreement, weight)
        self._squares["consistency"].add(tf.reduce_sum(totals), count * len(self._bands))
