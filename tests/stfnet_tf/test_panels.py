"""Pictures: what is drawn where, with which colours, and that a broken write leaves nothing."""

import dataclasses
import itertools

import numpy as np
import pytest
from skimage import io as image_io

from stfnet_tf import panels, scores

BANDS = ("green", "red", "nir")
VALID = np.ones((20, 30), bool)


def image(seed):
    return np.random.default_rng(seed).uniform(0, 1, (20, 30, 3))


@pytest.fixture
def stretch():
    return panels.Stretch.of([image(1), image(2)], [VALID, VALID], BANDS)


def report():
    truth = image(0)
    rows = [
        scores.score(
            truth, truth * k, VALID, bands=BANDS, ratio=16, method=name, date="2001-07-11"
        ).with_extras(seconds=k, peak_mib=k * 100)
        for name, k in (("half", 0.5), ("most", 0.9))
    ]
    return scores.Report("test", tuple(rows), references=tuple(rows[:1]))


@pytest.mark.parametrize(
    ("bands", "shown"),
    [
        (("blue", "green", "red", "nir", "swir1", "swir2"), (3, 2, 1)),
        (("red", "green", "blue"), (0, 1, 2)),
        (("a", "b", "c", "d"), (3, 2, 1)),
        (("ndvi",), (0,)),
    ],
)
def test_bands_shown(bands, shown):
    stretch = panels.Stretch.of([np.zeros((4, 4, len(bands)))], [np.ones((4, 4), bool)], bands)
    assert stretch.shown == shown


def test_stretch_comes_from_valid_pixels_and_is_linear():
    known = np.linspace(0, 1, 101).reshape(1, 101, 1)
    valid = np.ones((1, 101), bool)
    stretch = panels.Stretch.of([known, known + 50], [valid, ~valid], ("ndvi",))
    assert stretch.low == (pytest.approx(0.01),)
    assert stretch.high == (pytest.approx(0.99),)
    assert stretch.error_limit == pytest.approx(0.1)  # 0.12 of 0.98, rounded
    colours = stretch(np.array([[[0.01], [0.5], [0.99], [np.nan]]]), np.array([[1, 1, 1, 0]], bool))
    np.testing.assert_allclose(colours[0, :, 0], [0, 0.5, 1, panels.INVALID_GREY])
    assert colours.shape == (1, 4, 3)
    # What is not valid is no shade of the land.
    assert np.ptp(colours[0], axis=-1).tolist() == pytest.approx([0, 0, 0, 0.4])


def test_nothing_valid_still_draws():
    stretch = panels.Stretch.of([image(1)], [~VALID], BANDS)
    assert np.all(stretch(image(1), ~VALID) == panels.INVALID_GREY)


def test_error_panel_by_hand():
    truth = panels.Panel("t", np.zeros((1, 2, 2)), np.array([[True, True]]))
    prediction = panels.Panel("p", np.array([[[0.1, -0.3], [1, 1]]]), np.array([[True, False]]))
    error = panels.error_panel("e", prediction, truth)
    assert error.image[0, 0, 0] == pytest.approx(0.2)
    np.testing.assert_array_equal(error.valid, [[True, False]])


def test_every_picture_is_a_png_with_content(tmp_path, stretch):
    truth, result = image(0), report()
    prediction = panels.Panel("predicted F2", truth * 0.9, VALID)
    true = panels.Panel("true F2", truth, VALID)
    row = [prediction, true, panels.error_panel("error", prediction, true), prediction]
    calibration = scores.calibrate(truth[..., 0], truth[..., 1], VALID, "green")
    paths = [
        panels.sheet(tmp_path / "sheet.png", row, stretch, title="x"),
        panels.scatter(tmp_path / "scatter.png", truth, truth * 0.9, VALID, result.scores[1]),
        panels.apa_diagram(tmp_path / "apa.png", result, "2001-07-11"),
        panels.calibration(tmp_path / "calibration.png", [calibration], "quality"),
        panels.comparison(tmp_path / "comparison.png", result, "2001-07-11"),
    ]
    for path in paths:
        pixels = image_io.imread(path)
        assert min(pixels.shape[:2]) > 200
        assert pixels[..., :3].std() > 5
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in paths)


def test_bands_have_the_colours_of_their_names():
    colours = [panels._band_colour(band, n) for n, band in enumerate(BANDS)]
    assert colours == [panels.BAND_COLOURS[band] for band in BANDS]
    red, green, blue = (int(colours[0][k : k + 2], 16) for k in (1, 3, 5))
    assert green > red and green > blue  # the band called green
    names = [f"band{k}" for k in range(6)]
    assert len({panels._band_colour(name, n) for n, name in enumerate(names)}) == 6


def test_names_in_the_apa_diagram_lie_apart(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(panels, "_save", lambda figure, path: kept.append(figure))
    result = report()
    known = [dataclasses.replace(result.scores[1], method=name) for name in ("F1", "F3")]
    result = dataclasses.replace(result, references=tuple(known))
    panels.apa_diagram(tmp_path / "apa.png", result, "2001-07-11")
    kept[0].draw_without_rendering()
    first, second = (text.get_window_extent() for text in kept[0].axes[0].texts)
    assert not first.overlaps(second)


def test_labels_of_times_lie_apart(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(panels, "_save", lambda figure, path: kept.append(figure))
    rows = [row.with_extras(seconds=0.003 + k * 0.007) for k, row in enumerate(report().scores)]
    panels.comparison(tmp_path / "x.png", scores.Report("test", tuple(rows)), "2001-07-11")
    kept[0].draw_without_rendering()
    ticks = kept[0].axes[1].xaxis.get_ticklabels(which="both")
    boxes = [tick.get_window_extent() for tick in ticks if tick.get_text()]
    assert boxes and not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_bands_may_outnumber_the_markers(tmp_path):
    bands = tuple(f"band {k}" for k in range(len(panels.MARKERS) + 2))
    truth = np.random.default_rng(0).uniform(0.05, 0.4, (*VALID.shape, len(bands)))
    result = scores.score(
        truth, truth * 0.9, VALID, bands=bands, ratio=16, method="m", date="2001-07-11"
    )
    report = scores.Report("test", (result,))
    assert panels.comparison(tmp_path / "comparison.png", report, "2001-07-11").is_file()


def test_a_sheet_shows_the_false_colours(tmp_path):
    red_land = np.zeros((40, 40, 3))
    red_land[..., 2] = 1.0  # NIR is shown as red
    stretch = panels.Stretch((2, 1, 0), ("nir", "red", "green"), (0.0,) * 3, (1.0,) * 3, 0.05)
    panel = panels.Panel("F1", red_land, np.ones((40, 40), bool))
    pixels = image_io.imread(panels.sheet(tmp_path / "s.png", [panel], stretch, columns=1))
    centre = pixels[pixels.shape[0] // 2, pixels.shape[1] // 2, :3]
    np.testing.assert_array_equal(centre, [255, 0, 0])
