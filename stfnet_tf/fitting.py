"""A model of one scene and date: trained on the very images that are to be fused."""

import dataclasses
import shlex
import sys
from pathlib import Path

from data_prep import dataset, errors, preparation, triplets
from stfnet_tf import callbacks, train, trainer


def fit(described: dataset.Dataset, triplet: triplets.Triplet, model_dir: Path) -> Path:
    """Trains a model on the very images of one date, or goes on where such a run was stopped.

    In "pair" mode a model is one scene's and one date's: what C13 → F13 and C12 teach is how
    the change from t1 by t2 to t3 looks, and no other.

    Args:
        described: The data set.
        triplet: The date to be fused, t2, and its neighbours.
        model_dir: The run is in a folder of it, named by the date.

    Returns:
        The run's folder.

    Raises:
        InputError: The images or the flags do not allow it, or training was stopped.
    """
    if triplet.t3 is None:
        raise errors.InputError(
            f"--fit: expected a known fine image after {triplet.t2} as well as before it, found "
            f"none; a model that was trained on other dates (--model_dir) can fuse it."
        )
    folder = model_dir / triplet.t2.isoformat()
    alone = dataclasses.replace(described, supervision="pair")
    info = preparation.prepare(alone, folder / "records", only=triplet)
    config, model = train.configured(info)
    print(f"Fitting '{model.preset}' to {triplet}: {folder}", flush=True)
    try:
        trainer.run(
            config,
            model,
            folder / "records",
            folder,
            terminal=sys.stderr.isatty(),
            command=shlex.join(sys.argv),
        )
    except callbacks.TerminatedError:
        raise errors.InputError(
            f"--fit: training was stopped; the same command goes on where {folder} stands."
        ) from None
    return folder
