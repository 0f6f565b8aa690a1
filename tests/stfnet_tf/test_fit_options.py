"""What is asked of a fit, in one line."""

import pytest

from data_prep import errors
from stfnet_tf import fit_options


def test_a_preset_alone():
    assert fit_options.parse("paper") == fit_options.FitOptions("paper")


def test_options_of_training_and_of_the_model():
    text = (
        "plus:steps=200:learning_rate=1e-4:augment=false:kernel_sizes=9-5-5:filters=:per_band=TRUE"
    )
    found = fit_options.parse(text)
    assert found.preset == "plus"
    assert found.training == {"steps": 200, "learning_rate": 1e-4, "augment": False}
    assert found.model == {"kernel_sizes": (9, 5, 5), "filters": (), "per_band": True}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("other", "expected a preset .*found 'other'"),
        ("plus:stepps=3", "expected an option .*found 'stepps=3'"),
        ("plus:bands=red", "expected an option"),
        ("plus:steps=many", "steps cannot be 'many'"),
        ("plus:augment=perhaps", "augment cannot be 'perhaps'"),
    ],
)
def test_what_cannot_be_granted(text, message):
    with pytest.raises(errors.InputError, match=message):
        fit_options.parse(text)
