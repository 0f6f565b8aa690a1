"""Public images as archives deliver them; skipped where they are not there."""

import dataclasses
import datetime

import numpy as np
import pytest
import tensorflow as tf
from osgeo import gdal
from scipy import ndimage

from data_prep import (
    archive,
    catalog,
    corrections,
    dataset,
    errors,
    grids,
    preparation,
    quality,
    rasters,
    records,
    shards,
    triplets,
)
from data_prep.grids import Grid, Window
from tests.data_prep import decoding, tiny

DAY = datetime.date.fromisoformat
BANDS = ["blue", "green", "red", "nir", "swir1", "swir2"]
A1 = "MOD09A1.A2017193.h18v04.006.2017202035302.hdf"
GA = "MOD09GA.A2008296.h14v17.006.2015181011753.hdf"
LANDSAT = {
    "2015-07-10": ("LC08_L2SP_005009_20150710", (515.09765625, 516.85546875), "zone 24N"),
    "2019-12-01": ("LC08_L2SP_008059_20191201", (444.78515625, 453.57421875), "zone 18N"),
    "2013-04-19": ("LC08_L2SP_017036_20130419", (464.12109375, 435.99609375), "zone 17N"),
    "2019-11-29": ("LC08_L2SR_099120_20191129", (529.16015625, 527.98828125), "PS "),
}


def reflectance(images, side, date, window=None):
    image = images.read(side, date, window)
    return images.encoding(side).reflectance(image.dn), image.valid


# --- boreal2001 ---


def test_boreal_simple_predictors_reproduce_the_published_table(stfnet_data, monkeypatch):
    """RMSE over the visible half of what is published for the whole image stays close to it."""
    images = catalog.Catalog(dataset.load("configs/boreal2001.toml"))
    t1, t2, t3 = images.fine_dates
    f1, f2, f3 = (reflectance(images, "fine", t)[0].astype(float) for t in (t1, t2, t3))
    c1, c2, c3 = (reflectance(images, "coarse", t)[0].astype(float) for t in (t1, t2, t3))
    valid = images.read("fine", t2).valid
    assert valid[:200].all() and not valid[200:].any()
    # Slightly negative reflectance is kept.
    assert images.read("fine", t2).dn[valid].min() == -5
    assert images.read("fine", t3).dn.min() == -39 and images.read("fine", t3).valid.all()

    def rmse(prediction):
        return np.sqrt(((prediction - f2)[valid] ** 2).mean(0))

    whole = {
        "t1": (rmse(f1), (0.0058, 0.0150, 0.0418)),
        "t3": (rmse(f3), (0.0075, 0.0063, 0.0168)),
        "mean": (rmse((f1 + f3) / 2), (0.0044, 0.0065, 0.0274)),
        "change": (rmse((f1 + c2 - c1 + f3 + c2 - c3) / 2), (0.0046, 0.0061, 0.0148)),
    }
    for found, published in whole.values():
        # Half of the scene is seen here: the same to a fifth.
        np.testing.assert_allclose(found, published, rtol=0.2)


def test_boreal_runs_the_same_without_the_truth(stfnet_data, tmp_path):
    for file in (stfnet_data / "boreal2001").iterdir():
        if not file.name.startswith("tm0711"):
            (tmp_path / file.name).symlink_to(file)
    blind = catalog.Catalog(dataset.load("configs/boreal2001.toml", tmp_path))
    seeing = catalog.Catalog(dataset.load("configs/boreal2001.toml"))
    assert len(blind.fine_dates) == 2 and blind.coarse_dates == seeing.coarse_dates
    one, other = (
        preparation.prepare(
            dataset.load("configs/boreal2001.toml", root), tmp_path / name, workers=1
        )
        for root, name in ((tmp_path, "blind"), (None, "seeing"))
    )
    assert one.splits["train"] == other.splits["train"]
    assert one.statistics == other.statistics


# --- MODIS ---


def beside_modis(tmp_path, source, sensor, date, crs, size, more=""):
    """A 30 m fine image in the middle of a MODIS file, and a description of the two."""
    (tmp_path / source.name).symlink_to(source)
    band = "sur_refl_b01_1" if sensor == "mod09ga" else "sur_refl_b01"
    modis = rasters.info(rasters.subdataset(str(source), band)).grid
    seen = rasters.read(rasters.subdataset(str(source), band))[..., 0] != -28672
    middle = np.argwhere(seen).mean(0)
    wkt = grids.crs_wkt(crs)
    everywhere = Grid(1, 1, (0, 30, 0, 0, 0, -30), wkt)
    row, col = np.round(grids.locate(modis, everywhere, middle[:1], middle[1:])[0] - size / 2)
    fine = Grid(size, size, (col * 30, 30, 0, -row * 30, 0, -30), wkt)
    rasters.write(tmp_path / "fine.tif", tiny.land(size, size, 6), fine)
    path = tmp_path / "x.toml"
    path.write_text(
        f'name = "x"\nbands = {BANDS}\n[fine]\nscale = 0.0001\n'
        f'[fine.table]\n"{date}" = "fine.tif"\n'
        f'[coarse]\nsensor = "{sensor}"\n{more}\n'
    )
    images = catalog.Catalog(dataset.load(path))
    images.check()
    return images, modis


def test_mod09a1_in_landsat_order_masked_and_warped_as_gdalwarp_does(stfnet_data, tmp_path):
    source = stfnet_data / "modis_hdf" / A1
    # The composite of 12 July stands for the 15th as well.
    images, _ = beside_modis(tmp_path, source, "mod09a1", "2017-07-15", "EPSG:32632", 500)
    date = DAY("2017-07-15")
    image = images.read("coarse", date)
    values, valid = reflectance(images, "coarse", date)
    assert images.ratio == pytest.approx(463.3127 / 30)
    assert 0.5 < valid.mean() < 1
    assert values[valid].min() >= 0 and values[valid].max() <= 1
    away = ndimage.binary_erosion(valid, iterations=32)
    assert away.sum() > 10_000
    x0, _, _, y0, _, _ = images.grid.geotransform
    for k, number in enumerate((3, 4, 1, 2, 6, 7)):
        theirs = gdal.Warp(
            "",
            rasters.subdataset(str(source), f"sur_refl_b{number:02d}"),
            format="MEM",
            dstSRS=images.grid.crs,
            outputBounds=(x0, y0 - 15000, x0 + 15000, y0),
            width=500,
            height=500,
            resampleAlg="bilinear",
            # gdalwarp's own approximation is off by up to an eighth of a MODIS pixel.
            errorThreshold=0.0,
            outputType=gdal.GDT_Float32,
        ).ReadAsArray()
        assert np.abs(theirs - image.dn[..., k])[away].max() <= 1


def test_mod09a1_mask_is_its_state_bits(stfnet_data, tmp_path):
    source = stfnet_data / "modis_hdf" / A1
    images, modis = beside_modis(tmp_path, source, "mod09a1", "2017-07-12", "EPSG:32632", 64)
    native = images.read_native("coarse", DAY("2017-07-12"), modis.window)
    state = rasters.read(rasters.subdataset(str(source), "sur_refl_state_500m"))[..., 0]
    qc = rasters.read(rasters.subdataset(str(source), "sur_refl_qc_500m"))[..., 0]
    bad = ((state & 3) == 1) | ((state & 3) == 2) | (state >> 2 & 1 == 1) | ((state >> 9 & 1) == 1)
    bad |= (state >> 10 & 1 == 1) | (state >> 12 & 1 == 1) | ((qc & 3) >= 2)
    out = ((native.dn < 0) | (native.dn > 10000)).any(-1)
    assert (native.valid == ~(bad | out)).all()
    assert 0 < native.valid.mean() < 1


def test_mod09ga_with_its_divisor_for_a_scale_and_1_km_state(stfnet_data, tmp_path):
    source = stfnet_data / "modis_hdf" / GA
    assert rasters.info(rasters.subdataset(str(source), "sur_refl_b01_1")).scale == 10000
    images, _ = beside_modis(
        tmp_path, source, "mod09ga", "2008-10-22", "EPSG:3031", 600, 'reject = ["not_produced"]'
    )
    date = DAY("2008-10-22")
    assert images.encoding("coarse").scale == pytest.approx(1e-4)
    window = Window(0, 2101, 97, 299)  # the only ones that were seen
    native = images.read_native("coarse", date, window)
    bands = [
        rasters.read(rasters.subdataset(str(source), f"sur_refl_b{n:02d}_1"), (), window)[..., 0]
        for n in (3, 4, 1, 2, 6, 7)
    ]
    assert (native.dn == np.stack(bands, -1)).all()
    assert native.valid.sum() > 1000
    values = images.encoding("coarse").reflectance(native.dn)[native.valid]
    assert values.min() >= 0 and values.max() <= 1
    values, valid = reflectance(images, "coarse", date)
    assert valid.any() and values[valid].min() >= 0 and values[valid].max() <= 1

    # With the preset's own rules, the state (1 km) takes out what is cloud there: nearly all.
    (tmp_path / "all").mkdir()
    images, _ = beside_modis(tmp_path / "all", source, "mod09ga", "2008-10-22", "EPSG:3031", 64)
    strict = images.read_native("coarse", date, window)
    state = rasters.read(rasters.subdataset(str(source), "state_1km_1"))[..., 0]
    state = np.kron(state, np.ones((2, 2), state.dtype))[window.slices]
    cloudy = quality.rejected(
        state,
        images.dataset.coarse.quality[0].rules,
        ["cloud", "shadow", "cirrus", "internal_cloud", "snow"],
    )
    assert (strict.valid == (native.valid & ~cloudy)).all()


def test_netcdf_array_is_read_once_its_scale_is_stated(stfnet_data, tmp_path):
    source = stfnet_data / "modis_hdf" / "MODIS_ARRAY.nc"
    (tmp_path / source.name).symlink_to(source)
    modis = rasters.info(str(source)).grid
    rasters.write(tmp_path / "fine.tif", tiny.land(200, 200, 1), modis)
    path = tmp_path / "x.toml"
    text = (
        'name = "x"\nbands = ["red"]\n[fine]\nscale = 0.0001\n'
        '[fine.table]\n"2008-10-22" = "fine.tif"\n[coarse]\nratio = 1\nRESCALE\n'
        '[coarse.table]\n"2008-10-22" = "MODIS_ARRAY.nc"\n'
    )
    path.write_text(text.replace("RESCALE", ""))
    with pytest.raises(errors.InputError, match=r"coarse\.scale.*MODIS_ARRAY\.nc states none"):
        catalog.Catalog(dataset.load(path))
    path.write_text(text.replace("RESCALE", "scale = 0.0001"))
    image = catalog.Catalog(dataset.load(path)).read("coarse", DAY("2008-10-22"))
    assert (image.dn == rasters.read(str(source))).all()
    assert (image.valid == (image.dn[..., 0] != -28672)).all()


# --- Landsat Collection 2 ---


def test_the_example_for_archives_finds_files_as_they_are_delivered(stfnet_data, tmp_path):
    for folder in ("landsat_c2_l2", "modis_hdf"):
        (tmp_path / folder).symlink_to(stfnet_data / folder)
    described = dataset.load("configs/landsat_mod09ga.toml", tmp_path)
    fine, coarse = (archive.find(described, side) for side in (described.fine, described.coarse))
    assert {date.isoformat() for date in fine} == set(LANDSAT)
    assert fine[DAY("2019-12-01")].bands[3].raster.endswith("_T1_SR_B5.TIF")
    assert [date.isoformat() for date in coarse] == ["2008-10-22"]
    assert GA in coarse[DAY("2008-10-22")].bands[0].raster


@pytest.mark.parametrize("date", LANDSAT)
def test_landsat_scenes_with_scale_offset_masks_and_oblong_pixels(stfnet_data, tmp_path, date):
    product, (width, height), system = LANDSAT[date]
    folder = stfnet_data / "landsat_c2_l2"
    for file in folder.glob(f"{product}*"):
        (tmp_path / file.name).symlink_to(file)
    path = tmp_path / "x.toml"
    path.write_text(
        f'name = "x"\nbands = {BANDS}\n[fine]\nsensor = "landsat_c2_oli"\n'
        f'[coarse]\nsensor = "landsat_c2_oli"\nratio = 1\n'
    )
    images = catalog.Catalog(dataset.load(path))
    images.check()
    assert images.grid.pixel_size == pytest.approx((height, width))
    assert system in images.grid.describe()
    encoding = images.encoding("fine")
    assert (encoding.dtype, encoding.scale, encoding.offset) == ("uint16", 0.0000275, -0.2)
    image = images.read("fine", DAY(date))
    values, valid = reflectance(images, "fine", DAY(date))
    files = {file.name.rsplit("_02_T", 1)[1][2:-4]: file for file in folder.glob(f"{product}*TIF")}
    stored = np.concatenate([rasters.read(str(files[f"SR_B{k}"])) for k in range(2, 8)], -1)
    assert (image.dn == stored).all()
    pixel = rasters.read(str(files["QA_PIXEL"]))[..., 0]
    saturated = rasters.read(str(files["QA_RADSAT"]))[..., 0] & 0b1111111
    bad = (pixel & 0b111111 != 0) | (saturated != 0)
    bad |= ((stored < 7273) | (stored > 43636)).any(-1)
    assert (valid == ~bad).all()
    if valid.any():
        assert -1e-4 <= values[valid].min() and values[valid].max() <= 1.0001


# --- round trips ---


@pytest.mark.parametrize("name", ["boreal2001", "kranj2020", "ndvi2015", "cia50m", "gwydir2004"])
def test_records_give_the_source_pixels_back(stfnet_data, tmp_path, name):
    described = dataclasses.replace(dataset.load(f"configs/{name}.toml"), coregister="off")
    info = preparation.prepare(described, tmp_path, workers=1)
    images = corrections.corrected(catalog.Catalog(described))
    seen = 0
    for split, found in info.splits.items():
        for shard in found.shards:
            for record in tf.data.TFRecordDataset(str(tmp_path / shard.file)).take(6):
                tile = decoding.decode(record.numpy(), info)
                seen += 1
                for key, dn in tile.images.items():
                    date = DAY(tile.dates[int(key[1]) - 1])
                    window = Window(*tile.origin, *dn.shape[:2])
                    image = images.read(records.side_of(key), date, window)
                    assert dn.dtype == image.dn.dtype
                    assert dn.tobytes() == image.dn.tobytes(), (split, key)
                    assert (tile.valid[key] == image.valid).all()
    assert seen


ARCHIVED = {
    "landsat_c2_oli": (
        "landsat_c2_l2/LC08_L2SP_005009_20150710*",
        "20150710",
        "20150711",
        (200, 210),
    ),
    "mod09a1": (f"modis_hdf/{A1}", "A2017193", "A2017201", (2, 1)),
    "mod09ga": (f"modis_hdf/{GA}", "A2008296", "A2008297", (16, 2110)),
}


@pytest.mark.parametrize("sensor", ARCHIVED)
def test_records_of_archives_hold_what_gdal_reads(stfnet_data, tmp_path, sensor):
    """Both sides of one sensor, on its own grid; the second date is the first one's file again."""
    pattern, date, next_date, place = ARCHIVED[sensor]
    for file in stfnet_data.glob(pattern):
        (tmp_path / file.name).symlink_to(file)
        (tmp_path / file.name.replace(date, next_date, 1)).symlink_to(file)
    side = f'sensor = "{sensor}"\nreject = []\n'
    path = tmp_path / "x.toml"
    path.write_text(f'name = "x"\nbands = {BANDS}\n[fine]\n{side}[coarse]\n{side}ratio = 1\n')
    images = catalog.Catalog(dataset.load(path))
    triplet = triplets.Triplet(*images.fine_dates[:2], None)
    window = Window(*place, 70, 64)
    tile = shards.read_tile(images, shards.Item(triplet, window), min_valid=0.0)
    info = records.DatasetInfo(
        **{"name": "x", "bands": tuple(BANDS), "ratio": 1.0, "psf_fwhm": 1.0, "tile_size": 70},
        fine=images.encoding("fine"),
        coarse=images.encoding("coarse"),
        supervision="pair",
    )
    back = decoding.decode(records.encode(tile), info)
    if sensor == "landsat_c2_oli":
        files = [next(tmp_path.glob(f"*_{date}_*_SR_B{k}.TIF")) for k in range(2, 8)]
    else:
        suffix = "_1" if sensor == "mod09ga" else ""
        names = [f"sur_refl_b{k:02d}{suffix}" for k in (3, 4, 1, 2, 6, 7)]
        files = [rasters.subdataset(str(tmp_path / (A1 if not suffix else GA)), k) for k in names]
    stored = [
        gdal.Open(str(file)).ReadAsArray(window.col, window.row, window.width, window.height)
        for file in files
    ]
    assert sorted(back.images) == ["c1", "c2", "f1", "f2"] and back.dates[2] == ""
    for name, dn in back.images.items():
        assert (dn == np.stack(stored, -1)).all(), name
        assert back.valid[name].any()


def test_kranj_sides_have_their_own_scales(stfnet_data):
    images = catalog.Catalog(dataset.load("configs/kranj2020.toml"))
    date = DAY("2020-04-02")
    fine, fine_valid = reflectance(images, "fine", date)
    coarse, coarse_valid = reflectance(images, "coarse", date)
    both = fine_valid & coarse_valid
    # The same land: the two sensors' means agree in every band.
    np.testing.assert_allclose(fine[both].mean(0), coarse[both].mean(0), rtol=0.35)
    gaps = images.read("fine", DAY("2020-03-08"))
    assert gaps.valid.mean() == pytest.approx(1 - 0.0621, abs=2e-3)


def test_ndvi_composites_masks_and_ratio(stfnet_data):
    images = catalog.Catalog(dataset.load("configs/ndvi2015.toml"))
    assert len(images.fine_dates) == 8 and len(images.coarse_dates) == 23
    assert images.ratio == pytest.approx(8)
    date = DAY("2015-10-14")  # day 287, in the composite of days 273 to 288, the 18th band
    band = rasters.read(str(stfnet_data / "ndvi2015" / "MOD_16Day_ndvi"), [18])
    image = images.read("coarse", date)
    means = image.dn[..., 0].reshape(69, 8, 72, 8).mean((1, 3))
    assert np.corrcoef(means.ravel(), band.ravel())[0, 1] > 0.99
    assert np.abs(means[1:-1, 1:-1].mean() - band[1:-1, 1:-1].mean()) < 5
    cloudy = images.read("fine", DAY("2015-07-19")).valid.mean()
    assert 0.2 < cloudy < 0.3
    assert images.read("fine", date).valid.all()


def test_cia50m_is_one_sided_with_a_part_of_the_truth(stfnet_data):
    images = catalog.Catalog(dataset.load("configs/cia50m.toml"))
    made = triplets.of(images)
    assert [t.iso for t in made["test"]] == [("2001-11-25", "2002-01-12")]
    valid = images.read("fine", DAY("2002-01-12")).valid
    assert valid[:, :297].all() and not valid[:, 297:].any()
