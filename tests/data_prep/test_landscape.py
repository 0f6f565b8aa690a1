import numpy as np
import pytest

from data_prep import crops, landscape

DAYS = {"october": 7.0, "november": 40.0, "january": 100.0, "february": 140.0, "may": 215.0}


@pytest.fixture(scope="module")
def strip():
    return landscape.Landscape(400, 400, seed=1).strip(0, 400)


def ndvi(reflectance):
    red, nir = reflectance[..., 2], reflectance[..., 3]
    return (nir - red) / (nir + red)


def test_noise_is_smooth_of_unit_variance_and_the_same_by_rows():
    noise = landscape.Noise((300, 400), 6.0, np.random.default_rng(0))
    whole = noise.rows(0, 300)
    assert whole.mean() == pytest.approx(0, abs=0.1)
    assert whole.std() == pytest.approx(1, abs=0.1)
    # Neighbours differ little, places a few nodes apart are unrelated.
    assert np.corrcoef(whole[1:].ravel(), whole[:-1].ravel())[0, 1] > 0.97
    assert abs(np.corrcoef(whole[36:].ravel(), whole[:-36].ravel())[0, 1]) < 0.1
    np.testing.assert_allclose(noise.rows(113, 190), whole[113:190], atol=1e-5)


def test_hashed_numbers_are_uniform_and_normal():
    keys = np.arange(20000)
    u = landscape.uniform(keys, 3)
    counts = np.histogram(u, 10, (0, 1))[0]
    assert np.abs(counts - 2000).max() < 200
    assert abs(np.corrcoef(u, landscape.uniform(keys, 4))[0, 1]) < 0.03
    n = landscape.normal(keys, 5)
    assert (n.mean(), n.std()) == (pytest.approx(0, abs=0.03), pytest.approx(1, abs=0.03))


def test_a_strip_is_the_same_however_the_land_is_cut(strip):
    land = landscape.Landscape(400, 400, seed=1)
    part = land.strip(130, 210)
    np.testing.assert_array_equal(part.label, strip.label[130:210])
    np.testing.assert_array_equal(part.field, strip.field[130:210])
    np.testing.assert_allclose(
        part.reflectance(101.0), strip.reflectance(101.0)[130:210], atol=1e-4
    )


def test_seeds_make_different_lands(strip):
    other = landscape.Landscape(400, 400, seed=2).strip(0, 400)
    assert (other.label != strip.label).mean() > 0.3


def test_every_class_is_there(strip):
    shares = np.bincount(strip.label.ravel(), minlength=len(crops.CLASSES)) / strip.label.size
    assert (shares > 0.001).all(), dict(zip(crops.CLASSES, shares, strict=True))
    assert shares[crops.RICE :].sum() > 0.4
    assert shares[crops.RICE :].sum() + shares[crops.PASTURE] < 0.95


def test_fields_hold_one_crop_and_are_about_a_coarse_pixel_large(strip):
    inside = strip.label >= crops.RICE
    fields, sizes = np.unique(strip.field[inside], return_counts=True)
    # Half of the farmed land lies in fields larger than this many pixels; a coarse one holds 343.
    assert 200 < np.sort(sizes)[np.cumsum(np.sort(sizes)) >= sizes.sum() / 2][0] < 1000
    for field in fields[:: len(fields) // 20]:
        there = (strip.field == field) & inside
        assert len(np.unique(strip.label[there])) == 1


@pytest.mark.parametrize("day", DAYS.values(), ids=DAYS)
def test_materials_fill_every_pixel_exactly(strip, day):
    cover = strip.cover(day)
    assert cover.min() >= 0
    np.testing.assert_allclose(cover.sum(-1), 1, atol=1e-5)


def test_reflectance_without_texture_is_the_mixture_by_hand():
    traits = {k: np.zeros((1, 1), np.float32) for k in ("lag", "relief", "clay", "density")}
    traits["height"] = np.full((1, 1), 9.0, np.float32)
    traits["density"] += 0.5
    strip = landscape.Strip(
        np.full((1, 1), crops.TOWN, np.uint8), np.zeros((1, 1), np.int32), traits, 0
    )
    cover = strip.cover(40.0)[0, 0]
    index = {name: k for k, name in enumerate(crops.MATERIALS)}
    # Half of the density is green: 0.25, of which 0.6 trees and 0.4 lawn; the rest roofs and soil.
    assert cover[index["gum"]] == pytest.approx(0.15)
    assert cover[index["leaf"]] == pytest.approx(0.10)
    assert cover[index["roof"]] == pytest.approx(0.85 * 0.75)
    assert cover[index["loam"]] == pytest.approx(0.15 * 0.75)
    dry_loam = np.array(crops.SPECTRA["loam"]) * (1 - crops.WET_LOSS * 0.08)
    expected = (
        0.15 * np.array(crops.SPECTRA["gum"])
        + 0.10 * np.array(crops.SPECTRA["leaf"])
        + 0.6375 * np.array(crops.SPECTRA["roof"])
        + 0.1125 * dry_loam
    )
    np.testing.assert_allclose(strip.reflectance(40.0)[0, 0], expected, atol=1e-6)


def test_crops_follow_their_calendars(strip):
    index = {name: ndvi(strip.reflectance(day)) for name, day in DAYS.items()}

    def mean(label, month, height=1.2):
        there = (strip.label == label) & (strip.traits["height"] > height)  # away from the flood
        return index[month][there].mean()

    assert mean(crops.RICE, "november") < 0.05  # under water
    assert mean(crops.RICE, "february") > 0.65
    assert mean(crops.RICE, "may") < 0.4  # harvested
    assert mean(crops.WHEAT, "october") > 0.6
    assert mean(crops.WHEAT, "january") < 0.35
    assert mean(crops.MAIZE, "january") > 0.6
    assert mean(crops.SOYBEAN, "february") > mean(crops.SOYBEAN, "january") + 0.1
    assert mean(crops.PASTURE, "january") < mean(crops.PASTURE, "october")
    months = [mean(crops.EVERGREEN, month) for month in DAYS]
    assert max(months) - min(months) < 0.06
    leaves = [mean(crops.RIPARIAN, month, height=0) for month in ("november", "may")]
    assert leaves[0] > leaves[1] + 0.05


def test_harvest_takes_the_leaves_off_at_once():
    traits = {k: np.zeros(2) for k in ("early", "late", "cut")}
    traits |= {"vigour": np.ones(2), "plough": np.full(2, 0.5), "burn": np.ones(2)}
    crop = crops.Crop(0.1, "leaf", 0.9, (40, 5), 8, (150, 5), 40, (160, 5))
    cover = crops.crop_cover(crop, np.array([159.0, 161.0]), traits)
    leaf, straw = (cover[:, crops.MATERIALS.index(k)] for k in ("leaf", "straw"))
    # Before: 0.9 · 1 / (1 + exp((159 − 150) / 40)); after: stubble of 0.62 · exp(−1 / 80).
    np.testing.assert_allclose(leaf, [0.9 / (1 + np.exp(9 / 40)), 0.03], atol=1e-4)
    np.testing.assert_allclose(straw[1], 0.62 * np.exp(-1 / 80), atol=1e-4)


def test_water_is_dark_in_the_short_wave_infrared(strip):
    reflectance = strip.reflectance(40.0)
    middle = strip.label == crops.WATER
    assert reflectance[middle][:, 4].mean() < 0.04
    assert reflectance[strip.label == crops.FALLOW][:, 4].mean() > 0.2


def test_the_flood_comes_at_once_and_goes_slowly(strip):
    before, peak = landscape.FLOOD_PEAK - landscape.FLOOD_RISE, landscape.FLOOD_PEAK
    assert landscape.flood_level(before) == 0
    assert landscape.flood_level(peak) == 1
    assert landscape.flood_level(peak + landscape.FLOOD_FALL) == pytest.approx(np.exp(-1))
    assert landscape.flood_level(landscape.FLOOD_END) == 0
    shares = [strip.flooded(day).mean() for day in (before, peak, peak + 15, 160.0)]
    assert shares[0] == shares[3] == 0
    assert 0.03 < shares[1] < 0.35
    assert 0.2 * shares[1] < shares[2] < 0.9 * shares[1]
    under = strip.flooded(peak) == 1
    trees = np.isin(strip.label, (crops.RIPARIAN, crops.EVERGREEN))
    assert strip.reflectance(peak)[under & ~trees][:, 4].max() < 0.06
    assert strip.flooded(peak)[strip.label == crops.TOWN].max(initial=0) == 0
