"""Small shards for tests, written with the project's own record and a random landscape."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from data_prep import records

DATES = ("2001-01-01", "2001-02-01", "2001-03-01")


def tile(rng: np.random.Generator, height: int, width: int, bands: int, index: int):
    """A tile whose coarse change is its fine change plus noise; 5 % of each image is invalid."""
    base = rng.integers(200, 4000, (height, width, bands))
    steps = [
        np.kron(rng.normal(0, 200, (height // 8 + 1, width // 8 + 1, bands)), np.ones((8, 8, 1)))
        for _ in range(2)
    ]
    c12, c23 = (step[:height, :width] for step in steps)
    level = np.broadcast_to(base.mean((0, 1)), base.shape)
    images = {
        **{"f1": base, "f2": base + c12, "f3": base + c12 + c23},
        **{"c1": level, "c2": level + c12 + rng.normal(0, 30, c12.shape)},
        "c3": level + c12 + c23,
    }
    images = {k: v.astype(np.int16) for k, v in images.items()}
    valid = {k: rng.random((height, width)) > 0.05 for k in images}
    return records.Tile(images, valid, DATES, (index, 0), "toy")


def write(
    folder: Path,
    splits: Mapping[str, tuple[int, int]],
    *,
    size: int = 32,
    bands: tuple[str, ...] = ("red", "nir"),
) -> records.DatasetInfo:
    """Writes shards and their description.

    Args:
        folder: Where.
        splits: For each split, how many tiles in how many files. Every third tile is smaller,
            as at the border of a scene.
        size: Height and width of a whole tile.
        bands: Band names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    described = {}
    for split, (count, files) in splits.items():
        rng = np.random.default_rng([len(split), count])
        shards = []
        for file in range(files):
            name = f"{split}-{file:05d}-of-{files:05d}.tfrecord"
            tiles = [
                tile(rng, *((size, size) if k % 3 else (size // 2, size - 3)), len(bands), k)
                for k in range(file, count, files)
            ]
            with tf.io.TFRecordWriter(str(folder / name)) as writer:
                for each in tiles:
                    writer.write(records.encode(each))
            content = (folder / name).read_bytes()
            shards.append(
                records.Shard(name, len(tiles), len(content), hashlib.sha256(content).hexdigest())
            )
        described[split] = records.Split(count, 0, (DATES,), tuple(shards))
    flat = {"mean": [0.2] * len(bands), "std": [0.1] * len(bands)}
    info = records.DatasetInfo(
        name="toy",
        bands=bands,
        fine=records.Encoding(),
        coarse=records.Encoding(),
        ratio=8.0,
        psf_fwhm=1.0,
        tile_size=size,
        supervision="triplet",
        splits=described,
        statistics={"fine": flat, "coarse": flat},
    )
    info.save(folder)
    return info
