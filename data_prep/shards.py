"""One shard: which tiles it holds, writing it, and what it contributes to the statistics.

Shards are independent of each other and of the number of processes: a shard's tiles are fixed
before the first is read, and its bytes follow from them alone.
"""

import dataclasses
import hashlib
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np

from data_prep import errors, rasters, records, sealed, tiles
from data_prep.catalog import Catalog
from data_prep.dataset import Dataset
from data_prep.grids import Window
from data_prep.triplets import Triplet

PROGRESS = ".progress"
"""Folder beside the shards: those that are finished, until all are, and a note for each."""

LARGEST_RECORD = 2**31 - 2**20
"""Bytes of a record's pixels: protobuf counts a message's bytes in 31 bits."""


@dataclasses.dataclass(frozen=True)
class Item:
    """One tile to be written."""

    triplet: Triplet
    window: Window


@dataclasses.dataclass(frozen=True)
class Job:
    """One shard to be written.

    Attributes:
        split: One of `records.SPLITS`.
        file: The shard's name, "train-00000-of-00004.tfrecord".
        items: Its tiles in order.
        min_valid: Least share of pixels valid in all images of a tile that is kept.
        with_f2: Whether F2 is written where it is known.
        run: Fingerprint of all that the bytes depend on.
    """

    split: str
    file: str
    items: tuple[Item, ...]
    min_valid: float
    with_f2: bool
    run: str


def plan(
    dataset: Dataset,
    catalog: Catalog,
    triplets: Mapping[str, Sequence[Triplet]],
    *,
    tile_size: int,
    min_valid: float,
    shard_bytes: int,
    run: str,
) -> list[Job]:
    """Lays all tiles of all splits out into shards of about `shard_bytes`.

    Returns:
        Jobs in the order of splits and shards; none for a split without triplets.

    Raises:
        InputError: A share of the scene's blocks is too small for a single one.
    """
    windows = tiles.windows(*catalog.grid.shape, tile_size)
    jobs = []
    for split in records.SPLITS:
        places = _places(dataset, catalog, windows, tile_size, split)
        if triplets[split] and not places:
            _check_share(dataset, split, _blocks(dataset, catalog, tile_size))
        items = [Item(triplet, window) for triplet in triplets[split] for window in places]
        total = sum(record_bytes(catalog, item.window) for item in items)
        count = min(len(items), -(-total // shard_bytes))
        for k, part in enumerate(np.array_split(np.arange(len(items)), count) if count else []):
            jobs.append(
                Job(
                    split,
                    f"{split}-{k:05d}-of-{count:05d}.tfrecord",
                    tuple(items[i] for i in part),
                    min_valid,
                    # In `pair` mode F2 is what is to be found; it only scores.
                    dataset.supervision == "triplet" or split != "train",
                    run,
                )
            )
    return jobs


def record_bytes(catalog: Catalog, window: Window) -> int:
    """Raw bytes of a record: three images a side and the validity bits."""
    sizes = [np.dtype(catalog.encoding(side).dtype).itemsize for side in ("fine", "coarse")]
    return window.height * window.width * (3 * sum(sizes) * len(catalog.dataset.bands) + 1)


def _places(
    dataset: Dataset, catalog: Catalog, windows: list[Window], tile_size: int, split: str
) -> list[Window]:
    """The tiles that serve a split: all of them, unless the split is by places."""
    if dataset.split_by != "blocks":
        return windows
    size, rows, cols = _blocks(dataset, catalog, tile_size)
    validation, test = dataset.shares
    order = np.random.default_rng(0).permutation(rows * cols)

    def serves(window: Window) -> str:
        place = order[window.row // size * cols + window.col // size] / (rows * cols)
        if place < test:
            return "test"
        return "val" if place < test + validation else "train"

    return [window for window in windows if serves(window) == split]


def _blocks(dataset: Dataset, catalog: Catalog, tile_size: int) -> tuple[int, int, int]:
    """A block's size and how many there are down and across.

    A block is a whole number of tiles, so that no tile lies in two of them.
    """
    size = -(-dataset.block_size // tile_size) * tile_size
    rows, cols = (-(-n // size) for n in catalog.grid.shape)
    return size, rows, cols


def _check_share(dataset: Dataset, split: str, blocks: tuple[int, int, int]) -> None:
    """Refuses a split that is to have a share of the blocks and got none."""
    validation, test = dataset.shares
    name = {"train": "train", "val": "validation", "test": "test"}[split]
    share = {"train": 1 - validation - test, "val": validation, "test": test}[split]
    if share > 0:
        size, rows, cols = blocks
        raise errors.InputError(
            f"{dataset.path}: split: expected blocks enough for a {name} share of {share:g}, found "
            f"{rows} × {cols} blocks of {size} pixels, none of which it gets; a smaller "
            f"split.block_size or a larger share gives it one."
        )


@dataclasses.dataclass
class Moments:
    """Sums over the valid pixels of one side, per band, in digital numbers."""

    count: int
    total: np.ndarray
    squares: np.ndarray
    least: np.ndarray
    greatest: np.ndarray

    @classmethod
    def empty(cls, bands: int) -> "Moments":
        """Of no pixel."""
        zeros = np.zeros(bands)
        return cls(0, zeros, zeros, np.full(bands, np.inf), np.full(bands, -np.inf))

    @classmethod
    def of(cls, dn: np.ndarray, valid: np.ndarray) -> "Moments":
        """Of the valid pixels of an image (H, W, B)."""
        pixels = dn.reshape(-1, dn.shape[-1]) if valid.all() else dn[valid]
        if not len(pixels):
            return cls.empty(dn.shape[-1])
        # A band in one piece: NumPy is ten times as fast at it as at every sixth number.
        planes = np.ascontiguousarray(pixels.T)
        wide = planes.astype(np.float64)
        return cls(
            len(pixels),
            wide.sum(1),
            np.einsum("ij,ij->i", wide, wide),
            planes.min(1).astype(np.float64),
            planes.max(1).astype(np.float64),
        )

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.count + other.count,
            self.total + other.total,
            self.squares + other.squares,
            np.minimum(self.least, other.least),
            np.maximum(self.greatest, other.greatest),
        )

    def statistics(self, encoding: records.Encoding) -> dict[str, Any]:
        """Mean, std, min and max in reflectance, a number a band, and the count of pixels."""
        if not self.count:
            return {"mean": [], "std": [], "min": [], "max": [], "count": 0}
        mean = self.total / self.count
        variance = np.maximum(self.squares / self.count - mean**2, 0)
        scale, offset = encoding.scale, encoding.offset
        return {
            "mean": (mean * scale + offset).tolist(),
            "std": (np.sqrt(variance) * scale).tolist(),
            "min": (self.least * scale + offset).tolist(),
            "max": (self.greatest * scale + offset).tolist(),
            "count": self.count,
        }

    def to_json(self) -> dict[str, Any]:
        """As JSON's types; floats keep every digit."""
        return {
            "count": self.count,
            **{
                k: [repr(float(v)) for v in getattr(self, k)]
                for k in ("total", "squares", "least", "greatest")
            },
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "Moments":
        """`to_json`'s inverse."""
        arrays = (
            np.array([float(v) for v in raw[k]]) for k in ("total", "squares", "least", "greatest")
        )
        return cls(raw["count"], *arrays)


@dataclasses.dataclass(frozen=True)
class Report:
    """What a finished shard is."""

    shard: records.Shard
    split: str
    skipped: int
    moments: Mapping[str, Moments]
    run: str

    def save(self, path: Path) -> None:
        """Leaves the note that says that the shard is whole."""
        raw = {
            "shard": dataclasses.asdict(self.shard),
            "split": self.split,
            "skipped": self.skipped,
            "moments": {k: v.to_json() for k, v in self.moments.items()},
            "run": self.run,
        }
        sealed.write(path, raw)

    @classmethod
    def load(cls, path: Path) -> "Report":
        """Reads a note; OSError, ValueError or KeyError where there is none or half of one."""
        raw = sealed.read(path)
        return cls(
            records.Shard(**raw["shard"]),
            raw["split"],
            raw["skipped"],
            {k: Moments.from_json(v) for k, v in raw["moments"].items()},
            raw["run"],
        )


def finished(job: Job, folder: Path) -> Report | None:
    """The report of a shard that an earlier run wrote whole, None where it is to be written."""
    try:
        report = Report.load(folder / PROGRESS / f"{job.file}.json")
        if report.run != job.run:
            return None
        # Where it was put last is where it is; what lies below is of an earlier run.
        staged = folder / PROGRESS / job.file
        path = staged if staged.exists() else folder / job.file
        return report if sealed.checksum(path) == report.shard.sha256 else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def publish(jobs: Sequence[Job], folder: Path) -> None:
    """Gives the finished shards their names, and removes those of an earlier run."""
    wanted = {job.file for job in jobs}
    for split in records.SPLITS:
        for path in folder.glob(f"{split}-[0-9]*-of-[0-9]*.tfrecord"):
            if path.name not in wanted:
                path.unlink()
    for job in jobs:
        staged = folder / PROGRESS / job.file
        if staged.exists():
            staged.replace(folder / job.file)


_resident: dict[str, Catalog] = {}


def loaded() -> None:
    """Nothing: a process that has called it has loaded what `write` needs."""


def write(job: Job, catalog: Catalog, folder: str, cache_bytes: int) -> Report:
    """Writes one shard; runs in a worker process.

    Args:
        job: The shard.
        catalog: The images.
        folder: Where the shard goes.
        cache_bytes: GDAL's share of the memory.

    Raises:
        InputError: A raster that cannot be read, or a disk that cannot be written.
    """
    rasters.set_cache(cache_bytes)
    images = _resident.get(job.run)  # so that the next shard of a run finds warped blocks again
    if images is None:
        _resident.clear()
        images = _resident.setdefault(job.run, catalog)
    target = Path(folder) / PROGRESS / job.file
    scratch = target.with_name(f"{job.file}.tmp")
    try:
        with scratch.open("wb") as file:
            report = _write(job, images, file)
        scratch.replace(target)
        report.save(target.with_name(f"{job.file}.json"))
    except OSError as error:
        raise errors.InputError(
            f"{Path(folder) / job.file}: could not be written: {error.strerror}."
        ) from None
    finally:
        scratch.unlink(missing_ok=True)
    return report


def _write(job: Job, catalog: Catalog, file: BinaryIO) -> Report:
    checksum = hashlib.sha256()
    moments = {k: Moments.empty(len(catalog.dataset.bands)) for k in ("fine", "coarse")}
    written = size = 0
    for item in job.items:
        tile = read_tile(catalog, item, job.min_valid, job.with_f2)
        if tile is None:
            continue
        for name in tile.images:
            moments[records.side_of(name)] += Moments.of(tile.images[name], tile.valid[name])
        for chunk in _framed(records.encode(tile)):
            checksum.update(chunk)
            size += file.write(chunk)
        written += 1
    shard = records.Shard(job.file, written, size, checksum.hexdigest())
    return Report(shard, job.split, len(job.items) - written, moments, job.run)


def read_tile(
    catalog: Catalog, item: Item, min_valid: float, with_f2: bool = True
) -> records.Tile | None:
    """Reads the images of one tile.

    Returns:
        The tile, or None where fewer than `min_valid` of its pixels are valid in all images.
        F2 is left out where it is unknown or not wanted, F3 and C3 where there is no t3.
    """
    images, valid = {}, {}
    joint = np.ones(item.window.shape, bool)
    for name in records.IMAGES:
        date = getattr(item.triplet, f"t{name[1]}")
        side = records.side_of(name)
        if date is None or (name == "f2" and not (with_f2 and catalog.has(side, date))):
            continue
        image = catalog.read(side, date, item.window)
        images[name], valid[name] = image.dn, image.valid
        joint &= image.valid
        if joint.mean() < min_valid or not joint.any():
            return None
    return records.Tile(
        images,
        valid,
        item.triplet.stated,
        (item.window.row, item.window.col),
        catalog.dataset.scene,
    )


def _framed(record: bytes) -> list[bytes]:
    """A record as TFRecord files hold it: length, data, and a masked CRC-32C of each."""
    length = struct.pack("<Q", len(record))
    return [length, _masked_crc(length), record, _masked_crc(record)]


def _masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", (crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF)
