"""Inputs, masks, weights and the registry."""

import dataclasses
import datetime
import pathlib

import numpy as np
import pytest

from data_prep import errors
from stfnet_tf import baselines, presets
from stfnet_tf.baselines import base
from tests.stfnet_tf.baselines import landscapes


def test_every_file_is_a_method_of_its_name():
    files = {p.stem for p in pathlib.Path(baselines.__path__[0]).glob("*.py")}
    assert set(base.names()) == files - {"__init__", "base", "windows", "stfnet"}
    for name in base.names():
        assert base.method(name).name == name


@pytest.mark.parametrize("name", ["nosuch", "base", "stfnet", ""])
def test_unknown_methods_are_named_with_the_choice(name):
    with pytest.raises(
        errors.InputError, match=rf"expected names out of coarse_change, .*found '{name}'"
    ):
        base.method(name)


def test_a_trained_model_is_asked_for_by_its_folder(tmp_path):
    presets.build("paper", bands=("red", "nir"), ratio=16.0).save(tmp_path)
    method = base.method(f"mine={tmp_path}")
    assert (method.name, method.model_dir, method.two_sided) == ("mine", str(tmp_path), False)
    method.check_bands(("red", "nir"))
    with pytest.raises(errors.InputError, match="for the bands nir, red, found one for red, nir"):
        method.check_bands(("nir", "red"))
    with pytest.raises(errors.InputError, match="nowhere"):
        base.method("mine=nowhere")


def test_inputs_refuse_what_does_not_fit():
    inputs, _ = landscapes.scene(16)
    with pytest.raises(ValueError, match="together or not at all"):
        dataclasses.replace(inputs, c3=None)
    with pytest.raises(ValueError, match=r"c2 has shape \(15, 16, 2\), expected \(16, 16, 2\)"):
        dataclasses.replace(inputs, c2=inputs.c2[1:])
    with pytest.raises(ValueError, match="valid_c1 is float64"):
        dataclasses.replace(inputs, valid_c1=np.ones((16, 16)))


def test_nan_becomes_invalid_and_finite():
    inputs, _ = landscapes.scene(16)
    f1 = inputs.f1.copy()
    f1[3, 4, 1] = np.nan
    inputs = dataclasses.replace(inputs, f1=f1)
    assert np.isfinite(inputs.f1).all()
    assert not inputs.valid_f1[3, 4] and inputs.valid_f1.sum() == 255
    assert inputs.f1.dtype == np.float32


def test_sides():
    inputs, _ = landscapes.scene(16)
    mask = np.ones((16, 16), bool)
    mask[0, 0] = False
    inputs = dataclasses.replace(inputs, valid_c3=mask)
    forward, backward = inputs.sides()
    assert (forward.days, backward.days) == (48, 32)
    assert forward.valid.all() and not backward.valid[0, 0]
    assert backward.f is inputs.f3 and backward.c2 is inputs.c2
    alone, _ = landscapes.scene(16, one_sided=True)
    assert len(alone.sides()) == 1


def test_corner():
    inputs, _ = landscapes.scene(16, one_sided=True)
    corner = inputs.corner(5)
    np.testing.assert_array_equal(corner.c2, inputs.c2[:5, :5])
    assert corner.valid_f1.shape == (5, 5) and corner.f3 is None


def side(valid, change=0.0):
    image = np.zeros((*valid.shape, 1))
    return base.Side(image, image, image + change, valid, 1)


def test_average_lets_one_side_stand_alone():
    first = np.array([[True, True, False]])
    second = np.array([[True, False, False]])
    predictions = [np.full((1, 3, 1), 0.2), np.full((1, 3, 1), 0.4)]
    result = base.average(predictions, (side(first), side(second)))
    np.testing.assert_allclose(result.f2[0, :, 0], [0.3, 0.2, 0.0], atol=1e-7)
    np.testing.assert_array_equal(result.valid, [[True, True, False]])


def test_weights_are_the_inverse_of_the_local_change():
    valid = np.ones((9, 9), bool)
    weights = base.inverse_change_weights((side(valid, 0.01), side(valid, -0.03)), 3)
    np.testing.assert_allclose(weights[0] / weights[1], 3, rtol=1e-3)


def test_masked_mean_by_brute_force():
    rng = np.random.default_rng(0)
    image, valid = rng.normal(size=(12, 15, 2)), rng.random((12, 15)) < 0.5
    valid[:4, :4] = False
    result = base.masked_mean(image, valid, 5)
    for row in range(12):
        for col in range(15):
            window = np.s_[max(0, row - 2) : row + 3, max(0, col - 2) : col + 3]
            inside = image[window][valid[window]]
            expected = inside.mean(axis=0) if len(inside) else np.zeros(2)
            np.testing.assert_allclose(result[row, col], expected, atol=1e-12)


def test_masked_gaussian_ignores_what_is_masked():
    valid = np.ones((20, 20), bool)
    valid[5:9, 5:9] = False
    image = np.where(valid, 0.3, 99.0)[..., None]
    np.testing.assert_allclose(base.masked_gaussian(image, valid, 2.0), 0.3, atol=1e-12)
    assert (base.masked_gaussian(image, ~valid & False, 2.0) == 0).all()


def test_invalid_pixels_become_the_nearest_valid_one():
    image = np.arange(10.0).reshape(2, 5, 1)
    valid = np.array([[True, False, False, False, True], [False] * 5])
    expected = [[0, 0, 0, 4, 4], [0, 0, 0, 4, 4]]
    found = base.nearest_valid(image, valid)[..., 0]
    # The middle column is as far from one as from the other.
    np.testing.assert_array_equal(np.delete(found, 2, 1), np.delete(expected, 2, 1))
    assert set(found[:, 2]) <= {0, 4}
    assert (base.nearest_valid(image, valid & False) == 0).all()


def test_dates_may_be_equal():
    inputs, _ = landscapes.scene(16)
    day = datetime.date(2001, 7, 11)
    same = dataclasses.replace(inputs, dates=(day, day, day))
    assert base.method("linear").predict(same).valid.all()
