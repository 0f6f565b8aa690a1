import dataclasses
import datetime

import numpy as np
import pytest

from data_prep import (
    catalog,
    corrections,
    dataset,
    errors,
    executors,
    inspect,
    preparation,
    quality,
    rasters,
    residual_clouds,
    survey,
)
from data_prep.grids import Window
from tests.data_prep import tiny

RATIO = 8
HEIGHT, WIDTH = 160, 192
T1, T2, T3 = map(datetime.date.fromisoformat, tiny.DATES)
# Coarse rows 6 to 8 and columns 10 to 12.
CLOUD = np.s_[6:9, 10:13]
CLOUDY = np.s_[48:72, 80:104]


@pytest.fixture
def described(tmp_path):
    return tiny.make(tmp_path, HEIGHT, WIDTH, RATIO)


def changed(path, by, dates=(T2,), where=CLOUD):
    """The coarse images of a land that turns green a little, with noise of 0.002 in reflectance.

    On some dates digital numbers are added to a part of them.
    """
    for k, date in enumerate((T1, T2, T3)):
        image = tiny.blocks(tiny.land(HEIGHT, WIDTH), RATIO) + np.array([-40.0, 60.0]) * k
        image += np.random.default_rng(k).normal(0, 20, image.shape)
        if date in dates:
            image[where] += by
        write(path, date, image)
    return catalog.Catalog(dataset.load(path))


def write(path, date, image):
    grid = tiny.grid(HEIGHT // RATIO, WIDTH // RATIO, size=30.0 * RATIO)
    rasters.write(path.parent / f"C_{date}.tif", np.rint(image).astype(np.int16), grid)


def test_a_cloud_is_left_out_with_what_it_may_have_touched(described):
    images = corrections.corrected(changed(described, [900, 700]))
    assert set(images.clouds) == {T2}
    valid = images.read("coarse", T2).valid
    expected = np.ones((HEIGHT, WIDTH), bool)
    expected[40:80, 72:112] = False  # a coarse pixel more on every side
    # Coarse images are interpolated, so that the cloud itself reaches half a pixel further.
    assert not valid[CLOUDY].any()
    assert not valid[~expected].any()
    assert valid.mean() > 0.9 and valid[:30].all() and valid[:, :60].all()
    for date in (T1, T3):
        assert images.read("coarse", date).valid.all()
    # What is read is the image as it was.
    plain = catalog.Catalog(dataset.load(described))
    assert (images.read("coarse", T2).dn == plain.read("coarse", T2).dn).all()


@pytest.mark.parametrize(
    ("by", "dates", "where"),
    [
        pytest.param((0, 0), (T2,), CLOUD, id="nothing"),
        pytest.param((-300, 900), (T2,), CLOUD, id="crops that grow for a while"),
        pytest.param((900, -300), (T2,), CLOUD, id="crops that ripen"),
        pytest.param((-500, -500), (T2,), CLOUD, id="fire, or a shadow"),
        pytest.param((900, 700), (T2, T3), CLOUD, id="sand that stays"),
        pytest.param((900, 700), (T1,), CLOUD, id="snow that is gone"),
        pytest.param((900, 700), (T1, T2), CLOUD, id="snow that goes after it"),
        pytest.param((-9000, -9000), (T1, T3), CLOUD, id="not known on the other dates"),
        pytest.param((900, 700), (T2,), np.s_[:], id="the whole scene brighter"),
        pytest.param((60, 60), (T2,), CLOUD, id="little more than noise"),
    ],
)
def test_what_is_no_cloud_stays(described, by, dates, where):
    assert residual_clouds.find(changed(described, by, dates, where)) == {}


@pytest.mark.parametrize(("by", "found"), [(0, set()), (900, {T2})])
def test_what_has_not_darkened_with_the_scene_is_no_cloud(described, by, found):
    darker = np.full((HEIGHT // RATIO, WIDTH // RATIO, 1), -400.0)
    darker[CLOUD] = by
    assert set(residual_clouds.find(changed(described, darker, where=np.s_[:]))) == found


def test_less_than_noise_is_no_cloud_where_there_is_none(tmp_path):
    path = tiny.make(tmp_path, HEIGHT, WIDTH, RATIO)
    for date in (T1, T2, T3):
        image = tiny.blocks(tiny.land(HEIGHT, WIDTH), RATIO)
        image[CLOUD] += 40 * (date == T2)
        write(path, date, image)
    assert residual_clouds.find(catalog.Catalog(dataset.load(path))) == {}


def test_few_coarse_pixels_tell_nothing(tmp_path):
    path = tiny.make(tmp_path, 40, 40, RATIO)  # 25 of them
    for date in tiny.DATES:
        image = tiny.blocks(tiny.land(40, 40), RATIO)
        image[2, 2] += 3000 * (date == str(T2))
        rasters.write(path.parent / f"C_{date}.tif", image, tiny.grid(5, 5, size=240.0))
    assert residual_clouds.find(catalog.Catalog(dataset.load(path))) == {}


def test_only_dates_between_known_pairs_can_be_told(described):
    text = described.read_text()
    listed = ", ".join(f'"{date}"' for date in tiny.DATES)
    described.write_text(text.replace(listed, f'"{T1}", "{T2}"'))
    (described.parent / f"F_{T3}.tif").unlink()
    assert residual_clouds.find(changed(described, [900, 700])) == {}


def test_the_fine_image_of_a_date_to_be_predicted_has_no_part(described):
    text = described.read_text()
    listed = ", ".join(f'"{date}"' for date in tiny.DATES)
    described.write_text(text.replace(f"[{listed}]", f'["{T1}", "{T3}"]\ntest = ["{T2}"]'))
    (with_truth,) = residual_clouds.find(changed(described, [900, 700])).values()
    (described.parent / f"F_{T2}.tif").unlink()
    images = catalog.Catalog(dataset.load(described))
    (without,) = residual_clouds.find(images).values()
    assert with_truth.digest == without.digest


def test_dates_to_be_predicted_are_not_compared_with_each_other(tmp_path):
    dates = ("2001-10-08", "2001-10-17", "2001-10-24", "2001-11-02")
    path = tiny.make(tmp_path, HEIGHT, WIDTH, RATIO, dates)
    for k, date in enumerate(dates):
        image = tiny.blocks(tiny.land(HEIGHT, WIDTH), RATIO)
        image[CLOUD] += 900 * (k in (1, 2))
        write(path, date, image)
    text = path.read_text().replace(
        "train = [" + ", ".join(f'"{date}"' for date in dates) + "]",
        f'train = ["{dates[0]}", "{dates[3]}"]\ntest = ["{dates[1]}", "{dates[2]}"]',
    )
    path.write_text(text)
    found = residual_clouds.find(catalog.Catalog(dataset.load(path)))
    assert sorted(map(str, found)) == list(dates[1:3])


def test_other_dates_are_not_looked_at(described):
    images = changed(described, [900, 700])
    assert set(residual_clouds.find(images, dates=[T1, T2])) == {T2}
    assert residual_clouds.find(images, dates=[T1, T3]) == {}


def test_an_image_that_cannot_be_read_stops_nothing(described):
    images = changed(described, [900, 700])
    file = described.parent / f"C_{T3}.tif"
    file.write_bytes(file.read_bytes()[:-100])
    assert residual_clouds.find(images) == {}
    with pytest.raises(errors.InputError, match=f"C_{T3}.tif"):
        images.read("coarse", T3)


@pytest.mark.parametrize(
    ("coarse", "bands", "expected"),
    [
        ("", 2, "reject"),
        ('residual_clouds = "keep"', 2, "keep"),
        ("", 1, "keep"),
        ('[[coarse.quality]]\nfiles = "Q.tif"\nrules = { cloud = { values = 1 } }', 2, "keep"),
        (
            'residual_clouds = "reject"\n'
            '[[coarse.quality]]\nfiles = "Q.tif"\nrules = { cloud = { values = 1 } }',
            2,
            "reject",
        ),
    ],
)
def test_default_without_a_quality_layer(tmp_path, coarse, bands, expected):
    path = tiny.describe(tmp_path)
    text = path.read_text().replace("[dates]", f"{coarse}\n[dates]")
    if bands == 1:
        text = text.replace('["green", "nir"]', '["green"]')
    path.write_text(text)
    assert dataset.load(path).coarse.residual_clouds == expected


@pytest.mark.parametrize(
    ("side", "bands", "message"),
    [
        ("coarse", 1, r"coarse\.residual_clouds: expected 'keep' for a single band"),
        ("fine", 2, r"fine\.residual_clouds: expected one of .* found 'residual_clouds'"),
    ],
)
def test_what_a_description_may_not_ask(tmp_path, side, bands, message):
    path = tiny.describe(tmp_path)
    text = path.read_text().replace(f"[{side}]", f'[{side}]\nresidual_clouds = "reject"')
    if bands == 1:
        text = text.replace('["green", "nir"]', '["green"]')
    path.write_text(text)
    with pytest.raises(errors.InputError, match=message):
        dataset.load(path)


def test_flags_replace_what_the_description_says(described):
    loaded = dataset.load(described)
    assert loaded.correcting(None, None) == loaded
    other = loaded.correcting("report", "keep")
    assert (other.coregister, other.coarse.residual_clouds) == ("report", "keep")
    images = changed(described, [900, 700])
    assert corrections.corrected(catalog.Catalog(other)).clouds == {}
    assert set(corrections.corrected(images).clouds) == {T2}
    single = dataclasses.replace(loaded, bands=("green",))
    with pytest.raises(errors.InputError, match="--residual_clouds: expected 'keep'"):
        single.correcting(None, "reject")


@pytest.mark.parametrize("window", [Window(0, 0, 11, 14), Window(3, 2, 5, 9), Window(8, 11, 3, 3)])
def test_cells_are_read_in_any_window(window):
    bad = np.random.default_rng(0).random((3, 4)) > 0.5
    mask = quality.CellMask(bad, 3)
    # 11 × 14 pixels: the last cells are wider than the others.
    whole = np.pad(np.repeat(np.repeat(bad, 3, 0), 3, 1), ((0, 2), (0, 2)), "edge")
    assert (mask.read(window) == whole[window.slices]).all()
    assert (mask.read(window, 2) == whole[window.slices][1::2, 1::2]).all()
    assert mask.share == bad.mean()
    assert mask.digest != quality.CellMask(bad, 2).digest != quality.CellMask(~bad, 2).digest


@pytest.mark.parametrize(
    ("side", "ratio", "step"),
    [(400, 16.67, 4), (2800, 16, 4), (2801, 16, 8), (12000, 16, 8), (24000, 16, 16), (400, 1, 1)],
)
def test_large_scenes_are_looked_at_on_fewer_pixels(side, ratio, step):
    assert residual_clouds._step(side**2, ratio) == step


@pytest.mark.parametrize("ratio", [1, RATIO])
def test_small_pictures_leave_them_out(tmp_path, ratio):
    path = tiny.make(tmp_path, HEIGHT, WIDTH, ratio)
    bad = np.random.default_rng(0).random((HEIGHT // RATIO, WIDTH // RATIO)) > 0.5
    images = catalog.Catalog(dataset.load(path)).without({T2: quality.CellMask(bad, RATIO)})
    for step in (3, RATIO):
        whole = images.read("coarse", T2).valid[step // 2 :: step, step // 2 :: step]
        assert (images.overview("coarse", T2, step).valid == whole).all()
        assert images.overview("coarse", T1, step).valid.all()


def test_other_processes_get_the_masks_of_their_dates(described):
    images = corrections.corrected(changed(described, [900, 700]))
    assert set(images.of([T1, T2]).clouds) == {T2}
    assert images.of([T1, T3]).clouds == {}
    assert (images.of([T2]).read("coarse", T2).valid == images.read("coarse", T2).valid).all()


def test_shards_hold_it_and_are_known_by_it(described, tmp_path):
    found = {}
    for mode in ("keep", "reject"):
        changed(described, [900, 700] if mode == "keep" else [0, 0])
        loaded = dataset.load(described)
        loaded = dataclasses.replace(
            loaded, coarse=dataclasses.replace(loaded.coarse, residual_clouds=mode)
        )
        found[mode] = preparation.prepare(loaded, tmp_path / mode, workers=1)
    kept, rejected = (found[mode].description["prepared"] for mode in ("keep", "reject"))
    assert kept["clouds"] == {} and set(rejected["clouds"]) == {str(T2)}
    assert 0 < rejected["clouds"][str(T2)] < 0.1
    assert kept["fingerprint"] != rejected["fingerprint"]


@pytest.mark.parametrize(("mode", "done"), [("reject", "are left out"), ("keep", "are kept")])
def test_inspect_tells(described, capsys, mode, done):
    described.write_text(
        described.read_text().replace("[coarse]", f'[coarse]\nresidual_clouds = "{mode}"')
    )
    with executors.make(workers=1) as here:
        found, corrected = survey.look(changed(described, [900, 700]), here)
    inspect.show(found)
    printed = capsys.readouterr().out
    assert f"residual clouds: parts of the coarse images of {T2} (" in printed and done in printed
    assert set(corrected.clouds) == ({T2} if mode == "reject" else set())
    assert found["residual_clouds"]["shares"].keys() == {str(T2)}
