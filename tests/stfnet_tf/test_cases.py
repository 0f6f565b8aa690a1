"""Which dates are scored, and what is read of them."""

import datetime

import numpy as np
import pytest

from data_prep import errors, triplets
from stfnet_tf import cases
from tests.stfnet_tf import scenes

T1, T2, T3 = (datetime.date.fromisoformat(date) for date in scenes.DATES)


@pytest.fixture
def images(tmp_path):
    return scenes.make(tmp_path)


def test_test_split_and_named_dates(images):
    whole = triplets.Triplet(T1, T2, T3)
    assert cases.choose(images, "test") == [whole]
    assert cases.choose(images, "train", ["2001-07-11"]) == [whole]
    assert cases.choose(images, "train", ["2001192"]) == [whole]
    assert cases.choose(images, "test", [f"{T1}/{T2}"]) == [triplets.Triplet(T1, T2, None)]
    assert cases.choose(images, "test", [f"{T1}/{T3}"]) == [triplets.Triplet(T1, T3, None)]


@pytest.mark.parametrize(
    ("dates", "sentence"),
    [
        (["11.07.2001"], "expected dates such as 2001-07-11, .* found '11.07.2001'"),
        (["2001-05-24"], r"expected dates in the middle of a triplet of .* \(2001-07-11\)"),
        (["2001-07-11/2001-05-24"], "expected t1/t2/t3 in order of time"),
        (["2001-05-24/2001-07-11/2002-01-01"], "expected a fine image of 2002-01-01"),
    ],
)
def test_wrong_dates(images, dates, sentence):
    with pytest.raises(errors.InputError, match=sentence):
        cases.choose(images, "test", dates)


def test_nothing_to_score_against(tmp_path):
    images = scenes.make(tmp_path, without=("fine_20010711.tif",))
    with pytest.raises(errors.InputError, match="middle date has a known fine image"):
        cases.choose(images, "test")


def test_reads_reflectance_and_masks(images):
    case = cases.read_all(images, cases.choose(images, "test"), seed=7)[0]
    assert case.label == "2001-07-11"
    stored = images.read("coarse", T2)
    assert stored.valid.sum() == stored.valid.size - 4 * 7
    np.testing.assert_array_equal(case.inputs.valid_c2, stored.valid)
    expected = np.where(stored.valid[..., None], stored.dn * 1e-4, 0)
    np.testing.assert_allclose(case.inputs.c2, expected, rtol=1e-6)
    assert case.inputs.f3.dtype == np.float32 and case.truth.shape == (*scenes.GRID.shape, 2)
    assert (case.inputs.ratio, case.inputs.seed) == (4, 7)
    assert case.inputs.dates == (T1, T2, T3)


def test_labels_tell_cases_of_one_date_apart(images):
    chosen = [triplets.Triplet(T1, T2, T3), triplets.Triplet(T1, T2, None)]
    read = cases.read_all(images, chosen)
    labels = [case.label for case in read]
    assert [case.stem for case in read] == [label.replace("/", "_") for label in labels]
    assert labels == ["2001-05-24/2001-07-11/2001-08-12", "2001-05-24/2001-07-11"]
