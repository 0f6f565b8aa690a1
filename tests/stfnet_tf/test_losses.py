import numpy as np
import pytest
import tensorflow as tf

from stfnet_tf import losses, presets


def test_squared_error_by_hand():
    predicted = tf.constant([[[[1.0, 2.0], [3.0, 4.0]]]])
    true = tf.constant([[[[0.0, 4.0], [np.nan, np.nan]]]])
    valid = tf.constant([[[[1.0], [0.0]]]])
    term = losses.squared_error(predicted, true, valid)
    assert (float(term.total), float(term.count)) == (1.0 + 4.0, 2.0)


def test_gradient_is_finite_where_nothing_is_valid():
    predicted = tf.Variable(tf.fill([1, 2, 2, 1], np.nan))
    with tf.GradientTape() as tape:
        part = losses.squared_error(predicted, tf.zeros([1, 2, 2, 1]), tf.zeros([1, 2, 2, 1]))
        value = losses.global_means({"term": [part]})["term"]
    assert float(value) == 0
    np.testing.assert_array_equal(tape.gradient(value, predicted), 0.0)


def test_a_term_adds_the_means_of_its_parts():
    parts = [
        losses.Masked(tf.constant(6.0), tf.constant(3.0)),
        losses.Masked(tf.constant(5.0), tf.constant(10.0)),
    ]
    assert float(losses.global_means({"term": parts})["term"]) == pytest.approx(2.5)


def test_total_weighs_terms_and_leaves_out_those_of_weight_0():
    config = presets.build("paper", bands=("a",), temporal_consistency=0.5, rest=2.0)
    weights = losses.Weights(config)
    assert weights.terms == ("reconstruction", "temporal_consistency", "rest")
    terms = {
        name: [losses.Masked(tf.constant(v), tf.constant(1.0))]
        for name, v in zip(weights.terms, (1.0, 10.0, 100.0), strict=True)
    }
    values = weights.total(terms)
    assert float(values["loss"]) == pytest.approx(1 + 5 + 200)
    assert float(values["temporal_consistency"]) == 10
    weights.variables["rest"].assign(0.0)  # what a schedule does
    assert float(weights.total(terms)["loss"]) == pytest.approx(1 + 5)
