"""STARFM with the neighbours of both pairs pooled, as section III of its paper allows."""

from stfnet_tf.baselines.starfm import Starfm

METHOD = Starfm("starfm_both", pairs="both")
