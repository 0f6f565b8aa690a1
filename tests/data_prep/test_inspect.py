import concurrent.futures
import json
import math
import subprocess
import sys
from concurrent.futures import process

import numpy as np
import pytest

from data_prep import (
    catalog,
    dataset,
    errors,
    executors,
    inspect,
    quicklook,
    rasters,
    registration,
    survey,
)
from tests.data_prep import tiny


def run(*flags):
    return subprocess.run(
        [sys.executable, "-m", "data_prep.inspect", *flags], capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    path = tiny.make(tmp_path_factory.mktemp("tiny"), 192, 160)
    image = tiny.land(192, 160, seed=1)
    image[:48] = -1
    rasters.write(path.parent / f"F_{tiny.DATES[1]}.tif", image, tiny.grid(192, 160))
    return path


def test_survey_says_what_is_there(described):
    images = catalog.Catalog(dataset.load(described))
    with executors.make(workers=1) as here:
        found, _ = survey.look(images, here)
    assert found["bands"] == list(tiny.BANDS)
    assert (found["grid"]["height"], found["grid"]["width"]) == (192, 160)
    assert found["ratio"]["used"] == found["ratio"]["of_grids"] == pytest.approx(8)
    assert [k["date"] for k in found["dates"]] == list(tiny.DATES)
    second = found["dates"][1]
    assert second["fine"]["valid"] == pytest.approx(0.75)
    assert second["coarse"]["valid"] == 1
    expected = tiny.land(192, 160, seed=1)[48:].reshape(-1, 2).mean(0) * 1e-4
    np.testing.assert_allclose(second["fine"]["mean"], expected, rtol=1e-4)
    assert found["triplets"] == {"train": [list(tiny.DATES)], "val": [], "test": []}
    assert found["registration"] is None


class Killed(concurrent.futures.Executor):
    """Whose workers have died by the time that anybody asks for results."""

    def submit(self, fn, /, *args, **kwargs):
        future = concurrent.futures.Future()
        future.set_exception(process.BrokenProcessPool())
        return future


def test_a_killed_process_is_one_sentence(described):
    images = catalog.Catalog(dataset.load(described))
    for look in (survey.look, registration.estimate):
        with pytest.raises(errors.InputError, match=r"tiny\.toml: expected every .* one killed"):
            look(images, Killed())


def test_json_tables_and_picture(described, tmp_path):
    sheet = tmp_path / "look" / "sheet.png"
    done = run(f"--dataset={described}", "--json", f"--plot={sheet}", "--workers=1")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["registration"]["mode"] == "report"
    for seen in found["dates"]:
        # Block means lie where the pixels lie that they are of.
        assert abs(seen["shift"]["rows"]) < 0.3 and abs(seen["shift"]["cols"]) < 0.3
        assert set(seen["correlation"]) == {"before", "after"}
    assert sheet.read_bytes().startswith(b"\x89PNG")
    assert [k.name for k in sheet.parent.iterdir()] == ["sheet.png"]
    done = run(f"--dataset={described}", "--coregister=off", "--workers=1")
    assert done.returncode == 0, done.stderr
    for word in ("2001-10-17", "75.0%", "8.00 fine pixels", "train: 1 triplet\n", "zone 55N"):
        assert word in done.stdout


def test_dates_to_be_fused_are_counted(tmp_path, capsys):
    path = tiny.make(tmp_path, dates=(*tiny.DATES, "2001-10-01"))
    for date in (tiny.DATES[1], "2001-10-01"):
        (tmp_path / f"F_{date}.tif").unlink()
    path = tiny.describe(tmp_path, (tiny.DATES[0], tiny.DATES[2]))
    with executors.make(workers=1) as here:
        inspect.show(survey.look(catalog.Catalog(dataset.load(path)), here)[0])
    assert "coarse image alone: 1 date after a known pair" in capsys.readouterr().out


def test_json_knows_no_nan(tmp_path):
    path = tiny.make(tmp_path, 192, 160)
    nothing = np.full((192, 160, 2), np.nan, np.float32)
    for date in tiny.DATES:
        image = tiny.land(192, 160).astype(np.float32) if date == tiny.DATES[0] else nothing
        rasters.write(tmp_path / f"F_{date}.tif", image, tiny.grid(192, 160), nodata=math.nan)
    done = run(f"--dataset={path}", "--json", "--workers=1")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"found {name}"))
    assert found["fine"]["fill"] == "nan"
    assert found["dates"][0]["correlation"]["after"][0] > 0.9
    assert found["dates"][1]["correlation"] == {"before": [None, None], "after": [None, None]}
    assert "– → –" in run(f"--dataset={path}", "--workers=1").stdout


def test_picture_shows_what_is_invalid(described):
    images = catalog.Catalog(dataset.load(described))
    dn, good = quicklook._thumbnail(images, "fine", tiny.DATES[1])
    assert dn.shape == (192, 160, 1) and not good[:48].any() and good[48:].all()
    (picture,) = quicklook._stretched([(dn, good)])
    assert (picture[:48] == (1, 0, 1)).all()
    assert picture[48:].min() == 0 and picture[48:].max() == 1


def test_a_picture_that_cannot_be_written_leaves_nothing(described, tmp_path):
    (tmp_path / "look").mkdir()
    done = run(f"--dataset={described}", f"--plot={tmp_path / 'look'}", "--workers=1")
    assert done.returncode == errors.EXIT_BAD_INPUT
    assert done.stderr.strip().endswith("look: could not be written: Is a directory.")
    assert not list(tmp_path.glob(".*"))


def test_titles_of_the_picture_lie_on_no_image(tmp_path, monkeypatch):
    kept, save = [], quicklook.Figure.savefig
    monkeypatch.setattr(
        quicklook.Figure, "savefig", lambda *a, **k: (kept.append(a[0]), save(*a, **k))
    )
    images = catalog.Catalog(dataset.load(tiny.make(tmp_path, 192, 192)))
    with executors.make(workers=1) as here:
        found, corrected = survey.look(images, here)
    quicklook.plot(corrected, found, str(tmp_path / "sheet.png"))
    (figure,) = kept
    titles = [axis.title.get_window_extent() for axis in figure.axes]
    pictures = [axis.images[0].get_window_extent() for axis in figure.axes]
    assert len(pictures) == 2 * len(tiny.DATES)
    assert not any(title.overlaps(picture) for title in titles for picture in pictures)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), ("--dataset",)),
        (("--dataset=none.toml",), ("none.toml", "no such file")),
        (("--dataset={described}", "--data_dir=/nowhere"), ("--data_dir", "/nowhere")),
    ],
)
def test_wrong_input_is_one_sentence(described, flags, words):
    done = run(*(flag.format(described=described) for flag in flags))
    assert done.returncode == errors.EXIT_BAD_INPUT
    assert "Traceback" not in done.stderr
    assert all(word in done.stderr for word in words)


def test_help_is_quick_because_nothing_heavy_is_imported():
    code = (
        "import sys; sys.argv = ['inspect', '--help']\n"
        "from data_prep import inspect, write_tfrecords\n"
        "assert not {'tensorflow', 'osgeo', 'scipy', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_dates_that_show_little_are_named(tmp_path, capsys):
    dates = ("2001-10-08", "2001-10-17", "2001-10-24", "2001-11-02")
    path = tiny.make(tmp_path, dates=dates)
    image = tiny.land(96, 80, seed=1)
    image[36:] = -1
    rasters.write(tmp_path / f"F_{dates[1]}.tif", image, tiny.grid(96, 80))
    listed = [", ".join(f'"{date}"' for date in some) for some in (dates, dates[:2] + dates[3:])]
    path.write_text(path.read_text().replace(listed[0], listed[1]) + '[triplets]\nrule = "all"\n')
    path.write_text(path.read_text().replace("[dates]", f'[dates]\ntest = ["{dates[2]}"]'))
    with executors.make(workers=1) as here:
        found, _ = survey.look(catalog.Catalog(dataset.load(path)), here)
    assert found["triplets"]["test"] == [[dates[0], *dates[2:]]]
    assert found["passed_over"] == {dates[1]: pytest.approx(0.375)}
    inspect.show(found)
    told = f"show far more (triplets.min_clear): {dates[1]} (38% clear)"
    assert told in capsys.readouterr().out
