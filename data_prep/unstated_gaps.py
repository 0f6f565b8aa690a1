"""Gaps that an image does not state: pixels outside the swath or under clouds that hold zeros.

Taken for land, they are black, or darker than black where digital numbers have an offset, and
teach and blur into all that lies around them.
"""

from collections.abc import Sequence

from absl import logging

from data_prep import errors
from data_prep.catalog import Catalog
from data_prep.dataset import Date

# Pixels along the longer side of what is looked at.
_PIXELS = 128
# How many dates are looked at: a sensor's gaps are written alike on all of them.
_DATES = 2
# Land, water and shadow included, is not exactly 0 in every band of so large a share of a scene.
_LEAST = 0.02


def share(images: Catalog, side: str, date: Date) -> float:
    """Share of an image's pixels that count as valid and are 0 in every band.

    Raises:
        InputError: It cannot be read.
    """
    image = images.overview(side, date, -(-max(images.grid.shape) // _PIXELS))
    return float((image.valid & (image.dn == 0).all(-1)).mean())


def doubt(side: str, date: Date | str, zeros: float) -> str:
    """A sentence about an image of which such a share seems to be gaps, "" about others."""
    if zeros < _LEAST:
        return ""
    return (
        f"{date}: {zeros:.0%} of the {side} image is 0 in every band, and nothing states that this "
        f"means a gap; if it does, {side}.fill = 0 leaves such pixels out (--{side}_fill=0 where "
        f"flags name the rasters)."
    )


def check(images: Catalog, dates: Sequence[Date]) -> None:
    """Warns of the first such image of each side whose files state no value for gaps.

    Args:
        images: The data set.
        dates: Known dates, of which the first are looked at.
    """
    for side in ("fine", "coarse"):
        if images.encoding(side).fill is not None:
            continue
        for date in dates[:_DATES]:
            try:
                sentence = doubt(side, date, share(images, side, date))
            except errors.InputError:
                continue  # whoever needs that image says so
            if sentence:
                logging.warning("%s", sentence)
                break
