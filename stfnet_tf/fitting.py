"""A model of one scene and date: trained on the very images that are to be fused.

In "pair" mode a model is one scene's and one date's: what C13 → F13 and C12 teach is how the
change from t1 by t2 to t3 looks, and no other. F2 is never looked at: training ends when the loss,
which knows the coarse images and the outer fine ones alone, has stopped falling.
"""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Any

from data_prep import catalog, errors, preparation, triplets
from stfnet_tf import callbacks, fit_options, train_config, trainer

# What a coarse pixel tells is wide: the larger a tile, the less of it is cut off at the border.
LARGEST_TILE = 512


def defaults(preset: str, tile_size: int) -> dict[str, Any]:
    """Fields of `TrainConfig` that suit one scene, for a preset and tiles of a size."""
    if preset != "plus":
        return {"patch_size": min(train_config.TrainConfig.patch_size, tile_size)}
    # After the regression that starts it, little is left to learn, and each tile teaches whole.
    return {
        "patch_size": tile_size,
        "batch_size": 1,
        "crops_per_tile": 1,
        "steps": 100,
        "augment": False,
        "early_stopping": 5,
        "least_improvement": 1e-3,
        "panels": 1,
    }


class Fitter:
    """Fits models of one kind, one after the other; what the first compiles serves the others.

    Args:
        options: What the user asks for.
    """

    def __init__(self, options: fit_options.FitOptions):
        self._options = options
        self._compiled: trainer.Compiled | None = None

    def fit(self, images: catalog.Catalog, triplet: triplets.Triplet, model_dir: Path) -> Path:
        """Trains a model on the very images of one date, or goes on where such a run was stopped.

        Args:
            images: The data set's images, corrected as its description says.
            triplet: The date to be fused, t2, and its neighbours; t3 None fits to the earlier pair.
            model_dir: The run is in a folder of it, named by the date.

        Returns:
            The run's folder.

        Raises:
            InputError: The images or the options do not allow it, or training was stopped.
        """
        options = self._options
        folder = model_dir / triplet.t2.isoformat()
        tile_size = min(max(images.grid.shape), LARGEST_TILE)
        alone = dataclasses.replace(
            images.dataset, supervision="pair", tile_size=tile_size, min_valid=0.0
        )
        config = train_config.TrainConfig(
            **{**defaults(options.preset, tile_size), **options.training}
        )
        if config.patch_size > tile_size:
            bound = "--fit's tiles" if tile_size == LARGEST_TILE else "the scene's longer side"
            raise errors.InputError(
                f"--patch_size: expected at most {tile_size} pixels, {bound}, found "
                f"{config.patch_size}."
            )
        info = preparation.prepare(alone, folder / "records", only=triplet, corrected=images)
        model = train_config.model_config(info, options.preset, **options.model)
        print(f"Fitting '{model.preset}' to {triplet}: {folder}", flush=True)
        try:
            result = trainer.run(
                config,
                model,
                folder / "records",
                folder,
                terminal=sys.stderr.isatty(),
                command=shlex.join(sys.argv),
                compiled=self._compiled,
            )
        except callbacks.TerminatedError:
            raise errors.InputError(
                f"--fit: training was stopped; the same command goes on where {folder} stands."
            ) from None
        self._compiled = result.compiled
        return folder
