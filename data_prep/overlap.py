"""Where the images of a triplet are valid together: why a date cannot be fused, or taught."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep import records, tiles
from data_prep.catalog import Catalog
from data_prep.dataset import Date
from data_prep.triplets import Triplet

FUSING = (("f1", "c1", "c2"), ("f3", "c3", "c2"))
"""What must be valid together to predict F2 from the earlier side, and from the later one."""

_WINDOW = 512


def describe(images: Catalog, triplet: Triplet, together: Sequence[Sequence[str]]) -> str:
    """Why no pixel is valid in all of some images, for a sentence.

    Args:
        images: The images.
        triplet: The dates.
        together: Groups of images, such as `FUSING`; those with a missing image are passed over.

    Returns:
        The images without a valid pixel; where each has some, the valid share of each and of each
        group's images together.
    """
    groups = [group for group in together if all(_there(images, triplet, k) for k in group)]
    names = list(dict.fromkeys(name for group in groups for name in group))
    pixels, shared = dict.fromkeys(names, 0), [0] * len(groups)
    for window in tiles.windows(*images.grid.shape, _WINDOW):
        valid = {k: images.read(records.side_of(k), _date(triplet, k), window).valid for k in names}
        for name in names:
            pixels[name] += int(valid[name].sum())
        for k, group in enumerate(groups):
            shared[k] += int(np.logical_and.reduce([valid[name] for name in group]).sum())
    shown = {
        k: f"{k.upper()} ({Path(images.file(records.side_of(k), _date(triplet, k))).name})"
        for k in names
    }
    if empty := [shown[name] for name in names if not pixels[name]]:
        return f"{' and '.join(empty)} {'has' if len(empty) == 1 else 'have'} no valid pixel"
    size = images.grid.height * images.grid.width
    shares = [f"{100 * pixels[k] / size:.3g} % of {shown[k]}" for k in names]
    shares += [
        f"{100 * count / size:.3g} % of {', '.join(k.upper() for k in group)} together"
        for count, group in zip(shared, groups, strict=True)
    ]
    return f"valid are {', '.join(shares)}"


def _date(triplet: Triplet, name: str) -> Date:
    return getattr(triplet, f"t{name[1]}")


def _there(images: Catalog, triplet: Triplet, name: str) -> bool:
    date = _date(triplet, name)
    return date is not None and images.has(records.side_of(name), date)
