"""Trains a StfNet: rasters or shards in, a model folder out.

    python -m stfnet_tf.train --flagfile=configs/cia.flags --data_dir=/data --model_dir=runs/cia

The same command continues a run that was stopped, however it was stopped. On SIGTERM it saves
and exits with code 75. Several hosts run the same command, each with its own TF_CONFIG.

Every flag that is not about folders is a field of `train_config.TrainConfig` or of
`presets.ModelConfig`; their docstrings are the help texts.
"""

import dataclasses
import inspect
import os
import re
import shlex
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags, logging

from data_prep import entry, errors, records
from stfnet_tf import presets, train_config

FLAGS = flags.FLAGS
# Belongs to the data set or to --preset, so there is no flag for it.
NO_FLAG = ("preset",)


def define_flags() -> None:
    """Defines one flag for each field of `TrainConfig` and `ModelConfig`, and `--preset`.

    For every program that trains; the values come back through `configured`.
    """
    flags.DEFINE_string(
        "preset",
        "paper",
        f"What the model's options start from: {', '.join(presets.PRESETS)}. 'paper' is the "
        "network of Liu et al. 2019; options given beside it replace its values.",
    )
    for field in dataclasses.fields(train_config.TrainConfig):
        _define(train_config.TrainConfig, field, field.default)
    for field in dataclasses.fields(presets.ModelConfig):
        if field.name not in NO_FLAG:
            _define(presets.ModelConfig, field, None)


def configured(
    info: records.DatasetInfo,
) -> tuple[train_config.TrainConfig, presets.ModelConfig]:
    """The configurations that the flags describe, for a data set.

    Args:
        info: The data set's description.

    Raises:
        InputError: A value that its field or the data set does not allow.
    """
    return train_configured(), train_config.model_config(
        info, FLAGS.preset, **_given(presets.ModelConfig)
    )


def asked() -> tuple[dict[str, Any], dict[str, Any]]:
    """What the user set of `TrainConfig` and of `ModelConfig`, on the line or in a flag file."""
    training, model = _given(train_config.TrainConfig), _given(presets.ModelConfig)
    return {k: v for k, v in training.items() if not FLAGS[k].using_default_value}, model


def train_configured() -> train_config.TrainConfig:
    """How to train, as the flags describe it."""
    return train_config.TrainConfig(**_given(train_config.TrainConfig))


def _define(owner: type, field: dataclasses.Field, default: Any) -> None:
    kind = typing.get_type_hints(owner)[field.name]
    text = _help_texts(owner).get(field.name, "")
    if owner is presets.ModelConfig:
        text += " (default: the preset's or the data set's)"
    if typing.get_origin(kind) is tuple:
        listed = None if default is None else ",".join(map(str, default))
        flags.DEFINE_list(field.name, listed, text)
        return
    define: Mapping[type, Callable[..., Any]] = {
        bool: flags.DEFINE_boolean,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        str: flags.DEFINE_string,
    }
    define[kind](field.name, default, text)


def _given(owner: type) -> dict[str, Any]:
    """The values of the owner's flags that are set."""
    kinds = typing.get_type_hints(owner)
    values = {}
    for field in dataclasses.fields(owner):
        value = None if field.name in NO_FLAG else FLAGS[field.name].value
        if value is None:
            continue
        if typing.get_origin(kinds[field.name]) is tuple:
            element = typing.get_args(kinds[field.name])[0]
            try:
                value = tuple(element(part) for part in value)
            except ValueError as error:
                raise errors.InputError(
                    f"--{field.name}: expected numbers with commas between them, found {error}."
                ) from None
        values[field.name] = value
    return values


def _help_texts(owner: type) -> Mapping[str, str]:
    """The descriptions in the "Attributes" section of a class' docstring, by name."""
    _, _, section = (inspect.getdoc(owner) or "").partition("Attributes:\n")
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n(?: {5,}.*)?)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def define_folders() -> None:
    """Defines what only this program takes: where data come from and where the run goes."""
    flags.DEFINE_string(
        "model_dir",
        None,
        "Folder of the run: receives checkpoints, the best weights, config.json, history.csv and "
        "TensorBoard's events. A run that is there is continued.",
    )
    flags.DEFINE_string(
        "records_dir",
        None,
        "Folder of shards that data_prep.write_tfrecords wrote (default: records/ in --model_dir, "
        "where they are written first from --dataset if they are not there).",
    )
    flags.DEFINE_string(
        "dataset", None, "Description of the rasters, a .toml, to write shards from."
    )
    flags.DEFINE_string(
        "data_dir", None, "Where the rasters lie, in place of the description's own root."
    )


def main(argv: Sequence[str]) -> int | None:
    """Reads the flags, writes the shards where they are missing, and trains."""
    if not FLAGS.model_dir:
        raise errors.InputError("--model_dir: expected a folder for the run, found nothing.")
    config = train_configured()
    records_dir = Path(FLAGS.records_dir or Path(FLAGS.model_dir) / "records")
    info = _records(records_dir, FLAGS.dataset, FLAGS.data_dir)
    _, model = configured(info)
    split = info.splits["train"] if "train" in info.splits else records.Split()
    print(
        f"Training '{model.preset}' ({model.supervision}) on {split.records} tiles of "
        f"'{info.name}' in {records_dir}: {config.optimizer}, learning rate "
        f"{config.learning_rate:g} ({config.schedule}), {config.batch_size} patches of "
        f"{config.patch_size} × {config.patch_size} a step. The run is in {FLAGS.model_dir}; look "
        f"at it with: tensorboard --logdir={shlex.quote(str(FLAGS.model_dir))}",
        flush=True,
    )
    from stfnet_tf import callbacks, strategies, trainer  # TensorFlow loads here.

    try:
        result = trainer.run(
            config,
            model,
            records_dir,
            FLAGS.model_dir,
            terminal=sys.stderr.isatty(),
            command=shlex.join(sys.argv),
        )
    except callbacks.TerminatedError as stop:
        print(f"Stopped by SIGTERM after {stop}; saved. The same command goes on.")
        return callbacks.EXIT_TERMINATED
    except strategies.PeerLostError as error:
        logging.warning("Lost another worker (%s); starting again to wait for it.", error)
        logging.flush()
        # TensorFlow cannot join a cluster twice in one process.
        os.execv(sys.executable, sys.orig_argv)
    print(
        f"Done: {result.steps} steps in {result.seconds:.0f} s; lowest {config.monitor} "
        f"{result.best:.6g} at step {result.best_step}."
    )
    return None


def _records(records_dir: Path, dataset: str | None, data_dir: str | None) -> records.DatasetInfo:
    """The description of the shards, which are written first if they are not there.

    Raises:
        InputError: There are neither shards nor a data set to write them from.
    """
    if (records_dir / records.INFO_FILE).is_file():
        return records.DatasetInfo.load(records_dir)
    if not dataset:
        raise errors.InputError(
            f"--records_dir: expected {records_dir / records.INFO_FILE}, found no such file; name "
            f"a folder of shards, or a --dataset to write them from."
        )
    if os.environ.get("TF_CONFIG"):
        raise errors.InputError(
            f"--records_dir: expected shards in {records_dir}, found none; several workers need "
            f"them before they start: write them once with data_prep.write_tfrecords."
        )
    from data_prep import dataset as descriptions
    from data_prep import preparation  # GDAL loads here.

    return preparation.prepare(descriptions.load(dataset, data_dir), records_dir)


def cli() -> None:
    """The console script."""
    define_folders()
    define_flags()
    entry.run(main)


if __name__ == "__main__":
    cli()
