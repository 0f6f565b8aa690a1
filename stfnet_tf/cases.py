"""Dates to be predicted, with all that is known of them: what every method is given and judged by.

images = cases.open_catalog("configs/boreal2001.toml")
for case in cases.read_all(images, cases.choose(images, "test")):
    prediction = method.predict(case.inputs)
"""

import collections
import dataclasses
import datetime
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep import catalog, corrections, dataset, dates, errors, memory, records, triplets
from stfnet_tf.baselines import base


@dataclasses.dataclass(frozen=True)
class Case:
    """One date to be predicted.

    Attributes:
        label: The date, with its neighbours where another case has the same date.
        triplet: The dates.
        inputs: What is known.
        truth: The true F2, reflectance, [height, width, bands].
        valid: Where it is known, [height, width] of bool.
    """

    label: str
    triplet: triplets.Triplet
    inputs: base.Inputs
    truth: np.ndarray
    valid: np.ndarray

    @property
    def stem(self) -> str:
        """The label as the name of a file."""
        return self.label.replace("/", "_")


def open_catalog(
    description: str | Path,
    data_dir: str | None = None,
    coregister: str | None = None,
    residual_clouds: str | None = None,
) -> catalog.Catalog:
    """The images of a described data set, corrected as it says.

    Args:
        description: The .toml.
        data_dir: Replaces the description's root.
        coregister: "off" or "apply" replaces what the description says.
        residual_clouds: "keep" or "reject" likewise.
    """
    described = dataset.load(description, data_dir).correcting(coregister, residual_clouds)
    return corrections.corrected(catalog.Catalog(described))


def choose(
    images: catalog.Catalog, split: str, named: Sequence[str] = ()
) -> list[triplets.Triplet]:
    """The triplets of a split whose F2 is known.

    Args:
        images: The data set.
        split: "train", "val" or "test".
        named: Dates of the F2 to keep, of any split, or a triplet written t1/t2/t3 (t1/t2 for
            one-sided); all of the split's where empty.

    Raises:
        InputError: No triplet is left, or a date has no image.
    """
    formed = triplets.of(images)
    chosen = _named(images, formed, named) if named else formed[split]
    known = [t for t in chosen if images.has("fine", t.t2)]
    if not known:
        found = ", ".join(map(str, chosen)) or "no triplet at all"
        raise errors.InputError(
            f"{images.dataset.path}: expected at least one '{split}' triplet whose middle date has "
            f"a known fine image to score against, found {found}."
        )
    return sorted(set(known), key=lambda t: (t.t2, t.iso))


def _named(images: catalog.Catalog, formed: dict, named: Sequence[str]) -> list[triplets.Triplet]:
    every = [t for split in ("test", "val", "train") for t in formed[split]]
    chosen = []
    for text in named:
        parsed = [dates.parse("dates", part) for part in text.split("/")]
        if len(parsed) > 1:
            chosen.append(_written(images, parsed, text))
            continue
        found = [t for t in every if t.t2 == parsed[0]]
        if not found:
            there = ", ".join(sorted({t.t2.isoformat() for t in every})) or "none"
            raise errors.InputError(
                f"--dates: expected dates in the middle of a triplet of {images.dataset.path} "
                f"({there}), found '{text}'; t1/t2/t3 names any triplet."
            )
        chosen.append(found[0])
    return chosen


def _written(images: catalog.Catalog, parsed: list, text: str) -> triplets.Triplet:
    triplet = triplets.Triplet(parsed[0], parsed[1], parsed[2] if len(parsed) == 3 else None)
    if len(parsed) > 3 or sorted(set(parsed)) != parsed:
        raise errors.InputError(f"--dates: expected t1/t2/t3 in order of time, found '{text}'.")
    for date in triplet.dates:
        sides = ("coarse",) if date == triplet.t2 else ("fine", "coarse")
        missing = [side for side in sides if not images.has(side, date)]
        if missing:
            raise errors.InputError(
                f"--dates: expected a {missing[0]} image of {date} for '{text}', found none in "
                f"{images.dataset.path}."
            )
    return triplet


def read(images: catalog.Catalog, triplet: triplets.Triplet, label: str, seed: int = 0) -> Case:
    """Reads one case, the whole scene of it."""
    known = {}
    for name in ("f1", "c1", "c2", *(("f3", "c3") if triplet.t3 else ())):
        known[name], known[f"valid_{name}"] = _reflectance(
            images, records.side_of(name), getattr(triplet, f"t{name[1]}")
        )
    inputs = base.Inputs(
        dates=(triplet.t1, triplet.t2, triplet.t3),
        ratio=images.ratio,
        psf_fwhm=images.dataset.coarse.psf_fwhm,
        seed=seed,
        **known,
    )
    truth, valid = _reflectance(images, "fine", triplet.t2)
    return Case(label, triplet, inputs, truth, valid)


def read_all(
    images: catalog.Catalog, chosen: Sequence[triplets.Triplet], seed: int = 0
) -> list[Case]:
    """Reads all cases.

    Raises:
        InputError: They do not fit in memory, or an image cannot be read.
    """
    height, width = images.grid.shape
    # Six images and their masks; methods need as much again, one case at a time.
    each = height * width * (4 * len(images.dataset.bands) + 1) * 6
    memory.require(
        each * (len(chosen) + 1),
        f"{images.dataset.path}, {len(chosen)} dates of {width} × {height} pixels",
        "fewer --dates need less",
    )
    count = collections.Counter(t.t2 for t in chosen)
    return [
        read(images, t, t.t2.isoformat() if count[t.t2] == 1 else "/".join(t.iso), seed)
        for t in chosen
    ]


def _reflectance(
    images: catalog.Catalog, side: str, date: datetime.date
) -> tuple[np.ndarray, np.ndarray]:
    """A whole image, float32 and 0 where invalid, and its mask."""
    image = images.read(side, date)
    reflectance = images.encoding(side).reflectance(image.dn).astype(np.float32)
    valid = image.valid & np.isfinite(reflectance).all(axis=-1)
    return np.where(valid[..., None], reflectance, np.float32(0)), valid
