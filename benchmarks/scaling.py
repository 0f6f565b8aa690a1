"""What distribution itself costs: replicas that share the same cores, and two processes."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from benchmarks import measure, network, training_step, workload
from benchmarks.table import Options, Report
from stfnet_tf import presets

REPLICAS = (1, 2, 4)
# For what eight accelerators would need: their float32 (TF32) rate in operations a second, and
# the share of it that small convolutions may reach.
GPU_RATE, TPU_RATE, REACHED = 60e12, 100e12, 0.3


def run(options: Options) -> Report:
    """The same global batch on 1, 2 and 4 virtual devices of this machine, then in 2 processes."""
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * max(REPLICAS)
    )
    devices = tf.config.list_logical_devices("CPU")
    batch = training_step.random_batch(training_step.BATCH, training_step.PATCH)
    runs = {
        f"{n}": distributed_step(tf.distribute.MirroredStrategy(devices[:n]), batch)
        for n in REPLICAS
    }
    seconds = measure.alternate(runs, options.rounds, warm_up=2)
    report = Report()
    for n in REPLICAS:
        name = f"{n} replica{'s' * (n > 1)} on the same cores"
        report.add(name, "patches/s", measure.rates(training_step.BATCH, seconds[f"{n}"]))
    for n in REPLICAS[1:]:
        report.add(
            f"time of {n} replicas against 1", "×", measure.ratios(seconds[f"{n}"], seconds["1"])
        )
    two = _two_processes(options.rounds)
    report.add(
        "2 processes on the same cores", "patches/s", measure.rates(training_step.BATCH, two)
    )
    report.add("time of 2 processes against 1 replica", "×", measure.ratios(two, seconds["1"]))
    report.note(
        "the cores are the same for any number of replicas, so that what exceeds 1 is the cost of "
        "distribution; the 2 processes ran after the replicas, not in alternation."
    )
    report.note(_on_paper())
    return report


def distributed_step(strategy: Any, batch: dict, compiled: bool = False) -> Callable[[], object]:
    """A training step over all replicas of a strategy; `batch` is the global one."""
    import tensorflow as tf

    from stfnet_tf import model, optimizers, strategies

    config = presets.build("paper", bands=workload.BANDS)
    with strategy.scope():
        network_ = model.StfNet(config)
        network_.compile(optimizers.build("Adam", training_step.RATE), jit_compile=compiled)
    network_.distribute_reduction_method = "first"
    size = len(batch["f1"])

    def make(worker: int, workers: int, each: int) -> tf.data.Dataset:
        del workers
        mine = {k: v[worker * each : worker * each + each] for k, v in batch.items()}
        return tf.data.Dataset.from_tensors(mine).repeat()

    train = network_.make_train_function()
    batches = iter(strategies.distribute(strategy, size, make))
    return lambda: {k: float(v) for k, v in train(batches).items()}


def _two_processes(rounds: int) -> list[float]:
    """Seconds of each round, of the slower of two workers with half the cores each."""
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            ports.append(free.getsockname()[1])
    cluster = {"worker": [f"localhost:{port}" for port in ports]}
    workers = []
    for index in range(2):
        described = {"cluster": cluster, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(described)}
        command = [sys.executable, "-m", "benchmarks.scaling", str(rounds)]
        workers.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        )
    found = []
    for worker in workers:
        printed, _ = worker.communicate(timeout=600)
        if worker.returncode:
            raise RuntimeError(f"a training process ended with code {worker.returncode}")
        found.append(json.loads(printed.splitlines()[-1]))
    return [max(each) for each in zip(*found, strict=True)]


def _worker(rounds: int) -> None:
    """One of two processes: takes its steps and prints their seconds."""
    import tensorflow as tf

    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    batch = training_step.random_batch(training_step.BATCH, training_step.PATCH)
    step = distributed_step(strategy, batch)
    print(json.dumps(measure.alternate({"step": step}, rounds, warm_up=2)["step"]))


def _on_paper() -> str:
    """What eight GPUs and a TPU host would ask of the input."""
    config = presets.build("paper", bands=workload.BANDS)
    pixels = training_step.PATCH**2
    flops = network.step_flops(config, pixels)
    # Six images of int16 and the masks; crops hold twice the pixels that are read.
    read = pixels * (6 * 2 * len(workload.BANDS) + 1) / 2
    needs = []
    for name, rate in (("8 GPUs", 8 * GPU_RATE), ("a TPU host of 4 chips", 4 * TPU_RATE)):
        patches = REACHED * rate / flops
        needs.append(f"{name} {patches:,.0f} patches/s, {patches * read / 1e9:.1f} GB/s of shards")
    return (
        f"on paper: a step takes {flops / 1e9:.2f} Gflop and {read / 1e3:.0f} kB of shards a "
        f"patch; at {REACHED:.0%} of {GPU_RATE / 1e12:.0f} (GPU) or {TPU_RATE / 1e12:.0f} (TPU "
        f"chip) Tflop/s that is, for {'; for '.join(needs)}."
    )


if __name__ == "__main__":
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    _worker(int(sys.argv[1]))
