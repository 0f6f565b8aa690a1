import numpy as np
import pytest

from stfnet_tf import change, presets


def test_every_operator_may_be_chosen():
    assert tuple(change.OPERATORS) == presets.CHANGE_OPERATORS


@pytest.mark.parametrize("name", change.OPERATORS)
def test_changes_add_up_exactly(name):
    operator = change.OPERATORS[name]()
    x1, x2, x3 = np.random.default_rng(0).uniform(-0.02, 0.9, (3, 50)).astype(np.float32)
    d12, d23, d13 = operator.between(x1, x2), operator.between(x2, x3), operator.between(x1, x3)
    np.testing.assert_allclose(d12 + d23, d13, atol=1e-5)


@pytest.mark.parametrize(("name", "low"), [("difference", -0.1), ("log", -0.1), ("logit", 0.002)])
def test_adding_a_change_leads_to_the_other_image(name, low):
    operator = change.OPERATORS[name]()
    earlier, later = np.random.default_rng(1).uniform(low, 0.9, (2, 50)).astype(np.float32)
    predicted = operator.add(earlier, operator.between(earlier, later))
    np.testing.assert_allclose(predicted, later, atol=1e-5)


def test_log_is_relative_change():
    operator = change.Log()
    doubled = operator.between(np.float32([0.2]), np.float32([0.2 + 0.2 + change.FLOOR]))
    np.testing.assert_allclose(doubled, np.log(2.0), rtol=1e-5)


def test_logit_keeps_every_prediction_within_0_and_1():
    predicted = change.Logit().add(np.float32([0.0, 0.5, 1.0]), np.float32([-20.0, 30.0, 50.0]))
    assert np.all((predicted >= 0) & (predicted <= 1))
