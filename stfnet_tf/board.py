"""TensorBoard beyond the scalars of training, which are `callbacks.Scalars`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from data_prep import false_colours, records
from stfnet_tf import combination

# Black and white lie this many standard deviations from the data set's mean.
STRETCH = 2.5
# Steps between panels: an epoch may be a single step, and drawing them takes longer.
PANEL_STEPS = 25
GAP = 4


class Board:
    """Validation scores, panels, graph and HParams of one run.

    Args:
        folder: The log directory of the run.
        model: A StfNet.
        info: The data set, for the panels' bands and stretch.
        examples: Named batches of one tile to show.
    """

    def __init__(
        self,
        folder: Path,
        model: Any,
        info: records.DatasetInfo,
        examples: Sequence[tuple[str, Mapping[str, tf.Tensor]]],
    ):
        self._model = model
        self._info = info
        self._examples = examples
        self._shown: int | None = None
        self._root = tf.summary.create_file_writer(str(folder))
        self._writer = tf.summary.create_file_writer(str(folder / "validation"))

    def start(self, hyperparameters: Mapping[str, Any]) -> None:
        """Writes the graph and the hyperparameters, once a run.

        Args:
            hyperparameters: Flat names to values.
        """
        from tensorboard.plugins.hparams import api as hp

        plain = {
            k: v if isinstance(v, bool | int | float | str) else ", ".join(map(str, v))
            for k, v in hyperparameters.items()
        }
        with self._root.as_default(step=0):
            tf.summary.graph(self._model.call_graph)
            # Without a list of them TensorBoard finds out which differ from run to run, and shows
            # these first.
            hp.hparams(plain)
        self._root.flush()

    def report(self, step: int, scores: Mapping[str, float], last: bool = False) -> None:
        """Writes validation scores, and panels at the first, the last and some steps between."""
        with self._writer.as_default(step=step):
            for name, value in scores.items():
                tf.summary.scalar(name, value)
        self._writer.flush()
        if last or self._shown is None or step - self._shown >= PANEL_STEPS:
            self._shown = step
            self.show(step)

    def show(self, step: int) -> None:
        """Writes the panels of the present weights."""
        with self._writer.as_default(step=step):
            for name, batch in self._examples:
                tf.summary.image(
                    f"tiles/{name}",
                    panel(batch, self._model.fuse_graph(dict(batch)), self._info),
                    description="Above: F1, F3, C2. Below: predicted F2, true F2, absolute error.",
                )
        self._writer.flush()


def panel(
    batch: Mapping[str, tf.Tensor], fused: combination.Fused, info: records.DatasetInfo
) -> np.ndarray:
    """F1, F3, C2 above F̂2, F2, |F̂2 − F2|, as one image.

    The stretch follows from the data set's statistics, so it is the same for every image, step
    and run; the error's scale ends at one standard deviation. Invalid pixels are grey, as are those
    without a prediction; where either is missing there is no error.

    Args:
        batch: One tile, [1, height, width, ·].
        fused: What was made of it, reflectance, [1, height, width, bands].
        info: Band names and statistics.

    Returns:
        uint8, [1, 2 × height + gap, 3 × width + gaps, 1 or 3].
    """
    bands = list(false_colours.shown(info.bands))
    mean, std = (np.asarray(info.statistics["fine"][k])[bands] for k in ("mean", "std"))
    std = np.maximum(std, 1e-4)

    def reflectance(image):
        # Within what can be shown by far, so that an infinite one does not overflow.
        return np.clip(np.asarray(image)[0][..., bands], -1e3, 1e3)

    def bright(image, valid):
        shown = (np.nan_to_num(reflectance(image)) - mean) / (2 * STRETCH * std) + 0.5
        return np.where(np.asarray(valid)[0] > 0, shown, 0.5)

    made, known = np.asarray(fused.sides), np.asarray(batch["valid_f2"])
    # A prediction that is no number is as wrong as can be shown.
    error = np.nan_to_num(np.abs(reflectance(fused.f2) - reflectance(batch["f2"])), nan=1e3) / std
    strips = [
        *(bright(batch[k], batch[f"valid_{k}"]) for k in ("f1", "f3", "c2")),
        bright(fused.f2, made),
        bright(batch["f2"], known),
        np.where((made[0] > 0) & (known[0] > 0), error, 0.0),
    ]
    rows = [_joined(strips[:3], axis=1), _joined(strips[3:], axis=1)]
    return (np.clip(_joined(rows, axis=0), 0, 1) * 255).astype(np.uint8)[None]


def _joined(images: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """Images [height, width, ·] side by side or below each other, with a white gap between."""
    shape = list(images[0].shape)
    shape[axis] = GAP
    return np.concatenate([p for i in images for p in (np.ones(shape), i)][1:], axis=axis)
