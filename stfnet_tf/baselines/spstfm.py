"""SPSTFM: sparse representation with coupled dictionaries of fine and coarse change.

B. Huang, H. Song, "Spatiotemporal reflectance fusion via sparse representation", IEEE TGRS 50(10),
3707–3716, 2012, doi 10.1109/TGRS.2012.2186638.
"""

import dataclasses

import numpy as np
import threadpoolctl
from sklearn import decomposition

from stfnet_tf.baselines import base

TRAINING_PATCHES = 2_000
TRAINING_EPOCHS = 2
CODED_AT_ONCE = 20_000


@dataclasses.dataclass(frozen=True)
class Spstfm:
    """F̂12 and F̂23 patch by patch from the sparse codes of C12 and C23, band by band.

    A dictionary is learned on the known outer change: patches of the detail F13 − C13 and of C13
    stacked, so that one sparse code α serves both, F13 − C13 ≈ D_fine α and C13 ≈ D_coarse α. A
    patch of C12 is coded with D_coarse, and the code gives F̂12 = C12 + D_fine α; overlapping
    patches are averaged. The two sides are weighted by the inverse of the local coarse change.

    The paper codes F13 itself. With the detail relative to the coarse change the sparse code need
    not carry the mean of a patch, which costs the plain form a third of its accuracy on images of
    16 fine pixels to a coarse one.

    Attributes:
        patch: Width of a patch in fine pixels.
        step: Distance of patches in fine pixels.
        atoms: Size of the dictionary.
        learning_sparsity: Weight of |α| when the dictionary is learned, for values of unit
            variance.
        coding_sparsity: Weight of |α| when a coarse patch is coded.
    """

    name: str = "spstfm"
    two_sided: bool = True
    patch: int = 7
    step: int = 5
    atoms: int = 64
    learning_sparsity: float = 0.6
    coding_sparsity: float = 0.05

    def predict(self, inputs: base.Inputs) -> base.Prediction:
        """Predicts F2."""
        # The matrices are tiny: threads would spend their time waiting for one another.
        with threadpoolctl.threadpool_limits(1):
            return self._predict(inputs)

    def _predict(self, inputs: base.Inputs) -> base.Prediction:
        forward, backward = sides = inputs.sides()
        valid = forward.valid & backward.valid
        wanted = [base.nearest_valid(side.c2 - side.c, side.valid) for side in sides]
        changes = [np.zeros(forward.f.shape) for _ in sides]
        for band in range(forward.f.shape[-1]):
            f13 = (backward.f - forward.f)[..., band]
            c13 = (backward.c - forward.c)[..., band]
            coder = self._learn(f13, c13, valid, inputs.seed)
            for change, coarse in zip(changes, wanted, strict=True):
                plane = coarse[..., band]
                change[..., band] = plane + (coder.detail(plane) if coder else 0)
        f2 = [side.f + change for side, change in zip(sides, changes, strict=True)]
        weights = base.inverse_change_weights(sides, 2 * round(inputs.ratio) + 1)
        result = base.weighted(f2, weights)
        return dataclasses.replace(result, changes=base.between(changes, sides))

    def _learn(
        self, f13: np.ndarray, c13: np.ndarray, valid: np.ndarray, seed: int
    ) -> "Coder | None":
        """The coupled dictionaries of one band; None where there is too little to learn from."""
        patch = min(self.patch, *valid.shape)
        corners = _corners(valid.shape, patch, 1)
        known = corners[_patches(valid.astype(np.float32), corners, patch).min(axis=1) > 0]
        if len(known) < 2 * self.atoms:
            return None
        known = np.random.default_rng(seed).permutation(known)[:TRAINING_PATCHES]
        detail, coarse = _patches(f13 - c13, known, patch), _patches(c13, known, patch)
        detail_scale, coarse_scale = detail.std() + 1e-9, coarse.std() + 1e-9
        learner = decomposition.MiniBatchDictionaryLearning(
            self.atoms, alpha=self.learning_sparsity * patch, max_iter=TRAINING_EPOCHS,
            batch_size=256, random_state=seed,
        )  # fmt: skip
        learner.fit(np.hstack([detail / detail_scale, coarse / coarse_scale]))
        d_fine, d_coarse = np.hsplit(learner.components_, 2)
        return Coder(
            d_fine * detail_scale, d_coarse, coarse_scale, self.coding_sparsity * patch, patch,
            self.step,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Coder:
    """Coupled dictionaries of one band, [atoms, patch²], and how they are used."""

    d_fine: np.ndarray
    d_coarse: np.ndarray
    coarse_scale: float
    sparsity: float
    patch: int
    step: int

    def detail(self, change: np.ndarray) -> np.ndarray:
        """Fine detail that goes with a coarse change, both [height, width]."""
        corners = _corners(change.shape, self.patch, self.step)
        values = _patches(change, corners, self.patch) / self.coarse_scale
        codes = [
            decomposition.sparse_encode(
                values[start : start + CODED_AT_ONCE], self.d_coarse, alpha=self.sparsity
            )
            for start in range(0, len(values), CODED_AT_ONCE)
        ]
        return _assemble(np.concatenate(codes) @ self.d_fine, corners, self.patch, change.shape)


def _corners(shape: tuple[int, ...], patch: int, step: int) -> np.ndarray:
    """Top left corners of patches that cover the image to its border, [patches, 2]."""
    starts = [np.unique([*range(0, size - patch, step), size - patch]) for size in shape]
    return np.stack(np.meshgrid(*starts, indexing="ij"), axis=-1).reshape(-1, 2)


def _patches(image: np.ndarray, corners: np.ndarray, patch: int) -> np.ndarray:
    """Patches as rows, [patches, patch²]."""
    views = np.lib.stride_tricks.sliding_window_view(image, (patch, patch))
    return views[corners[:, 0], corners[:, 1]].reshape(len(corners), -1).astype(np.float64)


def _assemble(
    values: np.ndarray, corners: np.ndarray, patch: int, shape: tuple[int, ...]
) -> np.ndarray:
    """The image whose pixel is the mean of all patches over it."""
    total, count = np.zeros(shape), np.zeros(shape)
    for offset in range(patch * patch):
        row, col = corners[:, 0] + offset // patch, corners[:, 1] + offset % patch
        # The corners differ, so no pixel is met twice for one offset.
        total[row, col] += values[:, offset]
        count[row, col] += 1
    return total / np.maximum(count, 1)


METHOD = Spstfm()
