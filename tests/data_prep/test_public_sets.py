"""The public data sets' descriptions, on tiny trees of the same layout, names and formats."""

import datetime

import numpy as np
import pytest
from scipy.io import netcdf_file

from data_prep import catalog, dataset, errors, grids, preparation, rasters, triplets
from data_prep.grids import Grid
from tests.data_prep import tiny

AGD66 = grids.crs_wkt("EPSG:20255")
SIZE = 64


def pair(seed, bands=6):
    """A fine image and the same at a sixteenth, brought back onto the fine grid."""
    fine = tiny.land(SIZE, SIZE, bands, seed=seed)
    coarse = np.repeat(np.repeat(tiny.blocks(fine, 16), 16, 0), 16, 1)
    return fine, coarse


def cia_tree(root, days):
    grid = Grid(SIZE, SIZE, (4e5, 25, 0, 6.1e6, 0, -25), AGD66)
    for k, day in enumerate(days):
        fine, coarse = pair(k)
        fine[0, 0] = -5
        folder = f"{day:%Y_%j_%d}{day:%b}".lower()
        eve = day - datetime.timedelta(days=1)
        start = "L72" if day == datetime.date(2002, 3, 10) else "L71"
        rasters.write(
            root
            / f"CIA/Landsat/{folder}/{start}093084_084{eve:%Y%m%d}_HRF_modtran_surf_ref_agd66.bil",
            fine,
            grid,
            driver="ENVI",
            interleave="BIL",
        )
        rasters.write(
            root / f"CIA/MODIS/{folder}/MOD09GA_A{day:%Y%j}.sur_refl.int",
            coarse,
            grid,
            driver="ENVI",
            interleave="BSQ",
        )


def lgc_tree(root, days):
    grid = Grid(SIZE, SIZE, (4e5, 25, 0, 6.1e6, 0, -25), AGD66)
    for k, day in enumerate(days):
        fine, coarse = pair(k)
        folder = f"{day:%Y_%j_%b%d}"
        rasters.write(root / f"LGC/Landsat/{folder}/{day:%Y%m%d}_TM.int", fine, grid, driver="ENVI")
        rasters.write(
            root / f"LGC/MODIS/{folder}/MOD09GA_A{day:%Y%j}.sur_refl.int",
            coarse,
            grid,
            driver="ENVI",
        )


def dates_of(name):
    raw = dataset._read_toml(dataset.Path(f"configs/{name}.toml"))["dates"]
    listed = [d for split in raw.values() for d in split]
    flat = [d for entry in listed for d in (entry if isinstance(entry, list) else [entry])]
    return sorted({datetime.date.fromisoformat(d) for d in flat})


@pytest.mark.parametrize(
    ("name", "tree", "pairs", "training", "tests"),
    [
        ("cia", cia_tree, 17, 9, 5),
        ("cia_pair", cia_tree, 17, 15, 0),
        ("lgc", lgc_tree, 14, 9, 1),
        ("lgc_pair", lgc_tree, 14, 12, 0),
    ],
)
def test_csiro_sets_as_downloaded(tmp_path, name, tree, pairs, training, tests):
    days = dates_of(name)
    assert len(days) == pairs
    tree(tmp_path, days)
    described = dataset.load(f"configs/{name}.toml", tmp_path)
    images = catalog.Catalog(described)
    images.check()
    assert images.fine_dates == images.coarse_dates == days
    assert images.ratio == pytest.approx(463.3127 / 25)
    assert images.grid.has_crs
    fine, coarse = pair(3)
    read = images.read("fine", days[3])
    assert (read.dn[1:] == fine[1:]).all()
    assert not read.valid[0, 0] if name.startswith("cia") else read.valid.all()
    assert (images.read("coarse", days[3]).dn == coarse).all()
    made = triplets.of(images)
    assert len(made["train"]) == training
    assert len([t for t in made["test"] if t.t3]) == tests
    info = preparation.prepare(described, tmp_path / "out", workers=1)
    assert info.splits["train"].records == training


@pytest.mark.parametrize("name", ["ahb", "daxing", "tianjin"])
def test_reflectance_times_255_with_unpadded_dates(tmp_path, name):
    days = [datetime.date(2015, 1, 5) + datetime.timedelta(days=32 * k) for k in range(10)]
    grid = tiny.grid(SIZE, SIZE)
    for k, day in enumerate(days):
        fine, coarse = (image // 16 for image in pair(k))
        for letter, image in (("L", fine), ("M", coarse)):
            path = tmp_path / letter / f"{letter}_{day.year}-{day.month}-{day.day}.tif"
            rasters.write(path, image.astype(np.uint8), grid)
    described = dataset.load(f"configs/{name}.toml", tmp_path)
    images = catalog.Catalog(described)
    images.check()
    assert images.fine_dates == days
    assert images.encoding("fine").dtype == "uint8"
    assert images.encoding("coarse").scale == pytest.approx(1 / 255)
    made = triplets.of(images)
    assert len(made["train"]) == 5 and [t.t2 for t in made["test"]] == days[8:]


def test_wuhan_with_gaofen_and_landsat(tmp_path):
    grid = tiny.grid(SIZE, SIZE, size=8)
    days = [datetime.date(2016, 1, 5) + datetime.timedelta(days=32 * k) for k in range(8)]
    for k, day in enumerate(days):
        fine, coarse = pair(k, 4)
        rasters.write(tmp_path / f"GF1_{day:%Y%m%d}.tif", fine, grid)
        rasters.write(tmp_path / f"L8_{day:%Y%m%d}.tif", coarse, grid)
    images = catalog.Catalog(dataset.load("configs/wuhan.toml", tmp_path))
    images.check()
    assert images.ratio == pytest.approx(3.75)
    assert images.fine_dates == images.coarse_dates == days


# --- sensors' archives ---

ARCHIVES = {
    "landsat_c2_oli": "LC09_L2SP_093084_20220105_20220107_02_T1_{band}.TIF",
    "landsat_c2_tm": "LT05_L2SP_093084_20040105_20200107_02_T1_{band}.TIF",
    "landsat_c1_oli": "LC08_L1TP_093084_20180105_20180107_01_T1_{band}.tif",
    "landsat_c1_tm": "LE07_L1TP_093084_20040105_20200107_01_T1_{band}.tif",
    "landsat_cdr_oli": "LC80930842015005LGN00_{band}.tif",
    "hls_l30": "HLS.L30.T55HCU.2020005T000000.v2.0.{band}.tif",
    "hls_s30": "HLS.S30.T55HCU.2020005T000000.v2.0.{band}.tif",
    "sentinel2_l2a": "S2A.SAFE/GRANULE/IMG_DATA/R10m/T55HCU_20220205T000241_{band}.jp2",
    "sentinel2_l2a_2021": "S2A.SAFE/GRANULE/IMG_DATA/R10m/T55HCU_20210205T000241_{band}.jp2",
}
# A quality value that the preset rejects, and how it is spelled there.
BAD = {
    "QA_PIXEL": 1 << 4,
    "pixel_qa": 1 << 5,
    "cfmask": 4,
    "Fmask": 1 << 1,
    "SCL_20m": 9,
    "QA_RADSAT": 1 << 3,
}


@pytest.mark.parametrize("sensor", ARCHIVES)
def test_archives_files_are_found_masked_and_scaled(tmp_path, sensor):
    raw = dataset._read_toml(dataset.SENSORS / f"{sensor}.toml")
    bands = [b for b in raw["bands"] if b != "coastal"]
    low, high = raw["valid_range"]
    grid = tiny.grid(SIZE, SIZE)
    stored = np.clip(tiny.land(SIZE, SIZE, 1).astype(int) * 2 + low, low, high)
    dtype = np.uint16 if low >= 1 else np.int16
    for k, band in enumerate(bands):
        image = (stored + k).astype(dtype)
        path = tmp_path / ARCHIVES[sensor].format(band=raw["bands"][band])
        # JPEG 2000 by name only: GDAL looks at the content.
        rasters.write(path, image, grid)
    for n, layer in enumerate(raw["quality"]):
        mask = np.full((SIZE, SIZE, 1), 4 if layer["band"] == "SCL_20m" else 0, np.uint16)
        mask[n, 5] = BAD[layer["band"]]
        rasters.write(tmp_path / ARCHIVES[sensor].format(band=layer["band"]), mask, grid)
    path = tmp_path / "x.toml"
    path.write_text(
        f"name = 'x'\nbands = {bands}\n[fine]\nsensor = '{sensor}'\n"
        f"[coarse]\nsensor = '{sensor}'\nratio = 1\n"
    )
    images = catalog.Catalog(dataset.load(path))
    images.check()
    (date,) = images.fine_dates
    assert (date.month, date.day) in ((1, 5), (2, 5))
    image = images.read("fine", date)
    for k in range(len(bands)):
        assert (image.dn[..., k] == (stored + k)[..., 0]).all()
    expected = np.ones((SIZE, SIZE), bool)
    expected[: len(raw["quality"]), 5] = False
    assert (image.valid == expected).all()
    values = images.encoding("fine").reflectance(image.dn)
    assert values.min() >= -1e-4 and values.max() <= 1.001


# Each product's own files, and the one of its cloud flags where that is another.
CONTAINERS = {
    "mod09a1": ("MOD09A1.A2020193.h29v12.061.2020201000000.hdf",),
    "myd09a1": ("MYD09A1.A2020193.h29v12.061.2020201000000.hdf",),
    "mod09ga": ("MOD09GA.A2020193.h29v12.061.2020201000000.hdf",),
    "myd09ga": ("MYD09GA.A2020193.h29v12.061.2020201000000.hdf",),
    "mod09gq": (
        "MOD09GQ.A2020193.h29v12.061.2020201000000.hdf",
        "MOD09GA.A2020193.h29v12.061.2020201000001.hdf",
    ),
    "myd09gq": (
        "MYD09GQ.A2020193.h29v12.061.2020201000000.hdf",
        "MYD09GA.A2020193.h29v12.061.2020201000001.hdf",
    ),
    "mod09q1": ("MOD09Q1.A2020193.h29v12.061.2020201000000.hdf",),
    "myd09q1": ("MYD09Q1.A2020193.h29v12.061.2020201000000.hdf",),
    "vnp09ga": ("VNP09GA.A2020193.h29v12.002.2020201000000.h5",),
    "vj109ga": ("VJ109GA.A2020193.h29v12.002.2020201000000.h5",),
    "vnp09h1": ("VNP09H1.A2020193.h29v12.002.2020201000000.h5",),
    "vj109h1": ("VJ109H1.A2020193.h29v12.002.2020201000000.h5",),
}


@pytest.mark.parametrize("sensor", CONTAINERS)
def test_containers_are_found_masked_and_scaled(tmp_path, sensor):
    """NetCDF in the place of HDF, which GDAL cannot write; sub-datasets are found alike."""
    raw = dataset._read_toml(dataset.SENSORS / f"{sensor}.toml")
    bands = list(raw["bands"])
    stored = tiny.land(SIZE, SIZE, len(bands)).astype(np.int16)
    expected = np.ones((SIZE, SIZE), bool)
    own, *others = CONTAINERS[sensor]
    layers = {name: {} for name in CONTAINERS[sensor]}
    for k, band in enumerate(bands):
        layers[own][raw["bands"][band]] = stored[..., k]
    for n, layer in enumerate(raw["quality"]):
        wide = any(k in layer["band"] for k in ("1km", "QF"))
        coarser = round(926.6 / raw["pixel_size"]) if wide else 1
        flags = np.zeros((SIZE // coarser, SIZE // coarser), np.int16)
        for k, (name, rule) in enumerate(layer["rules"].items()):
            low = rule["bits"][0] if isinstance(rule["bits"], list) else rule["bits"]
            flags[n, k] = rule.get("values", [1])[0] << low
            if name in raw["reject"]:
                expected[n * coarser : (n + 1) * coarser, k * coarser : (k + 1) * coarser] = False
        layers[others[0] if "files" in layer else own][layer["band"]] = flags
    for name, variables in layers.items():
        _netcdf(tmp_path / name, variables)
    path = tmp_path / "x.toml"
    side = f"sensor = '{sensor}'\n"
    path.write_text(f"name = 'x'\nbands = {bands}\n[fine]\n{side}[coarse]\n{side}ratio = 1\n")
    images = catalog.Catalog(dataset.load(path))
    images.check()
    assert images.fine_dates == [datetime.date(2020, 7, 11)]
    image = images.read("fine", images.fine_dates[0])
    assert (image.dn == stored).all()
    assert (image.valid == expected).all()
    assert images.encoding("fine").scale == 0.0001
    for other in others:
        (tmp_path / other).unlink()
        missing = rf"x\.toml: fine\.quality: .*{other[:7]}.* of 2020-07-11 below .*, found none"
        with pytest.raises(errors.InputError, match=missing):
            catalog.Catalog(dataset.load(path))


def _netcdf(path, variables):
    """A classic NetCDF file of 2-D variables that cover the same square, each in its own steps."""
    crs = tiny.grid(SIZE, SIZE).crs
    left, width, _, top, _, height = tiny.grid(SIZE, SIZE).geotransform
    with netcdf_file(path, "w") as file:
        for name, values in variables.items():
            rows, cols = values.shape
            steps = (height * SIZE / rows, width * SIZE / cols)
            for axis, start, step, n in (("y", top, steps[0], rows), ("x", left, steps[1], cols)):
                if f"{axis}{n}" not in file.dimensions:
                    file.createDimension(f"{axis}{n}", n)
                    places = file.createVariable(f"{axis}{n}", "f8", (f"{axis}{n}",))
                    places[:] = start + step * (np.arange(n) + 0.5)
                    places.standard_name = f"projection_{axis}_coordinate"
                    places.units = "m"
            if f"crs{rows}" not in file.variables:
                mapping = file.createVariable(f"crs{rows}", "i4", ())
                mapping.spatial_ref = crs
                mapping.GeoTransform = f"{left} {steps[1]} 0 {top} 0 {steps[0]}"
            variable = file.createVariable(name, "i2", (f"y{rows}", f"x{cols}"))
            variable[:] = values
            variable.grid_mapping = f"crs{rows}"
