"""The known fine image plus the coarse change, smoothed at the coarse sensor's resolution."""

from stfnet_tf.baselines.coarse_change import CoarseChange

METHOD = CoarseChange("coarse_change_filtered", sigma=1.0)
