"""Patches from the shards, against the same kind of patches read from the rasters with GDAL."""

import numpy as np

from benchmarks import measure, training_step, workload
from benchmarks.table import Options, Report
from data_prep import grids, rasters, records

PATCHES = 1024


def run(options: Options) -> Report:
    """Reads random patches of six images with their masks, both ways, and whole tiles."""
    import tensorflow as tf

    from stfnet_tf import input_pipeline

    size = 512 if options.quick else 1024
    count = 128 if options.quick else PATCHES
    batch_size, patch = training_step.BATCH, training_step.PATCH
    shards = input_pipeline.Shards.load(workload.shards(options.folder, size), "train")
    images = workload.open_scene(workload.make(options.folder / f"scene{size}", size))
    streamed = iter(workload.batches(shards, batch_size, patch))
    files = [
        images.file(records.side_of(name), workload.DATES[int(name[1]) - 1])
        for name in records.IMAGES
    ]
    places = np.random.default_rng(0)

    def from_shards() -> None:
        for _ in range(count // batch_size):
            next(streamed)

    def from_rasters() -> None:
        for _ in range(count):
            row, col = (int(v) for v in places.integers(0, size - patch, 2))
            for file in files:
                pixels = rasters.read(file, window=grids.Window(row, col, patch, patch))
                valid = (pixels != -9999).all(-1)
                np.where(valid[..., None], pixels * np.float32(1e-4), 0)

    paths = [str(shards.folder / each.file) for each in shards.info.splits["train"].shards]

    def tiles() -> None:
        parsed = tf.data.TFRecordDataset(paths).map(
            lambda record: records.parse(record, shards.info)["f1"]
        )
        for _ in parsed:
            pass

    seconds = measure.alternate(
        {"shards": from_shards, "rasters": from_rasters, "tiles": tiles}, options.rounds
    )
    report = Report()
    report.add(
        f"patches of {patch} × {patch} from shards", "1/s", measure.rates(count, seconds["shards"])
    )
    report.add("the same with GDAL from rasters", "1/s", measure.rates(count, seconds["rasters"]))
    report.add(
        "speed of shards against rasters",
        "×",
        measure.ratios(seconds["rasters"], seconds["shards"]),
    )
    report.add("tiles of 256 × 256 parsed", "1/s", measure.rates(shards.records, seconds["tiles"]))
    report.note(
        "both read six images of six bands and their masks and end in reflectance; patches from "
        "shards are flipped and turned as well."
    )
    return report
