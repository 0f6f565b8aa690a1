"""Simulates a sample: the land on every date, seen by the fine and the coarse sensor, as files.

Written strip by strip, so that memory does not grow with the scene.
"""

import contextlib
import dataclasses
from pathlib import Path

import numpy as np
from scipy import ndimage

from data_prep import crops, grids, landscape, observation, progress, rasters, sample_layout
from data_prep.grids import Grid
from data_prep.landscape import Landscape
from data_prep.observation import Atmosphere, Clouds, Sensor
from data_prep.rasters import Writer
from data_prep.sample_layout import Date

DN_SCALE = 1e-4
COARSE_FILL = -28672
PIXEL = 25.0
_ORIGIN = (396000.0, 6152000.0)  # easting and northing of the fine image's upper left corner
CRS = "EPSG:32755"
MARGIN = 64  # pixels of land around the fine image
_STRIP = 256
SINUSOIDAL = "+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +R=6371007.181 +units=m +no_defs"
SINUSOIDAL_PIXEL = 463.312716527
_SINUSOIDAL_CORNER = (-20015109.354, 10007554.677)
_TILE = 2400  # MODIS pixels a tile

# Bands B, G, R, NIR, SWIR1, SWIR2.
FINE_NOISE = (0.0022, 0.0022, 0.0026, 0.0040, 0.0034, 0.0032)
FINE_SIGMA = 0.45
COARSE_GAIN = (1.035, 0.985, 1.020, 0.975, 1.015, 1.030)
COARSE_OFFSET = (0.004, 0.003, -0.002, 0.004, -0.003, 0.002)
COARSE_NOISE = (0.0020, 0.0020, 0.0022, 0.0035, 0.0035, 0.0030)
COARSE_PSF_FWHM = 1.4
SHIFT = (3.4, -5.7)
MAX_JITTER = 0.3
CLOUD_SHARES = (0.08, 0.03, 0.11)
"""Of every third date, the second first; the others are clear."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """What a sample consists of.

    Attributes:
        seed: Decides everything.
        size: Height and width of the fine images.
        dates: The dates of both sensors.
        truth_images: Whether the surface is written as well.
    """

    seed: int
    size: int
    dates: tuple[Date, ...]
    truth_images: bool = True

    @property
    def extent(self) -> int:
        """Height and width of the land, margins included."""
        return self.size + 2 * MARGIN

    def cloud_share(self, index: int) -> float:
        """Share of the land under cloud on a date."""
        return CLOUD_SHARES[index // 3 % len(CLOUD_SHARES)] if index % 3 == 1 else 0.0


@dataclasses.dataclass(frozen=True)
class Scene:
    """The conditions of one date."""

    date: Date
    index: int
    day: float
    clouds: Clouds
    fine: Atmosphere
    coarse: Atmosphere
    shift: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class CoarseGrid:
    """MODIS pixels over the land.

    Attributes:
        grid: Their own grid.
        tile: Name of MODIS' tile.
        shear: As in `observation.Lattice`.
        rows: Where the pixels' centres lie in the land, fractional rows, (H, W).
        cols: … and columns.
        inside: Whether they lie in the land at all, (H, W) bool.
    """

    grid: Grid
    tile: str
    shear: int
    rows: np.ndarray
    cols: np.ndarray
    inside: np.ndarray


@dataclasses.dataclass(frozen=True)
class Made:
    """What a simulation went through, for those who state the truth.

    Attributes:
        scenes: The conditions of every date.
        counts: For every date the number of fine pixels by mask class.
        coarse: The coarse pixels.
    """

    scenes: list[Scene]
    counts: list[dict[int, int]]
    coarse: CoarseGrid


def write(sample: Sample, folder: Path) -> Made:
    """Writes all images and masks of a sample below a folder."""
    grid = fine_grid(sample.size)
    coarse = _coarse_grid(grid, sample)
    land = landscape.Landscape(sample.extent, sample.extent, sample.seed)
    scenes = [_scene(sample, k) for k in range(len(sample.dates))]
    seen, counts = _observe_fine(sample, land, scenes, coarse, grid, folder)
    for scene, light in zip(scenes, seen, strict=True):
        _write_coarse(sample, scene, light, coarse, grid, folder)
    rasters.close_all()
    for extra in folder.glob("CIA/**/*.aux.xml"):  # GDAL's; the headers state it all
        extra.unlink()
    return Made(scenes, counts, coarse)


def fine_grid(size: int) -> Grid:
    """The fine images' grid: UTM zone 55 south, 25 m."""
    east, north = _ORIGIN
    transform = (east, PIXEL, 0.0, north, 0.0, -PIXEL)
    return grids.Grid(size, size, transform, grids.crs_wkt(CRS))


def _coarse_grid(grid: Grid, sample: Sample) -> CoarseGrid:
    """The part of MODIS' grid whose pixels have their centres in the land."""
    pixel = SINUSOIDAL_PIXEL
    west, north = _SINUSOIDAL_CORNER
    world = grids.Grid(
        36 * _TILE,
        18 * _TILE,
        (west, pixel, 0.0, north, 0.0, -pixel),
        grids.crs_wkt(SINUSOIDAL),
    )
    land = grid.crop(grids.Window(-MARGIN, -MARGIN, sample.extent, sample.extent))
    edge = np.linspace(0, sample.extent, 33)
    rows, cols = np.meshgrid(edge, edge, indexing="ij")
    there = grids.locate(land, world, rows.ravel(), cols.ravel())
    first = np.floor(there.min(0)).astype(int)
    last = np.ceil(there.max(0)).astype(int)
    native = world.crop(grids.Window(*(int(k) for k in (*first, *(last - first)))))
    i, j = np.indices(native.shape) + 0.5
    places = grids.locate(native, land, i.ravel(), j.ravel()).reshape(*native.shape, 2)
    inside = np.all((places >= 0) & (places < sample.extent), axis=-1)
    middle = grids.locate(native, land, np.array([5.5, 6.5, 5.5]), np.array([5.5, 5.5, 6.5]))
    shear = observation.best_shear(middle[1] - middle[0], middle[2] - middle[0])
    tile = "h{1:02d}v{0:02d}".format(*((first + last) // 2 // _TILE))
    return CoarseGrid(native, tile, shear, places[..., 0], places[..., 1], inside)


def fine_sensor() -> Sensor:
    """Landsat's part."""
    return Sensor((1.0,) * 6, (0.0,) * 6, FINE_NOISE, FINE_SIGMA)


def coarse_sensor() -> Sensor:
    """MODIS' part."""
    sigma = COARSE_PSF_FWHM * SINUSOIDAL_PIXEL / PIXEL * observation.FWHM_TO_SIGMA
    return Sensor(COARSE_GAIN, COARSE_OFFSET, COARSE_NOISE, sigma)


def _scene(sample: Sample, index: int) -> Scene:
    rng = np.random.default_rng([sample.seed, 2, index])
    atmospheres = [Atmosphere.draw(rng, 6) for _ in range(2)]
    jitter = rng.uniform(-1, 1, 2) * MAX_JITTER / np.sqrt(2)
    rows, cols = (round(float(k), 3) for k in np.array(SHIFT) + jitter)
    date = sample.dates[index]
    shape = (sample.extent, sample.extent)
    clouds = Clouds(shape, sample.cloud_share(index), rng)
    fine, coarse = atmospheres
    return Scene(date, index, crops.day_of(date), clouds, fine, coarse, (rows, cols))


def _observe_fine(
    sample: Sample,
    land: Landscape,
    scenes: list[Scene],
    coarse: CoarseGrid,
    grid: Grid,
    folder: Path,
) -> tuple[list[np.ndarray], list[dict[int, int]]]:
    """Writes the fine images, strip by strip, and gathers the light of every coarse pixel.

    Returns:
        For each date the coarse pixels' reflectance before the coarse sensor's response, and the
        share of each that lies under cloud and in shadow, (H, W, bands + 2), NaN outside the land;
        and for each date the number of fine pixels by mask class.
    """
    halo = int(np.ceil(4 * coarse_sensor().sigma)) + 1
    seen = [np.full((*coarse.grid.shape, 8), np.nan, np.float32) for _ in scenes]
    counts: list[dict[int, int]] = [{} for _ in scenes]
    starts = range(0, sample.extent, _STRIP)
    with contextlib.ExitStack() as stack:
        files = [_open_fine(stack, sample, scene, grid, folder) for scene in scenes]
        classes = _open_classes(stack, grid, folder)
        for start in progress.track(starts, "Simulating", len(starts)):
            stop = min(start + _STRIP, sample.extent)
            first, last = max(start - halo, 0), min(stop + halo, sample.extent)
            strip = land.strip(first, last)
            core = _Core(start, stop, first, sample)
            core.write(classes, strip.label[..., None])
            cells = coarse.inside & (coarse.rows >= start) & (coarse.rows < stop)
            for scene, out, lights, count in zip(scenes, files, seen, counts, strict=True):
                surface = strip.reflectance(scene.day)
                lights[cells] = _observe(scene, surface, core, out, count, coarse, cells)
    return seen, counts


@dataclasses.dataclass(frozen=True)
class _Core:
    """The rows `start` to `stop` of the land in an array that begins at row `first`."""

    start: int
    stop: int
    first: int
    sample: Sample

    @property
    def fine_rows(self) -> tuple[int, int]:
        """The rows' part in the fine image, first and last + 1."""
        size = self.sample.size
        return max(self.start - MARGIN, 0), min(self.stop - MARGIN, size)

    def cut(self, array: np.ndarray) -> np.ndarray:
        """What belongs into the fine image, from an array of the land's width."""
        row, last = self.fine_rows
        begin = row + MARGIN - self.first
        return array[begin : begin + max(last - row, 0), MARGIN : MARGIN + self.sample.size]

    def write(self, raster: Writer, array: np.ndarray) -> None:
        """Writes a (H, W, B) array's part of the fine image."""
        row, last = self.fine_rows
        if last > row:
            window = grids.Window(row, 0, last - row, self.sample.size)
            raster.write(window, self.cut(array))


@dataclasses.dataclass(frozen=True)
class _FineFiles:
    """One date's open files."""

    image: Writer
    mask: Writer
    truth: Writer | None


def _image_and_mask(
    stack: contextlib.ExitStack, image: Path, mask: Path, grid: Grid, interleave: str
) -> tuple[Writer, Writer]:
    """The open files of one date and side: six bands of digital numbers, and their mask."""
    names = [name.capitalize() for name in crops.BANDS]
    both = (
        rasters.create(
            image,
            grid,
            bands=6,
            dtype="int16",
            driver="ENVI",
            interleave=interleave,
            band_names=names,
        ),
        rasters.create(mask, grid, bands=1, dtype="uint8", driver="ENVI", band_names=["cfmask"]),
    )
    return stack.enter_context(both[0]), stack.enter_context(both[1])


def _open_fine(
    stack: contextlib.ExitStack, sample: Sample, scene: Scene, grid: Grid, folder: Path
) -> _FineFiles:
    image, mask = _image_and_mask(
        stack,
        folder / sample_layout.fine_file(scene.date),
        folder / sample_layout.fine_mask_file(scene.date),
        grid,
        "BIL",
    )
    if not sample.truth_images:
        return _FineFiles(image, mask, None)
    truth = stack.enter_context(
        rasters.create(
            folder / sample_layout.truth_file(scene.date),
            grid,
            bands=6,
            dtype="int16",
            band_names=crops.BANDS,
            scale=DN_SCALE,
            interleave="BSQ",
        )
    )
    return _FineFiles(image, mask, truth)


def _open_classes(stack: contextlib.ExitStack, grid: Grid, folder: Path) -> Writer:
    tags = {f"CLASS_{k}": name for k, name in enumerate(crops.CLASSES)}
    return stack.enter_context(
        rasters.create(
            folder / "truth/classes.tif",
            grid,
            bands=1,
            dtype="uint8",
            band_names=["class"],
            tags=tags,
        )
    )


def _observe(
    scene: Scene,
    surface: np.ndarray,
    core: _Core,
    out: _FineFiles,
    count: dict[int, int],
    coarse: CoarseGrid,
    cells: np.ndarray,
) -> np.ndarray:
    """Writes one date's strip of the fine image; returns what the coarse pixels in it see."""
    cloud, shadow = scene.clouds.opacity(core.first, core.first + len(surface))
    light = observation.under_clouds(surface, cloud, shadow)
    fine = fine_sensor()
    if core.fine_rows[1] > core.fine_rows[0]:
        rng = np.random.default_rng([core.sample.seed, 3, scene.index, core.start])
        sharp = core.cut(landscape.optics(light, fine.sigma))
        dn = _digital(observation.measure(sharp, fine, scene.fine, rng), least=0)
        mask = core.cut(observation.cloud_mask(surface, cloud, shadow))
        for value in np.unique(mask):
            count[int(value)] = count.get(int(value), 0) + int((mask == value).sum())
        window_rows = core.fine_rows
        _write_rows(out.image, window_rows, dn)
        _write_rows(out.mask, window_rows, mask[..., None])
        if out.truth:
            clear = core.cut(landscape.optics(surface, fine.sigma))
            _write_rows(out.truth, window_rows, _digital(clear, least=0))
    stacked = np.concatenate([light, cloud[..., None], shadow[..., None]], -1)
    return observation.footprints(
        stacked, coarse.rows[cells] - core.first, coarse.cols[cells], coarse_sensor().sigma
    )


def _write_rows(raster: Writer, rows: tuple[int, int], pixels: np.ndarray) -> None:
    raster.write(grids.Window(rows[0], 0, rows[1] - rows[0], pixels.shape[1]), pixels)


def _digital(reflectance: np.ndarray, least: int) -> np.ndarray:
    """Reflectance as digital numbers, int16."""
    return np.clip(np.round(reflectance / DN_SCALE), least, 16000).astype(np.int16)


def _write_coarse(
    sample: Sample,
    scene: Scene,
    light: np.ndarray,
    coarse: CoarseGrid,
    grid: Grid,
    folder: Path,
) -> None:
    """Writes one date's coarse image on its own grid and on the fine one, with masks."""
    rng = np.random.default_rng([sample.seed, 4, scene.index])
    image = observation.measure(light[..., :6], coarse_sensor(), scene.coarse, rng)
    filled = ~coarse.inside
    cloudy, shaded = (light[..., k] > 0.03 for k in (6, 7))
    native = _digital(np.where(filled[..., None], 0, image), least=-100)
    native[filled] = COARSE_FILL
    # MOD09GA's state: bits 0-1 cloud (1 cloudy, 3 not set: taken as clear), bit 2 shadow.
    state = np.where(filled, 65535, 1 * cloudy + 4 * (shaded & ~cloudy)).astype(np.uint16)
    for layer, pixels, fill, scale in (
        ("sur_refl", native, COARSE_FILL, DN_SCALE),
        ("state", state[..., None], 65535, None),
    ):
        names = crops.BANDS if layer == "sur_refl" else ["state_1km"]
        rasters.write(
            folder / sample_layout.sinusoidal_file(scene.date, coarse.tile, layer),
            pixels,
            coarse.grid,
            nodata=fill,
            band_names=names,
            scale=scale,
        )
    image[filled] = np.nan
    flags = np.stack([cloudy, shaded], -1).astype(np.float32)
    flags[filled] = np.nan
    lattices = [
        observation.Lattice(image, coarse.shear, order=3),
        observation.Lattice(flags, coarse.shear, order=1),
    ]
    _write_resampled(sample, scene, lattices, coarse, grid, folder)


def _write_resampled(
    sample: Sample,
    scene: Scene,
    lattices: list,
    coarse: CoarseGrid,
    grid: Grid,
    folder: Path,
) -> None:
    """Writes the coarse image on the fine grid, off by the scene's shift, with its mask."""
    with contextlib.ExitStack() as stack:
        image, mask = _image_and_mask(
            stack,
            folder / sample_layout.coarse_file(scene.date),
            folder / sample_layout.coarse_mask_file(scene.date),
            grid,
            "BSQ",
        )
        for start in range(0, sample.size, _STRIP):
            stop = min(start + _STRIP, sample.size)
            places = _source_places(grid, coarse.grid, (start, stop), scene.shift)
            values, flagged = (lattice.at(*places) for lattice in lattices)
            _write_rows(image, (start, stop), _digital(values, least=0))
            classes = np.where(flagged[..., 1] > 0.05, observation.SHADOW, observation.CLEAR)
            classes = np.where(flagged[..., 0] > 0.05, observation.CLOUD, classes)
            _write_rows(mask, (start, stop), classes[..., None].astype(np.uint8))


def _source_places(
    grid: Grid, source: Grid, rows: tuple[int, int], shift: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Where fine pixels' centres, moved by the shift, lie in the coarse grid, rows and columns.

    The map is smooth: it is computed at nodes and interpolated, to a thousandth of a pixel.
    """
    step = 32
    nodes_r = np.arange(rows[0], rows[1] + step, step) + 0.5 + shift[0]
    nodes_c = np.arange(0, grid.width + step, step) + 0.5 + shift[1]
    r, c = np.meshgrid(nodes_r, nodes_c, indexing="ij")
    there = grids.locate(grid, source, r.ravel(), c.ravel()).reshape(*r.shape, 2)
    at = np.meshgrid(
        np.arange(rows[1] - rows[0]) / step, np.arange(grid.width) / step, indexing="ij"
    )
    found = [ndimage.map_coordinates(there[..., k], at, order=1) for k in range(2)]
    return found[0], found[1]
