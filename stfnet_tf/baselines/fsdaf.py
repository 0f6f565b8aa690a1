"""FSDAF: flexible spatiotemporal data fusion by unmixing, interpolation and residual distribution.

X. Zhu, E. H. Helmer, F. Gao, D. Liu, J. Chen, M. A. Lefsky, "A flexible spatiotemporal method for
fusing satellite images with different resolutions", Remote Sensing of Environment 172, 165–177,
2016, doi 10.1016/j.rse.2015.11.016.
"""

import dataclasses

import numpy as np
from scipy import interpolate, optimize
from sklearn import cluster

from stfnet_tf.baselines import base, windows

# Blocks are interpolated tile by tile: a thin plate hardly feels points this many blocks away.
PLATE_TILE, PLATE_HALO = 8, 6
CLUSTERED_PIXELS = 50_000
# A coarse pixel counts where at least this share of its fine pixels is valid.
LEAST_VALID = 0.5


@dataclasses.dataclass(frozen=True)
class Fsdaf:
    """F̂2 = F_k + change of the class + distributed residual, averaged over the sides k.

    1. F_k is clustered into classes; the change of each class, band by band, is the least-squares
       solution of ΔC = Σ_class share · ΔF(class) over the purest coarse pixels.
    2. A thin-plate spline through the coarse pixels of C2 predicts where the land itself changed.
    3. The residual of each coarse pixel goes to its fine pixels: where the surroundings are of one
       class as the spline says, elsewhere evenly.
    4. The change is averaged over similar neighbours.

    Attributes:
        classes: Number of clusters.
        purest: Number of coarse pixels a class that the unmixing uses.
        window: Width of the window of the last step, in fine pixels.
        neighbours: Number of similar pixels of the last step.
    """

    name: str = "fsdaf"
    two_sided: bool = False
    classes: int = 5
    purest: int = 100
    window: int = 41
    neighbours: int = 20

    def predict(self, inputs: base.Inputs) -> base.Prediction:
        """Predicts F2."""
        sides = inputs.sides()
        return base.average([self._predict_from(side, inputs) for side in sides], sides)

    def _predict_from(self, side: base.Side, inputs: base.Inputs) -> np.ndarray:
        if not side.valid.any():
            return np.zeros_like(side.f)
        blocks = Blocks.of(side.valid, inputs.ratio)
        labels = _cluster(side.f, side.valid, self.classes, inputs.seed)
        coarse_change = blocks.mean(side.c2 - side.c)
        class_change = self._unmix(blocks, labels, coarse_change)
        change = class_change[labels]
        plate = _thin_plate(blocks, side.c2)
        residual = _distribute(
            coarse_change - blocks.mean(change), plate - (side.f + change),
            _homogeneity(labels, side.valid, inputs.ratio), blocks,
        )  # fmt: skip
        change = _keep_plausible(change + residual, coarse_change[blocks.used], class_change)
        similar = windows.mean_of_similar(side.f, change, side.valid, self.window, self.neighbours)
        return side.f + similar

    def _unmix(self, blocks: "Blocks", labels: np.ndarray, change: np.ndarray) -> np.ndarray:
        """Change of each class, [classes, bands], from the coarse change, [blocks, bands]."""
        classes = labels.max() + 1
        shares = np.stack([blocks.mean(labels == k) for k in range(classes)], axis=-1)
        shares, change = shares[blocks.used], change[blocks.used]
        solution = np.zeros((classes, change.shape[-1]))
        for band in range(change.shape[-1]):
            c = change[:, band]
            chosen = set()
            for k in range(classes):
                pure = np.argsort(-shares[:, k], kind="stable")[: self.purest]
                low, high = np.quantile(c[pure], (0.1, 0.9))
                # The purest blocks hold the blocks whose land changed, too: those are outliers.
                chosen.update(pure[(c[pure] >= low) & (c[pure] <= high) & (shares[pure, k] > 0)])
            # Among two or three blocks there is no telling which are outliers.
            rows = sorted(chosen) or list(range(len(c)))
            margin = c.std() + 1e-6
            solution[:, band] = optimize.lsq_linear(
                shares[rows], c[rows], bounds=(c.min() - margin, c.max() + margin)
            ).x
        return solution


@dataclasses.dataclass(frozen=True)
class Blocks:
    """The coarse pixels as blocks of the fine grid; their width need not be a whole number.

    Attributes:
        label: Number of the block that a fine pixel lies in, [height, width].
        rows, cols: Number of blocks down and across.
        count: Valid fine pixels in each block, [blocks].
        valid: Valid fine pixels, [height, width].
        used: Blocks with enough valid pixels, [blocks] of bool.
    """

    label: np.ndarray
    rows: int
    cols: int
    count: np.ndarray
    valid: np.ndarray
    used: np.ndarray

    @classmethod
    def of(cls, valid: np.ndarray, ratio: float) -> "Blocks":
        """The blocks of a grid whose first coarse pixel starts in its corner."""
        down, across = (np.floor(np.arange(n) / ratio).astype(np.int64) for n in valid.shape)
        rows, cols = int(down[-1]) + 1, int(across[-1]) + 1
        label = down[:, None] * cols + across
        size = np.bincount(label.ravel(), minlength=rows * cols)
        count = np.bincount(label[valid], minlength=rows * cols)
        used = count >= np.minimum(LEAST_VALID * size, count.max())
        return cls(label, rows, cols, count, valid, used & (count > 0))

    def mean(self, image: np.ndarray) -> np.ndarray:
        """Mean of the valid pixels of each block, [blocks] or [blocks, bands]; 0 where none is."""
        if image.ndim == 3:
            return np.stack([self.mean(image[..., b]) for b in range(image.shape[-1])], axis=-1)
        total = np.bincount(
            self.label[self.valid], image[self.valid].astype(np.float64), self.rows * self.cols
        )
        return total / np.maximum(self.count, 1)


def _cluster(image: np.ndarray, valid: np.ndarray, classes: int, seed: int) -> np.ndarray:
    """Class of each pixel, [height, width]; bands count alike whatever their spread.

    There are fewer classes where there are fewer different pixels.
    """
    pixels = image[valid].astype(np.float64)
    pixels = (pixels - pixels.mean(axis=0)) / (pixels.std(axis=0) + 1e-9)
    every = max(1, len(pixels) // CLUSTERED_PIXELS)
    clustered = pixels[::every]
    classes = min(classes, len(np.unique(clustered, axis=0)))
    model = cluster.KMeans(classes, n_init=3, random_state=seed).fit(clustered)
    labels = np.zeros(valid.shape, np.int64)
    labels[valid] = model.predict(pixels)
    return labels


def _thin_plate(blocks: Blocks, image: np.ndarray) -> np.ndarray:
    """Thin-plate spline through the centres of the blocks, at every fine pixel."""
    values = blocks.mean(image)
    height, width = blocks.label.shape
    row, col = np.mgrid[:height, :width].astype(np.float64)
    every = dataclasses.replace(
        blocks, valid=np.ones((height, width), bool), count=np.bincount(blocks.label.ravel())
    )
    centres = np.stack([every.mean(row), every.mean(col)], axis=-1)
    block_row, block_col = np.divmod(np.arange(blocks.rows * blocks.cols), blocks.cols)
    pixel_row, pixel_col = np.divmod(blocks.label, blocks.cols)
    out = image.astype(np.float64).copy()
    for top in range(0, blocks.rows, PLATE_TILE):
        for left in range(0, blocks.cols, PLATE_TILE):
            near = (
                blocks.used
                & (block_row >= top - PLATE_HALO) & (block_row < top + PLATE_TILE + PLATE_HALO)
                & (block_col >= left - PLATE_HALO) & (block_col < left + PLATE_TILE + PLATE_HALO)
            )  # fmt: skip
            places = np.stack([block_row[near], block_col[near]])
            # A plane needs three points that are not on one line.
            if near.sum() < 4 or np.linalg.matrix_rank(places - places[:, :1]) < 2:
                continue
            here = (pixel_row // PLATE_TILE * PLATE_TILE == top) & (
                pixel_col // PLATE_TILE * PLATE_TILE == left
            )
            plate = interpolate.RBFInterpolator(
                centres[near], values[near], kernel="thin_plate_spline"
            )
            out[here] = plate(np.stack([row[here], col[here]], axis=-1))
    return out


def _homogeneity(labels: np.ndarray, valid: np.ndarray, ratio: float) -> np.ndarray:
    """Share of the pixels within a coarse pixel's width that have the centre's class, 0–1."""
    size = max(3, round(ratio) // 2 * 2 + 1)
    same = np.stack([labels == k for k in range(labels.max() + 1)], axis=-1)
    shares = base.masked_mean(same, valid, size)
    return np.take_along_axis(shares, labels[..., None], axis=-1)


def _distribute(
    residual: np.ndarray, plate_error: np.ndarray, homogeneity: np.ndarray, blocks: Blocks
) -> np.ndarray:
    """Shares a block's residual, [blocks, bands], among its fine pixels (equations 15 to 18)."""
    even = residual[blocks.label]
    weight = plate_error * homogeneity + even * (1 - homogeneity)
    # A pixel whose error has the other sign takes no part.
    weight = np.where(weight * even > 0, np.abs(weight), 0)
    mean = blocks.mean(weight)[blocks.label]
    return even * np.where(mean > 0, weight / np.where(mean > 0, mean, 1), 1)


def _keep_plausible(
    change: np.ndarray, coarse_change: np.ndarray, class_change: np.ndarray
) -> np.ndarray:
    """Limits the change to what coarse pixels and classes show, give or take their spread."""
    shown = np.concatenate([coarse_change, class_change])
    margin = coarse_change.std(axis=0)
    return np.clip(change, shown.min(axis=0) - margin, shown.max(axis=0) + margin)


METHOD = Fsdaf()
