import datetime

import pytest

from data_prep import dataset, errors
from tests.data_prep import tiny

GOOD = """
name = "x"
bands = ["red", "nir"]
[fine]
files = "F_{year}-{month}-{day}.tif"
scale = 0.0001
[coarse]
files = "C_{year}-{month}-{day}.tif"
scale = 0.0001
"""


def loaded(folder, text, data_dir=None):
    path = folder / "x.toml"
    path.write_text(text)
    return dataset.load(path, data_dir)


def test_defaults(tmp_path):
    described = loaded(tmp_path, GOOD)
    assert described.root == tmp_path
    assert described.scene == "x"
    assert described.fine.bands == (1, 2)
    assert described.tile_size == 256
    assert described.supervision == "triplet"
    assert described.quantity == "reflectance"
    assert loaded(tmp_path, 'quantity = "NDVI"' + GOOD).quantity == "NDVI"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "x"', 'name = "a b"', "x.toml: name: expected letters"),
        ('name = "x"', "", "name: .*found no such key"),
        ('bands = ["red", "nir"]', 'bands = ["red", "red"]', "bands: .*different"),
        ("[fine]\n", '[fine]\nsensr = "mod09ga"\n', r"fine\.sensr: .*did you mean 'sensor'"),
        ("[fine]\n", '[fine]\nsensor = "modis"\n', r"fine\.sensor: expected one of .*mod09ga"),
        ("scale = 0.0001\n[coarse]", 'scale = "a"\n[coarse]', r"fine\.scale: .*number.*found 'a'"),
        ("scale = 0.0001\n[coarse]", "scale = -1\n[coarse]", r"fine\.scale: .*found -1"),
        ("[coarse]\n", "[coarse]\nratio = 0.5\n", r"coarse\.ratio: .*from 1 to 1000"),
        ("[coarse]\n", "[coarse]\nvalid_range = [5, 1]\n", r"coarse\.valid_range: expected \["),
        ("[coarse]\n", '[coarse]\nresampling = "lanczos"\n', r"coarse\.resampling: .*bilinear"),
        ("[coarse]\n", '[coarse]\nreject = ["cloud"]\n', r"coarse\.reject: .*no rules.*'cloud'"),
        ("[coarse]\n", "[coarse]\nbands = { red = 1 }\n", r"coarse\.bands: .*'nir'"),
        ("[coarse]\n", "[coarse]\nbands = { red = 0, nir = 1 }\n", r"coarse\.bands\.red: .*0"),
        ("[coarse]\n", '[coarse.table]\n"2001-13-01" = "a"\n[coarse]\n', "TOML|table"),
        ("[coarse]\n", '[dates]\ntrain = ["2001-02-30"]\n[coarse]\n', r"dates\.train: .*ISO"),
        (
            "[coarse]\n",
            '[dates]\ntrain = ["2001-02-03"]\ntest = ["2001-02-03"]\n[coarse]\n',
            "one split, found 2001-02-03",
        ),
        (
            "[coarse]\n",
            '[dates]\ntest = [["2001-02-03", "2001-02-01", "2001-03-01"]]\n[coarse]\n',
            r"dates\.test",
        ),
        (
            "[fine]\n",
            '[split]\nby = "blocks"\ntest = 0.2\n[dates]\ntest = ["2001-02-03"]\n[fine]\n',
            r'dates\.test: expected none with split\.by = "blocks".*found 1',
        ),
        (
            "scale = 0.0001\n[coarse]",
            "[[fine.quality]]\nrules.cloud = { values = 1, keep = 0 }\n[coarse]",
            r"fine\.quality\[0\]\.rules\.cloud: expected either .* found both",
        ),
        (
            "{day}.tif",
            "{day}_{band}.tif",
            r"fine\.bands\.red: expected the part .* 'F_.*_\{band\}\.tif', found the number 1",
        ),
        (
            '{day}.tif"\n',
            '{day}_{band}.tif"\nbands = { red = "B4", nir = "B5" }\nquality = [{}]\n',
            r"fine\.quality\[0\]\.band: expected the part .* found the number 1",
        ),
        ("[fine]\n", "[tiles]\nsize = 8\n[fine]\n", r"tiles\.size: .*from 16"),
        ('files = "F_{year}-{month}-{day}.tif"', "", r"fine\.files: .*neither"),
        (
            'files = "F_{year}-{month}-{day}.tif"',
            'table = { "2001-10-08" = "a.tif", "20011008" = "b.tif" }',
            r"fine\.table: expected .* one a date",
        ),
        ('name = "x"', 'name = "x', "expected TOML"),
        ('name = "x"', 'name = "x"\nroot = "nowhere"', "root: expected a folder"),
    ],
)
def test_errors_name_the_key_what_is_allowed_and_what_was_found(tmp_path, old, new, message):
    assert old in GOOD
    with pytest.raises(errors.InputError, match=message):
        loaded(tmp_path, GOOD.replace(old, new, 1))


def test_stack_needs_one_band(tmp_path):
    text = GOOD.replace("[coarse]\n", "[coarse]\nstack = { first = 2015-01-01, every_days = 16 }\n")
    with pytest.raises(errors.InputError, match=r"coarse\.stack: .*one band"):
        loaded(tmp_path, text)


@pytest.mark.parametrize(("stated", "scale"), [("10000", 1e-4), ("0.0001", 1e-4), ("1.0", 1.0)])
def test_divisor_and_factor_mean_the_same(tmp_path, stated, scale):
    text = GOOD.replace("scale = 0.0001\n[coarse]", f"scale = {stated}\n[coarse]")
    assert loaded(tmp_path, text).fine.scale == pytest.approx(scale)


def test_unset_variable_is_named_and_data_dir_does_without_it(tmp_path, monkeypatch):
    text = GOOD.replace('name = "x"', 'name = "x"\nroot = "${NO_SUCH_FOLDER}/x"')
    monkeypatch.delenv("NO_SUCH_FOLDER", raising=False)
    with pytest.raises(errors.InputError, match=r"NO_SUCH_FOLDER.*--data_dir"):
        loaded(tmp_path, text)
    assert loaded(tmp_path, text, data_dir=tmp_path).root == tmp_path
    (tmp_path / "x").mkdir()
    monkeypatch.setenv("NO_SUCH_FOLDER", str(tmp_path))
    assert loaded(tmp_path, text).root == tmp_path / "x"


def test_variable_with_default(monkeypatch):
    monkeypatch.delenv("NO_SUCH_FOLDER", raising=False)
    assert dataset.expand("${NO_SUCH_FOLDER:-/data}/x") == "/data/x"


def test_preset_gives_what_the_side_leaves_unsaid(tmp_path):
    text = GOOD.replace(
        '[coarse]\nfiles = "C_{year}-{month}-{day}.tif"\nscale = 0.0001',
        '[coarse]\nsensor = "mod09ga"\npsf_fwhm = 2.0',
    )
    side = loaded(tmp_path, text).coarse
    assert side.bands == ("sur_refl_b01_1", "sur_refl_b02_1")
    assert side.fill == (-28672,)
    assert side.psf_fwhm == 2.0
    assert "cloud" in side.reject


def test_a_sensor_of_ones_own_lies_beside_the_description(tmp_path):
    (tmp_path / "mine.toml").write_text("scale = 0.5\n")
    text = GOOD.replace("scale = 0.0001\n[coarse]", 'sensor = "mine"\n[coarse]')
    assert loaded(tmp_path, text).fine.scale == 0.5


@pytest.mark.parametrize("sensor", dataset.sensors())
def test_every_preset_is_read_with_all_its_bands(tmp_path, sensor):
    import tomllib

    raw = tomllib.loads((dataset.SENSORS / f"{sensor}.toml").read_text())
    bands = list(raw["bands"])
    files = "" if "files" in raw else 'files = "S_{year}{month}{day}.nc"'
    described = loaded(
        tmp_path,
        f"name = 'x'\nbands = {bands}\n[fine]\nsensor = '{sensor}'\n{files}\n"
        f"[coarse]\nfiles = 'C_{{year}}{{month}}{{day}}.tif'\nscale = 1.0\n",
    )
    assert described.fine.bands == tuple(raw["bands"].values())
    assert described.fine.scale == pytest.approx(raw["scale"])


def test_dates_may_be_toml_dates_or_text(tmp_path):
    text = (
        GOOD
        + '[dates]\ntrain = [2001-03-01, "2001-01-01"]\ntest = [["2001-01-01", "2001-02-01"]]\n'
    )
    dates = loaded(tmp_path, text).dates
    day = datetime.date.fromisoformat
    assert dates.train == (day("2001-01-01"), day("2001-03-01"))
    assert dates.test == ((day("2001-01-01"), day("2001-02-01"), None),)


def test_tiny_set_is_a_good_example(tmp_path):
    assert dataset.load(tiny.make(tmp_path)).dates.train[0] == datetime.date(2001, 10, 8)


def test_a_variable_is_relative_to_where_the_user_stands(tmp_path, monkeypatch):
    (tmp_path / "data" / "set").mkdir(parents=True)
    (tmp_path / "work" / "configs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("FUSION_DATA", "../data")
    assert dataset.expand("${FUSION_DATA}/set") == str(tmp_path / "data" / "set")
    assert dataset.expand("sets/${FUSION_DATA}") == "sets/../data"
