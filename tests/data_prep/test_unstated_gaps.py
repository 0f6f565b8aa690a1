"""Zeros that no file states to be gaps are told before they are taken for land."""

import datetime

import numpy as np
import pytest
from absl import logging

from data_prep import (
    catalog,
    dataset,
    executors,
    inspect,
    preparation,
    rasters,
    survey,
    unstated_gaps,
)
from tests.data_prep import tiny

DATES = [datetime.date.fromisoformat(date) for date in tiny.DATES]


@pytest.fixture
def path(tmp_path):
    """A scene whose first fine image lies askew in a black frame; nothing states a nodata value."""
    path = tiny.make(tmp_path)
    text = path.read_text()
    path.write_text("\n".join(k for k in text.splitlines() if not k.startswith(("fill", "valid"))))
    land = tiny.land(96, 80)
    rows, cols = np.mgrid[:96, :80]
    land[rows + cols < 50] = 0
    land[90, 70, 0] = 0  # dark in one band alone
    rasters.write(tmp_path / f"F_{DATES[0]}.tif", land, tiny.grid(96, 80), nodata=None)
    for date in DATES[1:]:
        rasters.write(tmp_path / f"F_{date}.tif", tiny.land(96, 80), tiny.grid(96, 80), nodata=None)
    return path


@pytest.fixture
def warned(monkeypatch):
    told = []
    monkeypatch.setattr(logging, "warning", lambda text, *some: told.append(text % some))
    return told


def test_a_black_frame_is_told(path, warned):
    images = catalog.Catalog(dataset.load(path))
    expected = 50 * 51 / 2 / (96 * 80)
    assert unstated_gaps.share(images, "fine", DATES[0]) == pytest.approx(expected)
    assert unstated_gaps.share(images, "fine", DATES[1]) == 0
    unstated_gaps.check(images, DATES)
    (sentence,) = warned
    assert sentence.startswith(f"{DATES[0]}: 17% of the fine image is 0 in every band")
    assert "fine.fill = 0 leaves such pixels out (--fine_fill=0 where" in sentence
    unstated_gaps.check(images, DATES[1:])
    assert len(warned) == 1


def test_stated_gaps_are_not(path, warned):
    path.write_text(path.read_text().replace("[fine]", "[fine]\nfill = 0"))
    images = catalog.Catalog(dataset.load(path))
    assert unstated_gaps.share(images, "fine", DATES[0]) == 0
    unstated_gaps.check(images, [datetime.date(1999, 1, 1), *DATES])
    assert not warned


def test_preparing_tells_as_well(path, warned, tmp_path):
    preparation.prepare(dataset.load(path), tmp_path / "records", workers=1)
    (sentence,) = warned
    assert "of the fine image is 0 in every band" in sentence


def test_inspect_tells(path, capsys):
    with executors.make(workers=1) as here:
        found, _ = survey.look(catalog.Catalog(dataset.load(path)), here)
    inspect.show(found)
    told = capsys.readouterr().out
    assert f"warning: {DATES[0]}: 17% of the fine image is 0 in every band" in told
