"""Whether both images of a date state like reflectance: a wrong scale shows before it is used."""

import math
from collections.abc import Iterable, Sequence

from absl import logging

from data_prep import errors
from data_prep.catalog import Catalog
from data_prep.dataset import Date
from data_prep.grids import Window

# Sensors, air and the land outside a window differ by less, units of reflectance by more.
_FACTOR = 5.0
# Pixels a side, in the middle of a scene.
_SIDE = 512


def doubt(date: Date | str, fine: Sequence[float], coarse: Sequence[float]) -> str:
    """A sentence about a fine and a coarse image that are not alike, "" about others.

    Args:
        date: Of both.
        fine: Mean reflectance of each band; empty where no pixel is valid.
        coarse: Likewise.
    """
    bright, dark = (sum(map(abs, means)) / max(len(means), 1) for means in (fine, coarse))
    if not (bright and dark) or abs(math.log(bright / dark)) < math.log(_FACTOR):
        return ""
    return (
        f"{date}: the mean reflectance of the fine image is {bright:.2g}, that of the coarse one "
        f"{dark:.2g}; is one of their scales wrong?"
    )


def check(images: Catalog, dates: Iterable[Date]) -> None:
    """Warns of the first of some dates whose images are not alike in the middle of the scene."""
    height, width = (min(n, _SIDE) for n in images.grid.shape)
    row, col = ((n - m) // 2 for n, m in zip(images.grid.shape, (height, width), strict=True))
    for date in dates:
        if not all(images.has(side, date) for side in ("fine", "coarse")):
            continue
        try:
            sentence = doubt(date, *_means(images, date, Window(row, col, height, width)))
        except errors.InputError:
            continue  # whoever needs that image says so
        if sentence:
            logging.warning("%s", sentence)
            return


def _means(images: Catalog, date: Date, window: Window) -> list[list[float]]:
    """Mean reflectance of each band over the pixels that are valid in both images."""
    sides = ("fine", "coarse")
    read = [images.read(side, date, window) for side in sides]
    both = read[0].valid & read[1].valid
    if not both.any():
        return [[], []]
    return [
        images.encoding(side).reflectance(image.dn[both].mean(0, dtype=float)).tolist()
        for side, image in zip(sides, read, strict=True)
    ]
