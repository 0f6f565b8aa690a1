"""The report on accuracy, from results such as comparisons write them."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from data_prep import errors
from stfnet_tf import report


def row(method, rmse, date="2001-07-11", **more):
    red, nir = rmse
    measures = {"red": red, "nir": nir, "mean": (red + nir) / 2}
    return {"method": method, "date": date, "pixels": 12, "rmse": measures, **more}


ROWS = [row("copy", (0.02, 0.04), seconds=0.5)] + [
    row(f"plus#{k}", (0.01, 0.01 + k / 1000), seconds=2.0, fit_seconds=60.0) for k in (1, 3)
]


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results" / "boreal"
    folder.mkdir(parents=True)
    about = {"command": "/somewhere/stfnet_tf/compare.py --seed=1 <x>", "coregister": "apply",
             "triplets": ["2001-05-24 2001-07-11 2001-08-12"],
             "residual_clouds": {"2001-07-11": 0.0173}}  # fmt: skip
    found = {"dataset": "boreal2001", "about": about, "scores": ROWS,
             "references": [row("F3", (0.3, 0.5))]}  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(found))
    noise = np.random.default_rng(0).integers(0, 256, (900, 2000, 3), np.uint8)
    Image.fromarray(noise).save(folder / "images_2001-07-11.png")
    (folder / "apa_2001-07-11.png").write_bytes(b"a figure")
    return tmp_path / "results"


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_repetitions_are_one_line_with_mean_and_deviation():
    head, _, first, second = report.table(ROWS)
    assert cells(head) == ["method", "RMSE red", "RMSE nir", "RMSE", "fit s", "s"]
    # 0.0105 and 0.0115: mean 0.011, standard deviation 0.001 / √2.
    assert cells(first) == [
        "plus (× 2)", "0.0100", "0.0120", "**0.01100 ± 0.00071**", "60 ± 0", "2.0 ± 0.0",
    ]  # fmt: skip
    assert cells(second) == ["copy", "0.0200", "0.0400", "0.03000", "–", "0.5"]


def test_what_could_not_be_scored_is_a_dash_and_comes_last():
    nothing = {"red": None, "nir": None, "mean": None}
    rows = [{**ROWS[0], "method": "hidden", "rmse": nothing}, *ROWS]
    lines = report.table(rows, [{**row("F1", (0, 0)), "rmse": nothing}])
    assert [cells(line)[0] for line in lines[2:]] == [
        "plus (× 2)", "copy", "hidden", "*F1 as it is*",
    ]  # fmt: skip
    assert cells(lines[4]) == ["hidden", "–", "–", "–", "–", "0.5"]
    assert cells(lines[5])[1:4] == ["–"] * 3
    # A band without a pixel in one repetition alone.
    partly = [row("plus#1", (0.01, 0.02)), {**row("plus#2", (0, 0)), "rmse": nothing}]
    assert cells(report.table(partly)[2])[1:4] == ["0.0100", "0.0200", "**0.01500**"]


def test_a_document_with_its_figures(results, tmp_path):
    introduced = tmp_path / "docs" / "accuracy" / "boreal"
    introduced.mkdir(parents=True)
    (introduced / "about.md").write_text("What it is about.\n")
    text = report.chapter(results / "boreal" / "metrics.json", tmp_path / "docs" / "accuracy")
    assert text.startswith("## boreal\n\nWhat it is about.\n")
    assert "from 2001-05-24 2001-07-11 2001-08-12: 12 pixels, coarse images registered, " in text
    assert "registered, without residual clouds (1.73% of 2001-07-11).\n" in text
    assert "| *F3 as it is* | 0.3000 | 0.5000 | 0.40000 |" in text
    assert "```\npython -m stfnet_tf.compare --seed=1 <x>\n```\n" in text
    assert "![images_2001-07-11](accuracy/boreal/images_2001-07-11.jpg)" in text
    copied = tmp_path / "docs" / "accuracy" / "boreal" / "apa_2001-07-11.png"
    assert copied.read_bytes() == b"a figure"
    with Image.open(copied.with_name("images_2001-07-11.jpg")) as sheet:
        assert sheet.size == (1000, 450)


def test_a_document_has_another_name_than_the_folder_of_its_figures(results, tmp_path):
    program = [sys.executable, "-m", "stfnet_tf.report", f"--results={results}"]
    named = tmp_path / "docs" / "accuracy"
    done = subprocess.run([*program, f"--output={named}"], capture_output=True, text=True)
    assert done.returncode == errors.EXIT_BAD_INPUT
    assert done.stderr == f"Error: --output: expected a .md, found {named}.\n"
    assert not named.parent.exists()
    done = subprocess.run([*program, f"--output={named}.md"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{named}.md: 1 comparison\n")


def test_a_sheet_that_is_no_image_is_named(results, tmp_path):
    (results / "boreal" / "images_2001-07-11.png").write_bytes(b"no image")
    with pytest.raises(errors.InputError, match=r"images_2001-07-11\.png: expected an image"):
        report.chapter(results / "boreal" / "metrics.json", tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"about": {}}'])
def test_what_is_no_result_is_named(results, tmp_path, content):
    path = results / "boreal" / "metrics.json"
    path.write_text(content)
    with pytest.raises(errors.InputError, match=r"metrics\.json: expected a comparison's results"):
        report.chapter(path, tmp_path)
