import importlib
import subprocess
import sys

import pytest

from benchmarks import network, run, workload
from data_prep import grids
from stfnet_tf import model, presets


@pytest.mark.parametrize("name", run.BENCHMARKS)
def test_every_benchmark_has_the_same_interface(name):
    assert callable(importlib.import_module(f"benchmarks.{name}").run)


def test_an_unknown_benchmark_is_refused(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.run", "--only=nothing", f"--output_dir={tmp_path}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "training_step" in done.stderr and "nothing" in done.stderr
    assert not list(tmp_path.iterdir())


def test_operations_are_those_of_the_networks_weights():
    config = presets.build("paper", bands=workload.BANDS)
    made = model.StfNet(config)
    kernels = [w for w in made.forward_stream.get_weights() if w.ndim == 4]
    assert network.multiplications(config) == [kernel.size for kernel in kernels]
    # Forward and two gradients, the first layer's images excepted, of two streams.
    each = sum(kernel.size for kernel in kernels)
    assert network.forward_flops(config, 10) == 2 * 2 * each * 10
    assert network.step_flops(config, 10) == 2 * 2 * (3 * each - kernels[0].size) * 10


@pytest.mark.parametrize("native", [False, True])
def test_a_made_scene_is_read_like_any_other(tmp_path, native):
    described = workload.make(tmp_path, 96, native)
    images = workload.open_scene(described)
    window = grids.Window(10, 20, 30, 40)
    fine, coarse = (images.read(side, workload.DATES[1], window) for side in ("fine", "coarse"))
    assert fine.dn.shape == coarse.dn.shape == (30, 40, 6)
    assert fine.valid.all() and coarse.valid.all()
    # The coarse sensor sees the same land without its texture.
    assert abs(float(fine.dn.mean()) - float(coarse.dn.mean())) < 150
    assert fine.dn.std() > coarse.dn.std()
