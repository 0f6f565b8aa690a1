import datetime

import pytest

from data_prep import archive, dataset, errors
from tests.data_prep import tiny

DAY = datetime.date.fromisoformat


def found(folder, files, names, bands=("red",), more=""):
    """Entries of a coarse side with pattern `files` among the given file names."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    path = folder / "x.toml"
    path.write_text(
        f"name = 'x'\nbands = {list(bands)}\n[fine]\nfiles = 'f'\nscale = 1.0\n"
        f"[coarse]\nfiles = {files!r}\nscale = 1.0\n{more}"
    )
    described = dataset.load(path)
    return archive.find(described, described.coarse)


@pytest.mark.parametrize(
    ("pattern", "name", "date"),
    [
        (
            "CIA/Landsat/{year}_{doy}_{day}{mon}/L7*_surf_ref_agd66.bil",
            "CIA/Landsat/2001_281_08oct/L71093084_08420011007_HRF_modtran_surf_ref_agd66.bil",
            "2001-10-08",
        ),
        (
            "CIA/MODIS/{year}_{doy}_{day}{mon}/MOD09GA_A*.sur_refl.int",
            "CIA/MODIS/2002_069_10mar/MOD09GA_A2002069.sur_refl.int",
            "2002-03-10",
        ),
        (
            "LGC/Landsat/{year}_{doy}_{mon}{day}/*_TM.int",
            "LGC/Landsat/2004_107_Apr16/20040416_TM.int",
            "2004-04-16",
        ),
        ("**/L_{year}-{month}-{day}.tif", "AHB/L/L_2015-6-21.tif", "2015-06-21"),
        ("**/L_{year}-{month}-{day}.tif", "L_2015-12-1.tif", "2015-12-01"),
        ("LC8??????{year}{doy}LGN00_ndvi", "LC81260382015287LGN00_ndvi", "2015-10-14"),
        ("**/GF*{year}{month}{day}*.tif", "a/GF1_E114_20160105_L1A0001234567.tif", "2016-01-05"),
        ("T*_{year}{month}{day}T*.jp2", "T32TQM_20200229T101421_B02.jp2", "2020-02-29"),
    ],
)
def test_dates_from_names_as_archives_write_them(tmp_path, pattern, name, date):
    entries = found(tmp_path, [pattern], [name, "other.tif"])
    assert list(entries) == [DAY(date)]
    assert entries[DAY(date)].bands[0].files == (str(tmp_path / name),)


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("F_{year}{month}{day}.tif", "F_20011345.tif"),
        ("F_{year}{doy}.tif", "F_2001366.tif"),
        ("F_{year}_{doy}_{day}{mon}.tif", "F_2001_281_09oct.tif"),
        ("F_{year}{day}{mon}.tif", "F_200101xyz.tif"),
        ("F_{year}.tif", "F_2001.tif"),
    ],
)
def test_a_date_that_does_not_parse_names_the_file(tmp_path, pattern, name):
    with pytest.raises(errors.InputError, match=f"{name}: expected a date"):
        found(tmp_path, [pattern], [name])


def test_two_files_for_one_date(tmp_path):
    with pytest.raises(errors.InputError, match=r"b_20010101\.tif: expected one .*a_20010101\.tif"):
        found(tmp_path, ["*_{year}{month}{day}.tif"], ["a_20010101.tif", "b_20010101.tif"])


def test_tiles_of_one_date_are_joined(tmp_path):
    names = ["M.A2001001.h29v12.006.x.hdf", "M.A2001001.h28v12.006.y.hdf"]
    entries = found(tmp_path, ["M.A{year}{doy}.{tile}.006.*.hdf"], names)
    assert entries[DAY("2001-01-01")].bands[0].files == tuple(
        str(tmp_path / name) for name in sorted(names)
    )


def test_a_file_a_band_and_a_missing_band(tmp_path):
    bands = "bands = { red = 'B4', nir = 'B5' }\n"
    names = ["S_20010101_B4.tif", "S_20010101_B5.tif", "S_20010101_B9.tif"]
    entries = found(tmp_path, ["S_{year}{month}{day}_{band}.tif"], names, ("red", "nir"), bands)
    layers = entries[DAY("2001-01-01")].bands
    assert [layer.files[0].rsplit("_")[-1] for layer in layers] == ["B4.tif", "B5.tif"]
    (tmp_path / names[1]).unlink()
    with pytest.raises(errors.InputError, match=r"S_20010101_B4.*band 'B5'.*found B4"):
        found(tmp_path, ["S_{year}{month}{day}_{band}.tif"], names[:1], ("red", "nir"), bands)


def test_any_folder_may_be_a_link(tmp_path):
    name = "F_2001-10-08.tif"
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / name).touch()
    (tmp_path / "root" / "deep").mkdir(parents=True)
    (tmp_path / "root" / "deep" / "scene").symlink_to(tmp_path / "store")
    (tmp_path / "root" / "deep" / "around").symlink_to(tmp_path / "root")
    entries = found(tmp_path / "root", ["**/F_{year}-{month}-{day}.tif"], [])
    linked = str(tmp_path / "root" / "deep" / "scene" / name)
    assert entries[DAY("2001-10-08")].bands[0].files == (linked,)
    # The same file by two names is one file.
    (tmp_path / "root" / "other").symlink_to(tmp_path / "store")
    assert list(found(tmp_path / "root", ["**/F_{year}-{month}-{day}.tif"], [])) == list(entries)


def test_brackets_are_meant_as_they_are_written(tmp_path):
    names = ["a[1]/F[x]_2001-10-08.tif", "a1/Fx_2001-10-17.tif"]
    entries = found(tmp_path, ["a[1]/F[x]_{year}-{month}-{day}.tif"], names)
    assert list(entries) == [DAY("2001-10-08")]
    entries = found(tmp_path, ["**/F[x]_{year}-{month}-{day}.tif"], [])
    assert entries[DAY("2001-10-08")].bands[0].files == (str(tmp_path / names[0]),)


def test_unknown_part_of_a_pattern(tmp_path):
    with pytest.raises(errors.InputError, match=r"\{date\}"):
        found(tmp_path, ["S_{date}.tif"], ["S_1.tif"])


def test_table_names_a_file_that_is_not_there(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text(
        "name = 'x'\nbands = ['red']\n[fine]\nscale = 1.0\n"
        "[fine.table]\n'2001-01-01' = 'a.tif'\n'2001-02-01' = 'b.tif'\n"
        "[coarse]\nfiles = 'c'\nscale = 1.0\n[dates]\ntrain = ['2001-01-01']\n"
        "test = ['2001-02-01']\n"
    )
    described = dataset.load(path)
    with pytest.raises(errors.InputError, match=r"a\.tif.*2001-01-01"):
        archive.find(described, described.fine)
    # The fine image of a test date is what is to be predicted: it may be missing.
    (tmp_path / "a.tif").touch()
    assert list(archive.find(described, described.fine)) == [DAY("2001-01-01")]


def test_masks_in_files_of_their_own(tmp_path):
    names = ["S_20010101.tif", "S_20010102.tif", "Q_20010101.tif"]
    more = "[[coarse.quality]]\nfiles = 'Q_{year}{month}{day}.tif'\noptional = true\n"
    entries = found(tmp_path, ["S_{year}{month}{day}.tif"], names, more=more)
    assert entries[DAY("2001-01-01")].quality[0].files == (str(tmp_path / names[2]),)
    assert entries[DAY("2001-01-02")].quality == (None,)
    with pytest.raises(errors.InputError, match=r"Q_.*2001-01-02"):
        found(tmp_path, ["S_{year}{month}{day}.tif"], names, more=more.replace("true", "false"))


def test_tiny_set(tmp_path):
    described = dataset.load(tiny.make(tmp_path))
    assert [d.isoformat() for d in archive.find(described, described.fine)] == list(tiny.DATES)
