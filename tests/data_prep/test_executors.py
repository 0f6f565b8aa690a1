import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_prep import errors, executors

ROOT = Path(__file__).parents[2]


def double(k: int) -> int:
    return 2 * k


def refuse(k: int) -> int:
    raise errors.InputError(f"{k}: refused.")


def die(k: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return k


def sees_a_terminal(_: int) -> bool:
    return sys.stderr.isatty()


def run(function, kind="processes", workers=2, scheduler=""):
    with executors.make(kind, workers, scheduler) as pool:
        pending = [pool.submit(function, k) for k in range(3)]
        return sorted(executors.results(pending, "testing", "one was lost."))


@pytest.mark.parametrize("workers", [1, 2])
def test_results_and_errors_come_through(workers):
    assert run(double, workers=workers) == [0, 2, 4]
    with pytest.raises(errors.InputError, match=r"^\d: refused\.$"):
        run(refuse, workers=workers)


def test_nothing_is_begun_here_after_a_failure():
    begun = []

    def fail(k: int) -> None:
        begun.append(k)
        refuse(k)

    with pytest.raises(errors.InputError, match=r"^0: refused\.$"):
        executors.in_order(executors.Here(), fail, [(k,) for k in range(3)], "testing", "lost.")
    assert begun == [0]


def test_workers_draw_no_bars():
    assert run(sees_a_terminal) == [False] * 3


def test_a_killed_process_is_one_sentence():
    with pytest.raises(errors.InputError, match=r"^one was lost\.$"):
        run(die)


def later(k: int) -> int:
    time.sleep(0.3 / k)
    return k


def test_results_in_the_order_of_the_tasks():
    with executors.make(workers=2) as pool:
        tasks = [(k,) for k in (1, 2, 3)]
        assert executors.in_order(pool, later, tasks, "testing", "one was lost.") == [1, 2, 3]
        for _ in range(2):  # the second time the pool takes nothing more
            with pytest.raises(errors.InputError, match=r"^one was lost\.$"):
                executors.in_order(pool, die, tasks, "testing", "one was lost.")


def test_a_killed_dask_worker_is_one_sentence():
    dask = pytest.importorskip("dask", reason="the extra 'distributed' is not installed")
    pytest.importorskip("distributed", reason="the extra 'distributed' is not installed")
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        with pytest.raises(errors.InputError, match=r"^one was lost\.$"):
            run(die, kind="dask", workers=1)


def test_unknown_kinds_and_absent_schedulers():
    with pytest.raises(errors.InputError, match="--executor: expected one of processes, dask"):
        run(double, kind="threads")
    pytest.importorskip("distributed", reason="the extra 'distributed' is not installed")
    with pytest.raises(errors.InputError, match="--dask_scheduler: expected a scheduler at"):
        run(double, kind="dask", scheduler="no-such-scheme://127.0.0.1:1")


def test_workers_do_not_outlive_a_killed_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, time\nfrom data_prep import executors\n"
        "if __name__ == '__main__':\n"
        "    with executors.make('processes', 2) as pool:\n"
        "        print(pool.submit(os.getpid).result(), flush=True)\n"
        "        time.sleep(60)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        worker = int(parent.stdout.readline())
        os.kill(worker, 0)
        parent.kill()
        parent.wait()
    for _ in range(100):
        if not _lives(worker):
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker went on without its parent")


def _lives(process: int) -> bool:
    """Whether it runs: one that has ended and was not waited for does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_process_alone_that_is_killed_is_one_sentence():
    assert executors.alone(len, "abc") == 3
    with pytest.raises(errors.InputError, match=r"_exit: expected the process .* killed"):
        executors.alone(os._exit, 9)


def test_a_pool_that_is_stopped_leaves_other_processes_alone():
    other = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    other.start()
    try:
        with pytest.raises(KeyboardInterrupt), executors.make(workers=2) as pool:
            worker = pool.submit(os.getpid).result()
            raise KeyboardInterrupt
        assert other.is_alive() and not _lives(worker)
    finally:
        other.kill()
        other.join()


STOPPED = """
import time
from data_prep import entry, executors
def main(argv):
    with executors.make("processes", 2) as pool:
        pending = [pool.submit(time.sleep, 60) for _ in range(3)]
        pool.submit(abs, 1)
        time.sleep(2)
        print("begun", flush=True)
        list(executors.results(pending, "sleeping", "lost"))
if __name__ == "__main__":
    entry.run(main)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nobody_waits_for_the_workers_of_a_program_that_was_stopped(tmp_path, number):
    (tmp_path / "stopped.py").write_text(STOPPED)
    with subprocess.Popen(
        [sys.executable, "stopped.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as running:
        assert running.stdout.readline() == "begun\n"
        began = time.monotonic()
        os.killpg(running.pid, number)  # as a terminal does
        _, err = running.communicate(timeout=50)
    assert running.returncode == 128 + number
    assert time.monotonic() - began < 30
    assert err.count("Stopped by") == 1 and "Traceback" not in err
