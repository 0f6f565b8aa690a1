import hashlib
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from data_prep import catalog, crops, dataset, errors, grids, make_sample, rasters, sample_layout
from data_prep import simulation as sim
from data_prep.sample_layout import Date

ROOT = Path(__file__).parents[2]
SIZE = 224


@pytest.fixture(scope="module")
def sample():
    return sim.Sample(seed=3, size=SIZE, dates=sample_layout.chosen(8)[1:6])


@pytest.fixture(scope="module")
def made(sample, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "sample"
    truth = make_sample.make(sample, folder)
    return folder, truth


def load(folder, description="sample.toml"):
    return catalog.Catalog(dataset.load(folder / description))


def digest(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_dates_are_overpasses_and_tests_have_neighbours_on_both_sides():
    for count in range(3, 15):
        dates = sample_layout.chosen(count)
        assert len(dates) == count
        assert {(b - a).days for a, b in itertools.pairwise(dates)} == {16}
        tested = sample_layout.tested(dates)
        assert dates[0] not in tested and dates[-1] not in tested
        assert bool(tested) == (count > 3)


def test_names_are_those_of_the_download():
    date = Date(2001, 10, 8)
    assert sample_layout.fine_file(date) == (
        "CIA/Landsat/2001_281_08oct/L71093084_08420011007_HRF_modtran_surf_ref_agd66.bil"
    )
    assert sample_layout.coarse_file(date) == (
        "CIA/MODIS/2001_281_08oct/MOD09GA_A2001281.sur_refl.int"
    )
    assert Path(sample_layout.fine_file(Date(2002, 3, 1))).name.startswith("L72")


def test_the_description_in_configs_is_the_default_samples():
    text = (ROOT / "configs/sample.toml").read_text(encoding="utf-8")
    assert text == sample_layout.description(sample_layout.chosen(8))


def test_files_are_envi_with_the_downloads_interleaves(made, sample):
    folder, _ = made
    date = sample.dates[0]
    for name, interleave in (
        (sample_layout.fine_file(date), "bil"),
        (sample_layout.coarse_file(date), "bsq"),
    ):
        header = (folder / name).with_suffix(".hdr").read_text()
        assert f"interleave = {interleave}" in header
        assert "data type = 2" in header
        assert "map info = {UTM, 1, 1, 396000, 6152000, 25, 25, 55, South" in header
        assert str(folder.parent) not in header  # nothing of where it was made
        # The layout by hand: rows of bands, or whole bands.
        shape = (SIZE, 6, SIZE) if interleave == "bil" else (6, SIZE, SIZE)
        raw = np.fromfile(folder / name, "<i2").reshape(shape)
        raw = raw.transpose(0, 2, 1) if interleave == "bil" else raw.transpose(1, 2, 0)
        np.testing.assert_array_equal(raw, rasters.read(str(folder / name)))


def test_the_cia_reader_reads_it_unchanged(made, sample, tmp_path):
    folder, _ = made
    text = (ROOT / "configs/cia.toml").read_text(encoding="utf-8")
    cut = text.index("[dates]")
    (tmp_path / "cia.toml").write_text(text[:cut], encoding="utf-8")
    found = catalog.Catalog(dataset.load(tmp_path / "cia.toml", folder))
    found.check()
    assert tuple(found.fine_dates) == tuple(found.coarse_dates) == sample.dates
    assert found.grid == sim.fine_grid(SIZE)
    image = found.read("fine", sample.dates[0])
    assert image.dn.shape == (SIZE, SIZE, 6) and image.valid.mean() > 0.99


def test_both_descriptions_read_it(made, sample):
    folder, _ = made
    for description in ("sample.toml", "sample_sinusoidal.toml"):
        found = load(folder, description)
        found.check()
        assert found.ratio == pytest.approx(463.3127 / 25, rel=0.01)
        assert tuple(found.coarse_dates) == sample.dates
        image = found.read("coarse", sample.dates[0])
        assert image.dn.shape == (SIZE, SIZE, 6) and image.valid.mean() > 0.95


def test_the_same_seed_gives_the_same_bytes(made, sample, tmp_path):
    folder, truth = made
    again = make_sample.make(sample, tmp_path / "again")
    assert again == truth
    assert digest(tmp_path / "again") == digest(folder)


def test_fine_noise_is_what_the_truth_states(made, sample):
    folder, truth = made
    date = sample.dates[0]  # clear
    seen = rasters.read(str(folder / sample_layout.fine_file(date))) / 1e4
    clear = rasters.read(str(folder / sample_layout.truth_file(date))) / 1e4
    atmosphere = truth["dates"][date.isoformat()]["atmosphere"]["fine"]
    residual = seen - clear * atmosphere["gain"] - atmosphere["offset"]
    bright = (clear > 0.03).all(-1)  # where no digital number was cut off at 0
    np.testing.assert_allclose(residual[bright].std(0), truth["fine"]["noise_std"], rtol=0.04)
    np.testing.assert_allclose(residual[bright].mean(0), 0, atol=2e-4)


def test_masks_mark_what_is_really_bright_and_dark(made, sample):
    folder, truth = made
    date = next(d for k, d in enumerate(sample.dates) if sample.cloud_share(k))
    seen = rasters.read(str(folder / sample_layout.fine_file(date))) / 1e4
    clear = rasters.read(str(folder / sample_layout.truth_file(date))) / 1e4
    mask = rasters.read(str(folder / sample_layout.fine_mask_file(date)))[..., 0]
    share = truth["dates"][date.isoformat()]["cloud_share"]
    assert (mask == 4).mean() == pytest.approx(share)
    assert share > 0.01
    change = (seen - clear)[..., 0]
    usable = np.isin(mask, (0, 1))
    assert np.quantile(np.abs(change[usable]), 0.999) < 0.02
    assert change[mask == 4].mean() > 0.1
    assert (seen - clear)[..., 3][mask == 2].mean() < -0.02
    coarse = load(folder).read("coarse", date)
    # Nearly every fine cloud lies under a flagged coarse pixel, clear dates have none.
    assert (~coarse.valid)[mask == 4].mean() > 0.95
    assert load(folder).read("coarse", sample.dates[0]).valid.all()


def test_the_coarse_image_is_the_blurred_land_moved_by_the_stated_shift(made, sample):
    folder, truth = made
    date = sample.dates[0]
    clear = rasters.read(str(folder / sample_layout.truth_file(date))) / 1e4
    seen = rasters.read(str(folder / sample_layout.coarse_file(date))) / 1e4
    sigma = truth["coarse"]["psf_sigma_fine_pixels"]
    assert sigma == pytest.approx(1.4 * 463.3127 / 25 / 2.3548, rel=1e-4)
    blurred = ndimage.gaussian_filter(clear, (sigma, sigma, 0))
    gain, offset = (
        np.array(truth["dates"][date.isoformat()]["atmosphere"]["coarse"][k])
        for k in ("gain", "offset")
    )
    expected = blurred * truth["coarse"]["gain"] * gain + truth["coarse"]["offset"] + offset
    inner = slice(40, -40)

    def error(shift):
        moved = ndimage.shift(seen, (*shift, 0), order=3)
        return np.sqrt(((moved - expected)[inner, inner] ** 2).mean((0, 1)))

    shift = truth["dates"][date.isoformat()]["shift"]
    assert np.hypot(*np.subtract(shift, truth["common_shift"])) <= truth["largest_jitter"]
    at_truth = error(shift)
    # What is left is the coarse noise and the sampling's own error.
    assert (at_truth < 0.25 * expected[inner, inner].std((0, 1)) + 0.004).all()
    for wrong in ((0, 0), (-shift[0], -shift[1]), (shift[1], shift[0])):
        assert error(wrong).mean() > 1.15 * at_truth.mean()


def test_the_sinusoidal_pixels_see_the_land_beneath_them(made, sample):
    folder, truth = made
    date = sample.dates[0]
    tile = truth["coarse"]["tile"]
    name = str(folder / sample_layout.sinusoidal_file(date, tile, "sur_refl"))
    stated = rasters.info(name)
    assert stated.nodata == -28672 and stated.scale == pytest.approx(1e-4)
    assert stated.grid.pixel_size == pytest.approx((463.312716527,) * 2)
    # MODIS' tile h29v12 covers longitudes about 145° at 35° south.
    assert tile == "h29v12"
    _, y = stated.grid.coordinates(np.array(3.5), np.array(3.5))
    assert -35.2 < np.degrees(y / 6371007.181) < -34.2
    clear = rasters.read(str(folder / sample_layout.truth_file(date))) / 1e4
    pixels = rasters.read(name)
    sigma = truth["coarse"]["psf_sigma_fine_pixels"]
    blurred = ndimage.gaussian_filter(clear, (sigma, sigma, 0))
    rows, cols = np.indices(pixels.shape[:2]) + 0.5
    places = grids.locate(stated.grid, sim.fine_grid(SIZE), rows.ravel(), cols.ravel())
    inside = ((places > 45) & (places < SIZE - 45)).all(-1)
    expected = np.stack(
        [ndimage.map_coordinates(blurred[..., k], places[inside].T - 0.5) for k in range(6)], -1
    )
    found = pixels.reshape(-1, 6)[inside] / 1e4
    assert inside.sum() > 20
    conditions = truth["dates"][date.isoformat()]["atmosphere"]["coarse"]
    model = expected * truth["coarse"]["gain"] * np.array(conditions["gain"])
    model += np.array(truth["coarse"]["offset"]) + conditions["offset"]
    assert (found - model).std(0) == pytest.approx(truth["coarse"]["noise_std"], rel=0.5)


def test_the_truth_states_what_is_there(made, sample):
    folder, truth = made
    assert json.loads((folder / make_sample.TRUTH).read_text(encoding="utf-8")) == truth
    assert list(truth["dates"]) == [date.isoformat() for date in sample.dates]
    roles = [entry["role"] for entry in truth["dates"].values()]
    assert roles == ["train", "train", "test", "train", "train"]
    flood = truth["events"][0]
    assert flood["begins"] < flood["highest"] < flood["ends"]
    classes = rasters.read(str(folder / truth["classes"]["file"]))
    assert classes.max() < len(truth["classes"]["names"]) == len(crops.CLASSES)


def test_change_is_worth_predicting_and_not_trivially_so(made, sample):
    folder, _ = made
    found = load(folder)
    dates = sample.dates[1:4]
    fine = [found.read("fine", d).dn / 1e4 for d in dates]
    coarse = [found.read("coarse", d).dn / 1e4 for d in dates]
    valid = np.all([found.read(s, d).valid for s in ("fine", "coarse") for d in dates], axis=0)

    def rmse(prediction):
        return np.sqrt(((prediction - fine[1])[valid] ** 2).mean(0)).mean()

    copy = min(rmse(fine[0]), rmse(fine[2]))
    change = rmse((fine[0] + fine[2] + 2 * coarse[1] - coarse[0] - coarse[2]) / 2)
    assert 0.006 < change < 0.95 * copy


def test_a_folder_with_files_is_left_alone(made, sample, tmp_path):
    folder, _ = made
    with pytest.raises(errors.InputError, match="found a sample"):
        make_sample.make(sample, folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("keep")
    with pytest.raises(errors.InputError, match="found other files"):
        make_sample.make(sample, tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine/letter.txt").read_text() == "keep"


def test_overwriting_replaces_the_whole_sample_and_failure_leaves_it(tmp_path, monkeypatch):
    small = sim.Sample(seed=1, size=96, dates=sample_layout.chosen(4), truth_images=False)
    folder = tmp_path / "sample"
    make_sample.make(small, folder)
    before = digest(folder)
    fewer = sim.Sample(seed=2, size=96, dates=sample_layout.chosen(3), truth_images=False)

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(sample_layout, "description", full_disk)
        with pytest.raises(errors.InputError, match="No space left"):
            make_sample.make(fewer, folder, overwrite=True)
    assert digest(folder) == before
    make_sample.make(fewer, folder, overwrite=True)
    assert len(list((folder / "CIA/Landsat").iterdir())) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["sample"]


def test_the_command_line(tmp_path):
    def run(*flags):
        command = [sys.executable, "-m", "data_prep.make_sample", *flags]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    flags = (f"--output_dir={tmp_path / 'made'}", "--size=96", "--dates=3", "--notruth_images")
    done = run(*flags)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "made/sample.toml") in done.stdout
    again = run(*flags)
    assert again.returncode == errors.EXIT_BAD_INPUT
    assert "expected a new or an empty folder" in again.stderr and "Traceback" not in again.stderr
