"""The record: one tile of a triplet, and `dataset_info.json` that says how to read it.

Both sides read this module: `data_prep` writes records, `stfnet_tf` reads them. A record holds
six images in digital numbers exactly as the rasters hold them, and one validity bit per image
and pixel:

| feature | type | meaning |
| --- | --- | --- |
| `f1` … `c3` | bytes | (H, W, B) little-endian digital numbers; those of `OPTIONAL` may be absent |
| `valid` | bytes | (H, W) uint8, bit k is set where image k of `IMAGES` is valid |
| `dates` | 3 × bytes | ISO dates of t1, t2, t3; t3 is empty where there is no later pair |
| `origin` | 2 × int64 | row and column of the tile's first pixel in its scene |
| `scene` | bytes | the scene's name |
| `height`, `width`, `bands` | int64 | the tile's shape |

Reflectance is `DN * scale + offset`, with each side's own `Encoding`.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from data_prep import dataset, errors, sealed

SCHEMA = 1
INFO_FILE = "dataset_info.json"
IMAGES = ("f1", "f2", "f3", "c1", "c2", "c3")
# F2 where it is unknown; the later pair where there is none (one-sided).
OPTIONAL = ("f2", "f3", "c3")
SPLITS = ("train", "val", "test")
DTYPES = ("uint8", "int16", "uint16", "float32")

Buffer: TypeAlias = bytes | memoryview


def side_of(image: str) -> str:
    """Returns "fine" for `f1 f2 f3` and "coarse" for `c1 c2 c3`."""
    return "fine" if image.startswith("f") else "coarse"


def holds(dtype: str, value: float) -> bool:
    """Whether a pixel of a type can have a value, in the type's precision.

    Args:
        dtype: NumPy's name of the type.
        value: A digital number, such as a nodata value that a file states.
    """
    if np.issubdtype(dtype, np.floating):
        with np.errstate(over="ignore"):
            return math.isinf(value) or not np.isinf(np.dtype(dtype).type(value))
    limits = np.iinfo(dtype)
    return limits.min <= value <= limits.max and value == math.floor(value)


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How one side's digital numbers state reflectance.

    Attributes:
        dtype: One of `DTYPES`.
        scale: Reflectance per digital number.
        offset: Reflectance at digital number 0.
        fill: The digital number of an invalid pixel, or None where none is set apart.
        valid_min: The least valid digital number, or None for no bound.
        valid_max: The greatest, or None for no bound.
    """

    dtype: str = "int16"
    scale: float = 1e-4
    offset: float = 0.0
    fill: float | None = None
    valid_min: float | None = None
    valid_max: float | None = None

    def __post_init__(self):
        if self.dtype not in DTYPES:
            raise errors.InputError(f"dtype: expected one of {DTYPES}, found '{self.dtype}'.")
        if not self.scale > 0:
            raise errors.InputError(f"scale: expected a number above 0, found {self.scale}.")

    @property
    def nodata(self) -> float:
        """What an output holds where nothing is known: `fill`, or a value the dtype can spare.

        Files state nodata that their type cannot hold, such as -9999 of unsigned numbers.
        """
        if self.fill is not None and holds(self.dtype, self.fill):
            return self.fill
        return {"int16": -32768, "uint8": 0, "uint16": 0, "float32": math.nan}[self.dtype]

    @property
    def beside_nodata(self) -> float:
        """What holds a value that happens to equal `nodata`, which would vanish.

        For floats a few units in the last place off, because GDAL takes closer ones for equal.
        """
        if self.dtype == "float32":
            return self.nodata * (1 - 1e-6) or float(np.finfo(np.float32).tiny)
        return self.nodata + 1.0

    def reflectance(self, dn: np.ndarray) -> np.ndarray:
        """Digital numbers of any shape to float32 reflectance."""
        return dn.astype(np.float32) * np.float32(self.scale) + np.float32(self.offset)

    def digital_numbers(self, reflectance: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Reflectance to digital numbers: rounded, held within the dtype and off its nodata value.

        The same in a graph is `stfnet_tf.fusion.encode`.

        Args:
            reflectance: (H, W, B).
            known: (H, W) bool.

        Returns:
            (H, W, B) in the encoding's dtype, `nodata` where not known.
        """
        value = (reflectance.astype(np.float32) - np.float32(self.offset)) / np.float32(self.scale)
        nodata = self.nodata
        if np.issubdtype(np.dtype(self.dtype), np.integer):
            limits = np.iinfo(self.dtype)
            low = limits.min + (limits.min == nodata)
            high = limits.max - (limits.max == nodata)
            value = np.round(np.clip(value, low, high))
        value = np.where(value == nodata, self.beside_nodata, value)
        return np.where(known[..., None], value, nodata).astype(self.dtype)


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of records: its name, its number of records, its size and its checksum."""

    file: str
    records: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Split:
    """One of `SPLITS`: how many tiles were written and skipped, from which triplets, and where.

    A triplet's last date is empty where there is no later pair.
    """

    records: int = 0
    skipped: int = 0
    triplets: tuple[tuple[str, str, str], ...] = ()
    shards: tuple[Shard, ...] = ()


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """`dataset_info.json`: all that a reader of the shards beside it needs to know.

    Attributes:
        name: The data set's name.
        bands: Band names, in the records' order.
        fine: Encoding of `f1 f2 f3`.
        coarse: Encoding of `c1 c2 c3`.
        ratio: Coarse pixel size / fine pixel size.
        psf_fwhm: Full width at half maximum of the coarse sensor's point spread function, in
            coarse pixels.
        tile_size: Height and width of a whole tile; tiles at the lower and right border are
            smaller.
        supervision: "triplet" where F2 is known, "pair" where only the outer pairs are.
        splits: The splits that were written.
        statistics: For "fine" and "coarse": `mean`, `std`, `min`, `max` (reflectance, one number
            per band) and `count` over the valid pixels of the training split.
        description: The data set's description as it was read.
        command: The command that wrote the shards.
        versions: The versions of the libraries that wrote them.
        schema: The version of this very layout.
    """

    name: str
    bands: tuple[str, ...]
    fine: Encoding
    coarse: Encoding
    ratio: float
    psf_fwhm: float
    tile_size: int
    supervision: str
    splits: Mapping[str, Split] = dataclasses.field(default_factory=dict)
    statistics: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    description: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    command: str = ""
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def quantity(self) -> str:
        """What the images state, for people: reflectance, or an index's name."""
        return str(self.description.get("quantity", dataset.QUANTITY))

    def encoding(self, image: str) -> Encoding:
        """The encoding of one of `IMAGES`."""
        return self.fine if side_of(image) == "fine" else self.coarse

    def save(self, folder: str | Path) -> None:
        """Writes `dataset_info.json` into `folder`, whole or not at all."""
        sealed.write(Path(folder) / INFO_FILE, dataclasses.asdict(self))

    @classmethod
    def load(cls, folder: str | Path) -> "DatasetInfo":
        """Reads `dataset_info.json` from `folder`.

        Raises:
            InputError: The file is missing, is damaged, or has a schema that this version does
                not know.
        """
        path = Path(folder) / INFO_FILE
        try:
            raw = sealed.read(path)
        except FileNotFoundError:
            raise errors.InputError(
                f"{path}: expected the description that data_prep.write_tfrecords leaves beside "
                f"finished shards, found no such file."
            ) from None
        except (OSError, ValueError) as error:
            raise errors.InputError(
                f"{path}: expected JSON, found: {errors.reason(error)}."
            ) from None
        if raw.get("schema") != SCHEMA:
            raise errors.InputError(
                f"{path}: expected record schema {SCHEMA}, found {raw.get('schema')}."
            )
        try:
            return cls._from_json(raw)
        except (KeyError, TypeError, AttributeError) as error:
            raise errors.InputError(
                f"{path}: damaged dataset description: {errors.reason(error)}."
            ) from None

    @classmethod
    def _from_json(cls, raw: dict[str, Any]) -> "DatasetInfo":
        splits = {
            name: Split(
                records=split["records"],
                skipped=split["skipped"],
                triplets=tuple(tuple(triplet) for triplet in split["triplets"]),
                shards=tuple(Shard(**shard) for shard in split["shards"]),
            )
            for name, split in raw["splits"].items()
        }
        return cls(
            **{
                **raw,
                "bands": tuple(raw["bands"]),
                "fine": Encoding(**raw["fine"]),
                "coarse": Encoding(**raw["coarse"]),
                "splits": splits,
            }
        )


@dataclasses.dataclass(frozen=True)
class Tile:
    """What one record holds.

    Attributes:
        images: Some of `IMAGES`, each (H, W, B) digital numbers; `OPTIONAL` ones may be missing.
        valid: For each of `images`, (H, W) bool.
        dates: ISO dates of t1, t2, t3; the last is empty where there is no later pair.
        origin: Row and column of the first pixel in the scene.
        scene: The scene's name.
    """

    images: Mapping[str, np.ndarray]
    valid: Mapping[str, np.ndarray]
    dates: tuple[str, str, str]
    origin: tuple[int, int]
    scene: str


def encode(tile: Tile) -> bytes:
    """Serialises a tile as a `tf.train.Example`; the same tile always gives the same bytes.

    The message is put together here, field by field in protobuf's wire format: the processes that
    write shards would otherwise hold TensorFlow, 600 MB each, to call one constructor.
    """
    height, width, bands = tile.images["f1"].shape
    bits = np.zeros((height, width), np.uint8)
    features = {}
    for k, name in enumerate(IMAGES):
        if name in tile.images:
            image = tile.images[name]
            if image.shape != (height, width, bands):
                raise ValueError(f"{name}: expected {(height, width, bands)}, got {image.shape}")
            little_endian = np.ascontiguousarray(image, image.dtype.newbyteorder("<"))
            features[name] = _of_bytes(little_endian.reshape(-1).view(np.uint8).data)
            bits |= tile.valid[name].astype(np.uint8) << k
    features |= {
        "valid": _of_bytes(bits.tobytes()),
        "dates": _of_bytes(*(date.encode() for date in tile.dates)),
        "origin": _of_ints(*tile.origin),
        "scene": _of_bytes(tile.scene.encode()),
        "height": _of_ints(height),
        "width": _of_ints(width),
        "bands": _of_ints(bands),
    }
    # A map has no order in protobuf; sorted, the bytes do not differ from run to run.
    entries = [
        _field(1, *_field(1, name.encode()), *_field(2, *features[name]))
        for name in sorted(features)
    ]
    return b"".join(_field(1, *itertools.chain.from_iterable(entries)))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, *parts: Buffer) -> list[Buffer]:
    """A length-delimited protobuf field, in parts: images are copied once, at the very end."""
    return [_varint(number << 3 | 2), _varint(sum(map(len, parts))), *parts]


def _of_bytes(*values: Buffer) -> list[Buffer]:
    """A `tf.train.Feature` with a bytes list."""
    return _field(1, *itertools.chain.from_iterable(_field(1, value) for value in values))


def _of_ints(*values: int) -> list[Buffer]:
    """A `tf.train.Feature` with a list of non-negative int64."""
    return _field(3, *_field(1, *map(_varint, values)))


def parse(serialized: Any, info: DatasetInfo) -> dict[str, Any]:
    """Parses one record inside a TensorFlow graph.

    Args:
        serialized: A scalar string tensor.
        info: The data set's description.

    Returns:
        `f1` … `c3`, digital numbers [height, width, bands] in each side's dtype; `valid`, uint8
        [height, width, 1], bit k for image k, and the same as `valid_f1` … `valid_c3`, bool;
        `dates` [3] strings, `origin` [2] int64 and `scene`.
        An absent image is all 0 and nowhere valid.
    """
    import tensorflow as tf

    def scalar(dtype, default=None):
        return tf.io.FixedLenFeature([], dtype, default)

    record = tf.io.parse_single_example(
        serialized,
        {
            **{k: scalar(tf.string, "" if k in OPTIONAL else None) for k in IMAGES},
            "valid": scalar(tf.string),
            "dates": tf.io.FixedLenFeature([3], tf.string),
            "origin": tf.io.FixedLenFeature([2], tf.int64),
            "scene": scalar(tf.string),
            "height": scalar(tf.int64),
            "width": scalar(tf.int64),
            "bands": scalar(tf.int64),
        },
    )
    height, width = record["height"], record["width"]
    bands = len(info.bands)
    bits = tf.reshape(tf.io.decode_raw(record["valid"], tf.uint8), [height, width, 1])
    parsed = {k: record[k] for k in ("dates", "origin", "scene")} | {"valid": bits}
    with tf.control_dependencies(
        [tf.debugging.assert_equal(record["bands"], tf.constant(bands, tf.int64), "bands")]
    ):
        for k, name in enumerate(IMAGES):
            image = tf.io.decode_raw(record[name], tf.as_dtype(info.encoding(name).dtype))
            shape = tf.stack([height, width, bands])
            if name in OPTIONAL:
                image = tf.cond(
                    tf.size(image) > 0,
                    lambda known=image, to=shape: tf.reshape(known, to),
                    lambda absent=image, to=shape: tf.zeros(to, absent.dtype),
                )
            parsed[name] = tf.ensure_shape(tf.reshape(image, shape), [None, None, bands])
            parsed[f"valid_{name}"] = tf.bitwise.bitwise_and(bits, np.uint8(1 << k)) > 0
    return parsed
