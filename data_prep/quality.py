"""Which pixels are usable: bit rules, valid ranges, fill values, and growing what is rejected."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from data_prep.dataset import Rule
from data_prep.grids import Window


@dataclasses.dataclass(frozen=True, eq=False)
class CellMask:
    """Which pixels of a scene are bad, told for cells of `step` × `step` of them.

    Attributes:
        bad: (rows, cols) bool; a border narrower than a cell goes with the last one.
        step: Height and width of a cell, pixels.
    """

    bad: np.ndarray
    step: int

    @property
    def share(self) -> float:
        """Share of the scene that is bad."""
        return float(self.bad.mean())

    @property
    def digest(self) -> str:
        """A name for what it says."""
        stated = repr((self.step, self.bad.shape)).encode() + np.packbits(self.bad).tobytes()
        return hashlib.sha256(stated).hexdigest()

    def read(self, window: Window, step: int = 1) -> np.ndarray:
        """(H, W) bool for a window of the scene, or for the middle of cells of `step` pixels."""
        rows, cols = (
            np.minimum(np.arange(first + step // 2, first + length, step) // self.step, last - 1)
            for first, length, last in zip(
                (window.row, window.col), window.shape, self.bad.shape, strict=True
            )
        )
        return self.bad[np.ix_(rows, cols)]


def rejected(layer: np.ndarray, rules: Mapping[str, Rule], names: Sequence[str]) -> np.ndarray:
    """Pixels that any of the named rules rejects.

    Args:
        layer: Quality values, (H, W); numbers without a fraction, whatever their type.
        rules: The layer's rules.
        names: Those to be applied; names of other layers' rules are passed over.

    Returns:
        (H, W) bool, True where a pixel is bad, or not a number.
    """
    bad = ~np.isfinite(layer)
    values = np.where(bad, 0, layer).astype(np.int64)
    for name in names:
        if name not in rules:
            continue
        rule = rules[name]
        field = values
        if rule.bits is not None:
            first, last = rule.bits
            field = (values >> first) & ((1 << (last - first + 1)) - 1)
        if rule.keep is not None:
            bad |= ~np.isin(field, rule.keep)
        else:
            bad |= np.isin(field, rule.values)
    return bad


def grown(bad: np.ndarray, pixels: int) -> np.ndarray:
    """Rejected areas grown by `pixels` in all eight directions, (H, W) bool."""
    if pixels == 0 or not bad.any():
        return bad
    # Here, because it takes as long to load as all else that a worker needs.
    from scipy import ndimage

    return ndimage.maximum_filter(bad, size=2 * pixels + 1, mode="constant", cval=False)


def in_range(
    dn: np.ndarray, fill: Sequence[float], valid_range: tuple[float, float] | None
) -> np.ndarray:
    """Pixels whose every band is finite, not fill, and within the valid range.

    Args:
        dn: Digital numbers, (H, W, B).
        fill: Digital numbers that mean "no data". Compared in the type of `dn`, in which a file
            may state a value that it cannot hold exactly (−3.4e38 in float32).
        valid_range: Least and greatest usable digital number, both inclusive.

    Returns:
        (H, W) bool, True where usable.
    """
    good = np.ones(dn.shape, bool)
    if np.issubdtype(dn.dtype, np.floating):
        good &= np.isfinite(dn)
    for value in set(fill):
        if np.issubdtype(dn.dtype, np.floating):
            good &= dn != dn.dtype.type(value)
        elif np.iinfo(dn.dtype).min <= value <= np.iinfo(dn.dtype).max:
            good &= dn != value
    if valid_range is not None:
        low, high = valid_range
        good &= (dn >= low) & (dn <= high)
    # Band by band: NumPy is slow at reducing an axis as short as that.
    usable = good[..., 0].copy()
    for band in range(1, dn.shape[-1]):
        usable &= good[..., band]
    return usable
