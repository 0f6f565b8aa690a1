"""All of tf.distribute: which devices train together, and what they tell each other.

The same command trains on a laptop, on eight GPUs and on several hosts. Everything else in the
package sees replicas through this module alone.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from data_prep import errors
from stfnet_tf import train_config

TRAINING_JOBS = ("chief", "worker")


class PeerLostError(Exception):
    """Another process of the run is gone. This one can only start again, and wait for it."""


@contextlib.contextmanager
def noticing_lost_peers() -> Iterator[None]:
    """Turns what TensorFlow raises when another worker dies into a `PeerLostError`."""
    lost = (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.DeadlineExceededError,
        tf.errors.CancelledError,
        tf.errors.InternalError,
        tf.errors.FailedPreconditionError,
    )
    try:
        yield
    except lost as error:
        if sum(len(_cluster().get(job, ())) for job in TRAINING_JOBS) < 2:
            raise
        raise PeerLostError(str(error.message).split("\n")[0]) from error


def create(name: str = "auto") -> tf.distribute.Strategy:
    """Makes the strategy; with several hosts, before anything else uses TensorFlow.

    Args:
        name: "one_device": the first GPU, or the CPU. "mirrored": all GPUs of this host, or all
            logical CPU devices where it has none. "multi_worker": all devices of all hosts that
            the environment variable TF_CONFIG lists; waits until all of them are there. "tpu":
            the TPU that TPU_NAME names. "auto": the first of tpu, multi_worker, mirrored and
            one_device that the environment and the devices call for.

    Raises:
        InputError: An unknown name, or an environment that does not describe what it needs.
    """
    if name not in train_config.DISTRIBUTIONS:
        raise errors.InputError(
            f"--distribution: expected one of {', '.join(train_config.DISTRIBUTIONS)}; found "
            f"'{name}'."
        )
    if name == "auto":
        name = _automatic()
    if name == "multi_worker":
        if not any(_cluster().get(job) for job in TRAINING_JOBS):
            raise errors.InputError(
                "--distribution=multi_worker: expected the environment variable TF_CONFIG to list "
                'the workers, as in {"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": '
                '{"type": "worker", "index": 0}}; found '
                f"{os.environ.get('TF_CONFIG') or 'nothing'}."
            )
        # TensorFlow reports each reduction that it traces, hundreds of them.
        tf.get_logger().setLevel("WARNING")
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "tpu":
        return _tpu()
    gpus = tf.config.list_logical_devices("GPU")
    devices = gpus or tf.config.list_logical_devices("CPU")
    if name == "mirrored":
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.OneDeviceStrategy(devices[0].name)


def _automatic() -> str:
    if os.environ.get("TPU_NAME"):
        return "tpu"
    if sum(len(_cluster().get(job, ())) for job in TRAINING_JOBS) > 1:
        return "multi_worker"
    return "mirrored" if len(tf.config.list_physical_devices("GPU")) > 1 else "one_device"


def _cluster() -> dict[str, list[str]]:
    """The cluster that TF_CONFIG describes; empty without one."""
    try:
        return json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster", {})
    except (ValueError, AttributeError) as error:
        raise errors.InputError(f"TF_CONFIG: expected a JSON object, found: {error}.") from None


def _tpu() -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect()
    except (ValueError, tf.errors.OpError) as error:
        raise errors.InputError(
            f"--distribution=tpu: expected a TPU that TPU_NAME names, found: "
            f"{errors.reason(error)}."
        ) from None
    return tf.distribute.TPUStrategy(resolver)


def replicas() -> int:
    """How many replicas share a batch under the current strategy."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def workers(strategy: tf.distribute.Strategy) -> int:
    """How many processes train together, each with its own input."""
    jobs = _jobs(strategy)
    return max(1, sum(len(jobs.get(job, ())) for job in TRAINING_JOBS))


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one whose files count."""
    jobs = _jobs(strategy)
    if not jobs:
        return True
    resolver = strategy.cluster_resolver
    first = "chief" if "chief" in jobs else "worker"
    return resolver.task_type == first and not resolver.task_id


def _jobs(strategy: tf.distribute.Strategy) -> dict[str, list[str]]:
    """Addresses by job where several processes train together; empty on one host."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return {}
    return strategy.cluster_resolver.cluster_spec().as_dict()


@contextlib.contextmanager
def own_folder(strategy: tf.distribute.Strategy, folder: str | Path) -> Iterator[Path]:
    """Where this process may write what only the chief's copy of is wanted.

    Every process must take part in saving distributed variables, and each writes what it takes
    part in. The chief gets `folder`; any other one a temporary place, removed at the end.
    """
    if is_chief(strategy):
        yield Path(folder)
        return
    resolver = strategy.cluster_resolver
    worker = f"{Path(folder).resolve()} {resolver.task_type} {resolver.task_id}"
    prefix = f"stfnet_worker_{hashlib.sha256(worker.encode()).hexdigest()[:16]}_"
    # What a start of this very worker left that was killed while it saved.
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        shutil.rmtree(left, ignore_errors=True)
    temporary = tempfile.mkdtemp(prefix=prefix)
    try:
        yield Path(temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def all_sum(values: Any) -> Any:
    """Sums over all replicas, inside a replica: what a training step may call on its tensors.

    Args:
        values: A tensor or a nest of tensors; many at once travel together.

    Returns:
        The same nest, each tensor the sum of all replicas' tensors; `values` itself outside a
        strategy.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return values
    return context.all_reduce(tf.distribute.ReduceOp.SUM, values)


def sum_dtype() -> tf.DType:
    """In what an epoch's many values are to be added up: float64, which TPUs alone lack.

    In float32 a sum of n values is off by up to n units in its last place.
    """
    on_tpu = isinstance(tf.distribute.get_strategy(), tf.distribute.TPUStrategy)
    return tf.float32 if on_tpu else tf.float64


def agreement(strategy: tf.distribute.Strategy) -> Callable[[Sequence[bool]], list[bool]]:
    """Returns a function by which processes decide together: true where it is true for any.

    Clocks and signals differ from process to process, but saving needs all of them at the same
    step. Every process must call the function at the same steps.
    """
    if workers(strategy) == 1:
        return list

    @tf.function
    def summed(votes):
        # The copy lies on the replica's device; a function's argument lies on none.
        return strategy.run(lambda local: all_sum(tf.identity(local)), args=(votes,))

    def agree(votes: Sequence[bool]) -> list[bool]:
        total = summed(tf.constant(votes, tf.float32))
        return [bool(v > 0) for v in strategy.experimental_local_results(total)[0].numpy()]

    return agree


def distribute(
    strategy: tf.distribute.Strategy,
    batch_size: int,
    make: Callable[[int, int, int], tf.data.Dataset],
) -> Any:
    """Gives each process and replica its share of every global batch.

    Args:
        strategy: Where the batches go.
        batch_size: Of the global batch; `check_batch_size` says which ones can be shared.
        make: Called with this process' index, the number of processes and the batch size of one
            replica. Returns batches; the replicas of the process take them in turn.
    """

    def of_process(context: tf.distribute.InputContext) -> tf.data.Dataset:
        return make(
            context.input_pipeline_id,
            context.num_input_pipelines,
            context.get_per_replica_batch_size(batch_size),
        )

    return strategy.distribute_datasets_from_function(of_process)


def check_batch_size(strategy: tf.distribute.Strategy, batch_size: int) -> None:
    """Refuses a global batch that the replicas cannot share equally.

    Raises:
        InputError: It does not divide; the message says which sizes do.
    """
    count = strategy.num_replicas_in_sync
    if batch_size < 1 or batch_size % count:
        below, above = batch_size // count * count, (batch_size // count + 1) * count
        choice = f"{below} or {above}" if below > 0 else f"{count} or a multiple of it"
        raise errors.InputError(
            f"--batch_size: expected a multiple of the {count} replicas that share it, found "
            f"{batch_size}; use {choice}."
        )
