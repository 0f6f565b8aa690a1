"""Scores that run along with training: exact over batches and replicas of any size."""

from collections.abc import Mapping, Sequence

import tensorflow as tf
import tf_keras as keras

from stfnet_tf import strategies


class RootMeanSquare(keras.metrics.Mean):
    """√(Σ weight x² / Σ weight)."""

    def update(self, error: tf.Tensor, weight: tf.Tensor) -> None:
        """Adds errors [batch, height, width, n] with weights [batch, height, width, 1]."""
        error = tf.where(weight > 0, error, 0.0)
        weight = tf.broadcast_to(tf.cast(weight, error.dtype), tf.shape(error))
        self.update_state(error**2, weight)

    def result(self):
        return tf.sqrt(super().result())


class RunningScores:
    """The loss terms' means and the root mean squares of one epoch.

    A plain object, so that Keras does not count the sums among the model's weights.

    Args:
        terms: Names of the loss terms.
        bands: Band names.
    """

    def __init__(self, terms: Sequence[str], bands: Sequence[str]):
        self._bands = tuple(bands)
        self._means = {name: keras.metrics.Mean(name=name) for name in ("loss", *terms)}
        names = ("rmse", *(f"rmse_{band}" for band in bands), "consistency")
        self._squares = {name: RootMeanSquare(name=name) for name in names}

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """All of them; Keras resets them at each epoch."""
        return [*self._means.values(), *self._squares.values()]

    def update_terms(self, values: Mapping[str, tf.Tensor]) -> None:
        """Adds one step's loss terms, each this replica's share of a sum over replicas."""
        for name, value in values.items():
            # Replicas are averaged; a share times their number averages to the global value.
            self._means[name].update_state(value * strategies.replicas())

    def update_errors(self, error: tf.Tensor, weight: tf.Tensor) -> None:
        """Adds errors of a prediction, reflectance, to `rmse` and `rmse_<band>`."""
        self._squares["rmse"].update(error, weight)
        for b, band in enumerate(self._bands):
            self._squares[f"rmse_{band}"].update(error[..., b : b + 1], weight)

    def update_consistency(self, disagreement: tf.Tensor, weight: tf.Tensor) -> None:
        """Adds F̂2⁺ − F̂2⁻, reflectance, to `consistency`."""
        self._squares["consistency"].update(disagreement, weight)
