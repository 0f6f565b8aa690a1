"""A sheet of quick looks: every date's fine and coarse image side by side, masks included."""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from data_prep import false_colours, whole
from data_prep.catalog import Catalog

_SHEET_PIXELS = 240  # of a thumbnail
_SHEET_DATES = 16


def plot(
    images: Catalog,
    found: Mapping[str, Any],
    path: str,
) -> None:
    """Writes a sheet: fine and coarse of every date side by side, what is invalid in magenta.

    Args:
        images: The catalog, with the corrections to be shown.
        found: What `survey.look` says of it.
        path: The PNG to write.

    Raises:
        InputError: An image cannot be read, or the PNG cannot be written.
    """
    entries = [k for k in found["dates"] if k["fine"]] or found["dates"]
    if len(entries) > _SHEET_DATES:
        step = len(entries) / _SHEET_DATES
        entries = [entries[int(k * step)] for k in range(_SHEET_DATES)]
    columns = min(4, len(entries))
    rows = -(-len(entries) // columns)
    # The constrained layout keeps titles off the images above, however few there are.
    figure = Figure(figsize=(2.6 * columns, 5.6 * rows), layout="constrained")
    axes = figure.subplots(2 * rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for side_row, side in enumerate(("fine", "coarse")):
        thumbnails = [_thumbnail(images, side, k["date"]) if k[side] else None for k in entries]
        stretched = _stretched([t for t in thumbnails if t is not None])
        pictures = iter(stretched)
        for k, (seen, thumbnail) in enumerate(zip(entries, thumbnails, strict=True)):
            axis = axes[2 * (k // columns) + side_row, k % columns]
            if thumbnail is None:
                continue
            axis.imshow(next(pictures), interpolation="nearest")
            axis.set_title(f"{side} {seen['date']}\n{seen[side]['valid']:.0%} valid", fontsize=8)
    bands = images.dataset.bands
    names = "/".join(bands[b] for b in false_colours.shown(bands))
    figure.suptitle(f"{found['name']}  ({names}); magenta: not valid", fontsize=10)
    with whole.replacing(path) as scratch:
        figure.savefig(scratch, format="png", dpi=120)


def _thumbnail(images: Catalog, side: str, date: str) -> tuple[np.ndarray, np.ndarray]:
    """A small picture: digital numbers (h, w, 1 or 3), and where they are valid."""
    step = -(-max(images.grid.shape) // _SHEET_PIXELS)
    image = images.overview(side, datetime.date.fromisoformat(date), step)
    bands = list(false_colours.shown(images.dataset.bands))
    return image.dn[..., bands].astype(np.float32), image.valid


def _stretched(thumbnails: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    """Pictures in 0–1 with one stretch for all dates of a side, the 2nd to 98th percentile."""
    valid = [dn[good] for dn, good in thumbnails if good.any()]
    if not valid:
        return [np.zeros((*good.shape, 3)) for _, good in thumbnails]
    low, high = np.percentile(np.concatenate(valid), [2, 98], axis=0)
    pictures = []
    for dn, good in thumbnails:
        picture = np.clip((dn - low) / np.maximum(high - low, 1e-9), 0, 1)
        picture = np.repeat(picture, 3, -1) if picture.shape[-1] == 1 else picture
        picture[~good] = (1.0, 0.0, 1.0)
        pictures.append(picture)
    return pictures
