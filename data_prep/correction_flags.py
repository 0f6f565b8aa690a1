"""The flags that say how coarse images are corrected, in place of what a description says."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

if TYPE_CHECKING:
    from data_prep import dataset

FLAGS = flags.FLAGS


def define(modes: Sequence[str] = ("off", "report", "apply")) -> None:
    """Defines them; a program whose --help is to show them adopts this module's key flags.

    Args:
        modes: What may be done about a shift, some of `dataset.COREGISTER`.
    """
    flags.DEFINE_enum(
        "coregister",
        None,
        list(modes),
        "What to do about a shift between coarse and fine images: nothing (off), measure and say "
        "it (report), or undo it in the same interpolation that brings the coarse image onto the "
        "fine grid (apply) (default: the description's, else off).",
    )
    flags.DEFINE_enum(
        "residual_clouds",
        None,
        ["keep", "reject"],
        "What to do about parts of a coarse image that are far brighter in every band than on the "
        "dates before and after, as clouds are that nothing masks (default: the description's, "
        "else leave them out where there is no quality layer).",
    )


def applied(described: "dataset.Dataset") -> "dataset.Dataset":
    """A description with the corrections that the flags ask for.

    Raises:
        InputError: Residual clouds cannot be told in a single band.
    """
    return described.correcting(FLAGS.coregister, FLAGS.residual_clouds)
