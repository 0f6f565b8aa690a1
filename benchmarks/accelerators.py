"""Training on the accelerators that are there: 1, 2 and 4 of them, in both precisions, with XLA."""

from benchmarks import measure, scaling, training_step
from benchmarks.table import Options, Report

COUNTS = (1, 2, 4)
PER_DEVICE = 256


def run(options: Options) -> Report:
    """Patches a second for each choice; a sentence where there is no accelerator."""
    import tensorflow as tf
    import tf_keras as keras

    report = Report()
    devices = [device for kind in ("GPU", "TPU") for device in tf.config.list_logical_devices(kind)]
    if not devices:
        report.note("TensorFlow sees neither a GPU nor a TPU here.")
        return report
    runs, sizes = {}, {}
    for count in (n for n in COUNTS if n <= len(devices)):
        batch = training_step.random_batch(count * PER_DEVICE, training_step.PATCH)
        strategy = tf.distribute.MirroredStrategy([device.name for device in devices[:count]])
        for policy in ("float32", "mixed_bfloat16"):
            for compiled in (False, True):
                name = f"{count} × {devices[0].device_type}, {policy}{', XLA' * compiled}"
                keras.mixed_precision.set_global_policy(policy)
                runs[name] = scaling.distributed_step(strategy, batch, compiled)
                sizes[name] = count * PER_DEVICE
    keras.mixed_precision.set_global_policy("float32")
    for name, taken in measure.alternate(runs, options.rounds, warm_up=3).items():
        report.add(name, "patches/s", measure.rates(sizes[name], taken))
    return report
