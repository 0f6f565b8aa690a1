"""The rasters that a comparison leaves behind."""

import datetime

import numpy as np
import pytest
from skimage import io as image_io

from data_prep import rasters, triplets
from stfnet_tf import cases, compare, evaluate, panels
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


@pytest.mark.parametrize(("names", "columns"), [(["a"], 3), (["a", "b"], 4)])
def test_a_prediction_has_its_error_beside_it(images, tmp_path, monkeypatch, names, columns):
    sheets = []
    monkeypatch.setattr(panels, "sheet", lambda path, row, stretch, **_: sheets.append(row))
    for triplet in (triplets.Triplet(T1, T2, T3), triplets.Triplet(T1, T2, None)):
        case = cases.read_all(images, [triplet])[0]
        made = {name: prediction(0.2) for name in names}
        evaluate.draw_sheet(tmp_path / "x.png", case, made, None, columns=columns)
    for row in sheets:
        titles = [panel.title if panel else "" for panel in row]
        for name in names:
            places = [titles.index(f"{what}, {name}") for what in ("predicted F2", "error")]
            assert places[0] // columns == places[1] // columns
    assert [panel.title for panel in sheets[1][:3] if panel] == ["F1, 2001-05-24", "C2, 2001-07-11"]


def test_empty_places_of_a_sheet_are_drawn_as_nothing(tmp_path):
    valid = np.ones((20, 30), bool)
    panel = panels.Panel("F1", np.full((20, 30, 1), 0.5), valid)
    stretch = panels.Stretch.of([panel.image], [valid], ("ndvi",))
    path = panels.sheet(tmp_path / "x.png", [panel, None, panel], stretch)
    pixels = image_io.imread(path)[..., :3]
    middle = pixels.shape[1] // 2
    assert (pixels[60:-5, middle - 40 : middle + 40] == 255).all()


def test_a_raster_named_by_its_date_alone_stands_for_every_case_of_it(images, tmp_path):
    chosen = [triplets.Triplet(T1, T2, T3), triplets.Triplet(T1, T2, None)]
    read = cases.read_all(images, chosen)
    alone = cases.read_all(images, chosen[:1])[0]
    compare.save(images, alone, "mine", prediction(0.2), tmp_path)
    for case in read:
        found = evaluate.read_prediction(images, tmp_path / "mine", case)
        np.testing.assert_allclose(found.f2[1:], 0.2, atol=1e-6)
