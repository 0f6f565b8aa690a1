"""Where work over windows, dates and scenes runs: a process pool, or a Dask cluster.

Both are `concurrent.futures.Executor`s; the caller cannot tell them apart.
"""

import concurrent.futures
import contextlib
import ctypes
import io
import logging
import multiprocessing
import multiprocessing.connection
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

from data_prep import errors, progress

KINDS = ("processes", "dask")
# <malloc.h>'s names for when memory goes back to the system, and what a worker keeps: so much in
# all, of arrays of this size at most, the largest that glibc allows.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 256 * 2**20
_KEPT_ARRAY_BYTES = 32 * 2**20


class Here(Executor):
    """This very process, at once: for work that is done before a pool has started."""

    def submit(self, fn: Callable, /, *args: Any, **kwargs: Any) -> Future:
        """Calls `fn` and returns its finished future, or raises what it raises.

        A future that keeps the error would let hours of other work go before it is looked at.
        """
        future: Future = Future()
        future.set_result(fn(*args, **kwargs))
        return future


@contextlib.contextmanager
def make(kind: str = "processes", workers: int = 0, scheduler: str = "") -> Iterator[Executor]:
    """An executor for the length of a `with` block; work not yet begun is dropped at its end.

    Args:
        kind: One of `KINDS`.
        workers: Processes on this machine; 0 takes one a core. A cluster that `scheduler` names
            has its own.
        scheduler: Address of a Dask scheduler, such as "tcp://10.0.0.1:8786"; with "" and "dask",
            a cluster is started on this machine.

    Raises:
        InputError: Dask is not installed, or no scheduler answers.
    """
    workers = workers or cores()
    if kind == "processes" and workers == 1:
        yield Here()
    elif kind == "processes":
        # Spawned, not forked: open rasters and threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
        try:
            yield pool
        except (KeyboardInterrupt, SystemExit):
            # Stopped from outside: nobody waits for what the workers have begun. A pool that ends
            # them itself comes with Python 3.14.
            for worker in list(pool._processes.values()):
                worker.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
    elif kind == "dask":
        with _dask(workers, scheduler) as executor:
            yield executor
    else:
        raise errors.InputError(f"--executor: expected one of {', '.join(KINDS)}, found '{kind}'.")


def alone(function: Callable, *arguments: Any) -> Any:
    """Calls a function in a process that has done nothing else, so that what it takes is its own.

    A new interpreter, not a fork: a fork would start with this process' memory and threads.

    Raises:
        InputError: The process was killed; or what the function raises.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except concurrent.futures.BrokenExecutor:
            raise errors.InputError(
                f"{function.__module__}.{function.__qualname__}: expected the process that runs it "
                f"to finish, found it killed (out of memory?)."
            ) from None


def peak_mib() -> float:
    """Largest resident memory of this process so far, in MiB."""
    status = Path("/proc/self/status")
    if status.is_file():
        # getrusage's maximum outlives exec, so it may be the parent's.
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def submitted(
    executor: Executor, function: Callable, tasks: Iterable[tuple], lost: str
) -> list[Future]:
    """Futures of a function for each of some tasks, its arguments.

    Raises:
        InputError: With `lost`, for a worker that was killed while others were still given work.
    """
    try:
        return [executor.submit(function, *task) for task in tasks]
    except concurrent.futures.BrokenExecutor:
        raise errors.InputError(lost) from None


def results(pending: Sequence[Future], description: str, lost: str) -> Iterator[Any]:
    """What futures return, each as soon as it is done, with a bar on a terminal.

    The first failure cancels what has not begun.

    Args:
        pending: What `submitted` returned.
        description: What is being done.
        lost: The sentence for a worker that was killed.

    Raises:
        InputError: With `lost`; or what a future raises.
    """
    try:
        done = concurrent.futures.as_completed(pending)
        for future in progress.track(done, description, len(pending)):
            yield future.result()
    except Exception as error:
        if is_lost_worker(error):
            raise errors.InputError(lost) from None
        raise
    finally:
        for future in pending:
            future.cancel()


def in_order(
    executor: Executor, function: Callable, tasks: Iterable[tuple], description: str, lost: str
) -> list[Any]:
    """What a function returns for each of some tasks, its arguments, in the tasks' order.

    Raises:
        InputError: With `lost`, as `results` does; or what the function raises.
    """
    pending = submitted(executor, function, tasks, lost)
    for _ in results(pending, description, lost):
        pass
    return [future.result() for future in pending]


def is_lost_worker(error: BaseException) -> bool:
    """Whether an error means that a worker died, and not that its work was wrong."""
    if isinstance(error, (concurrent.futures.BrokenExecutor, concurrent.futures.CancelledError)):
        return True
    # Dask tries elsewhere first, and gives up on work under which several workers have died.
    return type(error).__module__.startswith("distributed") and type(error).__name__ in (
        *("KilledWorker", "CommClosedError", "FutureCancelledError"),
    )


class _NoTerminal(io.TextIOWrapper):
    """A worker's stderr: bars of several processes would overwrite each other."""

    def isatty(self) -> bool:
        return False


def _start_worker() -> None:
    """In every worker: no bars, no say in Ctrl-C, and no life beyond its parent's.

    A parent that is killed cannot end its workers, and they hold their own queue open.
    """
    sys.stderr = _NoTerminal(sys.stderr.buffer, line_buffering=True)
    _keep_memory()
    # A terminal sends Ctrl-C to all processes; the parent is the one that answers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def follow() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _keep_memory() -> None:
    """Lets what one tile's arrays took serve the next tile's.

    Megabytes go back to the system by default, to be mapped and cleared again a moment later, and
    workers that do so at once wait for each other: a tenth of their time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # not on every system
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_MMAP_THRESHOLD, _KEPT_ARRAY_BYTES)


@contextlib.contextmanager
def _dask(workers: int, scheduler: str) -> Iterator[Executor]:
    try:
        import distributed
    except ImportError:
        raise errors.InputError(
            "--executor=dask: expected the package 'distributed', found it missing; "
            "install stfnet-tf[distributed]."
        ) from None
    logging.getLogger("distributed").setLevel(logging.WARNING)
    with contextlib.ExitStack() as stack:
        if scheduler:
            try:
                client = stack.enter_context(distributed.Client(scheduler, timeout="10s"))
            except (OSError, ValueError, TimeoutError) as error:
                raise errors.InputError(
                    f"--dask_scheduler: expected a scheduler at '{scheduler}', found none "
                    f"({type(error).__name__})."
                ) from None
        else:
            cluster = stack.enter_context(
                distributed.LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    dashboard_address=None,
                    silence_logs=logging.WARNING,
                )
            )
            client = stack.enter_context(distributed.Client(cluster))
        executor = client.get_executor()
        try:
            yield executor
        finally:
            executor.shutdown(wait=False)
