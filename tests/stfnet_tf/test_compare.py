"""The rasters that a comparison leaves behind."""

import datetime

import numpy as np
import pytest

from data_prep import rasters, triplets
from stfnet_tf import cases, compare, evaluate
from stfnet_tf.baselines import base
from tests.stfnet_tf import scenes

T1, T2, T3 = (datetime.date.fromisoformat(date) for date in scenes.DATES)


@pytest.fixture
def images(tmp_path):
    return scenes.make(tmp_path)


def prediction(level):
    valid = np.ones(scenes.GRID.shape, bool)
    valid[0] = False
    f2 = np.full((*scenes.GRID.shape, 2), level, np.float32)
    return base.Prediction(f2 * valid[..., None], valid)


def test_a_prediction_that_equals_nodata_is_not_lost(images, tmp_path):
    case = cases.read_all(images, [triplets.Triplet(T1, T2, T3)])[0]
    made = prediction(0.25)
    made.f2[1, 0], made.f2[1, 1] = -0.9999, 9.0
    path = compare.save(images, case, "mine", made, tmp_path / "predictions")
    assert path == tmp_path / "predictions" / "mine" / "2001-07-11.tif"
    stored = rasters.read(str(path))
    assert (stored[0] == -9999).all() and (stored[2:] == 2500).all()
    np.testing.assert_array_equal(stored[1, :2, 0], [-9998, 32767])
    read = evaluate.read_prediction(images, path.parent, case)
    np.testing.assert_array_equal(read.valid, made.valid)


def test_cases_of_one_date_have_rasters_of_their_own(images, tmp_path):
    chosen = [triplets.Triplet(T1, T2, T3), triplets.Triplet(T1, T2, None)]
    read = cases.read_all(images, chosen)
    for case, level in zip(read, (0.1, 0.3), strict=True):
        compare.save(images, case, "mine", prediction(level), tmp_path)
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {
        "2001-05-24_2001-07-11_2001-08-12.tif", "2001-05-24_2001-07-11.tif",
    }  # fmt: skip
    for case, level in zip(read, (0.1, 0.3), strict=True):
        found = evaluate.read_prediction(images, tmp_path / "mine", case)
        np.testing.assert_allclose(found.f2[1:], level, atol=1e-6)


def test_a_raster_named_by_its_date_alone_stands_for_every_case_of_it(images, tmp_path):
    chosen = [triplets.Triplet(T1, T2, T3), triplets.Triplet(T1, T2, None)]
    read = cases.read_all(images, chosen)
    alone = cases.read_all(images, chosen[:1])[0]
    compare.save(images, alone, "mine", prediction(0.2), tmp_path)
    for case in read:
        found = evaluate.read_prediction(images, tmp_path / "mine", case)
        np.testing.assert_allclose(found.f2[1:], 0.2, atol=1e-6)
