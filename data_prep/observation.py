"""What two sensors see of a land: clouds, atmosphere, optics, sampling and noise, all known.

Places are pixels of the fine grid. The land is larger than the fine image by a margin on every
side, so that coarse pixels at the border see what really lies there.
"""

import dataclasses

import numpy as np
from scipy import ndimage

from data_prep.landscape import Noise

FWHM_TO_SIGMA = 1 / np.sqrt(8 * np.log(2))

# cfmask's classes.
CLEAR, WATER, SHADOW, SNOW, CLOUD, FILL = 0, 1, 2, 3, 4, 255

_CLOUD_COLOUR = np.array((0.56, 0.57, 0.58, 0.60, 0.46, 0.34), np.float32)
# Share of light that a shadow takes: the sky still lights the blue.
_SHADE = np.array((0.38, 0.45, 0.52, 0.60, 0.66, 0.68), np.float32)
_SHADOW_OFFSET = (15, -10)
"""Rows and columns from a cloud to its shadow: the sun stands in the north-east."""
_MASK_FROM = 0.04  # opacity from which a mask reports a cloud or its shadow
_MASK_GROWTH = 2  # pixels by which the mask is wider


@dataclasses.dataclass(frozen=True)
class Sensor:
    """How a sensor's reflectance departs from the surface's, by band.

    Attributes:
        gain: Spectral response, as a factor, [bands].
        offset: … and as an offset in reflectance, [bands].
        noise: Standard deviation of a pixel's noise, reflectance, [bands].
        sigma: Of the Gaussian point spread function, fine pixels.
    """

    gain: tuple[float, ...]
    offset: tuple[float, ...]
    noise: tuple[float, ...]
    sigma: float


@dataclasses.dataclass(frozen=True)
class Atmosphere:
    """What correction has left of the atmosphere and of the view on one date, by band.

    Attributes:
        gain: A factor about 1, [bands].
        offset: Reflectance, [bands].
    """

    gain: np.ndarray
    offset: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, bands: int) -> "Atmosphere":
        """A residue of a percent: most of it common to all bands, haze in the short ones."""
        gain = 1 + rng.normal(0, 0.008) + rng.normal(0, 0.004, bands)
        haze = np.exp(-np.arange(bands) / 1.5)
        return cls(gain, rng.normal(0, 0.002) * haze)


class Clouds:
    """The clouds of one date, and their shadows.

    Args:
        shape: Height and width of the land.
        share: Share of pixels to be covered by cloud, 0 for a clear sky.
        rng: Their source.
    """

    def __init__(self, shape: tuple[int, int], share: float, rng: np.random.Generator):
        self.shape = shape
        rows, cols = _SHADOW_OFFSET
        larger = shape[0] + rows, shape[1] - cols
        weights = {70: 1.0, 28: 0.5, 11: 0.25, 4.5: 0.12, 2: 0.06}
        self._noise = [(Noise(larger, k, rng), w) for k, w in weights.items()] if share else []
        self._least = 0.0
        if share:
            sample = range(0, larger[0], max(1, larger[0] // 300))
            field = np.concatenate([self._field(k, k + 1) for k in sample])
            self._least = float(np.quantile(field, 1 - share))

    def _field(self, start: int, stop: int) -> np.ndarray:
        return np.sum([w * noise.rows(start, stop) for noise, w in self._noise], axis=0)

    def opacity(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Of clouds and of their shadows in some rows, 0–1, each (stop − start, W) float32."""
        if not self._noise:
            clear = np.zeros((stop - start, self.shape[1]), np.float32)
            return clear, clear
        rows, cols = _SHADOW_OFFSET
        field = np.clip((self._field(start, stop + rows) - self._least) / 0.45, 0, 1) ** 0.7
        field = field.astype(np.float32)
        count = stop - start
        # The field's rows are counted from `rows` above the land's, its columns likewise.
        return field[rows : rows + count, : self.shape[1]], field[:count, -cols:]


def under_clouds(surface: np.ndarray, cloud: np.ndarray, shadow: np.ndarray) -> np.ndarray:
    """Reflectance that reaches the sensor, (H, W, B).

    Args:
        surface: Reflectance of the surface, (H, W, B).
        cloud: Opacity, 0–1, (H, W).
        shadow: Likewise.
    """
    shaded = surface * (1 - _SHADE * shadow[..., None])
    bright = _CLOUD_COLOUR * (0.85 + 0.3 * cloud[..., None])
    return (shaded + (bright - shaded) * cloud[..., None]).astype(np.float32)


def cloud_mask(surface: np.ndarray, cloud: np.ndarray, shadow: np.ndarray) -> np.ndarray:
    """Classes of cfmask, (H, W) uint8; the arguments are `under_clouds`'."""
    red, nir, swir = surface[..., 2], surface[..., 3], surface[..., 4]
    water = ((nir - red) < 0.05 * (nir + red)) & (swir < 0.09)
    mask = np.where(water, WATER, CLEAR)
    size = 2 * _MASK_GROWTH + 1
    for opacity, value in ((shadow, SHADOW), (cloud, CLOUD)):
        mask = np.where(ndimage.maximum_filter(opacity > _MASK_FROM, size), value, mask)
    return mask.astype(np.uint8)


def measure(
    light: np.ndarray, sensor: Sensor, atmosphere: Atmosphere, rng: np.random.Generator
) -> np.ndarray:
    """A sensor's reflectance product: response, atmosphere, noise, (…, B) float32.

    Args:
        light: Reflectance after the optics, (…, B).
        sensor: Response and noise.
        atmosphere: The date's.
        rng: Source of the noise.
    """
    gain = np.asarray(sensor.gain) * atmosphere.gain
    offset = np.asarray(sensor.offset) + atmosphere.offset
    noise = rng.standard_normal(light.shape, np.float32) * np.asarray(sensor.noise, np.float32)
    return (light * gain + offset + noise).astype(np.float32)


def footprints(image: np.ndarray, rows: np.ndarray, cols: np.ndarray, sigma: float) -> np.ndarray:
    """What coarse pixels see: Gaussian means about their centres, exact to the sub-pixel, [n, B].

    Args:
        image: Fine pixels, (H, W, B).
        rows: Centres, fractional rows (0 is the upper edge of the first row), [n].
        cols: … and columns.
        sigma: Of the point spread function, pixels.
    """
    reach = int(np.ceil(4 * sigma))
    out = np.empty((len(rows), image.shape[2]), np.float32)
    for k, (row, col) in enumerate(zip(rows, cols, strict=True)):
        weights = []
        places = []
        for centre, size in ((row, image.shape[0]), (col, image.shape[1])):
            first, last = max(int(centre) - reach, 0), min(int(centre) + reach + 1, size)
            distance = np.arange(first, last) + 0.5 - centre
            weight = np.exp(-0.5 * (distance / sigma) ** 2)
            weights.append((weight / weight.sum()).astype(np.float32))
            places.append(slice(first, last))
        part = image[places[0], places[1]]
        by_row = weights[0] @ part.reshape(len(weights[0]), -1)
        out[k] = weights[1] @ by_row.reshape(-1, image.shape[2])
    return out


class Lattice:
    """Coarse pixels on a sheared grid, to be interpolated anywhere.

    Far from its central meridian the sinusoidal grid's rows are sheared by more than a pixel.
    Interpolated along its own axes it would smear along the shear. The same points form a nearly
    upright lattice once each row is moved by a whole number of pixels: that one is interpolated.

    Args:
        values: (H, W, B) float, NaN where there is no coarse pixel.
        shear: Columns by which each row is moved with respect to the one above.
        order: Of the spline: 3 cubic, 1 linear.
    """

    def __init__(self, values: np.ndarray, shear: int, order: int = 3):
        self.shear, self.order = shear, order
        height, width, bands = values.shape
        self._first = min(0, shear * (height - 1))
        wide = width + abs(shear) * (height - 1)
        upright = np.full((height, wide, bands), np.nan)
        for row in range(height):
            start = shear * row - self._first
            upright[row, start : start + width] = values[row]
        missing = np.isnan(upright).any(-1)
        if missing.any():  # a spline reaches over the border: continue with the nearest pixels
            nearest = ndimage.distance_transform_edt(
                missing, return_distances=False, return_indices=True
            )
            upright = upright[tuple(nearest)]
        if order > 1:
            parts = [
                ndimage.spline_filter(upright[..., k], order, mode="mirror") for k in range(bands)
            ]
            upright = np.stack(parts, -1)
        self._coefficients = upright

    def at(self, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        """Interpolated values, (…, B) float32.

        Args:
            rows: Fractional rows of the sheared grid; 0 is the upper edge of the first row.
            cols: … and columns.
        """
        i = np.asarray(rows) - 0.5
        j = np.asarray(cols) - 0.5 + self.shear * i - self._first
        return np.stack(
            [
                ndimage.map_coordinates(
                    self._coefficients[..., k],
                    [i, j],
                    order=self.order,
                    prefilter=False,
                    mode="mirror",
                )
                for k in range(self._coefficients.shape[-1])
            ],
            -1,
        ).astype(np.float32)


def best_shear(row_step: np.ndarray, col_step: np.ndarray) -> int:
    """The `Lattice` shear that makes a lattice as upright as it can be.

    Args:
        row_step: Ground vector from a pixel to the one below, [2].
        col_step: … to the one on its right.
    """
    # A pixel of the upright lattice keeps its column when it goes down one row and left or right
    # by -shear columns of the sheared one.
    return round(float(row_step @ col_step / (col_step @ col_step)))
