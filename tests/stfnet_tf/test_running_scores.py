"""Scores that run along with training, against the same sums by hand."""

from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

from stfnet_tf import losses, running_scores, strategies

TERMS, BANDS = ("reconstruction", "rest"), ("red", "nir")


def masked(total, count):
    return losses.Masked(tf.constant(total, tf.float32), tf.constant(count, tf.float32))


def results(scores):
    return {metric.name: float(metric.result()) for metric in scores.metrics}


def test_scores_by_hand():
    scores = running_scores.RunningScores(TERMS, BANDS)
    scores.update_loss(tf.constant(0.5), {"reconstruction": [masked(6, 3)], "rest": [masked(1, 4)]})
    two_parts = {"reconstruction": [masked(4, 2), masked(3, 6)], "rest": [masked(0, 0)]}
    scores.update_loss(tf.constant(1.0), two_parts)
    error = tf.constant([[[[3.0, 1.0], [4.0, np.nan]]]])
    scores.update_errors(error[..., :1, :], tf.constant([[[[1.0]]]]))
    scores.update_errors(error, tf.constant([[[[1.0], [0.0]]]]))
    scores.update_consistency(2 * error, tf.constant([[[[1.0], [0.0]]]]))
    assert results(scores) == pytest.approx(
        {
            "loss": 0.75, "reconstruction": 10 / 5 + 3 / 6, "rest": 1 / 4, "rmse": np.sqrt(5),
            "rmse_red": 3, "rmse_nir": 1, "consistency": np.sqrt(20),
        }
    )  # fmt: skip
    assert all(metric.result().dtype == tf.float32 for metric in scores.metrics)
    for metric in scores.metrics:
        metric.reset_state()
    assert set(results(scores).values()) == {0}


def test_long_epochs_lose_nothing():
    """2^24 + 1 is no float32: one by one, each of the later ones would be lost."""
    many, more = 2.0**24, 2000
    term = running_scores.TermMean("term")
    mean = running_scores.Mean("mean")
    root = running_scores.RootMeanSquare("root")
    mean.update_state(tf.constant(1.0), sample_weight=many)

    @tf.function
    def update(total, count):
        term.update_state([losses.Masked(total, count)])
        root.add(total, count)

    update(tf.constant(many), tf.constant(many))
    for _ in range(more):
        update(tf.constant(1.0), tf.constant(0.0))
        mean.update_state(tf.constant(0.0))
    expected = (many + more) / many
    assert float(term.result()) == pytest.approx(expected, rel=1e-7)
    assert float(root.result()) == pytest.approx(np.sqrt(expected), rel=1e-7)
    assert float(mean.result()) == pytest.approx(1 / expected, rel=1e-7)


def test_tpus_add_up_what_they_can():
    tpu = mock.MagicMock(spec=tf.distribute.TPUStrategy)
    with mock.patch.object(tf.distribute, "get_strategy", return_value=tpu):
        assert strategies.sum_dtype() == tf.float32
    assert strategies.sum_dtype() == tf.float64
