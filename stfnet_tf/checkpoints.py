"""What a run leaves behind, so that it can go on and so that others can use its model.

    model_dir/
      model.json           what the model is
      dataset_info.json    what it was trained on, encodings and statistics included
      config.json          how it was trained, by which command and versions
      best.weights.h5      weights to evaluate and export; averages, where the optimizer keeps any
      last/                the whole state of training: weights, optimizer, position, history
      history.csv          one line an epoch, for people
      tensorboard/         the same and more, to look at

Everything is written under a temporary name first, so what is there is whole, and everything that
is read again carries checksums, so damage is noticed.
"""

import contextlib
import hashlib
import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np
import tensorflow as tf
import tf_keras as keras
from absl import logging

from data_prep import errors
from stfnet_tf import model as stfnet_model
from stfnet_tf import optimizers, presets, strategies

BEST = "best.weights.h5"
LAST = "last"
_INDICES = f"{LAST}/step-*[0-9].index"
# What TensorFlow writes of a checkpoint; the folder is there only while it does.
_PARTS = re.compile(r"(step-\d+)(\.index|\.data-\d{5}-of-\d{5}|_temp)")
KEPT = 2
# Attribute of the file of weights: a checksum of all of them.
_SEAL = "sha256"


class DivergedError(Exception):
    """Training has left the finite numbers; the message says what was found, and when."""


class RunState(tf.Module):
    """Where a run is, beyond weights and optimizer; all of it is in every checkpoint.

    Attributes:
        step: Training steps done, which is the position in the data as well.
        closed: The step at which an epoch was last closed: validated and recorded.
        best: The lowest monitored value at the end of an epoch.
        best_step: The step at which it was reached.
        stalled: How many epochs have ended since without a lower value.
        finished: Whether early stopping has ended the run.
        seconds: Time spent training, over all starts.
    """

    def __init__(self):
        super().__init__(name="run_state")
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.closed = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.best = tf.Variable(float("inf"), dtype=tf.float64, trainable=False)
        self.best_step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.stalled = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.finished = tf.Variable(False, trainable=False)
        self.seconds = tf.Variable(0.0, dtype=tf.float64, trainable=False)


class Checkpoints:
    """Saves and restores one run.

    Args:
        model_dir: Where; only the chief writes there.
        model: A compiled model.
        state: Where the run is.
        strategy: Every process must save at the same step.

    Attributes:
        saved: Whether there is a checkpoint to go on from.
    """

    def __init__(
        self,
        model_dir: str | Path,
        model: stfnet_model.StfNet,
        state: RunState,
        strategy: tf.distribute.Strategy,
    ):
        self._folder = Path(model_dir)
        self._model = model
        self._strategy = strategy
        self._checkpoint = tf.train.Checkpoint(
            model=model, optimizer=model.optimizer, state=state, scores=list(model.metrics)
        )
        self.state = state
        self.saved = False

    def restore(self) -> bool:
        """Goes back to the last checkpoint that can be read; False if there is none at all.

        Raises:
            InputError: There are only damaged ones, best weights without a state to go on from, or
                a folder in a file's place.
        """
        # A folder under a file's name could not be replaced when that step is saved again.
        for place in self._folder.glob(f"{LAST}/step-*.*"):
            if place.is_dir():
                raise errors.InputError(
                    f"{place}: expected a file of a checkpoint, found a folder; put the file back, "
                    f"or move the folder elsewhere."
                )
        # Not by TensorFlow's list of them, which may be damaged or older than they are: a
        # checkpoint's index is written when all else of it is there.
        found = {int(k.stem.removeprefix("step-")): k for k in self._folder.glob(_INDICES)}
        for step in sorted(found, reverse=True):
            try:
                # TensorFlow words it otherwise for some files.
                found[step].open("rb").close()
                self._restore(found[step].with_suffix(""))
            except (tf.errors.PermissionDeniedError, PermissionError):
                raise errors.InputError(
                    f"{found[step]}: expected a checkpoint that this user may read and replace, "
                    f"found: permission denied."
                ) from None
            # A damaged one can fail anywhere in TensorFlow.
            except Exception as error:
                logging.warning(
                    "%s cannot be read (%s); passed over.", found[step], errors.reason(error)
                )
            else:
                self._list([found[k] for k in sorted(found) if k <= step])
                self.saved = True
                return True
        self._list([])
        if found or (self._folder / BEST).exists():
            raise errors.InputError(
                f"{self._folder / LAST}: expected the state of the run whose weights are in "
                f"{self._folder / BEST}, found {'damaged files' if found else 'none'}; put it "
                f"back, or choose another --model_dir to start anew."
            )
        return False

    def _list(self, indices: Sequence[Path]) -> None:
        """Writes TensorFlow's own list of checkpoints anew: it would not go on from a damaged one.

        Raises:
            InputError: Something that is no file has its name.
        """
        if not strategies.is_chief(self._strategy):
            return
        path = self._folder / LAST / "checkpoint"
        if path.is_dir():
            raise errors.InputError(f"{path}: expected a list of checkpoints, found a folder.")
        path.unlink(missing_ok=True)
        if indices:
            lines = [f'model_checkpoint_path: "{indices[-1].stem}"']
            lines += [f'all_model_checkpoint_paths: "{k.stem}"' for k in indices]
            # Any time of its own after `last_preserved_timestamp`, which is 0 where it is missing:
            # without, TensorFlow takes them for checkpoints that it shall never remove.
            lines += ["all_model_checkpoint_timestamps: 1" for _ in indices]
            scratch = path.with_name(f"{path.name}.tmp")
            scratch.write_text("\n".join(lines) + "\n")
            scratch.replace(path)

    def _restore(self, path: Path) -> None:
        # The older optimizer API makes its variables at the first step and is restored then.
        self._checkpoint.restore(str(path)).assert_existing_objects_matched()

    def save(self) -> None:
        """Saves the whole state; the two newest checkpoints are kept.

        Raises:
            DivergedError: The weights are not finite: nobody could go on from them.
        """
        self._check_finite()
        with strategies.own_folder(self._strategy, self._folder / LAST) as folder, quiet():
            manager = tf.train.CheckpointManager(
                self._checkpoint, str(folder), max_to_keep=KEPT, checkpoint_name="step"
            )
            manager.save(checkpoint_number=int(self.state.step.numpy()))
            _sweep(folder, {Path(k).name for k in manager.checkpoints})
        self.saved = True

    def save_best(self) -> None:
        """Saves the weights that others shall use, averaged where the optimizer averages.

        Raises:
            DivergedError: They are not finite.
        """
        with (
            strategies.own_folder(self._strategy, self._folder) as folder,
            optimizers.averaged(self._model.optimizer, self._model.trainable_variables),
        ):
            self._check_finite()
            save_model(self._model, folder)

    def _check_finite(self) -> None:
        if not all(np.isfinite(each.numpy()).all() for each in self._model.trainable_variables):
            raise DivergedError(f"weights that are not finite at step {self.state.step.numpy()}")

    def load_best(self) -> None:
        """Gives the model the weights that `save_best` saved."""
        load_weights(self._model, self._folder)


def _sweep(folder: Path, kept: Collection[str]) -> None:
    """Removes checkpoints that the manager does not know: of a save that was killed, say.

    Newer ones than those that are kept stay; they are damaged, and their step comes again.
    """
    newest = max(map(_step, kept))
    for part in folder.iterdir():
        name = _PARTS.fullmatch(part.name)
        if name is None or name[1] in kept or _step(name[1]) > newest:
            continue
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


def _step(name: str) -> int:
    return int(name.removeprefix("step-"))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """TensorFlow logs a line for each save; only warnings are worth reading."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(min(verbosity, logging.WARNING))
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def save_model(model: stfnet_model.StfNet, model_dir: str | Path) -> None:
    """Writes a model's weights as the best of a run, whole or not at all."""
    temporary = Path(model_dir) / f"writing.{BEST}"
    _layers_of(model).save_weights(str(temporary))
    with h5py.File(temporary, "r+") as file:
        file.attrs[_SEAL] = _digest(file)
    temporary.replace(Path(model_dir) / BEST)


def _digest(file: h5py.File) -> str:
    """A checksum of all arrays of a file, their names and types; HDF5 itself keeps none."""
    digest = hashlib.sha256()

    def add(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            array = np.asarray(item[()])
            digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
            digest.update(array.tobytes())

    file.visititems(add)
    return digest.hexdigest()


def load_weights(model: stfnet_model.StfNet, model_dir: str | Path) -> None:
    """Gives a model the best weights of a run.

    Raises:
        InputError: There are none yet, they are damaged, or another model's.
    """
    path = Path(model_dir) / BEST
    if not path.is_file():
        raise errors.InputError(
            f"{path}: expected the weights that training writes at the end of an epoch, found no "
            f"such file; train longer, or continue the run with the same command."
        )
    try:
        with h5py.File(path, "r") as file:
            # Files of earlier versions have none.
            if file.attrs.get(_SEAL, found := _digest(file)) != found:
                raise ValueError("weights whose checksum is another")
        _layers_of(model).load_weights(str(path))
    # A damaged file can fail anywhere in HDF5 and in Keras, which reads its own JSON there.
    except Exception as error:
        raise errors.InputError(
            f"{path}: expected the weights of the model that {path.with_name(presets.CONFIG_FILE)} "
            f"describes, found others, of another version perhaps, or a damaged file "
            f"({errors.reason(error)}); train again in another folder."
        ) from None


def load_model(model_dir: str | Path) -> stfnet_model.StfNet:
    """Rebuilds the model of a run with its best weights.

    Args:
        model_dir: What training was given as `--model_dir`.

    Raises:
        InputError: There is no model, or training has not saved weights yet.
    """
    model = stfnet_model.StfNet(presets.ModelConfig.load(model_dir))
    load_weights(model, model_dir)
    return model


def _layers_of(model: stfnet_model.StfNet) -> keras.Model:
    """All that is learned or measured, without the running scores, which are neither."""
    kept = keras.Model(model.inputs, model.outputs)
    kept.measured = model.measured
    if model.config.expected_error == "calibrated":
        kept.expected_error = model.expected_error
    return kept
