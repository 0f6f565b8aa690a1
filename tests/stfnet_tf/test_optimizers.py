import importlib.util

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from data_prep import errors
from stfnet_tf import optimizers

ADDONS = importlib.util.find_spec("tensorflow_addons") is not None
needs_addons = pytest.mark.skipif(not ADDONS, reason="TensorFlow Addons is not installed")
WITH_ADDONS = ["LAMB", "Lookahead(RectifiedAdam)", "SWA(SGD)", "MovingAverage(LAMB)"]


def descend(optimizer, steps):
    """Steps down x² + 4 y² from (3, 2)."""
    variable = tf.Variable([3.0, 2.0])
    for _ in range(steps):
        optimizers.apply(optimizer, [(variable * [2.0, 8.0], variable)])
    return variable


@pytest.mark.parametrize(
    "name",
    ["Adam", "adamw", "SGD", "RMSprop"]
    + [pytest.param(name, marks=needs_addons) for name in WITH_ADDONS],
)
def test_every_kind_descends(name):
    assert np.linalg.norm(descend(optimizers.build(name, 0.05), 60)) < 2.5


def test_arguments_reach_the_optimizer():
    optimizer = optimizers.build("SGD", 0.1, {"momentum": 0.7, "nesterov": True})
    assert optimizer.momentum == 0.7 and optimizer.nesterov


@needs_addons
def test_arguments_reach_wrapper_and_wrapped():
    optimizer = optimizers.build(
        "Lookahead(RectifiedAdam)", 0.1, {"Lookahead.sync_period": 9, "beta_1": 0.8}
    )
    config = optimizer.get_config()
    assert config["sync_period"] == 9
    assert config["optimizer"]["config"]["beta_1"] == pytest.approx(0.8)


@pytest.mark.parametrize(
    "name", ["SGD", pytest.param("MovingAverage(SGD)", marks=needs_addons), "legacy"]
)
def test_the_summed_gradient_is_clipped(name):
    """|(6, 8)| = 10 is scaled to 5: a step of 0.1 · (3, 4)."""
    optimizer = (
        keras.optimizers.legacy.SGD(0.1, global_clipnorm=5.0)
        if name == "legacy"
        else optimizers.build(name, 0.1, clip_norm=5.0)
    )
    variable = tf.Variable([0.0, 0.0])
    optimizers.apply(optimizer, zip([tf.constant([6.0, 8.0])], [variable], strict=True))
    np.testing.assert_allclose(variable, [-0.3, -0.4], rtol=1e-6)


def test_moving_average_is_put_in_and_taken_out_again():
    """Average a ← 0.5 a + 0.5 w after each step of SGD with gradient 1: w = −0.1, −0.2."""
    optimizer = optimizers.build("SGD", 0.1, ema=0.5)
    variable = tf.Variable([0.0])
    for _ in range(2):
        optimizers.apply(optimizer, [(tf.constant([1.0]), variable)])
    with optimizers.averaged(optimizer, [variable]):
        np.testing.assert_allclose(variable, [0.5 * (0.5 * 0 + 0.5 * -0.1) + 0.5 * -0.2])
    np.testing.assert_allclose(variable, [-0.2])


def test_averages_are_taken_out_when_evaluation_fails():
    optimizer = optimizers.build("SGD", 0.1, ema=0.9)
    variable = descend(optimizer, 3)
    before = variable.numpy()
    with pytest.raises(RuntimeError), optimizers.averaged(optimizer, [variable]):
        assert not np.array_equal(variable.numpy(), before)
        raise RuntimeError
    np.testing.assert_array_equal(variable, before)


@needs_addons
def test_stochastic_weight_average_is_the_mean():
    """SWA from the first step on, over steps of SGD with gradient 1: mean of −0.1 and −0.2."""
    optimizer = optimizers.build(
        "SWA(SGD)", 0.1, {"SWA.start_averaging": 0, "SWA.average_period": 1}
    )
    variable = tf.Variable([0.0])
    seen = []
    for _ in range(2):
        optimizers.apply(optimizer, [(tf.constant([1.0]), variable)])
        seen.append(variable.numpy())
    with optimizers.averaged(optimizer, [variable]):
        average = variable.numpy()
    assert min(seen) < average < 0
    np.testing.assert_array_equal(variable, seen[-1])


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("constant", {}, {0: 1, 50: 1, 99: 1}),
        ("cosine", {"final": 0.0}, {0: 1, 50: 0.5, 100: 0}),
        ("cosine", {"final": 0.2}, {0: 1, 50: 0.6, 100: 0.2}),
        ("exponential", {"final": 0.01}, {0: 1, 50: 0.1, 100: 0.01}),
        ("piecewise", {"boundaries": (0.5, 0.75), "factor": 0.1}, {49: 1, 50: 0.1, 75: 0.01}),
        ("constant", {"warmup": 4}, {0: 0.2, 1: 0.4, 3: 0.8, 4: 1, 90: 1}),
        ("cosine", {"final": 0.0, "warmup": 20}, {20: 1, 60: 0.5, 100: 0}),
    ],
)
def test_schedules_by_hand(kind, options, expected):
    schedule = optimizers.Schedule(kind, 3.0, 100, **options)
    found = {step: float(schedule(tf.constant(step))) / 3.0 for step in expected}
    assert found == pytest.approx(expected, abs=1e-6)
    again = optimizers.Schedule.from_config(schedule.get_config())
    assert float(again(tf.constant(50))) == float(schedule(tf.constant(50)))


@pytest.mark.parametrize(
    ("name", "arguments", "options", "message"),
    [
        ("Adamm", {}, {}, r"--optimizer: expected one of .*AdamW.*; found 'Adamm'"),
        ("Adam(", {}, {}, r"--optimizer: expected a name such as Adam .* found 'Adam\('"),
        ("Adam", {"betta_1": 1}, {}, r"--optimizer_args: Adam takes beta_1, .*found betta_1=1"),
        ("Adam", {"SGD.momentum": 1}, {}, r"'SGD.momentum' belongs to none of Adam"),
        ("Adam", {}, {"ema": 1.5}, r"--ema: expected a momentum within 0–1, found 1.5"),
    ],
)
def test_what_cannot_be_built_is_said_with_what_can(name, arguments, options, message):
    with pytest.raises(errors.InputError, match=message):
        optimizers.build(name, 0.1, arguments, **options)


@pytest.mark.skipif(ADDONS, reason="TensorFlow Addons is installed")
@pytest.mark.parametrize("name", WITH_ADDONS)
def test_missing_addons_are_said_with_the_remedy(name):
    with pytest.raises(errors.InputError, match=r"TensorFlow Addons.*stfnet-tf\[addons\]"):
        optimizers.build(name, 0.1)


@needs_addons
def test_moving_averages_of_addons_optimizers_have_their_own_wrapper():
    with pytest.raises(errors.InputError, match=r"--optimizer='MovingAverage\(LAMB\)'"):
        optimizers.build("LAMB", 0.1, ema=0.9)
