"""How a program ended, and whether that is well."""

import csv
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import grids, rasters, records, sealed
from faults import raster_damage, samples
from faults.processes import End

REFUSED = "refused with a sentence"
RECOVERED = "recovered"
SAME = "same result"
MASKED = "left out as invalid"
OTHER = "read as what it says"
WELL = (REFUSED, RECOVERED, SAME, MASKED, OTHER)
TRACEBACK = "traceback without a sentence"
WRONG = "wrong output with exit code 0"
HALF = "half-written file under its final name"
HANG = "hang beyond 60 s"
LOST = "lost earlier result"
KILLED = "killed by itself"
FORBIDDEN = (TRACEBACK, WRONG, HALF, HANG, LOST, KILLED)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """How one case ended.

    Attributes:
        kind: One of `WELL` or `FORBIDDEN`.
        detail: What there is to be said of it.
    """

    kind: str
    detail: str = ""


def outcome(end: End) -> Verdict | None:
    """What the end alone tells; None where the results decide."""
    if end.code is None:
        return Verdict(HANG)
    if "Traceback (most recent call last)" in end.err:
        return Verdict(TRACEBACK, end.err.strip().splitlines()[-1])
    if end.code < 0:
        return Verdict(KILLED, f"signal {-end.code}; {end.err[-300:]}")
    if end.code:
        if not end.sentence:
            return Verdict(TRACEBACK, f"exit code {end.code}: {end.err[-300:]}")
        if end.err.count("\nError: ") + end.err.startswith("Error: ") > 1:
            return Verdict(TRACEBACK, f"more than one sentence: {end.err[-300:]}")
        return Verdict(REFUSED, end.sentence)
    return None


def results(work: Path) -> dict[str, str]:
    """All final files below a folder by what they say, whatever else is stored with it."""
    found = {}
    for path in sorted(work.rglob("*")):
        name = path.relative_to(work).as_posix()
        hidden = any(part.startswith(".") for part in path.relative_to(work).parts)
        if path.is_file() and not hidden and (said := _said(path, name)) is not None:
            found[name] = said
    return found


def _said(path: Path, name: str) -> str | None:
    """What a result says, as text; None for what is no result, "?" for what cannot be read."""
    try:
        content = _content(path, name)
    except Exception as error:
        return f"? {type(error).__name__}: {str(error)[:200]}"
    if content is None:
        return None
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _content(path: Path, name: str) -> Any:
    first = name.split("/")[0]
    if first in samples.KINDS or "tensorboard" in name or "/last/" in name:
        return None
    if path.suffix == ".png" or name == "train.flags" or path.name == "metrics.csv":
        return None
    if path.suffix == ".tif":
        stated = rasters.info(str(path))
        return [str(stated.grid), stated.nodata, stated.dtype, _digest(rasters.read(str(path)))]
    if path.suffix == ".h5":
        import h5py

        arrays: dict[str, str] = {}
        with h5py.File(path) as file:
            file.visititems(
                lambda key, item: (
                    arrays.update({key: _digest(item[()])})
                    if isinstance(item, h5py.Dataset)
                    else None
                )
            )
        return arrays
    if path.name == records.INFO_FILE and first.startswith("shards"):
        info = dataclasses.asdict(records.DatasetInfo.load(path.parent))
        whole = [
            sealed.checksum(path.parent / shard["file"]) == shard["sha256"]
            for split in info["splits"].values()
            for shard in split["shards"]
        ]
        if not all(whole):
            raise ValueError("a shard is not the one that is described")
        return [info["splits"], info["statistics"], info["ratio"]]
    if path.name in ("config.json", "model.json", records.INFO_FILE):
        content = sealed.read(path)
        return [content.get("model"), content.get("bands"), content.get("shards")]
    if path.name == "model_card.json":
        return {k: v for k, v in sealed.read(path).items() if k not in ("created", "signatures")}
    if path.name == "metrics.json":
        return json.loads(path.read_text())["scores"]
    if path.name == "history.csv":
        with path.open(newline="") as file:
            return list(csv.DictReader(file))
    if path.name.startswith("variables.data"):
        return sealed.checksum(path)
    if path.suffix == ".tfrecord":
        return sealed.checksum(path)
    return None


def _digest(array: np.ndarray) -> str:
    array = np.asarray(array)
    return hashlib.sha256(str((array.dtype, array.shape)).encode() + array.tobytes()).hexdigest()


def inspected(end: End) -> str:
    """What `inspect --json` found."""
    try:
        return json.dumps(json.loads(end.out), sort_keys=True)
    except ValueError:
        return f"? {end.out[:200]}"


def all_masked(work: Path, snapshot: Path, file: str) -> bool:
    """Whether every pixel that was changed counts as invalid now, by the set's description."""
    from data_prep import catalog, dataset

    changed = raster_damage.changed_pixels(work / file, snapshot / file)
    if changed is None or not changed.any():
        return False
    kind, name = file.split("/")
    images = catalog.Catalog(dataset.load(work / kind / "set.toml"))
    side = "fine" if name.startswith("F") else "coarse"
    date = next(k for k in images.fine_dates if k.isoformat() in name)
    window = grids.Window(0, 0, *changed.shape)
    return not images.read_native(side, date, window).valid[changed].any()


def far_from_damage(work: Path, snapshot: Path, file: str, folder: str) -> str:
    """Whether fused rasters are as they were, but near the pixels that were changed; "" if so."""
    changed = raster_damage.changed_pixels(work / file, snapshot / file)
    if changed is None:
        return ""
    factor = samples.SIZE // changed.shape[0]
    changed = np.kron(changed, np.ones((factor, factor), bool)).astype(bool)
    rows, cols = np.nonzero(changed)
    if not rows.size:
        return ""
    near = np.zeros_like(changed)
    reach = samples.REACH
    near[
        max(rows.min() - reach, 0) : rows.max() + reach + 1,
        max(cols.min() - reach, 0) : cols.max() + reach + 1,
    ] = True
    for path in sorted((snapshot / folder).glob("*.tif")):
        before, after = (rasters.read(str(k / folder / path.name)) for k in (snapshot, work))
        if (before != after)[~near].any():
            return f"{path.name} differs far from what was damaged"
        if before.dtype.kind == "f" and np.isinf(after).any():
            return f"{path.name} holds infinite values"
    return ""
