"""Shards to batches: `tf.data` pipelines whose every element is a function of its position.

Training asks for the batches from step s on and gets the very ones that an uninterrupted run
would have seen, without reading what came before. So nothing here keeps state: the order of the
tiles in an epoch, the crops of a tile, their flips and rotations follow from the seed, the epoch
and the tile's place in it.

A tile is read and decoded once for all the crops that are cut from it; cutting and turning one is
a single gather of its pixels, in digital numbers. Crops of `MIXED_TILES` tiles are dealt out in
turn, so that a batch holds crops of many tiles. Tiles follow one another
without a break at the end of an epoch, hence every training batch is full.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from data_prep import errors, records, sealed

# A batch mixes crops of this many tiles; of 256 × 256 × 6 int16 pixels in six images they take
# 150 MB.
MIXED_TILES = 32
READERS = 8
# Bytes that are hashed in a second or two.
_READ_AT_ONCE = 4 * 2**30
# What reading a record that is damaged, gone or forbidden raises.
DAMAGE = (
    tf.errors.DataLossError,
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
    tf.errors.UnknownError,
)
FOREVER = 2**48
# Of a square: turned by 0, 90, 180 or 270 degrees, mirrored or not.
SYMMETRIES = 8


@dataclasses.dataclass(frozen=True)
class Shards:
    """The shards of one split and what is in them.

    Attributes:
        folder: Where they lie.
        info: Their description.
        split: One of `records.SPLITS`.
    """

    folder: Path
    info: records.DatasetInfo
    split: str

    @classmethod
    def load(cls, folder: str | Path, split: str) -> "Shards":
        """Reads the description and checks that the files it lists are those that were written.

        Large sets are checked by their sizes here, and record by record as they are read.

        Raises:
            InputError: The description is missing or damaged, the split is empty, or a file is
                missing or has another size than was written.
        """
        info = records.DatasetInfo.load(folder)
        shards = cls(Path(folder), info, split)
        if not shards.records:
            raise errors.InputError(
                f"{shards.folder / records.INFO_FILE}: expected tiles in the split '{split}', "
                f"found none."
            )
        for shard in info.splits[split].shards:
            path = shards.folder / shard.file
            found = path.stat().st_size if path.is_file() else None
            if found != shard.bytes:
                raise errors.InputError(
                    f"{path}: expected {shard.bytes} bytes, found "
                    f"{'no such file' if found is None else found}; write the shards again with "
                    f"data_prep.write_tfrecords."
                )
        if sum(shard.bytes for shard in info.splits[split].shards) <= _READ_AT_ONCE:
            shards._compare()
        return shards

    def _compare(self) -> None:
        """Compares the files with their checksums: a whole shard may be another set's."""
        for shard in self.info.splits[self.split].shards:
            path = self.folder / shard.file
            try:
                same = sealed.checksum(path) == shard.sha256
            except OSError as error:
                raise errors.InputError(
                    f"{path}: expected a shard, found: {error.strerror}."
                ) from None
            if not same:
                self.name_damage()
                raise errors.InputError(
                    f"{path}: expected the shard that {records.INFO_FILE} describes, found "
                    f"another; write the shards again with data_prep.write_tfrecords."
                )

    @property
    def records(self) -> int:
        """Number of tiles in the split."""
        split = self.info.splits.get(self.split)
        return split.records if split else 0

    def places(self, worker: int = 0, workers: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """File index and number within the file of each record that a worker reads.

        Whole files where there are enough of them, so that a host opens its own files only;
        otherwise every worker sees all records and takes its turn (`turns`).
        """
        files = [(k, shard.records) for k, shard in enumerate(self.info.splits[self.split].shards)]
        if self.by_file(workers):
            files = files[worker::workers]
        file = np.concatenate([np.full(n, k, np.int64) for k, n in files])
        return file, np.concatenate([np.arange(n, dtype=np.int64) for _, n in files])

    def by_file(self, workers: int) -> bool:
        """Whether each of `workers` reads files of its own."""
        return 1 < workers <= sum(s.records > 0 for s in self.info.splits[self.split].shards)

    def name_damage(self) -> None:
        """Finds the first record that cannot be read, after reading has failed somewhere.

        Raises:
            InputError: Names the shard and the record. Returns if all records can be read.
        """
        for shard in self.info.splits[self.split].shards:
            path = self.folder / shard.file
            count = 0
            try:
                for serialized in tf.data.TFRecordDataset(str(path)):
                    records.parse(serialized, self.info)
                    count += 1
            except DAMAGE as error:
                # Without the names of nodes of a graph that nobody sees.
                reason = re.sub(r"\{\{.*?\}\}\s*", "", str(error.message))
                reason = reason.split("\n")[0].split(" [Op:")[0]
                raise errors.InputError(
                    f"{path}, record {count}: damaged ({reason}); write the shards again with "
                    f"data_prep.write_tfrecords."
                ) from None


def crops_per_tile(info: records.DatasetInfo, patch_size: int) -> int:
    """How many random crops hold twice as many pixels as a whole tile.

    They overlap: these leave 14 % of the tile out, half as many would leave 37 %.
    """
    return math.ceil(2 * (info.tile_size / patch_size) ** 2)


def steps_per_epoch(shards: Shards, batch_size: int, crops: int) -> int:
    """Steps after which every tile has been visited once, on average."""
    return max(1, math.ceil(shards.records * crops / batch_size))


def training(
    shards: Shards,
    *,
    batch_size: int,
    patch_size: int,
    crops: int,
    seed: int,
    step: int = 0,
    replicas: int = 1,
    worker: int = 0,
    workers: int = 1,
    augment: bool = True,
) -> tf.data.Dataset:
    """Endless batches of random crops, from training step `step` on.

    Args:
        shards: What to read.
        batch_size: Patches of one batch, which is one replica's.
        patch_size: Height and width of a crop; smaller tiles are padded with invalid pixels.
        crops: How many are cut from a tile each time that it is read.
        seed: All randomness follows from it.
        step: The step that the first batch belongs to.
        replicas: How many batches this worker's replicas take a step.
        worker: Index of this worker.
        workers: How many share the work. Reading by record, they deal each global batch out
            among them, so that it holds the same patches for any number of workers that divides
            `MIXED_TILES` and the batch.
        augment: Whether crops are flipped and rotated, all images of a triplet alike.

    Returns:
        Batches as `reflectance` makes them.
    """
    mixed = max(1, MIXED_TILES // workers)
    first_patch = step * batch_size * replicas
    group, within = divmod(first_patch, mixed * crops)

    dataset = _tile_order(shards, seed, group * mixed, worker, workers)
    dataset = dataset.interleave(
        lambda visit, file, record: _read(shards, file, record).map(lambda tile: (visit, tile)),
        cycle_length=READERS,
        num_parallel_calls=READERS,
        deterministic=True,
    )

    def crops_of(visit, tile):
        key = tf.random.experimental.stateless_fold_in(tf.constant([seed, 1], tf.int64), visit)
        return _random_crops(tile, patch_size, crops, key, augment)

    dataset = dataset.map(
        lambda visit, serialized: (visit, _tile(serialized, shards.info, patch_size)),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    dataset = dataset.interleave(crops_of, cycle_length=mixed, block_length=1)
    dataset = dataset.skip(within).batch(batch_size, drop_remainder=True)
    dataset = dataset.map(
        lambda patches: reflectance(patches, shards.info),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    return _with_options(dataset.prefetch(2 * replicas))


def validation(
    shards: Shards,
    *,
    batch_size: int,
    tiles: int = 0,
    worker: int = 0,
    workers: int = 1,
    replicas: int = 1,
) -> tf.data.Dataset:
    """Whole tiles in their own order, once; the last batch is filled up with invalid pixels.

    Filling keeps every batch of every replica at one size, and invalid pixels count for nothing
    in any masked mean.

    Args:
        shards: What to read.
        batch_size: Tiles of one batch, which is one replica's.
        tiles: How many of the split's tiles, evenly spread; 0 for all.
        worker: Index of this worker.
        workers: How many workers deal the tiles out among them.
        replicas: How many batches this worker's replicas take a step.
    """
    chosen = _chosen(shards, tiles)
    steps = validation_steps(shards, batch_size * replicas * workers, tiles)
    size = shards.info.tile_size
    file, record = (place[chosen[worker::workers]] for place in shards.places())
    dataset = tf.data.Dataset.from_tensor_slices((file, record))
    dataset = dataset.interleave(
        lambda file, record: _read(shards, file, record),
        cycle_length=READERS,
        num_parallel_calls=READERS,
        deterministic=True,
    )

    def whole(serialized):
        tile = _tile(serialized, shards.info, size)
        return {k: tf.ensure_shape(v, [size, size, v.shape[2]]) for k, v in tile.items()}

    dataset = dataset.map(whole, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    missing = steps * batch_size * replicas - len(chosen[worker::workers])
    empty = {k: tf.zeros(s.shape, s.dtype) for k, s in dataset.element_spec.items()}
    dataset = dataset.concatenate(tf.data.Dataset.from_tensors(empty).repeat(missing))
    dataset = dataset.batch(batch_size, drop_remainder=True)
    dataset = dataset.map(lambda patches: reflectance(patches, shards.info))
    return _with_options(dataset.prefetch(1))


def validation_steps(shards: Shards, batch_size: int, tiles: int = 0) -> int:
    """Number of global batches of `batch_size` tiles that `validation` gives."""
    return math.ceil(len(_chosen(shards, tiles)) / batch_size)


def examples(shards: Shards, count: int) -> Iterator[tuple[str, Mapping[str, tf.Tensor]]]:
    """Up to `count` whole tiles, evenly spread over the split.

    Returns:
        Pairs of a name (dates and place) and a batch of one tile.
    """
    for index in _chosen(shards, count) if count else ():
        file, record = (tf.constant(place[index]) for place in shards.places())
        for serialized in _read(shards, file, record):
            parsed = records.parse(serialized, shards.info)
            t1, t2, t3 = (date.decode() for date in parsed["dates"].numpy())
            row, col = parsed["origin"].numpy()
            name = f"{t1} to {t3 or t2}, {t2}, row {row}, column {col}"
            tile = _interleaved(parsed)
            yield name, reflectance({k: v[None] for k, v in tile.items()}, shards.info)


def reflectance(
    patches: Mapping[str, tf.Tensor], info: records.DatasetInfo
) -> dict[str, tf.Tensor]:
    """Stacked digital numbers to what the model takes.

    Args:
        patches: A batch of what `_interleaved` returns.
        info: The encodings.

    Returns:
        `f1` … `c3`, float32 reflectance [batch, height, width, bands], 0 where invalid, and
        `valid_f1` … `valid_c3`, float32 [batch, height, width, 1].
    """
    return _converter(info.fine, info.coarse)(patches)


@functools.cache
def _converter(
    fine: records.Encoding, coarse: records.Encoding
) -> Callable[[Mapping[str, tf.Tensor]], dict[str, tf.Tensor]]:
    """`reflectance` for given encodings; made once, so that it is compiled once a shape."""

    # Fused by XLA into one pass over the pixels; op by op it costs four times as much.
    @tf.function(jit_compile=True)
    def convert(patches):
        batch = {}
        for k, name in enumerate(records.IMAGES):
            side = records.side_of(name)
            encoding = fine if side == "fine" else coarse
            valid = tf.bitwise.bitwise_and(patches["valid"], np.uint8(1 << k)) > 0
            bands = patches[side].shape[-1] // 3
            dn = patches[side][..., k % 3 * bands : (k % 3 + 1) * bands]
            dn = tf.cast(dn, tf.float32)
            batch[name] = tf.where(valid, dn * encoding.scale + encoding.offset, 0.0)
            batch[f"valid_{name}"] = tf.cast(valid, tf.float32)
        return batch

    return convert


def _with_options(dataset: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    # The pipelines share the work out themselves.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.with_options(options)


def _tile_order(
    shards: Shards, seed: int, start: int, worker: int, workers: int
) -> tf.data.Dataset:
    """(visit, file, record) for every tile from the worker's `start`-th one on, for ever.

    `visit` counts the tiles of all epochs: it keys the randomness of a tile's crops.
    """
    by_file = shards.by_file(workers)
    file, record = shards.places(worker, workers)
    count = len(file)
    if by_file:
        # Files of its own: the worker counts its own epochs, and its number enters the key.
        start, stride, salt = start, 1, worker
    else:
        start, stride, salt = start * workers + worker, workers, 0
    first_epoch, within = divmod(start, count)

    def epoch(number):
        key = tf.random.experimental.stateless_fold_in(
            tf.constant([seed, 2 + salt], tf.int64), number
        )
        draw = tf.random.stateless_uniform([count], key)
        return tf.data.Dataset.from_tensor_slices(
            (number * count + tf.range(count, dtype=tf.int64), tf.argsort(draw, stable=True))
        )

    order = tf.data.Dataset.range(first_epoch, FOREVER).flat_map(epoch).skip(within)
    if stride > 1:
        order = order.shard(stride, 0)
    return order.map(
        lambda visit, index: (
            visit * (workers if by_file else 1) + salt,
            tf.gather(file, index),
            tf.gather(record, index),
        )
    )


def _read(shards: Shards, file: tf.Tensor, record: tf.Tensor) -> tf.data.Dataset:
    """One serialised record; the reader jumps over those before it."""
    paths = [str(shards.folder / shard.file) for shard in shards.info.splits[shards.split].shards]
    return tf.data.TFRecordDataset(tf.gather(paths, file)).skip(record).take(1)


def _chosen(shards: Shards, tiles: int) -> np.ndarray:
    """Indices of `tiles` records, evenly spread; of all for 0."""
    count = min(tiles, shards.records) if tiles else shards.records
    return ((np.arange(count) + 0.5) * shards.records / count).astype(np.int64)


def _tile(serialized: tf.Tensor, info: records.DatasetInfo, size: int) -> dict[str, tf.Tensor]:
    """A record as `_interleaved`, filled up to `size` × `size`, below and to the right."""
    tile = _interleaved(records.parse(serialized, info))
    height, width = tf.unstack(tf.maximum(size - tf.shape(tile["valid"])[:2], 0))
    margins = [[0, height], [0, width], [0, 0]]
    # Most tiles need none, and padding by nothing is a copy as well.
    return tf.cond(
        height + width > 0,
        lambda: {name: tf.pad(values, margins) for name, values in tile.items()},
        lambda: tile,
    )


def _interleaved(parsed: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """A parsed record with all that is known of a pixel side by side.

    Returns:
        "fine" and "coarse", digital numbers [height, width, 3 × bands], date by date, and
        "valid", uint8 [height, width, 1]: bit k is set where image k of `records.IMAGES` is valid.
    """
    return {
        **{
            side: tf.concat([parsed[k] for k in records.IMAGES if records.side_of(k) == side], -1)
            for side in ("fine", "coarse")
        },
        "valid": parsed["valid"],
    }


def _random_crops(
    tile: Mapping[str, tf.Tensor], size: int, count: int, key: tf.Tensor, augment: bool
) -> tf.data.Dataset:
    """`count` crops at random places, each turned at random; cut only when they are asked for."""
    height, width = tf.unstack(tf.shape(tile["valid"])[:2])

    def draw(purpose: int, below: tf.Tensor | int) -> tf.Tensor:
        folded = tf.random.experimental.stateless_fold_in(key, purpose)
        return tf.random.stateless_uniform([count, 1, 1], folded, 0, below, tf.int32)

    first = draw(0, height - size + 1) * width + draw(1, width - size + 1)
    turn = draw(2, SYMMETRIES if augment else 1)
    # Where in the window the pixel of each place comes from.
    across = tf.range(size)[None, None, :]
    down = tf.range(size)[None, :, None]
    down = tf.where(turn & 2 > 0, size - 1 - down, down)
    across = tf.where(turn & 4 > 0, size - 1 - across, across)
    source = first + tf.where(turn & 1 > 0, across * width + down, down * width + across)
    pixels = {k: tf.reshape(v, [-1, v.shape[2]]) for k, v in tile.items()}
    return tf.data.Dataset.from_tensor_slices(source).map(
        lambda chosen: {name: tf.gather(values, chosen) for name, values in pixels.items()}
    )
