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
  serialized_examples  examples: records as data_prep.write_tfrecords writes them
"""

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags, logging

from data_prep import entry, errors

CARD_FILE = "model_card.json"

_MODEL_DIR = flags.DEFINE_string(
    "model_dir", None, "Folder of a training run, as --model_dir of stfnet_tf.train.", required=True
)
_NAME = flags.DEFINE_string(
    "name", None, "Name of the served model; the data set's name when not given."
)
_OUTPUT_DIR = flags.DEFINE_string(
    "export_dir", "saved_models", "The export is written to <export_dir>/<name>/<version>/."
)
_VERSION = flags.DEFINE_integer(
    "version", None, "Version number; the next free one when not given.", lower_bound=1
)


def save(fusion: Any, folder: Path, version: int | None = None) -> Path:
    """Writes one version of a model.

    Args:
        fusion: A `fusion.Fusion`.
        folder: <export_dir>/<name>.
        version: The version's number; the next free one when None.

    Returns:
        The version's folder.

    Raises:
        InputError: That version exists, or the folder cannot be written.
    """
    import tensorflow as tf

    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Not a number, so a server that polls the folder ignores it.
        scratch = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder))
    except OSError as error:
        raise errors.InputError(f"{folder}: expected a writable folder, found: {error}.") from None
    try:
        # Only functions and variables: no Python object is needed to load them.
        module = tf.Module()
        module.parameters = list(fusion.model.variables)
        tf.saved_model.save(module, str(scratch), signatures=fusion.signatures)
        extra = scratch / "assets.extra"
        extra.mkdir(exist_ok=True)
        (extra / CARD_FILE).write_text(json.dumps(card(fusion), indent=2) + "\n")
        scratch.chmod(0o755)
        return _publish(scratch, folder, version)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _publish(scratch: Path, folder: Path, version: int | None) -> Path:
    """Gives a whole export its version; of two that want one number, one takes the next."""
    wanted = version
    while True:
        number = wanted or 1 + max(
            (int(k.name) for k in folder.iterdir() if k.name.isdigit()), default=0
        )
        target = folder / str(number)
        try:
            # Fails where the target holds files, however recently another process put it there.
            scratch.rename(target)
            return target
        except OSError as error:
            if not target.exists():
                raise errors.InputError(f"{target}: could not be written: {error}.") from None
            if wanted:
                raise errors.InputError(
                    f"{target}: expected a free version, found an export; versions are never "
                    f"overwritten, leave --version out for the next free one."
                ) from None


def card(fusion: Any) -> dict:
    """What a client must know: bands, encodings, halo, configuration, versions."""
    import tensorflow as tf

    import stfnet_tf
    from stfnet_tf import fusion as fusions

    info = fusion.info
    return {
        "name": info.name,
        "bands": list(info.bands),
        "fine": dataclasses.asdict(info.fine),
        "coarse": dataclasses.asdict(info.coarse),
        "ratio": info.ratio,
        "halo": fusions.halo(fusion.model.config),
        "model": dataclasses.asdict(fusion.model.config),
        "training": {split: list(part.triplets) for split, part in info.splits.items()},
        "versions": {"stfnet-tf": stfnet_tf.__version__, "tensorflow": tf.__version__},
    }


def main(argv: Sequence[str]) -> None:
    """Exports --model_dir."""
    from stfnet_tf import fusion as fusions

    model_dir = Path(_MODEL_DIR.value)
    fusion = fusions.load(model_dir)
    name = _NAME.value or fusion.info.name
    version = save(fusion, Path(_OUTPUT_DIR.value) / name, _VERSION.value)
    logging.info("Exported %s", model_dir)
    print(version)


def cli() -> None:
    """Console script."""
    entry.run(main)


if __name__ == "__main__":
    cli()
