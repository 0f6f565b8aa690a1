"""Training from shards, against the same step on one batch that stays in memory."""

from collections.abc import Callable
from typing import Any

from benchmarks import measure, training_step, workload
from benchmarks.table import AtLeast, Options, Report
from stfnet_tf import presets

STEPS = 6


def run(options: Options) -> Report:
    """Steps whose batches are read, decoded, cropped and turned, and steps without any of it."""
    import tensorflow as tf

    from stfnet_tf import input_pipeline, model, optimizers

    batch_size, patch = training_step.BATCH, training_step.PATCH
    steps = 2 if options.quick else STEPS
    folder = workload.shards(options.folder, 512 if options.quick else 1024)
    shards = input_pipeline.Shards.load(folder, "train")
    network = model.StfNet(presets.build("paper", bands=workload.BANDS, ratio=workload.RATIO))
    network.compile(optimizers.build("Adam", training_step.RATE))
    train = network.make_train_function()
    streamed = iter(workload.batches(shards, batch_size, patch))
    held = iter(tf.data.Dataset.from_tensors(next(streamed)).repeat())

    def several(batches: Any) -> Callable[[], object]:
        return lambda: [train(batches)["loss"].numpy() for _ in range(steps)]

    seconds = measure.alternate(
        {"shards": several(streamed), "memory": several(held)}, options.rounds
    )
    report = Report()
    patches = batch_size * steps
    report.add("from shards", "patches/s", measure.rates(patches, seconds["shards"]))
    report.add("from memory", "patches/s", measure.rates(patches, seconds["memory"]))
    report.add(
        "speed from shards against memory",
        "×",
        measure.ratios(seconds["memory"], seconds["shards"]),
        AtLeast(0.95),
    )
    return report
