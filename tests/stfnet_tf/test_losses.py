import numpy as np
import pytest
import tensorflow as tf

from data_prep import errors
from stfnet_tf import losses, presets, train_config


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


def scheduled(text):
    config = presets.build("paper", bands=("a",), temporal_consistency=4.0, rest=2.0)
    weights = losses.Weights(config)
    points = train_config.TrainConfig(weight_schedules=text).weight_points
    return weights, losses.Schedules(weights, points)


def test_schedules_by_hand():
    weights, schedules = scheduled("temporal_consistency=10:0@20:1, rest=0:1@100:0.5@200:3")
    by_hand = {
        0: (0, 2),
        10: (0, 1.9),
        15: (2, 1.85),
        20: (4, 1.8),
        150: (4, 3.5),
        200: (4, 6),
        10**6: (4, 6),
    }
    for step, (consistency, rest) in by_hand.items():
        schedules.apply(step)
        found = {name: float(variable) for name, variable in weights.variables.items()}
        assert found["reconstruction"] == 1
        assert schedules.weights() == pytest.approx(
            {"temporal_consistency": consistency, "rest": rest}
        )
        assert found["temporal_consistency"] == pytest.approx(consistency)
        assert found["rest"] == pytest.approx(rest)
    # What validation takes, at any step.
    values = {"reconstruction": 1.0, "temporal_consistency": 10.0, "rest": 100.0, "rmse": 7.0}
    assert float(weights.stated_total(values)) == pytest.approx(1 + 40 + 200)


@pytest.mark.parametrize("name", ["time_reversal", "lambda"])
def test_a_schedule_for_a_term_that_is_off_is_refused(name):
    with pytest.raises(errors.InputError, match=f"--weight_schedules: .*, rest; found '{name}'"):
        scheduled(f"{name}=0:1")


@pytest.mark.parametrize(
    "text", ["rest", "rest=1", "rest=5:1@5:0", "rest=a:1", "rest=0:-1", "rest=0:nan", "rest=-1:1"]
)
def test_a_schedule_that_cannot_be_read_is_refused(text):
    with pytest.raises(errors.InputError, match="expected term=step:share@step:share"):
        train_config.TrainConfig(weight_schedules=f"temporal_consistency=0:1,{text}")
