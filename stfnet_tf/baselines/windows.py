"""Loops over a pixel's neighbours, compiled, for the methods that share them.

Which neighbours count is decided anew for every pixel, so the array form would hold window² copies
of the image (2,601 for 51 × 51). Numba compiles the plain loop instead: no copies, and as fast as
C. Every loop is over independent pixels, so the result does not depend on the number of threads.
"""

import numba
import numpy as np


def mean_of_similar(
    guide: np.ndarray, images: np.ndarray, valid: np.ndarray, window: int, neighbours: int
) -> np.ndarray:
    """Mean over the spectrally most similar neighbours, weighted by the inverse of distance.

    The neighbours of a pixel are the valid ones of its window with the smallest Euclidean distance
    between their spectra and its own in `guide`; the pixel itself is among them. Each weighs
    1 / (1 + d / half width).

    Args:
        guide: Fine image that decides who is similar, [height, width, bands].
        images: What is averaged, [height, width, channels].
        valid: [height, width] of bool.
        window: Width of the window in pixels.
        neighbours: How many are averaged.

    Returns:
        float64, [height, width, channels]; 0 where invalid.
    """
    return _mean_of_similar(
        np.ascontiguousarray(guide, np.float32),
        np.ascontiguousarray(images, np.float64),
        valid,
        window // 2,
        neighbours,
    )


@numba.njit(parallel=True, cache=True)
def _mean_of_similar(guide, images, valid, half, neighbours):
    height, width, bands = guide.shape
    channels = images.shape[2]
    out = np.zeros((height, width, channels))
    for row in numba.prange(height):
        best = np.empty(neighbours, np.float32)
        rows, cols = np.empty(neighbours, np.int64), np.empty(neighbours, np.int64)
        for col in range(width):
            if not valid[row, col]:
                continue
            count = 0
            for i in range(max(0, row - half), min(height, row + half + 1)):
                for j in range(max(0, col - half), min(width, col + half + 1)):
                    if not valid[i, j]:
                        continue
                    difference = np.float32(0)
                    for b in range(bands):
                        difference += (guide[i, j, b] - guide[row, col, b]) ** 2
                    if count == neighbours and difference >= best[count - 1]:
                        continue
                    # Insertion into a short sorted list; the worst falls off its end.
                    place = min(count, neighbours - 1)
                    while place > 0 and best[place - 1] > difference:
                        best[place] = best[place - 1]
                        rows[place], cols[place] = rows[place - 1], cols[place - 1]
                        place -= 1
                    best[place], rows[place], cols[place] = difference, i, j
                    count = min(count + 1, neighbours)
            total = 0.0
            for n in range(count):
                i, j = rows[n], cols[n]
                weight = 1 / (1 + np.sqrt(float((i - row) ** 2 + (j - col) ** 2)) / half)
                total += weight
                for c in range(channels):
                    out[row, col, c] += weight * images[i, j, c]
            for c in range(channels):
                out[row, col, c] /= total
    return out
