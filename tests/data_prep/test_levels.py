"""Scales that are wrong on one side show in the means of both."""

import datetime

import numpy as np
import pytest

from data_prep import catalog, dataset, executors, inspect, levels, rasters, survey
from tests.data_prep import tiny

DATES = [datetime.date.fromisoformat(date) for date in tiny.DATES]


@pytest.fixture
def warned(monkeypatch):
    told = []
    monkeypatch.setattr(levels.logging, "warning", lambda text, *some: told.append(text % some))
    return told


def wrong_coarse_scale(path):
    head, tail = path.read_text().split("[coarse]")
    path.write_text(f"{head}[coarse]{tail.replace('scale = 0.0001', 'scale = 0.000001')}")
    return catalog.Catalog(dataset.load(path))


@pytest.mark.parametrize(
    ("fine", "coarse", "doubted"),
    [
        ([0.1, 0.3], [0.05, 0.2], False),
        ([0.1, 0.3], [0.001, 0.003], True),
        ([0.01, 0.03], [1, 3], True),
        ([-0.2], [0.1], False),  # an index
        ([0.1, 0.3], [], False),
        ([0.1, 0.3], [0, 0], False),
    ],
)
def test_doubt_is_about_a_factor(fine, coarse, doubted):
    assert bool(levels.doubt("2001-10-08", fine, coarse)) == doubted


def test_one_date_is_warned_of(tmp_path, warned):
    path = tiny.make(tmp_path)
    levels.check(catalog.Catalog(dataset.load(path)), DATES)
    assert not warned
    levels.check(wrong_coarse_scale(path), DATES)
    (sentence,) = warned
    assert sentence.startswith("2001-10-08: the mean reflectance of the fine image is 0.")
    assert sentence.endswith("; is one of their scales wrong?")


def test_what_cannot_be_compared_is_passed_over(tmp_path, warned):
    path = tiny.make(tmp_path)
    empty = np.full((96, 80, 2), -1, np.int16)
    rasters.write(tmp_path / f"F_{DATES[0]}.tif", empty, tiny.grid(96, 80))
    images = wrong_coarse_scale(path)
    (tmp_path / f"F_{DATES[1]}.tif").unlink()
    levels.check(images, [datetime.date(2001, 1, 1), *DATES])
    assert len(warned) == 1 and warned[0].startswith(str(DATES[2]))


def test_inspect_tells(tmp_path, capsys):
    with executors.make(workers=1) as here:
        found, _ = survey.look(wrong_coarse_scale(tiny.make(tmp_path)), here)
    inspect.show(found)
    assert "warning: 2001-10-08: the mean reflectance of the fine" in capsys.readouterr().out
