"""The programs that score, run as users run them."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from data_prep import grids, rasters
from stfnet_tf import cases, checkpoints, fusion, scene
from tests.stfnet_tf import scenes


def run(program, *flags):
    return subprocess.run(
        [sys.executable, "-m", f"stfnet_tf.{program}", *map(str, flags)],
        capture_output=True, text=True, check=False, env={**os.environ, "MPLBACKEND": "Agg"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A scene, a trained model's folder, and the output of one comparison."""
    folder = tmp_path_factory.mktemp("scene")
    images = scenes.make(folder)
    network = scenes.network()
    model_dir = folder / "run"
    model_dir.mkdir()
    network.config.save(model_dir)
    scenes.info(images).save(model_dir)
    network.save_weights(str(model_dir / checkpoints.BEST))
    done = run(
        "compare", f"--dataset={folder / 'made.toml'}", f"--output_dir={folder / 'compared'}",
        f"--methods=copy,coarse_change,mine={model_dir}", "--save_predictions",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, images, network, done.stdout


def error_of(prediction, truth, valid):
    return np.sqrt(np.mean((prediction - truth)[valid].astype(np.float64) ** 2, axis=0))


def test_compare_scores_all_methods_on_the_same_pixels(made):
    folder, images, _, stdout = made
    report = json.loads((folder / "compared" / "metrics.json").read_text())
    rows = {row["method"]: row for row in report["scores"]}
    assert list(rows) == ["copy", "coarse_change", "mine"]
    assert len({row["pixels"] for row in rows.values()}) == 1
    # The clouds of the three dates lie apart, so one side or the other is always there.
    assert rows["copy"]["coverage"] == rows["coarse_change"]["coverage"] == 1
    dates = [images.fine_dates[k] for k in (0, 1, 2)]
    fine = [images.read("fine", d) for d in dates]
    coarse = [images.read("coarse", d) for d in dates]
    assert rows["copy"]["pixels"] <= (fine[1].valid & coarse[1].valid).sum()
    assert rows["mine"]["consistency"]["mean"] > 0 and "consistency" not in rows["copy"]
    assert all(row["seconds"] > 0 and row["peak_mib"] > 20 for row in rows.values())
    # Away from all clouds the two simple methods are what anybody would compute.
    clear = np.logical_and.reduce([i.valid for i in (*fine, *coarse)])
    f1, f2, f3 = (i.dn * 1e-4 for i in fine)
    c1, c2, c3 = (i.dn * 1e-4 for i in coarse)
    expected = error_of((f1 + f3 + 2 * c2 - c1 - c3) / 2, f2, clear)
    found = [rows["coarse_change"]["rmse"][band] for band in scenes.BANDS]
    np.testing.assert_allclose(found, expected, rtol=0.05)
    np.testing.assert_allclose(
        [rows["copy"]["rmse"][b] for b in scenes.BANDS], error_of(f3, f2, clear), rtol=0.05
    )
    for name in ("copy", "coarse_change", "mine"):
        assert f"{rows[name]['rmse']['mean']:.5f}" in stdout
    with (folder / "compared" / "metrics.csv").open() as file:
        means = {r["method"]: r for r in csv.DictReader(file) if r["band"] == "mean"}
    assert set(means) == {"copy", "coarse_change", "mine", "F1", "F3", "C2"}
    pictures = {p.name for p in (folder / "compared").glob("*.png")}
    assert pictures == {f"{k}_2001-07-11.png" for k in ("comparison", "images", "apa")}


def test_consistency_is_over_pixels_without_clouds_on_any_date(made):
    folder, images, network, _ = made
    case = cases.read_all(images, cases.choose(images, "test"))[0]
    names = ("f1", "f3", "c1", "c2", "c3")
    masks = {name: getattr(case.inputs, f"valid_{name}") for name in names}
    batch = {name: getattr(case.inputs, name)[None] for name in names}
    batch |= {f"valid_{k}": v[None, ..., None].astype(np.float32) for k, v in masks.items()}
    streams = network(batch)
    f13 = case.inputs.f3 - case.inputs.f1
    clear = np.logical_and.reduce([case.valid, *masks.values()])
    expected = error_of((streams["f12"] + streams["f23"]).numpy()[0], f13, clear)
    rows = json.loads((folder / "compared" / "metrics.json").read_text())["scores"]
    found = [rows[2]["consistency"][band] for band in scenes.BANDS]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_saved_predictions_score_the_same_when_they_are_read_back(made):
    folder, _, _, _ = made
    done = run(
        "evaluate", f"--dataset={folder / 'made.toml'}", f"--output_dir={folder / 'read_back'}",
        f"--predictions={folder / 'compared' / 'predictions' / 'mine'}", "--baselines=",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    again = json.loads((folder / "read_back" / "metrics.json").read_text())["scores"]
    first = json.loads((folder / "compared" / "metrics.json").read_text())["scores"][2]
    assert [row["method"] for row in again] == ["predictions"]
    assert again[0]["rmse"]["mean"] == pytest.approx(first["rmse"]["mean"], rel=0.02)
    path = folder / "compared" / "predictions" / "mine" / "2001-07-11.tif"
    stated = rasters.info(str(path))
    assert stated.grid == scenes.GRID and stated.scale == pytest.approx(1e-4)


def test_fused_rasters_score_as_fusing_says(made, tmp_path):
    folder, images, network, _ = made
    predictor = scene.Predictor.of("made", fusion.Fusion(network, scenes.info(images)))
    triplet = cases.choose(images, "test")[0]
    fused = scene.fuse(predictor, images, triplet, tmp_path / "fused", window=48)
    done = run(
        "evaluate", f"--dataset={folder / 'made.toml'}", f"--output_dir={tmp_path / 'scored'}",
        f"--predictions={tmp_path / 'fused'}", "--baselines=",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "scored" / "metrics.json").read_text())
    row = report["scores"][0]
    assert row["pixels"] == fused.pixels
    np.testing.assert_allclose([row["rmse"][b] for b in scenes.BANDS], fused.rmse, rtol=1e-4)
    # The quality raster beside it is calibrated as well.
    calibration = report["calibration"]["predictions"]["2001-07-11"]
    assert sum(calibration[0]["pixels"]) == fused.pixels
    assert 0 < calibration[0]["predicted"][-1] < 0.5
    assert "the quality layer against the true absolute error" in done.stdout
    assert f"{calibration[-1]['spearman']:.4f}" in done.stdout


def test_evaluate_a_model(made):
    folder = made[0]
    done = run(
        "evaluate", f"--dataset={folder / 'made.toml'}", f"--output_dir={folder / 'scored'}",
        f"--model_dir={folder / 'run'}", "--baselines=copy",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "scored" / "metrics.json").read_text())
    copy, mine = report["scores"]
    assert (copy["method"], mine["method"]) == ("copy", "stfnet")
    assert mine["consistency"]["mean"] > 0 and "consistency" not in copy
    calibration = report["calibration"]["stfnet"]["2001-07-11"]
    assert [c["band"] for c in calibration] == [*scenes.BANDS, "all bands"]
    assert sum(calibration[-1]["pixels"]) == 2 * mine["pixels"]
    assert sum(calibration[0]["pixels"]) == mine["pixels"]
    pictures = {p.name for p in (folder / "scored").glob("*.png")}
    kinds = ("images", "scatter", "apa", "calibration")
    assert pictures == {f"{k}_2001-07-11.png" for k in kinds}


@pytest.mark.parametrize(
    ("program", "flags", "sentence"),
    [
        ("evaluate", [], "--model_dir, --predictions: expected one of the two, found neither"),
        ("evaluate", ["--predictions=nowhere"], "nowhere/2001-07-11.tif: expected the fused image"),
        ("evaluate", ["--model_dir=nowhere"], "Error: nowhere"),
        ("evaluate", ["--predictions=nowhere", "--baselines=kriging"], "--baselines: expected"),
        ("compare", ["--methods=copy,kriging"], "starfm_both, paper, plus, or NAME=FOLDER"),
        ("compare", ["--methods=copy,copy"], "expected every name once"),
        ("compare", ["--dates=yesterday"], "--dates: expected dates such as 2001-07-11"),
        (
            "compare",
            ["--methods=estarfm", "--dates=2001-05-24/2001-07-11"],
            "--methods: expected one that needs no later pair, because 2001-07-11 of",
        ),
    ],
)
def test_wrong_flags_are_one_sentence(made, program, flags, sentence, tmp_path):
    folder = made[0]
    done = run(program, f"--dataset={folder / 'made.toml'}", f"--output_dir={tmp_path}", *flags)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("program", ["evaluate", "compare"])
def test_help_tells_what_is_scored(program):
    told = run(program, "--help").stdout
    for flag in (
        "dataset",
        "data_dir",
        "split",
        "dates",
        "coregister",
        "residual_clouds",
        "output_dir",
    ):
        assert f"  --{flag}:" in told


def test_what_is_assumed_of_the_rasters_is_said(tmp_path):
    scenes.make(tmp_path)
    for date in scenes.DATES:
        path = tmp_path / f"coarse_{date.replace('-', '')}.tif"
        rasters.write(path, rasters.read(str(path)), grids.Grid(70, 50), nodata=-9999)
    done = run(
        "compare", f"--dataset={tmp_path / 'made.toml'}", f"--output_dir={tmp_path / 'out'}",
        "--methods=copy",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Assumed: coarse images without CRS: taken to lie on the fine")


def test_two_sided_methods_are_left_out_where_there_is_one_pair(made, tmp_path):
    folder = made[0]
    described = tmp_path / "index.toml"
    described.write_text('quantity = "NDVI"\n' + (folder / "made.toml").read_text())
    done = run(
        "compare", f"--dataset={described}", f"--data_dir={folder}", f"--output_dir={tmp_path}",
        "--methods=copy,estarfm", "--dates=2001-05-24/2001-07-11",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert ": NDVI, all valid pixels at once" in done.stdout
    assert "estarfm: left out on 2001-07-11" in done.stdout
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert report["quantity"] == "NDVI"
    assert [row["method"] for row in report["scores"]] == ["copy"]
    # F1's cloud of 28 pixels lies elsewhere than that of the truth.
    assert report["scores"][0]["coverage"] == pytest.approx(1 - 28 / (70 * 50 - 28))
