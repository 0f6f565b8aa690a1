import dataclasses
import datetime

import numpy as np
import pytest
from osgeo import gdal

from data_prep import catalog, errors, named_rasters, rasters, triplets
from tests.data_prep import tiny

T1, T2, T3 = (datetime.date.fromisoformat(date) for date in tiny.DATES)
SCALED = {
    "fine": named_rasters.StatedEncoding(scale=1e-4),
    "coarse": named_rasters.StatedEncoding(scale=1e-4),
}


@pytest.fixture
def folder(tmp_path):
    tiny.make(tmp_path)
    return tmp_path


def named(folder, **changes):
    f1, f3 = (str(folder / f"F_{tiny.DATES[k]}.tif") for k in (0, 2))
    c1, c2, c3 = (str(folder / f"C_{date}.tif") for date in tiny.DATES)
    given = {"f1": f1, "c1": c1, "c2": (c2,), "f3": f3, "c3": c3, **SCALED, **changes}
    return named_rasters.NamedRasters(**given)


def copied(folder, name, source, **changes):
    """A raster under another name, as changed."""
    options = {
        "pixels": rasters.read(str(source)),
        "grid": rasters.info(str(source)).grid,
        **changes,
    }
    rasters.write(folder / name, **options)
    return str(folder / name)


def test_the_images_are_those_of_a_description(folder):
    described = catalog.Catalog(named_rasters.describe(named(folder)))
    from data_prep import dataset

    expected = catalog.Catalog(dataset.load(folder / "tiny.toml"))
    for side, date in (("fine", T1), ("coarse", T1), ("coarse", T2), ("fine", T3), ("coarse", T3)):
        one, two = (k.read(side, date) for k in (described, expected))
        np.testing.assert_array_equal(one.dn, two.dn)
        np.testing.assert_array_equal(one.valid, two.valid)
    assert described.ratio == expected.ratio == pytest.approx(8)
    assert described.dataset.bands == ("band1", "band2")
    assert described.dataset.supervision == "pair"


def test_triplets_are_two_sided_one_sided_and_later(folder):
    def formed(**changes):
        images = catalog.Catalog(named_rasters.describe(named(folder, **changes)))
        return triplets.of(images)["test"]

    assert formed() == [triplets.Triplet(T1, T2, T3)]
    assert formed(f3="", c3="") == [triplets.Triplet(T1, T2, None)]
    later = datetime.date(2001, 11, 20)
    both = (str(folder / f"C_{tiny.DATES[1]}.tif"),) * 2
    assert formed(c2=both, t2=(T2, later)) == [
        triplets.Triplet(T1, T2, T3),
        triplets.Triplet(T3, later, None),
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("LT05_L2SP_092084_20010711_02_T1.tif", datetime.date(2001, 7, 11)),
        ("scene-2001-07-11.tif", datetime.date(2001, 7, 11)),
        ("MOD09GA.A2001192.h29v12.tif", datetime.date(2001, 7, 11)),
        ("tm0711.tif", None),
        ("20010711_20010812.tif", None),
        ("x20019999.tif", None),
    ],
)
def test_dates_in_names(folder, name, expected):
    file = copied(folder, name, folder / f"C_{tiny.DATES[1]}.tif")
    changes = {"c2": (file,), "t1": datetime.date(2001, 1, 1), "t3": datetime.date(2001, 12, 1)}
    if expected:
        described = named_rasters.describe(named(folder, **changes))
        assert described.dates.test == (expected,)
    else:
        with pytest.raises(errors.InputError, match=rf"{name}: expected one date .* --t2 states"):
            named_rasters.describe(named(folder, **changes))
        assert named_rasters.describe(named(folder, **changes, t2=(T2,))).dates.test == (T2,)


def test_bands_go_by_name_where_the_rasters_name_them(folder):
    """A fine raster whose bands are the other way round."""
    for side in "FC":
        for k, date in enumerate(tiny.DATES):
            source = folder / f"{side}_{date}.tif"
            pixels = rasters.read(str(source))
            turned = {"pixels": pixels[..., ::-1], "band_names": ("nir", "green")}
            straight = {"band_names": ("green", "nir")}
            copied(folder, f"{side}{k}_{date}.tif", source, **(turned if side == "F" else straight))
    f1, f3 = (str(folder / f"F{k}_{tiny.DATES[k]}.tif") for k in (0, 2))
    c1, c2, c3 = (str(folder / f"C{k}_{date}.tif") for k, date in enumerate(tiny.DATES))
    given = named_rasters.NamedRasters(f1, c1, (c2,), f3, c3, usual=("green", "nir"), **SCALED)
    described = named_rasters.describe(given)
    assert described.bands == ("green", "nir")
    assert (described.fine.bands, described.coarse.bands) == ((2, 1), (1, 2))
    expected = rasters.read(str(folder / f"F_{tiny.DATES[0]}.tif"))
    np.testing.assert_array_equal(catalog.Catalog(described).read("fine", T1).dn, expected)
    # Without a model, the first raster's own names and order.
    assert named_rasters.describe(
        named_rasters.NamedRasters(f1, c1, (c2,), f3, c3, **SCALED)
    ).bands == ("nir", "green")


def test_bands_go_by_number_where_nothing_names_them(folder):
    """A fine raster with a band more than the coarse one, which is not the last."""
    more = []
    for k in (0, 2):
        source = folder / f"F_{tiny.DATES[k]}.tif"
        pixels = rasters.read(str(source))[..., [0, 0, 1]]
        more.append(copied(folder, f"more_{tiny.DATES[k]}.tif", source, pixels=pixels))
    given = named(folder, f1=more[0], f3=more[1])
    advice = "--fine_bands and --coarse_bands give the numbers"
    for bands in ((), ("green", "nir")):
        with pytest.raises(errors.InputError, match=advice):
            named_rasters.describe(dataclasses.replace(given, bands=bands))
    # The advice, followed; once as it would be without a thought.
    coding = named_rasters.StatedEncoding(bands=(2, 3), scale=1e-4)
    for bands in ((), ("green", "nir")):
        taught = dataclasses.replace(given, bands=bands, fine=coding)
        described = named_rasters.describe(taught)
        assert described.bands == (bands or ("band2", "band3"))
        assert (described.fine.bands, described.coarse.bands) == ((2, 3), (1, 2))
        expected = rasters.read(str(folder / f"F_{tiny.DATES[0]}.tif"))
        np.testing.assert_array_equal(catalog.Catalog(described).read("fine", T1).dn, expected)
    for numbers in ((2, 4), (0, 1), (1, 2, 3)):
        coding = named_rasters.StatedEncoding(bands=numbers, scale=1e-4)
        with pytest.raises(errors.InputError, match=r"--coarse_bands: expected 2 numbers .* to 2"):
            named_rasters.describe(named(folder, coarse=coding))


@pytest.mark.parametrize(("dtype", "bands", "used"), [("int16", 3, 2), ("uint8", 4, 4)])
def test_an_alpha_band_is_no_band_of_the_image(folder, dtype, bands, used):
    """But the fourth band of bytes, of which only GDAL says so, is one."""
    for k in (0, 2):
        grid = tiny.grid(96, 80)
        image = (tiny.land(96, 80, bands, seed=k) // 16).astype(dtype)
        image[:20, :, -1] = 0
        file = folder / f"F_{tiny.DATES[k]}.tif"
        rasters.write(file, image, grid)
        opened = gdal.OpenEx(str(file), gdal.OF_UPDATE)
        opened.GetRasterBand(bands).SetColorInterpretation(gdal.GCI_AlphaBand)
        del opened
    for file in folder.glob("C_*.tif"):
        pixels = np.repeat(rasters.read(str(file)), 2, -1)[..., :used]
        copied(folder, file.name, file, pixels=pixels)
    rasters.close_all()
    rasters.info.cache_clear()
    images = catalog.Catalog(named_rasters.describe(named(folder)))
    images.check()
    read = images.read("fine", T1)
    assert read.dn.shape[-1] == used
    assert read.valid[:20].all() == (used == bands) and read.valid[20:].all()


@pytest.mark.parametrize("side", ["fine", "coarse"])
def test_a_system_that_the_rasters_do_not_state(folder, side):
    expected = catalog.Catalog(named_rasters.describe(named(folder))).read("coarse", T2).dn
    for file in folder.glob(f"{side[0].upper()}_*.tif"):
        grid = dataclasses.replace(rasters.info(str(file)).grid, crs="")
        copied(folder, file.name, file, grid=grid)
    rasters.close_all()
    rasters.info.cache_clear()
    with (
        pytest.raises(errors.InputError, match="--fine_crs or --coarse_crs states a missing"),
        named_rasters.naming_flags(),
    ):
        catalog.Catalog(named_rasters.describe(named(folder))).check()
    coding = named_rasters.StatedEncoding(scale=1e-4, crs="EPSG:32655")
    images = catalog.Catalog(named_rasters.describe(named(folder, **{side: coding})))
    images.check()
    np.testing.assert_array_equal(images.read("coarse", T2).dn, expected)
    coding = named_rasters.StatedEncoding(scale=1e-4, crs="Mars")
    with pytest.raises(errors.InputError, match=f"--{side}_crs: expected a system such as"):
        named_rasters.describe(named(folder, **{side: coding}))


def test_codings(folder):
    fine = named_rasters.StatedEncoding((), 2e-4, -0.1, -1.0, (0, 5000))
    described = named_rasters.describe(named(folder, fine=fine))
    assert (described.fine.scale, described.fine.offset) == (2e-4, -0.1)
    assert (described.fine.fill, described.fine.valid_range) == ((-1.0,), (0, 5000))
    stated = {"scale": 1e-4, "offset": 0.0}
    for side, date in (("F", 0), ("F", 2), ("C", 0), ("C", 1), ("C", 2)):
        source = folder / f"{side}_{tiny.DATES[date]}.tif"
        copied(folder, f"{side}s_{tiny.DATES[date]}.tif", source, **stated)
    f1, f3 = (str(folder / f"Fs_{tiny.DATES[k]}.tif") for k in (0, 2))
    c1, c2, c3 = (str(folder / f"Cs_{date}.tif") for date in tiny.DATES)
    images = catalog.Catalog(
        named_rasters.describe(named_rasters.NamedRasters(f1, c1, (c2,), f3, c3))
    )
    assert images.encoding("fine").scale == 1e-4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"c1": ""}, "--c1: expected a raster"),
        ({"f3": ""}, "--f3: expected a raster beside --c3"),
        ({"fine": named_rasters.StatedEncoding()}, "--fine_scale gives reflectance"),
        ({"coarse": named_rasters.StatedEncoding()}, "--coarse_scale gives reflectance"),
        ({"bands": ("a", "b", "c")}, "--f1: expected 3 bands"),
        ({"t2": (T2, T3)}, "--t2: expected a date for each of the 1 rasters"),
        ({"t2": (T1,)}, "--c2: expected dates after --f1's"),
        ({"t3": T1}, "--f3: expected a date after --f1's"),
        ({"f1": "nowhere_20011008.tif"}, "nowhere_20011008.tif: expected a raster"),
    ],
)
def test_what_is_missing_or_wrong_is_named(folder, changes, message):
    with pytest.raises(errors.InputError, match=message):
        named_rasters.describe(named(folder, **changes))


def test_dates_of_a_pair_must_agree(folder):
    wrong = copied(folder, "C_2001-10-09.tif", folder / f"C_{tiny.DATES[0]}.tif")
    with pytest.raises(errors.InputError, match="expected the date of --f1, 2001-10-08, found"):
        named_rasters.describe(named(folder, c1=wrong))
    assert named_rasters.describe(named(folder, c1=wrong, t1=T1)).dates.train == (T1, T3)


def test_sentences_about_keys_name_the_flags():
    with pytest.raises(errors.InputError, match="--fine_offset says"), named_rasters.naming_flags():
        raise errors.InputError("a.tif: found 0.1; fine.offset says which holds.")
