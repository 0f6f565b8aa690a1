"""A seeded part of the suite; `make faults` runs all of it."""

import collections
import json
import subprocess
import sys

import pytest

from faults import cases, interruptions, judge
from faults.processes import End

TRACEBACK = "Traceback (most recent call last):\n  File …\nKeyError: 'x'\n"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """What a quick run of the suite wrote."""
    path = tmp_path_factory.mktemp("faults") / "faults.md"
    flags = ["--quick", "--every=14", "--kills=4", "--others=1", "--seed=1", f"--output={path}"]
    done = subprocess.run(
        [sys.executable, "-m", "faults.run", *flags], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    return path


def test_nothing_ends_as_it_must_not(report):
    stated = json.loads(report.with_suffix(".json").read_text())
    counted = collections.Counter(
        row["kind"] for part in ("damaged", "interrupted") for row in stated[part]
    )
    assert counted.total() >= 35
    assert not set(counted) & set(judge.FORBIDDEN)
    assert counted[judge.REFUSED] >= 15 and counted[judge.RECOVERED] >= 5
    text = report.read_text()
    for kind in judge.FORBIDDEN:
        assert f"| {kind} | 0 |" in text


def test_at_least_five_hundred_cases_each_another():
    made = cases.generate()
    assert len({(k.file, k.way, k.program) for k in made}) == len(made) >= 500
    subjects = collections.Counter(k.subject for k in made)
    assert min(subjects.values()) >= 50 and len(subjects) == 6
    cut = {k.way for k in made if k.way.startswith(("cut off", "empty"))}
    assert len(cut) == 16
    assert [k.seed for k in made] == [k.seed for k in cases.generate()]


def test_a_hundred_kills_over_all_programs():
    killed = [k for k in interruptions.plan(100, 0) if k.method == "kill"]
    assert collections.Counter(k.program for k in killed) == dict.fromkeys(
        interruptions.PROGRAMS, 25
    )


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        (End(None, "", "", 60.0), judge.HANG),
        (End(1, "", TRACEBACK, 1.0), judge.TRACEBACK),
        (End(0, "", TRACEBACK, 1.0), judge.TRACEBACK),
        (End(2, "", f"Error: no such file.\n{TRACEBACK}", 1.0), judge.TRACEBACK),
        (End(3, "", "something else\n", 1.0), judge.TRACEBACK),
        (End(2, "", "Error: one.\nError: two.\n", 1.0), judge.TRACEBACK),
        (End(-11, "", "", 1.0), judge.KILLED),
        (End(2, "", "I1122 …\nError: x.toml: expected TOML, found noise.\n", 1.0), judge.REFUSED),
    ],
)
def test_ends_are_judged_by_what_was_said(end, kind):
    assert judge.outcome(end).kind == kind


def test_a_good_end_is_judged_by_its_results(tmp_path):
    assert judge.outcome(End(0, "", "", 1.0)) is None
    for name, content in (("history.csv", "epoch,loss\n1,0.5\n"), ("x.tif", "not a raster")):
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / name).write_text(content)
    found = judge.results(tmp_path)
    assert not found["run/history.csv"].startswith("?")
    assert found["run/x.tif"].startswith("? InputError")
    (tmp_path / "run" / "history.csv").write_text("epoch,loss\n1,0.6\n")
    assert judge.results(tmp_path)["run/history.csv"] != found["run/history.csv"]


def test_runs_that_shared_the_work_make_one_table(report, tmp_path):
    parts = f"--merge={report.with_suffix('.json')},{report.with_suffix('.json')}"
    command = [sys.executable, "-m", "faults.run", parts, f"--output={tmp_path / 'both.md'}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    one, both = (
        json.loads(k.read_text()) for k in (report.with_suffix(".json"), tmp_path / "both.json")
    )
    assert len(both["damaged"]) == 2 * len(one["damaged"]) > 0
    done = subprocess.run([*command[:3], "--merge=/nowhere"], capture_output=True, text=True)
    assert done.returncode == 2 and "--merge" in done.stderr
