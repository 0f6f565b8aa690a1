"""What distribution itself costs: replicas that share the same cores, and two processes."""

import concurrent.futures
import contextlib
import functools
import json
import multiprocessing
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import measure, network, training_step, workload
from benchmarks.table import Options, Report
from stfnet_tf import presets

REPLICAS = (1, 2, 4)
# For what eight accelerators would need: their float32 (TF32) rate in operations a second, and
# the share of it that small convolutions may reach.
GPU_RATE, TPU_RATE, REACHED = 60e12, 100e12, 0.3


def run(options: Options) -> Report:
    """The same global batch on 1, 2 and 4 virtual devices of this machine, and in 2 processes.

    Each number of replicas has processes of its own, which wait while the others take their turn.
    """
    context = multiprocessing.get_context("spawn")
    setups = {f"{n} replica{'s' * (n > 1)}": [(n, "")] for n in REPLICAS}
    setups["2 processes"] = [(1, described) for described in _cluster(2)]
    with contextlib.ExitStack() as stack:
        runs = {}
        for name, places in setups.items():
            pools = [
                stack.enter_context(
                    concurrent.futures.ProcessPoolExecutor(
                        1, mp_context=context, initializer=_set_up, initargs=place
                    )
                )
                for place in places
            ]
            runs[name] = functools.partial(_step_in, pools)
        seconds = measure.alternate(runs, options.rounds, warm_up=2)
    report = Report()
    alone, *others = setups
    for name in setups:
        report.add(
            f"{name} on the same cores",
            "patches/s",
            measure.rates(training_step.BATCH, seconds[name]),
        )
    for name in others:
        report.add(
            f"time of {name} against {alone}", "×", measure.ratios(seconds[name], seconds[alone])
        )
    report.note(
        "the cores are the same for any number of replicas, so that what exceeds 1 is the cost of "
        "distribution."
    )
    report.note(_on_paper())
    return report


_steps: list[Callable[[], object]] = []


def _set_up(replicas: int, described: str) -> None:
    """Makes this process one that takes steps: alone on virtual devices, or one of a cluster."""
    if described:
        os.environ["TF_CONFIG"] = described
    import tensorflow as tf

    if described:
        threads = max(1, len(os.sched_getaffinity(0)) // 2)
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    else:
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * replicas
        )
        devices = [device.name for device in tf.config.list_logical_devices("CPU")]
        strategy = tf.distribute.MirroredStrategy(devices)
    batch = training_step.random_batch(training_step.BATCH, training_step.PATCH)
    _steps.append(distributed_step(strategy, batch))


def _step() -> None:
    _steps[0]()


def _step_in(pools: Sequence[concurrent.futures.Executor]) -> None:
    """One step in all processes of a set-up."""
    for future in [pool.submit(_step) for pool in pools]:
        future.result()


def _cluster(count: int) -> list[str]:
    """TF_CONFIG of each of so many processes of this machine."""
    addresses = []
    for _ in range(count):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            addresses.append(f"localhost:{free.getsockname()[1]}")
    return [
        json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": k}})
        for k in range(count)
    ]


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
