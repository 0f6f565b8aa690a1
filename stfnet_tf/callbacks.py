"""What happens around Keras' steps: saving, validating, recording.

Each is a `keras.callbacks.Callback` for `Model.fit`. They share one `RunState`, and the order in
which `trainer.Trainer.train` lists them matters: `Saving` comes last, because it may end the run.
"""

import csv
import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras
from absl import logging

from data_prep import errors, sealed
from stfnet_tf import checkpoints, losses, optimizers

# sysexits.h, EX_TEMPFAIL: stopped from outside, the same command goes on from here.
EXIT_TERMINATED = 75


class TerminatedError(Exception):
    """The run was asked to stop; its state is saved. `EXIT_TERMINATED` is the exit code."""


class Callback(keras.callbacks.Callback):
    """A callback that reads the step's numbers only when it needs them."""

    # Keras then leaves the numbers on the device instead of waiting for them at each step.
    _supports_tf_logs = True


class Saving(Callback):
    """Counts steps, saves now and then, and on SIGTERM saves and ends the run.

    Args:
        store: Where the run is saved.
        epoch_steps: Steps of an epoch.
        steps: Save every so many steps; 0 for never.
        seconds: Save every so many seconds; 0 for never.
        agree: See `strategies.agreement`.
    """

    def __init__(
        self,
        store: checkpoints.Checkpoints,
        epoch_steps: int,
        steps: int,
        seconds: float,
        agree: Callable[[Sequence[bool]], list[bool]],
    ):
        super().__init__()
        self._store = store
        self._epoch_steps = epoch_steps
        self._steps = steps
        self._seconds = seconds
        self._agree = agree
        self._terminated = False
        self._last_save = self._last_step = time.monotonic()
        self._resumed_scores: list[np.ndarray] | None = None

    def __enter__(self) -> "Saving":
        """Listens for SIGTERM, where this is the main thread."""
        try:
            self._previous = signal.signal(signal.SIGTERM, self._terminate)
        except ValueError:
            self._previous = None
        return self

    def __exit__(self, *_: Any) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def _terminate(self, *_: Any) -> None:
        self._terminated = True

    def resume(self) -> bool:
        """Goes back to the last checkpoint; False if there is none."""
        if not self._store.restore():
            return False
        if int(self._store.state.step.numpy()) % self._epoch_steps:
            # Keras resets the running scores when an epoch begins, also in its middle.
            self._resumed_scores = running_scores(self.model)
        return True

    def on_epoch_begin(self, epoch, logs=None):
        """Puts the scores of an epoch that was interrupted back."""
        if self._resumed_scores is not None:
            set_running_scores(self.model, self._resumed_scores)
            self._resumed_scores = None

    def on_train_batch_end(self, batch, logs=None):
        """Counts, and saves when it is time."""
        state = self._store.state
        state.step.assign_add(1)
        step = int(state.step.numpy())
        now = time.monotonic()
        state.seconds.assign_add(now - self._last_step)
        self._last_step = now
        elapsed = now - self._last_save
        due = (self._steps and step % self._steps == 0) or (
            self._seconds and elapsed >= self._seconds
        )
        due, terminated = self._agree([bool(due), self._terminated])
        if due or terminated:
            self.save()
        if terminated:
            raise TerminatedError(f"step {step}")

    def on_test_batch_end(self, batch, logs=None):
        """Lets validation be interrupted; it is done again when the run goes on."""
        if self._agree([self._terminated])[0]:
            raise TerminatedError(f"step {int(self._store.state.step.numpy())}, in validation")

    def save(self) -> None:
        """Saves now."""
        self._store.save()
        self._last_save = time.monotonic()


def running_scores(model: keras.Model) -> list[np.ndarray]:
    """What the model's running scores have summed up so far."""
    return [variable.numpy() for metric in model.metrics for variable in metric.variables]


def set_running_scores(model: keras.Model, values: Sequence[np.ndarray]) -> None:
    """Puts what `running_scores` returned back."""
    variables = [variable for metric in model.metrics for variable in metric.variables]
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


class WeightSchedules(Callback):
    """Moves the weights of the loss' terms; they are a function of the step.

    Args:
        schedules: The weights over the steps.
        state: Where the run is.
    """

    def __init__(self, schedules: losses.Schedules, state: checkpoints.RunState):
        super().__init__()
        self._schedules = schedules
        self._state = state

    def on_train_batch_begin(self, batch, logs=None):
        """Sets the weights for the step."""
        self._schedules.apply(int(self._state.step.numpy()))


class Divergence(Callback):
    """Ends a run whose loss is not finite any more.

    Every process looks at the same steps, at the same loss, so that all of them end.

    Args:
        state: Where the run is.
        every: Steps between two looks, each of which waits for the step to be done.
    """

    def __init__(self, state: checkpoints.RunState, every: int):
        super().__init__()
        self._state = state
        self._every = every

    def on_train_batch_end(self, batch, logs=None):
        """Looks at the mean loss since the epoch began, which one such step is enough to spoil."""
        step = int(self._state.step.numpy()) + 1
        if step % self._every == 0:
            check_finite("loss", float(logs["loss"]), step)


def check_finite(name: str, value: float, step: int) -> None:
    """Raises a `DivergedError` that names the score and the step where the value is not finite."""
    if not math.isfinite(value):
        raise checkpoints.DivergedError(f"a {name} of {value:g} at step {step}")


class EpochEnd(Callback):
    """Closes an epoch: validates, keeps the best weights, records, and stops a stalled run.

    Args:
        store: Where the best weights go, and where the run is.
        saving: Saves the state when validation is interrupted.
        validate: Returns the scores of the validation split, or None where there is none.
        monitor: The score whose lowest value is best.
        patience: Stop after so many epochs without a lower value; 0 for never.
        least_improvement: Share by which a value must be lower to count as such.
        every: Validate after every so many epochs, and after the last.
        epoch_steps: Steps of an epoch.
        total_steps: Steps of the run.
        history: Receives one row an epoch.
        report: Called with the step, the scores of validation, none where there is no such split,
            and whether the run ends here; None on other workers.
    """

    def __init__(
        self,
        *,
        store: checkpoints.Checkpoints,
        saving: Saving,
        validate: Callable[[], Mapping[str, float]] | None,
        monitor: str,
        patience: int,
        least_improvement: float,
        every: int,
        epoch_steps: int,
        total_steps: int,
        history: "History",
        report: Callable[[int, Mapping[str, float], bool], None] | None,
    ):
        super().__init__()
        self._store = store
        self._state = store.state
        self._saving = saving
        self._validate = validate
        self._monitor = monitor
        self._patience = patience
        self._least_improvement = least_improvement
        self._every = every
        self._epoch_steps = epoch_steps
        self._total_steps = total_steps
        self._history = history
        self._report = report

    def on_epoch_end(self, epoch, logs=None):
        """Closes the epoch that the last step completed."""
        self.close()

    def close(self) -> None:
        """Closes the epoch that ends at the present step.

        Raises:
            DivergedError: Its loss is not finite, or the monitored score.
        """
        step = int(self._state.step.numpy())
        epoch = math.ceil(step / self._epoch_steps)
        scores = {metric.name: float(metric.result()) for metric in self.model.metrics}
        check_finite("loss", scores["loss"], step)
        if not self._store.saved:
            # Best weights are never there without a state from which the run goes on.
            self._saving.save()
        sums = running_scores(self.model)
        row = {"epoch": epoch, "step": step, **scores}
        if epoch % self._every == 0 or step >= self._total_steps:
            try:
                row |= self._validated(step, scores)
            except TerminatedError:
                # Weights are the raw ones again; with the scores, this is the state after the step.
                set_running_scores(self.model, sums)
                self._saving.save()
                raise
        self._state.closed.assign(step)
        self._history.add(row)

    def _validated(self, step: int, scores: Mapping[str, float]) -> dict[str, float]:
        values: Mapping[str, float] = scores
        with optimizers.averaged(self.model.optimizer, self.model.trainable_variables):
            if self._validate:
                values = self._validate()
            improved = self._improved(step, values)
            if self._report:
                last = bool(self._state.finished.numpy()) or step >= self._total_steps
                self._report(step, values if self._validate else {}, last)
        # Without validation the training scores are too noisy to prefer an older model by them.
        if improved or not self._validate:
            self._store.save_best()
        return {f"validation_{k}": v for k, v in values.items()} if self._validate else {}

    def _improved(self, step: int, values: Mapping[str, float]) -> bool:
        """Whether the monitored score is lower than ever; ends a run in which it stays."""
        if self._monitor not in values:
            raise KeyError(f"monitor: expected one of {sorted(values)}, got {self._monitor}")
        value = values[self._monitor]
        check_finite(f"{'validation ' if self._validate else ''}{self._monitor}", value, step)
        best = float(self._state.best.numpy())
        if value < best - self._least_improvement * (abs(best) if math.isfinite(best) else 0.0):
            self._state.best.assign(value)
            self._state.best_step.assign(step)
            self._state.stalled.assign(0)
            return True
        self._state.stalled.assign_add(1)
        if self._patience and int(self._state.stalled.numpy()) >= self._patience:
            logging.info(
                "Stopped early at step %d: %s has not fallen below %.6g since step %d.",
                *(step, self._monitor, self._state.best.numpy(), self._state.best_step.numpy()),
            )
            self._state.finished.assign(True)
            self.model.stop_training = True
        return False


class History:
    """`history.csv`, one line an epoch; whole at any moment, and kept where damage is noticed, too.

    Args:
        path: The file, or None to keep the rows in memory only.
        step: Rows after this step, of a run that was interrupted, are dropped.

    Raises:
        InputError: What it kept of the rows is damaged.
    """

    KEPT = "history.json"

    def __init__(self, path: Path | None, step: int):
        self._path = path
        self.rows: list[dict[str, float]] = []
        if path is not None:
            self._kept = path.parent / checkpoints.LAST / self.KEPT
            self.rows = [row for row in self._read() if row["step"] <= step]

    def _read(self) -> list[dict[str, float]]:
        try:
            if self._kept.exists():
                return sealed.read(self._kept)["rows"]
            if self._path is None or not self._path.exists():
                return []
            with self._path.open(newline="") as file:  # all that earlier versions kept
                return [{k: float(v) for k, v in r.items() if v} for r in csv.DictReader(file)]
        except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
            raise errors.InputError(
                f"{self._kept}: expected the epochs of the run, found damage: "
                f"{errors.reason(error)}; without the file the run goes on, and begins another "
                f"table."
            ) from None

    def add(self, row: Mapping[str, float]) -> None:
        """Appends one row."""
        self.rows.append(dict(row))
        if self._path is None:
            return
        self._kept.parent.mkdir(exist_ok=True)
        sealed.write(self._kept, {"rows": self.rows})
        names = list(dict.fromkeys(name for each in self.rows for name in each))
        temporary = self._path.with_suffix(".csv.tmp")
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, names, restval="")
            writer.writeheader()
            for each in self.rows:
                writer.writerow({k: f"{v:.9g}" for k, v in each.items()})
        temporary.replace(self._path)


class Scalars(Callback):
    """Every score, learning rate, gradient norm and speed to TensorBoard.

    Scores are means since the epoch began, as Keras keeps them.

    Args:
        folder: The log directory of the run.
        state: Where the run is.
        schedule: The learning rate by step.
        weights: The present weight of each term of the loss that has a schedule.
        batch_size: Of the global batch.
        every: Steps between two points.
        profile: First and last step of a profile, or None.
    """

    def __init__(
        self,
        folder: Path,
        state: checkpoints.RunState,
        schedule: Callable[[tf.Tensor], tf.Tensor],
        weights: Callable[[], Mapping[str, float]],
        batch_size: int,
        every: int,
        profile: tuple[int, int] | None = None,
    ):
        super().__init__()
        self._folder = folder
        self._state = state
        self._schedule = schedule
        self._weights = weights
        self._batch_size = batch_size
        self._every = every
        self._profile = profile
        self._profiling = False
        self._writer = tf.summary.create_file_writer(str(folder / "train"))
        self._mark: tuple[int, float] | None = None
        self.patches_per_second = math.nan

    def on_train_batch_begin(self, batch, logs=None):
        """Starts the profile at its first step."""
        step = int(self._state.step.numpy())
        if self._mark is None:
            self._mark = step, time.monotonic()
        if self._profile and step == self._profile[0]:
            tf.profiler.experimental.start(str(self._folder / "train"))
            self._profiling = True

    def on_train_batch_end(self, batch, logs=None):
        """Writes a point where one is due."""
        step = int(self._state.step.numpy()) + 1
        if self._profile and step >= self._profile[1]:
            self._stop_profile()
        if step % self._every or self._mark is None:
            return
        scores = {k: float(v) for k, v in logs.items()}
        # The first steps are compilation; speed is measured after them.
        before, since = self._mark
        now = time.monotonic()
        self.patches_per_second = (step - before) * self._batch_size / max(now - since, 1e-9)
        self._mark = step, now
        scores["learning_rate"] = float(self._schedule(tf.constant(step - 1)))
        scores["patches_per_second"] = self.patches_per_second
        scores |= {f"weight_{name}": value for name, value in self._weights().items()}
        with self._writer.as_default(step=step):
            for name, value in scores.items():
                tf.summary.scalar(name, value)

    def on_epoch_end(self, epoch, logs=None):
        """Makes what was written visible; validation does not count as training time."""
        self._writer.flush()
        self._mark = None

    def on_train_end(self, logs=None):
        """Ends a profile that the run was too short for."""
        self._stop_profile()
        self._writer.flush()

    def _stop_profile(self) -> None:
        if self._profiling:
            tf.profiler.experimental.stop()
            self._profiling = False


class Progress(Callback):
    """A bar with the time left on a terminal, plain log lines elsewhere.

    Args:
        state: Where the run is.
        total: Steps of the run.
        scores: Names of the scores to show.
        terminal: Whether to draw a bar.
        seconds: Between two log lines.
    """

    def __init__(
        self,
        state: checkpoints.RunState,
        total: int,
        terminal: bool,
        scores: Sequence[str] = ("loss", "rmse"),
        seconds: float = 10.0,
    ):
        super().__init__()
        self._state = state
        self._total = total
        self._scores = scores
        self._seconds = seconds
        self._bar: Any = _bar(total) if terminal else None
        self._epochs = 0
        self._began: tuple[int, float] | None = None
        self._shown = time.monotonic()

    def on_epoch_begin(self, epoch, logs=None):
        """What the end of the first epoch compiled would spoil the estimate."""
        self._epochs += 1
        if self._epochs == 2:
            self._began = None

    def on_train_begin(self, logs=None):
        """Starts the bar where the run is."""
        if self._bar:
            self._bar.start()
            self._bar.update(self._bar.task_ids[0], completed=int(self._state.step.numpy()))

    def on_train_batch_end(self, batch, logs=None):
        """Shows how far it is."""
        step = int(self._state.step.numpy()) + 1
        now = time.monotonic()
        # The step that compiled would spoil the estimate.
        self._began = self._began or (step, now)
        if now - self._shown < (0.2 if self._bar else self._seconds) and step < self._total:
            return
        self._shown = now
        text = "  ".join(f"{k} {float(logs[k]):.5f}" for k in self._scores if k in logs)
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=step, scores=text)
            return
        began, since = self._began
        left = ""
        if step > began:
            left = f"  {_duration((now - since) / (step - began) * (self._total - step))} left"
        logging.info("step %d of %d  %s%s", step, self._total, text, left)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: Any) -> None:
        """Leaves the terminal as it was; of a failure Keras tells no callback."""
        self.on_train_end()

    def on_train_end(self, logs=None):
        """Ends the bar."""
        if self._bar:
            self._bar.stop()


def _bar(total: int) -> Any:
    from rich import console, progress

    bar = progress.Progress(
        progress.TextColumn("training"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[scores]}"),
        console=console.Console(stderr=True),
    )
    bar.add_task("training", total=total, scores="")
    return bar


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:d}:{minutes:02d}:{rest:02d}"
