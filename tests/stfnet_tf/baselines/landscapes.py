"""A small landscape of fields with known truth, as the methods' tests see it."""

import dataclasses
import datetime

import numpy as np
from scipy import ndimage

from stfnet_tf.baselines import base

RATIO = 8
DATES = (datetime.date(2001, 5, 24), datetime.date(2001, 7, 11), datetime.date(2001, 8, 12))


def fields(size=64, seed=0):
    """Class of each pixel, 0–2: random patches of about a coarse pixel."""
    rng = np.random.default_rng(seed)
    return np.argmax(ndimage.gaussian_filter(rng.standard_normal((3, size, size)), (0, 4, 4)), 0)


def clouds(rng, size=64):
    """Where random clouds of a few coarse pixels hide the land."""
    return ndimage.gaussian_filter(rng.standard_normal((size, size)), 4) > 0.08


def coarse(fine):
    """What the coarse sensor sees of a fine image, on the fine grid."""
    return ndimage.gaussian_filter(fine, (RATIO / 2, RATIO / 2, 0)).astype(np.float32)


def scene(size=64, seed=0, one_sided=False):
    """Inputs and the true F2: every class has its own course over the three dates."""
    classes = fields(size, seed)
    courses = np.array(
        [
            [[0.05, 0.20], [0.06, 0.32], [0.07, 0.38]],
            [[0.10, 0.25], [0.08, 0.27], [0.07, 0.28]],
            [[0.15, 0.35], [0.12, 0.27], [0.11, 0.22]],
        ]
    )
    texture = np.random.default_rng(seed + 1).normal(0, 0.004, (size, size, 2))
    f1, f2, f3 = ((courses[:, date][classes] + texture).astype(np.float32) for date in range(3))
    all_valid = np.ones((size, size), bool)
    later = {}
    if not one_sided:
        later = {"f3": f3, "c3": coarse(f3), "valid_f3": all_valid, "valid_c3": all_valid}
    inputs = base.Inputs(
        f1=f1, c1=coarse(f1), c2=coarse(f2), valid_f1=all_valid, valid_c1=all_valid,
        valid_c2=all_valid, dates=(*DATES[:2], None if one_sided else DATES[2]), ratio=RATIO,
        **later,
    )  # fmt: skip
    return inputs, f2


def unchanging(size=40):
    """Inputs in which nothing happens."""
    inputs, _ = scene(size)
    return dataclasses.replace(inputs, f3=inputs.f1, c3=inputs.c1, c2=inputs.c1)
