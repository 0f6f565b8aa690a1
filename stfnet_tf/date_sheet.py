"""A look at a whole run: every fused date and the fine images it was made from, in small."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep import catalog, grids, rasters, triplets
from data_prep.dataset import Date
from stfnet_tf import fused_rasters, panels, scene

FILE = "dates.png"
_PIXELS = 400  # of a picture's longer side


def draw(images: catalog.Catalog, dates: Sequence[triplets.Triplet], output_dir: Path) -> Path:
    """Draws the fused rasters of a run and the known fine images between which they lie.

    The colours come from the known images alone, so that a date does not change its own.

    Args:
        images: The scene's images.
        dates: What was fused.
        output_dir: Where the rasters are, and where the picture goes.

    Raises:
        InputError: A raster cannot be read.
    """
    known = {date: _known(images, date) for t in dates for date in (t.t1, t.t3) if date}
    fused = {t.t2: _fused(images, scene.paths(output_dir, t)[0], t.t2) for t in dates}
    stretch = panels.Stretch.of(
        [panel.image for panel in known.values()],
        [panel.valid for panel in known.values()],
        images.dataset.bands,
    )
    # A fine image of a date that was fused all the same was not used for it.
    shown = sorted((known | fused).items())
    return panels.small_multiples(
        output_dir / FILE,
        [panel for _, panel in shown],
        stretch,
        title=f"{images.dataset.name}: fused, and in a frame the known fine images",
    )


def _step(images: catalog.Catalog) -> int:
    return max(1, -(-max(images.grid.shape) // _PIXELS))


def _known(images: catalog.Catalog, date: Date) -> panels.Panel:
    """Every n-th pixel of a fine image."""
    step = _step(images)
    height, width = images.grid.shape
    lines = [
        images.read("fine", date, grids.Window(row, 0, 1, width)) for row in range(0, height, step)
    ]
    image = np.concatenate([line.dn[:, ::step] for line in lines])
    valid = np.concatenate([line.valid[:, ::step] for line in lines])
    return panels.Panel(
        f"{date}, known", images.encoding("fine").reflectance(image), valid, known=True
    )


def _fused(images: catalog.Catalog, path: Path, date: Date) -> panels.Panel:
    """A fused raster, from its overviews where it is large."""
    rasters.close_all()  # it may have been replaced since
    image, valid = fused_rasters.read(path, images, _step(images))
    return panels.Panel(str(date), image, valid)
