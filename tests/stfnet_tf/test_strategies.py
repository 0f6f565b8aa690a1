import json
import os
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import pytest
import tensorflow as tf

from data_prep import errors
from stfnet_tf import strategies
from tests.stfnet_tf import ports

# Virtual devices are set up before TensorFlow starts, hence a process of its own.
REPLICAS = """
import json, sys
import numpy as np, tensorflow as tf
count, workers = int(sys.argv[1]), int(sys.argv[2])
cpu = tf.config.list_physical_devices("CPU")[0]
devices = [tf.config.LogicalDeviceConfiguration()] * (count // workers)
tf.config.set_logical_device_configuration(cpu, devices)
from stfnet_tf import model as stfnet_model, optimizers, presets, strategies
strategy = strategies.create("auto" if workers > 1 else "mirrored" if count > 1 else "one_device")
assert strategy.num_replicas_in_sync == count and strategies.workers(strategy) == workers
rng = np.random.default_rng(5)
names = ("f1", "f2", "f3", "c1", "c2", "c3")
batch = {k: rng.random((7, 12, 12, 2), np.float32) for k in names}
batch |= {f"valid_{k}": (rng.random((7, 12, 12, 1)) > 0.3).astype(np.float32) for k in names}
config = presets.build("paper", bands=("red", "nir"), filters=(4, 4), kernel_sizes=(3, 3, 3))

with strategy.scope():
    model = stfnet_model.StfNet(config)
    weights = np.random.default_rng(1)
    for v in model.trainable_variables:
        v.assign(weights.normal(0, 0.3, v.shape).astype(np.float32))
    model.compile(optimizers.build("SGD", 0.1, clip_norm=0.01, ema=0.5))
model.distribute_reduction_method = "first"
# 7 samples: 4 + 3 on two replicas or workers, 2 + 2 + 2 + 1 on four.
share = -(-7 // count)
def of_process(context):
    shares = tf.data.Dataset.from_tensor_slices(batch).batch(share)
    return shares.shard(context.num_input_pipelines, context.input_pipeline_id)
before = [v.numpy() for v in model.trainable_variables]
logs = model.fit(strategy.distribute_datasets_from_function(of_process), steps_per_epoch=1,
                 epochs=1, verbose=0).history
after = [v.numpy() for v in model.trainable_variables]
with optimizers.averaged(model.optimizer, model.trainable_variables):
    mean = [v.numpy() for v in model.trainable_variables]
flat = lambda values: np.concatenate([v.ravel() for v in values]).astype(float)
print(json.dumps({
    "step": (flat(after) - flat(before)).tolist(),
    "average": (flat(mean) - flat(before)).tolist(),
    "logs": {k: float(v[0]) for k, v in logs.items()},
}))
"""


def one_step(count: int, workers: int = 1) -> dict:
    """What the first worker reports."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(Path.cwd())}
    cluster = {"worker": [f"localhost:{port}" for port in ports.free(workers)]}
    started = []
    for k in range(workers):
        task = {"cluster": cluster, "task": {"type": "worker", "index": k}}
        environment["TF_CONFIG"] = json.dumps(task) if workers > 1 else "{}"
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", REPLICAS, str(count), str(workers)],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        printed = [process.communicate(timeout=240) for process in started]
    finally:
        for process in started:
            process.kill()
    assert all(p.returncode == 0 for p in started), [err[-3000:] for _, err in printed]
    return json.loads(printed[0][0].splitlines()[-1])


def test_one_global_batch_is_one_step_for_any_number_of_replicas():
    """Gradient, clipping, averages and scores of 7 samples on 1, 2 and 4 devices, 2 workers."""
    alone = one_step(1)
    assert alone["logs"]["gradient_norm"] > 0.01  # So that clipping has something to do.
    for count, workers in ((2, 1), (4, 1), (2, 2)):
        shared = one_step(count, workers)
        assert shared["step"] == pytest.approx(alone["step"], rel=1e-4, abs=1e-8)
        assert shared["average"] == pytest.approx(alone["average"], rel=1e-4, abs=1e-8)
        assert shared["logs"] == pytest.approx(alone["logs"], rel=1e-4)


def test_all_sum_is_the_identity_on_one_device():
    values = {"a": tf.constant([1.0, 2.0]), "b": [tf.constant(3.0)]}
    assert strategies.all_sum(values) is values
    strategy = strategies.create("one_device")
    total = strategy.run(lambda: strategies.all_sum(tf.constant(4.0)))
    assert float(total) == 4.0
    assert strategies.replicas() == 1 and strategies.workers(strategy) == 1
    assert strategies.is_chief(strategy)


def test_one_process_agrees_with_itself():
    agree = strategies.agreement(strategies.create("one_device"))
    assert agree([True, False]) == [True, False]


def test_the_chief_writes_in_place(tmp_path):
    with strategies.own_folder(strategies.create("one_device"), tmp_path) as folder:
        assert folder == tmp_path


class Replicas:
    def __init__(self, count):
        self.num_replicas_in_sync = count


@pytest.mark.parametrize(
    ("batch_size", "advice"), [(3, "use 4 or a multiple of it"), (10, "use 8 or 12")]
)
def test_a_batch_that_replicas_cannot_share_is_refused(batch_size, advice):
    with pytest.raises(errors.InputError, match=f"the 4 replicas .*found {batch_size}; {advice}"):
        strategies.check_batch_size(Replicas(4), batch_size)
    strategies.check_batch_size(Replicas(4), 12)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("horovod", None, "expected one of auto, .* found 'horovod'"),
        ("multi_worker", None, "expected the environment variable TF_CONFIG .*found nothing"),
        ("multi_worker", "{", "TF_CONFIG: expected a JSON object"),
    ],
)
def test_an_environment_that_does_not_fit_is_explained(monkeypatch, name, config, message):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if config:
        monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(errors.InputError, match=message):
        strategies.create(name)


def test_errors_of_a_single_process_are_not_taken_for_lost_peers(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(tf.errors.UnavailableError), strategies.noticing_lost_peers():
        raise tf.errors.UnavailableError(None, None, "gone")
    cluster = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    with pytest.raises(strategies.PeerLostError), strategies.noticing_lost_peers():
        raise tf.errors.UnavailableError(None, None, "gone")


def test_a_worker_sweeps_away_what_it_left_when_it_was_killed(tmp_path, monkeypatch):
    def worker(number):
        resolver = types.SimpleNamespace(task_type="worker", task_id=number)
        return types.SimpleNamespace(cluster_resolver=resolver)

    monkeypatch.setattr(strategies, "is_chief", lambda _: False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folders = []
    for number in (1, 2):
        with strategies.own_folder(worker(number), "runs/a") as folder:
            folders.append(folder)
            folder.rename(tmp_path / "kept")  # as a killed worker leaves it
        (tmp_path / "kept").rename(folder)
    with strategies.own_folder(worker(1), "runs/a"), strategies.own_folder(worker(1), "runs/b"):
        assert not folders[0].exists() and folders[1].exists()
        assert len(list(tmp_path.iterdir())) == 3
    assert list(tmp_path.iterdir()) == [folders[1]]
