import dataclasses
import datetime

import numpy as np
import pytest
from scipy import ndimage

from data_prep import catalog, dataset, rasters, registration
from tests.data_prep import tiny

RATIO = 8
SHIFTS = ((3.4, -2.3), (2.6, -1.7), (3.0, -2.0))
SIGMA = 1.0 * RATIO / (2 * np.sqrt(2 * np.log(2)))


@pytest.fixture(scope="module")
def displaced(tmp_path_factory):
    """Coarse images at 1/8 of the resolution whose content lies off by known shifts."""
    folder = tmp_path_factory.mktemp("displaced")
    path = tiny.make(folder, 240, 320, RATIO)
    for k, date in enumerate(tiny.DATES):
        # A larger land, so that what is moved in is land too.
        wide = tiny.land(320, 400, seed=k).astype(float)
        blurred = ndimage.gaussian_filter(wide, (SIGMA, SIGMA, 0))
        rows, cols = SHIFTS[k]
        # The coarse image is to be moved by `SHIFTS`: its content lies that much up and left.
        off = ndimage.shift(blurred, (-rows, -cols, 0), order=3)[40:-40, 40:-40]
        noisy = off + np.random.default_rng(k).normal(0, 20, off.shape)
        rasters.write(
            folder / f"F_{date}.tif", wide[40:-40, 40:-40].astype(np.int16), tiny.grid(240, 320)
        )
        rasters.write(folder / f"C_{date}.tif", noisy.astype(np.int16), tiny.grid(240, 320))
    text = path.read_text().replace("[coarse]", f"[coarse]\nratio = {RATIO}\npsf_fwhm = 1.0")
    path.write_text(text)
    return path


def test_shift_is_found_to_a_fifth_of_a_fine_pixel(displaced):
    found = registration.estimate(catalog.Catalog(dataset.load(displaced)))
    for shift, truth in zip(found.found, SHIFTS, strict=True):
        assert (shift.rows, shift.cols) == pytest.approx(truth, abs=0.2)
        assert shift.confidence > 0.8
        assert shift.uncertainty < 0.5
        assert min(np.subtract(shift.after, shift.before)) > 0
    assert found.consistent
    assert (found.rows, found.cols) == pytest.approx((3.0, -2.0), abs=0.2)


def test_apply_raises_the_correlation_of_what_is_read(displaced):
    described = dataclasses.replace(dataset.load(displaced), coregister="apply")
    plain = catalog.Catalog(described)
    moved = registration.registered(plain)
    date = plain.fine_dates[0]
    fine = ndimage.gaussian_filter(plain.read("fine", date).dn[..., 0].astype(float), SIGMA)

    def correlation(images):
        coarse = images.read("coarse", date)
        return np.corrcoef(fine[coarse.valid], coarse.dn[..., 0][coarse.valid])[0, 1]

    assert correlation(moved) > correlation(plain) + 0.01
    assert correlation(moved) > 0.98


def test_report_changes_nothing(displaced):
    described = dataclasses.replace(dataset.load(displaced), coregister="report")
    images = catalog.Catalog(described)
    assert registration.registered(images) is images


def test_disagreeing_dates_are_reported(displaced, tmp_path):
    folder = tmp_path / "one_off"
    path = tiny.make(folder, 240, 320, RATIO)
    for k, date in enumerate(tiny.DATES):
        for name in (f"F_{date}.tif", f"C_{date}.tif"):
            image = rasters.read(str(displaced.parent / name))
            # The last date's coarse image lies another half coarse pixel off.
            moved = np.roll(image, -4, 0) if name.startswith("C") and k == 2 else image
            rasters.write(folder / name, moved, tiny.grid(240, 320))
    path.write_text(path.read_text().replace("[coarse]", f"[coarse]\nratio = {RATIO}"))
    found = registration.estimate(catalog.Catalog(dataset.load(path)))
    assert found.found[2].rows == pytest.approx(SHIFTS[2][0] + 4, abs=0.3)
    assert not found.consistent


def test_a_date_to_be_predicted_is_not_looked_at(displaced, tmp_path):
    first, second, third = tiny.DATES
    path = tmp_path / "x.toml"
    text = displaced.read_text().replace(
        'name = "tiny"', f'name = "x"\nroot = "{displaced.parent}"'
    )
    listed = ", ".join(f'"{d}"' for d in tiny.DATES)
    path.write_text(
        text.replace(f"train = [{listed}]", f'train = ["{first}", "{third}"]\ntest = ["{second}"]')
    )
    images = catalog.Catalog(dataset.load(path))
    assert registration.known_dates(images) == [
        datetime.date.fromisoformat(d) for d in (first, third)
    ]
    shift = registration.estimate_date(
        images, datetime.date.fromisoformat(second), registration.known_dates(images)
    )
    assert shift.reference.isoformat() in (first, third)


def test_nothing_in_common_is_not_trusted(tmp_path):
    path = tiny.make(tmp_path, 160, 160, RATIO)
    rng = np.random.default_rng(1)
    for date in tiny.DATES:
        noise = rng.integers(500, 4000, (20, 20, 2)).astype(np.int16)
        rasters.write(tmp_path / f"C_{date}.tif", noise, tiny.grid(20, 20, size=240.0))
    found = registration.estimate(catalog.Catalog(dataset.load(path)))
    assert all(shift.confidence < 0.3 for shift in found.found)
    assert set(found.shifts.values()) == {(0.0, 0.0)}


def test_clouds_do_not_pull(displaced, tmp_path):
    folder = tmp_path / "cloudy"
    path = tiny.make(folder, 240, 320, RATIO)
    for date in tiny.DATES:
        fine = rasters.read(str(displaced.parent / f"F_{date}.tif"))
        fine[30:130, 50:200] = 20000  # beyond the valid range
        rasters.write(folder / f"F_{date}.tif", fine, tiny.grid(240, 320))
        coarse = rasters.read(str(displaced.parent / f"C_{date}.tif"))
        rasters.write(folder / f"C_{date}.tif", coarse, tiny.grid(240, 320))
    path.write_text(path.read_text().replace("[coarse]", f"[coarse]\nratio = {RATIO}"))
    found = registration.estimate(catalog.Catalog(dataset.load(path)))
    for shift, truth in zip(found.found, SHIFTS, strict=True):
        assert (shift.rows, shift.cols) == pytest.approx(truth, abs=0.3)


def test_boreal_shift_is_consistent_and_nir_correlation_rises(stfnet_data):
    images = catalog.Catalog(dataset.load("configs/boreal2001.toml"))
    found = registration.estimate(images)
    assert found.consistent
    assert found.rows == pytest.approx(8, abs=3)
    assert found.cols == pytest.approx(16, abs=3)
    for shift in found.found:
        assert shift.after[2] >= 0.85
        assert shift.after[2] > shift.before[2] + 0.1


def test_simulated_coarse_images_of_gwydir_lie_where_they_should(stfnet_data):
    images = catalog.Catalog(dataset.load("configs/gwydir2004.toml"))
    shift = registration.estimate_date(images, images.fine_dates[0], images.fine_dates[:1])
    assert (shift.rows, shift.cols) == pytest.approx((0, 0), abs=0.1)


def test_a_date_of_which_hardly_anything_is_seen_has_no_shift(tmp_path):
    path = tiny.make(tmp_path)
    cloudy = np.full((96, 80, 2), -1, np.int16)
    cloudy[:9, :9] = 1000
    rasters.write(tmp_path / f"F_{tiny.DATES[1]}.tif", cloudy, tiny.grid(96, 80))
    rasters.close_all()
    found = registration.estimate(catalog.Catalog(dataset.load(path)))
    (seen,) = [k for k in found.found if k.date.isoformat() == tiny.DATES[1]]
    assert (seen.rows, seen.cols, seen.confidence) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("shape", "ratio"), [((1, 1), 16), ((6, 6), 16), ((40, 7), 16), ((1, 40), 1.5), ((3, 400), 1.5)]
)
def test_scenes_too_small_for_a_shift(tmp_path, shape, ratio):
    for k, date in enumerate(tiny.DATES):
        image = np.random.default_rng(k).integers(500, 4000, (*shape, 2)).astype(np.int16)
        for side in "FC":
            rasters.write(tmp_path / f"{side}_{date}.tif", image, tiny.grid(*shape))
    path = tiny.describe(tmp_path, more='[registration]\nmode = "apply"\n')
    path.write_text(path.read_text().replace("[coarse]", f"[coarse]\nratio = {ratio}"))
    images = catalog.Catalog(dataset.load(path))
    assert not registration.estimate(images).told
    assert set(registration.registered(images).shifts.values()) == {(0.0, 0.0)}
