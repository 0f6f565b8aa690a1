"""Clouds in coarse images that no quality layer names.

Coarse images are often handed on without their quality layers, and the layers miss small clouds.
What is left of one is taken for a change of the land, and smeared over the fine pixels around it.

A date is compared with the nearest dates before and after it that have a fine image as well, and
so were clear at that hour. With c₁, c₂ and c₃ the coarse images, a cloud is where

    b = c₂ − max(c₁, c₃)

is far greater than elsewhere in the scene: in units of its robust standard deviation about its
median, more than 1 in every band and more than `CUT` in root mean square over the bands. What
greens, ripens, burns or is flooded darkens in some band, and what stays so until t₃ is in c₃. Snow
that lies for days only is taken for a cloud; a haze over most of the scene is not found.
"""

import math
from collections.abc import Collection, Sequence
from concurrent.futures import Executor

import numpy as np
from absl import logging

from data_prep import errors, executors, quality, registration
from data_prep.catalog import Catalog, Image
from data_prep.dataset import Date

CUT = 5.0
# A difference of coarse images below this reflectance is noise.
_NOISE = 1e-3
# Fewer independent coarse pixels do not tell what is usual.
_LEAST_PIXELS = 30.0
# Images are looked at on so many pixels a coarse pixel along each axis, the fewer where the more
# would be too many: they hardly find more, but take their time.
_CELLS = (4, 2)
_MANY = 700**2
# And of larger scenes on no more than these, so that memory does not grow with them.
_MOST = 1500**2


def screened(
    images: Catalog, executor: Executor | None = None, dates: Collection[Date] | None = None
) -> Catalog:
    """The catalog as its description's `residual_clouds` wants it, and a log of what was found.

    Args:
        images: The images, moved where they are to be moved.
        executor: Where the work is done; here and now where None.
        dates: Those that are to be looked at; all where None.

    Returns:
        With "reject" a catalog in which such clouds are not valid; otherwise the one given.
    """
    if images.dataset.coarse.residual_clouds == "keep":
        return images
    found = find(images, executor, dates)
    for date, mask in found.items():
        logging.info(
            "%s: %.2f %% of the coarse image left out as residual clouds.",
            *(date, 100 * mask.share),
        )
    return images.without(found)


def find(
    images: Catalog, executor: Executor | None = None, dates: Collection[Date] | None = None
) -> dict[Date, quality.CellMask]:
    """The clouds of every coarse image between two dates with both images.

    Fine images are not looked at.

    Args:
        images: The images.
        executor: Where the work is done; here and now where None.
        dates: Those that are to be looked at; all where None.

    Returns:
        Masks, grown by a coarse pixel, of the dates on which a cloud was found.

    Raises:
        InputError: A process was killed. An image that cannot be read is passed over.
    """
    if len(images.dataset.bands) == 1:
        return {}
    between = _between(images, images.coarse_dates if dates is None else dates)
    if executor is None or len(between) == 1:  # other processes would take longer to start
        executor = executors.Here()
    found = executors.in_order(
        executor,
        _find_between,
        [(images.of([*outer, *inner]), *outer, inner) for outer, inner in between.items()],
        "looking for residual clouds",
        f"{images.dataset.path}: expected every process to look for its clouds, found one killed "
        f"(out of memory?); fewer --workers need less.",
    )
    return {date: mask for some in found for date, mask in sorted(some.items())}


def _between(images: Catalog, dates: Collection[Date]) -> dict[tuple[Date, Date], list[Date]]:
    """The dates to be looked at, by the nearest ones with both images on either side.

    Dates to be predicted do not count as such, whether their fine image is there or not.
    """
    pairs = [date for date in registration.known_dates(images) if images.has("coarse", date)]
    between: dict[tuple[Date, Date], list[Date]] = {}
    for date in sorted(dates):
        before, after = [k for k in pairs if k < date], [k for k in pairs if k > date]
        if before and after:
            between.setdefault((before[-1], after[0]), []).append(date)
    return between


def _find_between(
    images: Catalog, before: Date, after: Date, dates: Sequence[Date]
) -> dict[Date, quality.CellMask]:
    step = _step(math.prod(images.grid.shape), images.ratio)
    first, last = (_read(images, date, step) for date in (before, after))
    found = {}
    for date in dates:
        middle = _read(images, date, step)
        if first is None or middle is None or last is None:
            continue
        bad = _clouds(first, middle, last, images.encoding("coarse").scale, images.ratio / step)
        if bad.any():
            found[date] = quality.CellMask(quality.grown(bad, round(images.ratio / step)), step)
    return found


def _step(pixels: int, ratio: float) -> int:
    """Height and width, in fine pixels, of what is looked at as one, in a scene of some pixels."""
    steps = [max(round(ratio / cells), 1) for cells in _CELLS]
    enough = next((step for step in steps if pixels <= _MANY * step**2), steps[-1])
    return max(enough, math.ceil(math.sqrt(pixels / _MOST)))


def _read(images: Catalog, date: Date, step: int) -> Image | None:
    try:
        return images.overview("coarse", date, step)
    except errors.InputError:
        return None  # whoever needs that image says so


def _clouds(first: Image, middle: Image, last: Image, scale: float, ratio: float) -> np.ndarray:
    """Where the middle image shows a cloud, (H, W) bool; nowhere where that cannot be told.

    Args:
        first: The coarse image of the date before.
        middle: That which is looked at.
        last: That of the date after.
        scale: Reflectance per digital number.
        ratio: Size of a coarse pixel in pixels of these images.
    """
    known = first.valid & middle.valid & last.valid
    clouds = np.zeros(known.shape, bool)
    if known.sum() < _LEAST_PIXELS * ratio**2:
        return clouds
    c1, c2, c3 = (image.dn[known].astype(np.float32) for image in (first, middle, last))
    brighter = (c2 - np.maximum(c1, c3)) * scale
    usual = np.median(brighter, 0)
    deviation = np.maximum(1.4826 * np.median(np.abs(brighter - usual), 0), _NOISE)
    # Where the whole scene has darkened, what has not is no cloud.
    excess = (brighter - np.maximum(usual, 0)) / deviation
    clouds[known] = (excess > 1).all(-1) & (np.sqrt(np.mean(excess**2, -1)) > CUT)
    return clouds
