r"""Writes a data set as sharded TFRecords of co-registered tiles.

    python -m data_prep.write_tfrecords --dataset=configs/cia.toml --data_dir=/data \
        --output_dir=/data/cia_shards

The folder then holds `train-00000-of-000NN.tfrecord` …, and `dataset_info.json`, which is written
last: a folder without it is not finished. The same command again goes on where it was stopped.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from data_prep import correction_flags, entry, errors

if TYPE_CHECKING:
    from data_prep import records

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines what this program takes."""
    flags.DEFINE_string("dataset", None, "Description of the rasters, a .toml.")
    flags.DEFINE_string(
        "data_dir", None, "Where the rasters lie, in place of the description's own root."
    )
    flags.DEFINE_string("output_dir", None, "Folder that receives the shards.")
    flags.DEFINE_integer(
        "tile_size",
        None,
        "Height and width of a tile, in fine pixels (default: the description's).",
        lower_bound=16,
    )
    flags.DEFINE_float(
        "min_valid",
        None,
        "Least share of pixels valid in all images of a tile that is kept (default: the "
        "description's).",
        lower_bound=0.0,
        upper_bound=1.0,
    )
    flags.DEFINE_integer("shard_mb", 128, "Size of a shard, in MB.", lower_bound=1)
    correction_flags.define()
    flags.adopt_module_key_flags(correction_flags)
    flags.DEFINE_enum(
        "executor", "processes", ["processes", "dask"], "Where the shards are written."
    )
    flags.DEFINE_integer("workers", 0, "Processes on this machine; 0 takes one a core.", 0)
    flags.DEFINE_string(
        "dask_scheduler", "", "Address of a Dask scheduler; with none, a cluster is started here."
    )


def main(argv: Sequence[str]) -> None:
    """Writes the shards that the flags ask for."""
    for name, wanted in (("dataset", "a .toml"), ("output_dir", "a folder")):
        if not FLAGS[name].value:
            raise errors.InputError(f"--{name}: expected {wanted}, found nothing.")
    from data_prep import dataset, preparation

    described = dataset.load(FLAGS.dataset, FLAGS.data_dir)
    options = ("tile_size", "min_valid")
    given: dict[str, Any] = {
        name: FLAGS[name].value for name in options if FLAGS[name].value is not None
    }
    described = correction_flags.applied(dataclasses.replace(described, **given))
    print(f"Writing '{described.name}' from {described.root} into {FLAGS.output_dir}", flush=True)
    info = preparation.prepare(
        described,
        FLAGS.output_dir,
        executor=FLAGS.executor,
        workers=FLAGS.workers,
        scheduler=FLAGS.dask_scheduler,
        shard_bytes=FLAGS.shard_mb * 2**20,
    )
    _show(info)


def _show(info: "records.DatasetInfo") -> None:
    from rich import console, table

    shown = table.Table(title=f"{info.name}: {', '.join(info.bands)}")
    for name in ("split", "triplets", "tiles", "skipped", "shards", "MB"):
        shown.add_column(name, justify="left" if name == "split" else "right")
    for name, split in info.splits.items():
        size = sum(shard.bytes for shard in split.shards) / 1e6
        shown.add_row(
            name,
            str(len(split.triplets)),
            str(split.records),
            str(split.skipped),
            str(len(split.shards)),
            f"{size:.1f}",
        )
    console.Console().print(shown)


def cli() -> None:
    """The console script."""
    define_flags()
    entry.run(main)


if __name__ == "__main__":
    cli()
