"""Names of rasters that are no paths, and data sets that lie in archives and containers."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from osgeo import gdal

from data_prep import catalog, dataset, errors, named_rasters, names, rasters
from tests.data_prep import tiny


@pytest.mark.parametrize(
    ("name", "absolute", "on_disk", "inside"),
    [
        ("a.tif", "/w/a.tif", "a.tif", ""),
        ("/d/a.tif", "/d/a.tif", "/d/a.tif", ""),
        ("/vsigzip/a.tif.gz", "/vsigzip//w/a.tif.gz", "a.tif.gz", "/vsigzip/"),
        ('NETCDF:"a b.nc":red', 'NETCDF:"/w/a b.nc":red', "a b.nc", 'NETCDF:"":red'),
        ("NETCDF:a.nc:red", "NETCDF:/w/a.nc:red", "a.nc", "NETCDF::red"),
        (
            'HDF4_EOS:EOS_GRID:"/d/M.hdf":grid:b1',
            'HDF4_EOS:EOS_GRID:"/d/M.hdf":grid:b1',
            "/d/M.hdf",
            'HDF4_EOS:EOS_GRID:"":grid:b1',
        ),
        ('HDF5:"a.h5"://g/b', 'HDF5:"/w/a.h5"://g/b', "a.h5", 'HDF5:""://g/b'),
        ("GTIFF_DIR:2:a.tif", "GTIFF_DIR:2:/w/a.tif", "a.tif", "GTIFF_DIR:2:"),
        ("/vsicurl/http://h/a.tif", "/vsicurl/http://h/a.tif", None, "/vsicurl/http://h/a.tif"),
        ("http://h/a.tif", "http://h/a.tif", None, "http://h/a.tif"),
    ],
)
def test_where_a_name_lies(name, absolute, on_disk, inside):
    assert names.absolute(name, Path("/w")) == absolute
    assert names.on_disk(name) == (on_disk and Path(on_disk))
    assert names.inside(name) == inside


@pytest.fixture
def archived(tmp_path):
    """The tiny set in a folder and in an archive; returns its folder."""
    tiny.make(tmp_path)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as file:
        for path in sorted(tmp_path.glob("*.tif")):
            file.write(path, f"in/{path.name}")
    return tmp_path


def test_the_file_of_a_member_is_its_archive(archived):
    archive = archived / "all.zip"
    member = f"in/F_{tiny.DATES[0]}.tif"
    for name in (f"/vsizip/{archive}/{member}", f"/vsizip/{{{archive}}}/{member}"):
        assert names.on_disk(name) == archive
        assert names.inside(name).endswith(member) and "all.zip" not in names.inside(name)
        assert rasters.files_behind(name) == (archive,)
        assert rasters.exists(name) and not rasters.exists(name.replace("F_", "G_"))


def test_a_table_names_members_of_an_archive(archived):
    text = (archived / "tiny.toml").read_text()
    for side in "FC":
        # One of them with the archive's own place, the others relative to the root.
        table = [
            f'"{date}" = "/vsizip/{archived if k == 0 else "."}/all.zip/in/{side}_{date}.tif"'
            for k, date in enumerate(tiny.DATES)
        ]
        files = f'files = "{side}_{{year}}-{{month}}-{{day}}.tif"'
        text = text.replace(files, f"table = {{ {', '.join(table)} }}")
    (archived / "zipped.toml").write_text(text)
    found, expected = (
        catalog.Catalog(dataset.load(archived / f"{name}.toml")) for name in ("zipped", "tiny")
    )
    found.check()
    for side in ("fine", "coarse"):
        for date in expected.fine_dates:
            np.testing.assert_array_equal(found.read(side, date).dn, expected.read(side, date).dn)
            (file,) = found.files_of(side, date)
            assert file.samefile(archived / "all.zip")
    (archived / "zipped.toml").write_text(text.replace("in/C_2001-10-08", "in/C_2001-10-09"))
    with pytest.raises(errors.InputError, match=r"C_2001-10-09\.tif: expected the coarse"):
        catalog.Catalog(dataset.load(archived / "zipped.toml"))


def test_the_grid_is_that_of_a_member_of_an_archive(archived):
    text = (archived / "tiny.toml").read_text()
    path = archived / "like.toml"
    path.write_text(f'{text}[grid]\nlike = "/vsizip/all.zip/in/C_{tiny.DATES[0]}.tif"\n')
    images = catalog.Catalog(dataset.load(path))
    assert images.grid == rasters.info(str(archived / f"C_{tiny.DATES[0]}.tif")).grid
    assert archived / "all.zip" in images.files()


def by_flags(name):
    """The tiny set's rasters, each called as `name` calls it."""
    f1, f3 = (name(f"F_{tiny.DATES[k]}") for k in (0, 2))
    c1, c2, c3 = (name(f"C_{date}") for date in tiny.DATES)
    scaled = named_rasters.StatedEncoding(scale=1e-4)
    given = named_rasters.NamedRasters(f1, c1, (c2,), f3, c3, fine=scaled, coarse=scaled)
    return catalog.Catalog(named_rasters.describe(given))


def same(found, folder, bands=2):
    expected = catalog.Catalog(dataset.load(folder / "tiny.toml"))
    for side, date in (("fine", expected.fine_dates[0]), ("coarse", expected.fine_dates[1])):
        one, two = found.read(side, date).dn, expected.read(side, date).dn
        np.testing.assert_array_equal(one, two[..., :bands])


def test_flags_name_members_of_an_archive(archived, monkeypatch):
    same(by_flags(lambda name: f"/vsizip/{archived}/all.zip/in/{name}.tif"), archived)
    monkeypatch.chdir(archived)
    same(by_flags(lambda name: f"/vsizip/all.zip/in/{name}.tif"), archived)


@pytest.mark.skipif(not gdal.GetDriverByName("netCDF"), reason="GDAL without netCDF")
def test_flags_name_subdatasets(archived, monkeypatch):
    for path in archived.glob("*.tif"):
        gdal.Translate(str(path.with_suffix(".nc")), str(path), format="netCDF")
    monkeypatch.chdir(archived)
    images = by_flags(lambda name: f'NETCDF:"{name}.nc":Band1')
    same(images, archived, bands=1)
    date = images.fine_dates[0]
    assert images.files_of("fine", date) == [archived / f"F_{date}.nc"]


def test_a_raster_without_sub_datasets_says_how_its_bands_are_called(tmp_path):
    rasters.write(tmp_path / "a.tif", tiny.land(96, 80, 1), tiny.grid(96, 80))
    with pytest.raises(errors.InputError, match="'Band1', found 1 bands, which go by number"):
        rasters.subdataset(str(tmp_path / "a.tif"), "Band1")


def test_a_vrt_in_an_archive_may_not_name_the_network_either(tmp_path):
    source = "<SourceFilename>/vsicurl/http://127.0.0.1:9/a.tif</SourceFilename>"
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("inner.vrt", f"<VRTDataset>{source}</VRTDataset>")
        file.writestr(
            "outer.vrt", "<VRTDataset><SourceFilename>inner.vrt</SourceFilename></VRTDataset>"
        )
    for name in ("inner", "outer"):
        with pytest.raises(errors.InputError, match="expected a raster on this machine"):
            rasters.info(f"/vsizip/{tmp_path}/a.zip/{name}.vrt")
