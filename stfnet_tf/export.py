"""Writes a trained model as a SavedModel that TensorFlow Serving loads as it stands.

    python -m stfnet_tf.export --model_dir=runs/cia --name=cia

makes saved_models/cia/1/, the next time saved_models/cia/2/. A version is never overwritten, and
takes its name only when it is whole, so a server that polls the folder never sees half a model.

Inputs and outputs are raw digital numbers. Signatures, all with batch, height and width open:

  serving_default      f1 f3 c1 c2 c3 [batch, height, width, bands] -> f2, quality, sides
  fuse_masked          the same with valid_f1 ... valid_c3, bool [batch, height, width]
  fuse_tile            fuse_masked for a tile of a larger image, whose mean absolute coarse changes
                       v12 and v23 [batch, bands], reflectance, are given
  forward_only         f1 c1 c2: no later fine image yet
  coarse_change        fuse_masked's inputs -> the sums from which v12 and v23 follow
  serialized_examples  examples: records as data_prep.write_tfrecords writes them
"""

import contextlib
import json
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from data_prep import disk, entry, errors, locks, sealed
from stfnet_tf import model_card, warmup

CARD_FILE = model_card.FILE
_SCRATCH = ".writing-"

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines this program's flags."""
    flags.DEFINE_string(
        "model_dir", None, "Folder of a training run, as --model_dir of stfnet_tf.train."
    )
    flags.DEFINE_string("name", None, "Name of the served model (default: the data set's name).")
    flags.DEFINE_string(
        "export_dir", "saved_models", "The export is written to <export_dir>/<name>/<version>/."
    )
    flags.DEFINE_string(
        "evaluation",
        None,
        "Folder that stfnet_tf.evaluate wrote, for the model card (default: evaluation/ in "
        "--model_dir, where it is there).",
    )
    flags.DEFINE_integer(
        "version", None, "Version number (default: the next free one).", lower_bound=1
    )


def save(
    fusion: Any, folder: Path, version: int | None = None, metrics: Mapping[str, Any] | None = None
) -> Path:
    """Writes one version of a model.

    Args:
        fusion: A `fusion.Fusion`.
        folder: <export_dir>/<name>.
        version: The version's number; the next free one when None.
        metrics: Scores on held-out dates, for the model card.

    Returns:
        The version's folder.

    Raises:
        InputError: That version exists, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
    except OSError as error:
        raise errors.InputError(
            f"{folder}: expected a writable folder, found: {errors.reason(error)}."
        ) from None
    # Not a number, so a server that polls the folder ignores it.
    scratch = folder / f"{_SCRATCH}{uuid.uuid4().hex}"
    # Held before it is there: another export sweeps away what nobody holds.
    with locks.hold(scratch), disk.naming_full(folder):
        scratch.mkdir()
        return _write(fusion, scratch, folder, version, metrics)


def _sweep(folder: Path) -> None:
    """Removes what exports that were killed have left."""
    for left in folder.glob(f"{_SCRATCH}*"):
        # Who is still at work on it holds it.
        with contextlib.suppress(errors.InputError), locks.hold(left):
            shutil.rmtree(left, ignore_errors=True)


def _write(
    fusion: Any,
    scratch: Path,
    folder: Path,
    version: int | None,
    metrics: Mapping[str, Any] | None,
) -> Path:
    import tensorflow as tf

    from stfnet_tf import checkpoints

    try:
        extra = scratch / "assets.extra"
        extra.mkdir()
        described = model_card.describe(fusion, metrics)
        sealed.write(extra / CARD_FILE, described)
        (extra / "model_card.md").write_text(model_card.as_markdown(described))
        # Only functions, variables and the card: no Python object is needed to load them.
        module = tf.Module()
        module.parameters = list(fusion.model.variables)
        module.card = tf.saved_model.Asset(str(extra / CARD_FILE))
        with checkpoints.quiet():
            tf.saved_model.save(module, str(scratch), signatures=fusion.signatures)
        warmup.write(fusion, extra / warmup.FILE)
        sealed.seal_files(scratch, extra / model_card.CHECKSUMS)
        scratch.chmod(0o755)
        return _publish(scratch, folder, version)
    except OSError as error:
        raise errors.InputError(
            f"{folder}: could not be written: {errors.reason(error)}."
        ) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _publish(scratch: Path, folder: Path, version: int | None) -> Path:
    """Gives a whole export its version; of two that want one number, one takes the next."""
    wanted = version
    while True:
        number = wanted or 1 + max(
            (int(k.name) for k in folder.iterdir() if k.name.isdecimal()), default=0
        )
        target = folder / str(number)
        try:
            # Fails where the target holds files, however recently another process put it there.
            scratch.rename(target)
            return target
        except OSError as error:
            if not target.exists():
                raise errors.InputError(
                    f"{target}: could not be written: {errors.reason(error)}."
                ) from None
            if wanted:
                raise errors.InputError(
                    f"{target}: expected a free version, found an export; versions are never "
                    f"overwritten, leave --version out for the next free one."
                ) from None


def main(argv: Sequence[str]) -> None:
    """Exports --model_dir."""
    if not FLAGS.model_dir:
        raise errors.InputError("--model_dir: expected a training run, found nothing.")
    from stfnet_tf import fusion as fusions

    model_dir = Path(FLAGS.model_dir)
    fusion = fusions.load(model_dir)
    folder = place(FLAGS.export_dir, FLAGS.name or fusion.info.name)
    metrics = _metrics(FLAGS.evaluation, model_dir / "evaluation")
    version = save(fusion, folder, FLAGS.version, metrics)
    print(
        f"Exported {model_dir} to {version}; loaded again, it differs from the model by "
        f"{check(fusion, version):.1e} in {fusion.info.quantity}."
    )


def place(export_dir: str, name: str) -> Path:
    """The folder of a served model's versions.

    Raises:
        InputError: The name, which is the server's for the model, too, would lead elsewhere.
    """
    if name in (".", "..") or Path(name).name != name:
        raise errors.InputError(
            f"--name: expected a name without a path, for a folder in {export_dir}, found '{name}'."
        )
    return Path(export_dir) / name


def _metrics(given: str | None, default: Path) -> dict[str, Any] | None:
    """What stfnet_tf.evaluate found, if it was run."""
    path = Path(given or default) / "metrics.json"
    if not path.is_file():
        if given:
            raise errors.InputError(
                f"{path}: expected the scores that stfnet_tf.evaluate writes, found no such file."
            )
        return None
    try:
        metrics = json.loads(path.read_text())
        for row in metrics["scores"]:
            _ = row["method"], row["date"], row["rmse"]["mean"]
        return metrics
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.InputError(
            f"{path}: expected the scores that stfnet_tf.evaluate writes, found damage: "
            f"{errors.reason(error)}."
        ) from None


def check(fusion: Any, version: Path) -> float:
    """Loads an export and returns the largest difference in F̂2 from the model, reflectance."""
    import numpy as np
    import tensorflow as tf

    loaded = tf.saved_model.load(str(version))
    images = warmup.images(fusion.info)
    expected = fusion.serving_default(**images)["f2"]
    found = loaded.signatures["serving_default"](**images)["f2"]
    steps = np.abs(np.asarray(expected, np.float64) - np.asarray(found, np.float64))
    return float(steps.max() * fusion.info.fine.scale)


def cli() -> None:
    """The console script."""
    define_flags()
    entry.run(main)


if __name__ == "__main__":
    cli()
