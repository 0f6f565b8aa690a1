import dataclasses
import datetime
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_prep import catalog, errors, grids, rasters, records
from stfnet_tf import checkpoints, fitting, fuse
from tests.stfnet_tf import scenes

ROOT = Path(__file__).parents[2]
BY_NAME = ("--f1=x.tif", "--c1=x.tif", "--c2=x.tif")


def run(*flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "stfnet_tf.fuse", *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def fit(folder: Path, out: Path) -> subprocess.CompletedProcess:
    return run(
        *("--fit", f"--dataset={folder / 'made.toml'}", f"--output_dir={out}", "--preset=plus"),
        *("--patch_size=32", "--batch_size=2", "--steps=4", "--window=32"),
    )


def test_help_tells_what_fusing_takes_and_the_defaults_of_a_fit():
    told = run("--help").stdout
    assert "--dataset: Description of the rasters, a .toml.\n" in told
    assert "--model_dir: Folder of the training run to fuse with" in told
    assert "records_dir" not in told
    for name, value in fitting.defaults("plus", 10**6).items():
        if name != "patch_size":
            assert (f"--no{name}" if value is False else f"--{name}={value}") in fuse.__doc__
    assert f"up to {fitting.LARGEST_TILE} pixels" in fuse.__doc__


def test_fit_needs_no_truth_and_looks_at_none(tmp_path):
    """The raster is the same, byte by byte, where the true image is absent."""
    scenes.make(tmp_path / "with")
    scenes.make(tmp_path / "without", without=("fine_20010711.tif",))
    pixels, layers = [], []
    for name, says_rmse in (("with", True), ("without", False)):
        done = fit(tmp_path / name, tmp_path / f"out_{name}")
        assert done.returncode == 0, done.stderr
        assert ("RMSE in reflectance over" in done.stdout) == says_rmse
        pixels.append(rasters.read(str(tmp_path / f"out_{name}" / "2001-07-11.tif")))
        layers.append(rasters.read(str(tmp_path / f"out_{name}" / "2001-07-11_quality.tif")))
    np.testing.assert_array_equal(*pixels)
    np.testing.assert_array_equal(*layers)
    info = records.DatasetInfo.load(tmp_path / "out_with" / "model" / "2001-07-11")
    fitted = checkpoints.load_model(tmp_path / "out_with" / "model" / "2001-07-11")
    # Four steps of training move a weight by 0.004 at most; the ridge start moved them further.
    assert np.max(np.abs(fitted.forward_stream.get_weights()[0])) > 0.01
    assert info.supervision == "pair" and info.splits["train"].triplets == (scenes.DATES,)


def test_a_fit_that_diverges_says_so(tmp_path):
    scenes.make(tmp_path / "in")
    done = run(
        *(
            "--fit",
            f"--dataset={tmp_path / 'in' / 'made.toml'}",
            f"--output_dir={tmp_path / 'out'}",
        ),
        *("--workers=1", "--learning_rate=1e25"),
    )
    assert done.returncode == 2
    assert "Error: --learning_rate=1e+25: expected training to stay within finite" in done.stderr
    assert "Traceback" not in done.stderr and not list((tmp_path / "out").glob("*.tif"))


def test_rasters_by_flags_without_a_later_pair_are_fitted_fused_and_drawn(tmp_path):
    """Twice: the second run finds the first one's rasters."""
    scenes.make(tmp_path / "in", between=("2001-06-09",))
    named = {
        "f1": "fine_20010524",
        "c1": "coarse_20010524",
        "c2": "coarse_20010609",
    }
    flags = [
        f"--{k}=" + ",".join(str(tmp_path / "in" / f"{name}.tif") for name in v.split(","))
        for k, v in named.items()
    ]
    flags += ["--fine_scale=0.0001", "--coarse_scale=0.0001", "--ratio=4", "--workers=1"]
    flags += [f"--output_dir={tmp_path / 'out'}", "--fit", "--steps=2", "--plot"]
    done = run(*flags)
    assert done.returncode == 0, done.stderr
    assert "Fusing 1 date of 'rasters' (70 × 50 × 2)" in done.stdout
    made = {"2001-06-09.tif", "2001-06-09_quality.tif"}
    assert {k.name for k in (tmp_path / "out").iterdir()} == made | {"model", "dates.png"}
    again = run(*flags)
    assert again.returncode == 0, again.stderr
    assert "Finished already, from the same images and model: 1 of 1 date" in again.stdout
    assert "Fusing" not in again.stdout


def test_a_date_of_which_nothing_is_known_is_warned_of(tmp_path):
    images = scenes.make(tmp_path)
    model = scenes.run(tmp_path / "run", images)
    empty = np.full((*scenes.GRID.shape, 2), -9999, np.int16)
    rasters.write(tmp_path / "coarse_20010711.tif", empty, scenes.GRID, nodata=-9999)
    flags = f"--dataset={tmp_path / 'made.toml'}", f"--output_dir={tmp_path / 'out'}"
    done = run(*flags, f"--model_dir={model}")
    assert done.returncode == 0 and "0.0 % of the pixels fused" in done.stdout
    assert "next to nothing could be fused" in done.stderr
    assert "C2 (coarse_20010711.tif) has no valid pixel" in done.stderr
    done = run(*flags, "--fit", "--overwrite")
    assert done.returncode == 2
    assert "expected tiles with pixels valid in all images, found none among 1; on" in done.stderr
    assert "C2 (coarse_20010711.tif) has no valid pixel" in done.stderr
    done = run(*flags, "--fit", "--overwrite", "--patch_size=128")
    assert done.returncode == 2
    assert "--patch_size: expected at most 70 pixels, the scene's longer side" in done.stderr


def test_what_is_assumed_of_the_rasters_is_said(tmp_path):
    scenes.make(tmp_path)
    for date in scenes.DATES:
        path = tmp_path / f"coarse_{date.replace('-', '')}.tif"
        rasters.write(path, rasters.read(str(path)), grids.Grid(70, 50), nodata=-9999)
    flags = f"--dataset={tmp_path / 'made.toml'}", f"--output_dir={tmp_path / 'out'}"
    done = run(*flags, "--model_dir=nowhere")
    assert done.stdout == (
        "Assumed: coarse images without CRS: taken to lie on the fine grid (same size).\n"
    )
    assert done.returncode == 2


def test_a_wrong_scale_is_warned_of_before_any_work(tmp_path):
    scenes.make(tmp_path)
    path = tmp_path / "made.toml"
    path.write_text("0.01".join(path.read_text().rsplit("0.0001", 1)))
    done = run(f"--dataset={path}", f"--output_dir={tmp_path / 'out'}", "--model_dir=nowhere")
    assert done.returncode == 2
    assert "2001-05-24: the mean reflectance of the fine image is 0.2" in done.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            (),
            "--dataset: expected a .toml, or rasters by --f1, --c1, --c2 (--f3, --c3), found noth",
        ),
        (("--dataset=x.toml", "--f1=x.tif"), "(--f3, --c3), found both"),
        (("--dataset=x.toml", "--fit"), "--output_dir: expected a folder, found nothing"),
        (("--f1=x_20010101.tif", "--output_dir=x", "--fit"), "--c1: expected a raster, found noth"),
        (
            (*BY_NAME, "--output_dir=x", "--fit", "--fine_range=9,1"),
            "--fine_range: expected the least and the greatest number",
        ),
        (
            (*BY_NAME, "--output_dir=x", "--fit", "--fine_bands=red"),
            "--fine_bands: expected band numbers such as 2,3,4, found red",
        ),
        ((*BY_NAME, "--output_dir=x", "--fit", "--t1=May"), "--t1: expected dates such as"),
        ((*BY_NAME, "--output_dir=x", "--fit"), "x.tif: expected one date in the name"),
        ((*BY_NAME, "--output_dir=x", "--model_dir=nowhere"), "nowhere/model.json: expected"),
        ((*BY_NAME, "--output_dir=x", "--saved_model=nowhere"), "nowhere: expected a version fol"),
        (("--dataset=nowhere.toml", "--output_dir=x", "--fit"), "nowhere.toml: expected a TOML"),
        (("--dataset=nowhere.toml", "--output_dir=x"), "or --fit to train a model, found nothing"),
        (("words",), "arguments are flags"),
    ],
)
def test_wrong_flags_end_in_one_sentence(flags, message):
    done = run(*flags)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return scenes.make(tmp_path_factory.mktemp("scene"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["a.tif,b.tif"], ("a.tif", "b.tif")),
        (["b,c.tif"], ("b,c.tif",)),
        (["a.tif", "b,c.tif", "d.tif,e.tif"], ("a.tif", "b,c.tif", "d.tif", "e.tif")),
        (['NETCDF:"a.nc":red,NETCDF:"b.nc":red'], ('NETCDF:"a.nc":red', 'NETCDF:"b.nc":red')),
        ([""], ()),
    ],
)
def test_commas_between_and_in_the_names_of_coarse_rasters(given, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b,c.tif").touch()
    assert fuse.coarse_rasters(given) == expected


def test_the_test_dates_are_fused_unless_others_are_named(images):
    expected = tuple(map(datetime.date.fromisoformat, scenes.DATES))
    for dates in (None, ["2001-07-11"], ["20010711"], ["2001192"], ["all"]):
        (triplet,) = fuse.choose(images, dates)
        assert triplet.dates == expected


def test_dates_that_clouds_hide_are_passed_over_and_named(tmp_path, capsys):
    images = scenes.make(tmp_path, between=("2001-06-10", "2001-06-26"))
    hidden = np.full((*scenes.GRID.shape, 2), -9999, np.int16)
    hidden[:20] = 1000  # of 50 rows
    for name, pixels in (("2001-06-10", hidden), ("2001-06-26", np.roll(hidden, 20, 0))):
        path = tmp_path / f"fine_{name.replace('-', '')}.tif"
        rasters.write(path, pixels, scenes.GRID, nodata=-9999)
    images = catalog.Catalog(images.dataset)
    (triplet,) = fuse.choose(images, ["2001-07-11"])
    assert triplet.iso == scenes.DATES
    assert (
        "Passed over, because further dates show far more (triplets.min_clear = 0.5): 2001-06-10 "
        "(39 % clear), 2001-06-26 (39 % clear)"
    ) in capsys.readouterr().out
    anything = dataclasses.replace(images.dataset, min_clear=0.0)
    (triplet,) = fuse.choose(catalog.Catalog(anything), ["2001-07-11"])
    assert triplet.iso == ("2001-06-26", *scenes.DATES[1:])
    assert capsys.readouterr().out == ""


def test_after_the_last_fine_image_the_earlier_one_stands_alone(images):
    (triplet,) = fuse.choose(images, ["2001-08-12"])
    assert triplet.dates == (datetime.date(2001, 5, 24), datetime.date(2001, 8, 12))


@pytest.mark.parametrize(
    ("date", "message"),
    [
        ("2001-7-x", "expected dates such as"),
        ("2001-07-12", "expected dates with a coarse image"),
        ("2001-05-24", "expected a date after a known fine image"),
    ],
)
def test_dates_that_cannot_be_fused(images, date, message):
    with pytest.raises(errors.InputError, match=message):
        fuse.choose(images, [date])
