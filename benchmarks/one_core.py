"""The training step on one core, in processor time, which no other load on the machine changes."""

import time

from benchmarks import training_step
from benchmarks.table import Options, Report


def run(options: Options) -> Report:
    """As `training_step`, with one thread in each framework."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    return training_step.run(options, time.process_time)
