"""Two processes that train together, as two hosts would: TF_CONFIG and nothing else tells them."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.stfnet_tf import ports
from tests.stfnet_tf import shards as toy

ROOT = Path(__file__).parents[2]
FLAGS = (
    *("--batch_size=4", "--patch_size=16", "--crops_per_tile=2", "--filters=4,4", "--panels=0"),
    *("--kernel_sizes=3,3,3", "--clip_norm=0.01", "--ema=0.9", "--learning_rate=0.01"),
    *("--steps=30", "--validate_every=5", "--checkpoint_steps=4"),
)
WORKERS = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One file for two workers, so that they share it by record; 6 tiles are 3 steps an epoch."""
    path = tmp_path_factory.mktemp("shards")
    toy.write(path, {"train": (6, 1), "val": (3, 1)})
    return path


class Run:
    """`stfnet_tf.train` in one process or in several."""

    def __init__(self, folder, place):
        self.model_dir = place / "run"
        self._place = place
        place.mkdir(exist_ok=True)
        self._command = [sys.executable, "-m", "stfnet_tf.train", f"--records_dir={folder}"]
        self._command += [f"--model_dir={self.model_dir}", *FLAGS]
        self._hosts = [f"localhost:{port}" for port in ports.free(WORKERS)]
        self._processes: dict[int, subprocess.Popen] = {}

    def start(self, index, alone=False):
        (self._place / "temporary").mkdir(exist_ok=True)
        environment = {
            **os.environ,
            **{"PYTHONPATH": str(ROOT), "TMPDIR": str(self._place / "temporary")},
        }
        if not alone:
            task = {"type": "worker", "index": index}
            environment["TF_CONFIG"] = json.dumps(
                {"cluster": {"worker": self._hosts}, "task": task}
            )
        with self.log(index).open("a") as log:
            self._processes[index] = subprocess.Popen(
                self._command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
            )

    def log(self, index):
        return self._place / f"log{index}"

    def kill(self, index):
        self._processes[index].kill()
        self._processes[index].wait()

    def wait(self, seconds=300):
        """Exit codes of all processes, none of which outlives the test."""
        try:
            return [self._processes[k].wait(seconds) for k in sorted(self._processes)]
        finally:
            for process in self._processes.values():
                process.kill()
                process.wait()

    def reached(self, step, seconds=300):
        """Waits for a checkpoint of at least this step."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            found = [int(p.stem.split("-")[1]) for p in self.model_dir.glob("last/step-*.index")]
            if max(found, default=-1) >= step:
                return
            ended = [k for k, p in self._processes.items() if p.poll() is not None]
            assert not ended, self.log(ended[0]).read_text()[-3000:]
            time.sleep(0.02)
        raise AssertionError(f"no checkpoint of step {step} in {seconds} s")

    def history(self):
        with (self.model_dir / "history.csv").open() as file:
            return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]

    def assert_whole(self, codes, killed=0):
        logs = "\n".join(self.log(k).read_text()[-2000:] for k in self._processes)
        assert set(codes) == {0}, logs
        # What the other worker had to write, it wrote to a place that it has removed.
        assert len(list((self._place / "temporary").glob("stfnet_worker_*"))) <= killed


@pytest.fixture(scope="module")
def alone(folder, tmp_path_factory):
    run = Run(folder, tmp_path_factory.mktemp("alone"))
    run.start(0, alone=True)
    run.assert_whole(run.wait())
    return run.history()


def test_a_worker_that_is_killed_and_started_again_leaves_the_result_as_it_is(
    folder, alone, tmp_path
):
    """The losses of every epoch are those of one process with the same global batch."""
    run = Run(folder, tmp_path)
    for k in range(WORKERS):
        run.start(k)
    run.reached(4)
    run.kill(1)
    run.start(1)
    run.assert_whole(run.wait(), killed=1)
    assert "Lost another worker" in run.log(0).read_text()
    assert "going on after step" in run.log(1).read_text()
    assert len(list(run.model_dir.glob("last/step-*.index"))) == 2
    found = run.history()
    assert [row["step"] for row in found] == [row["step"] for row in alone]
    for one, other in zip(found, alone, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-7)
