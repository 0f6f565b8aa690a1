"""Where pixels lie, and moving images from one grid onto another.

Arrays are (height, width, bands). Warps are done window by window between arrays in memory: the
caller reads the part of the source that a window needs (`footprint`), takes out what is invalid,
and `warp` moves it onto the window's grid in a single interpolation. Neither intermediate files nor
memory grow with the scene.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
from osgeo import gdal, gdal_array, osr

from data_prep import errors, gdal_settings

gdal_settings.apply()

RESAMPLING = {
    "nearest": gdal.GRA_NearestNeighbour,
    "bilinear": gdal.GRA_Bilinear,
    "cubic": gdal.GRA_Cubic,
    "average": gdal.GRA_Average,
}
_KERNEL_RADIUS = {"nearest": 1, "bilinear": 1, "cubic": 2, "average": 1}
# Largest error of the approximated coordinate transformation, in pixels of the target grid.
_TRANSFORM_ERROR = 0.005
# Two grids agree when no corner differs by more than this share of a pixel.
_GRID_TOLERANCE = 0.01
# Maps in use for images keep sizes on the ground within less; those of the web do not.
_TRUE_SCALE = 0.05


@dataclasses.dataclass(frozen=True)
class Window:
    """A rectangle of pixels: its first row and column, its height and width."""

    row: int
    col: int
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of the window in a (height, width, …) array."""
        return (
            slice(self.row, self.row + self.height),
            slice(self.col, self.col + self.width),
        )

    def intersection(self, other: "Window") -> "Window | None":
        """The pixels in both windows, None where there are none."""
        row, col = max(self.row, other.row), max(self.col, other.col)
        height = min(self.row + self.height, other.row + other.height) - row
        width = min(self.col + self.width, other.col + other.width) - col
        return Window(row, col, height, width) if height > 0 and width > 0 else None

    def moved(self, rows: int, cols: int) -> "Window":
        """The window with its origin moved by `rows` and `cols`."""
        return dataclasses.replace(self, row=self.row + rows, col=self.col + cols)


@dataclasses.dataclass(frozen=True)
class Grid:
    """Where a raster's pixels lie.

    Attributes:
        width: Columns.
        height: Rows.
        geotransform: GDAL's six numbers, pixel to map coordinates; None where the file has none.
        crs: The coordinate reference system as WKT, "" where the file has none.
    """

    width: int
    height: int
    geotransform: tuple[float, float, float, float, float, float] | None = None
    crs: str = ""

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    @property
    def window(self) -> Window:
        """All of the grid."""
        return Window(0, 0, self.height, self.width)

    @property
    def transform(self) -> tuple[float, float, float, float, float, float]:
        """The geotransform; pixel coordinates with rows upwards where the file has none."""
        return self.geotransform or (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)

    @property
    def pixel_size(self) -> tuple[float, float]:
        """Height and width of a pixel in map units."""
        _, a, b, _, c, d = self.transform
        return math.hypot(b, d), math.hypot(a, c)

    @property
    def pixel_metres(self) -> float | None:
        """Height of a pixel in metres, whatever the map's unit; None where it lies nowhere.

        A map's own metres are taken for metres on the ground unless they are far from them, as
        those of web maps are: 30 m of EPSG:3857 are 21 m in the middle latitudes.
        """
        if not (self.geotransform and self.has_crs):
            return None
        reference = _spatial_reference(self.crs)
        if reference.IsGeographic():
            return self.pixel_size[0] * reference.GetAngularUnits() * reference.GetSemiMajor()
        stated = self.pixel_size[0] * reference.GetLinearUnits()
        scale = self._ground_scale(reference) if reference.IsProjected() else 1.0
        return stated if abs(scale - 1) < _TRUE_SCALE else stated * scale

    def _ground_scale(self, reference: osr.SpatialReference) -> float:
        """Metres on the ground, taken for a sphere, of a metre of the map in its middle.

        The root of a pixel's area, since systems such as MODIS' own shear what they keep in size;
        1 where the middle is nowhere on Earth.
        """
        geographic = reference.CloneGeogCS()
        angles = Grid(1, 1, (0.0, 1.0, 0.0, 0.0, 0.0, 1.0), geographic.ExportToWkt())
        row, col = self.height / 2, self.width / 2
        places = locate(self, angles, np.array([row, row + 1, row]), np.array([col, col, col + 1]))
        places *= geographic.GetAngularUnits()
        (down, right), latitude = places[1:] - places[0], places[0, 0]
        area = abs(down[0] * right[1] - down[1] * right[0]) * np.cos(latitude)
        _, a, b, _, c, d = self.transform
        on_map = abs(a * d - b * c) * reference.GetLinearUnits() ** 2
        scale = float(np.sqrt(area * reference.GetSemiMajor() ** 2 / on_map))
        return scale if np.isfinite(scale) and scale else 1.0

    @property
    def has_crs(self) -> bool:
        """Whether the map coordinates mean a place on Earth (a local system does not)."""
        return bool(self.crs) and not _spatial_reference(self.crs).IsLocal()

    def coordinates(self, rows: np.ndarray, cols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map x and y of fractional pixel positions; (0, 0) is the first pixel's outer corner."""
        x0, a, b, y0, c, d = self.transform
        return x0 + a * cols + b * rows, y0 + c * cols + d * rows

    def positions(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fractional rows and columns of map coordinates, `coordinates`' inverse."""
        x0, a, b, y0, c, d = self.transform
        determinant = a * d - b * c
        dx, dy = x - x0, y - y0
        return (a * dy - c * dx) / determinant, (d * dx - b * dy) / determinant

    def crop(self, window: Window) -> "Grid":
        """The grid of a window, which may reach over the border."""
        x0, y0 = self.coordinates(np.array(window.row), np.array(window.col))
        _, a, b, _, c, d = self.transform
        return Grid(window.width, window.height, (float(x0), a, b, float(y0), c, d), self.crs)

    def moved(self, rows: float, cols: float) -> "Grid":
        """The grid with every pixel moved by `rows` and `cols` pixels of its own."""
        x0, y0 = self.coordinates(np.array(rows), np.array(cols))
        _, a, b, _, c, d = self.transform
        return dataclasses.replace(self, geotransform=(float(x0), a, b, float(y0), c, d))

    def coarsened(self, step: int) -> "Grid":
        """The grid of pixels `step` times as high and wide; those that are not whole are left out.

        At least one is there, however small the grid.
        """
        x0, a, b, y0, c, d = self.transform
        transform = (x0, a * step, b * step, y0, c * step, d * step)
        return Grid(max(self.width // step, 1), max(self.height // step, 1), transform, self.crs)

    def same_crs(self, other: "Grid") -> bool:
        """Whether both state the same system, or neither states one on Earth."""
        if not (self.has_crs and other.has_crs):
            return self.has_crs == other.has_crs
        return self.crs == other.crs or bool(
            _spatial_reference(self.crs).IsSame(_spatial_reference(other.crs))
        )

    def offset_in(self, other: "Grid") -> tuple[int, int] | None:
        """Rows and columns of this grid's first pixel in `other`, where the pixels coincide.

        None where the pixels do not coincide: other sizes, systems, or a fractional offset.
        """
        if not self.same_crs(other):
            return None
        rows, cols = np.array([0.0, 0.0, self.height]), np.array([0.0, self.width, 0.0])
        there_rows, there_cols = other.positions(*self.coordinates(rows, cols))
        row, col = round(float(there_rows[0])), round(float(there_cols[0]))
        agree = np.allclose(there_rows - row, rows, rtol=0, atol=_GRID_TOLERANCE)
        agree &= np.allclose(there_cols - col, cols, rtol=0, atol=_GRID_TOLERANCE)
        return (row, col) if agree else None

    def describe(self) -> str:
        """One line for messages and tables."""
        size = f"{self.width} × {self.height} pixels"
        if self.geotransform:
            height, width = self.pixel_size
            size += f" of {width:g} × {height:g}"
        return f"{size}, {crs_name(self.crs)}"


@functools.lru_cache(maxsize=64)
def _spatial_reference(crs: str) -> osr.SpatialReference:
    reference = osr.SpatialReference()
    try:
        reference.SetFromUserInput(crs)
    except (RuntimeError, TypeError) as error:  # TypeError: what is no text in any encoding
        raise errors.InputError(
            f"crs: expected a coordinate reference system, found {crs[:60]!r} ({error})."
        ) from None
    reference.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
    return reference


def crs_wkt(crs: str) -> str:
    """Well-known text of a system given in any way that GDAL reads, such as "EPSG:32655"."""
    return _spatial_reference(crs).ExportToWkt() if crs else ""


def crs_name(crs: str) -> str:
    """A system's short name for messages."""
    if not crs:
        return "no CRS"
    reference = _spatial_reference(crs)
    code = reference.GetAuthorityCode(None)
    name = reference.GetName() or "unnamed CRS"
    return f"{name} (EPSG:{code})" if code else name


def _transformation(source: Grid, target: Grid) -> osr.CoordinateTransformation | None:
    """Target to source map coordinates; None where both are the same."""
    if source.same_crs(target):
        return None
    try:
        return osr.CoordinateTransformation(
            _spatial_reference(target.crs), _spatial_reference(source.crs)
        )
    except RuntimeError as error:
        raise errors.InputError(
            f"crs: expected systems that map onto each other, found {crs_name(target.crs)} and "
            f"{crs_name(source.crs)} ({errors.reason(error)})."
        ) from None


def locate(target: Grid, source: Grid, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Where pixel positions of `target` lie in `source`.

    Args:
        target: The grid of the given positions.
        source: The grid of the returned ones.
        rows: Fractional rows, [n]; 0 is the upper edge of the first row.
        cols: Fractional columns, [n].

    Returns:
        Fractional rows and columns in `source`, [n, 2]; not finite where the systems do not map.
    """
    x, y = target.coordinates(np.asarray(rows, float), np.asarray(cols, float))
    transformation = _transformation(source, target)
    if transformation is not None:
        places = np.stack([x, y], -1).reshape(-1, 2)
        try:
            points = np.array(transformation.TransformPoints(places.tolist()))
        except RuntimeError:  # not one of them maps
            points = np.full_like(places, np.inf)
        x, y = points[:, 0], points[:, 1]
    with np.errstate(invalid="ignore"):
        return np.stack(source.positions(x, y), -1)


def footprint(target: Grid, source: Grid, resampling: str = "bilinear") -> Window | None:
    """The part of `source` that warping onto `target` needs, with the kernel's margin.

    Returns:
        A window inside `source`, None where the two do not overlap.
    """
    rows, cols = np.meshgrid(
        np.linspace(0, target.height, 9), np.linspace(0, target.width, 9), indexing="ij"
    )
    there = locate(target, source, rows.ravel(), cols.ravel())
    there = there[np.isfinite(there).all(-1)]
    if not len(there):
        return None
    low, high = there.min(0), there.max(0)
    if (high <= 0).any() or low[0] >= source.height or low[1] >= source.width:
        return None
    # A kernel grows with the source pixels that one target pixel covers.
    step = np.maximum((high - low) / [target.height, target.width], 1.0)
    margin = np.ceil((_KERNEL_RADIUS[resampling] + 1) * step).astype(int) + 1
    first = np.maximum(np.floor(low).astype(int) - margin, 0)
    last = np.minimum(np.ceil(high).astype(int) + margin, [source.height, source.width])
    return Window(int(first[0]), int(first[1]), *(int(k) for k in last - first))


def _memory(pixels: np.ndarray, transform: Sequence[float], crs: str) -> gdal.Dataset:
    height, width, bands = pixels.shape
    code = gdal_array.NumericTypeCodeToGDALTypeCode(pixels.dtype.type)
    memory = gdal.GetDriverByName("MEM").Create("", width, height, bands, code)
    memory.SetGeoTransform(list(transform))
    if crs:
        memory.SetSpatialRef(_spatial_reference(crs))
    for k in range(bands):
        memory.GetRasterBand(k + 1).WriteArray(pixels[..., k])
    return memory


def _relative(source: Grid, target: Grid) -> tuple[float, ...]:
    """The source's geotransform in a frame whose unit is the target's pixel, y upwards.

    GDAL takes the identity for "no geotransform", hence a frame that starts at (1000, 1000).
    """
    rows, cols = target.positions(
        *source.coordinates(np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 0.0]))
    )
    return (
        1000 + cols[0],
        cols[1] - cols[0],
        cols[2] - cols[0],
        1000 - rows[0],
        rows[0] - rows[1],
        rows[0] - rows[2],
    )


def warp(
    pixels: np.ndarray, source: Grid, target: Grid, resampling: str, valid: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Moves an image from one grid onto another in one interpolation.

    Invalid pixels carry no weight: image × valid and valid are interpolated alike and divided.

    Args:
        pixels: (H, W, B) image on `source`.
        source: The image's grid.
        target: The wanted grid.
        resampling: One of `RESAMPLING`; "bilinear" and "cubic" widen their kernel when they go
            to larger pixels, "average" weighs by area.
        valid: (H, W) bool; all are valid where None.

    Returns:
        The image on `target`, (H', W', B) — float32, or the type of `pixels` for "nearest", where
        every value is one of the source's — and the valid share of each target pixel's kernel,
        (H', W') float32 in 0–1 (0 outside the source).
    """
    if valid is None:
        valid = np.ones(pixels.shape[:2], bool)
    if resampling == "nearest":
        moved = _warp_bands(pixels, source, target, resampling)
        share = _warp_bands(valid[..., None].astype(np.uint8), source, target, resampling)
        return moved, share[..., 0].astype(np.float32)
    weighted = np.concatenate(
        [np.where(valid[..., None], pixels, 0), valid[..., None]], -1, dtype=np.float32
    )
    moved = _warp_bands(weighted, source, target, resampling)
    share = moved[..., -1]
    with np.errstate(divide="ignore", invalid="ignore"):
        image = np.where(share[..., None] > 0, moved[..., :-1] / share[..., None], np.float32(0))
    return image, np.clip(share, 0, 1)


def _steps(source: Grid, target: Grid) -> tuple[float, float]:
    """Size of a pixel in the middle of `target`, in rows and in columns of `source`.

    Along the axes of `source`, whichever way the target's point: 1 and 1 for a rotated grid of the
    same pixel size. 1 and 1 as well where the systems do not map.
    """
    row, col = target.height / 2, target.width / 2
    there = locate(target, source, np.array([row, row + 1, row]), np.array([col, col, col + 1]))
    with np.errstate(invalid="ignore"):
        steps = np.linalg.norm(there[1:] - there[0], axis=0)
    if not (np.isfinite(steps) & (steps > 0)).all():
        return 1.0, 1.0
    return float(steps[0]), float(steps[1])


def _warp_bands(pixels: np.ndarray, source: Grid, target: Grid, resampling: str) -> np.ndarray:
    steps = _steps(source, target)
    if source.same_crs(target):
        # One affine map: in the target's own pixels it is exact and needs no CRS at all.
        given = _memory(pixels, _relative(source, target), "")
        frame: Sequence[float] = (1000.0, 1.0, 0.0, 1000.0, 0.0, -1.0)
        system = ""
        error = 0.0
    else:
        given = _memory(pixels, source.transform, source.crs)
        frame, system = target.transform, target.crs
        error = _TRANSFORM_ERROR * min(steps)
    empty = np.zeros((*target.shape, pixels.shape[-1]), pixels.dtype)
    wanted = _memory(empty, frame, system)
    gdal.Warp(
        wanted,
        given,
        options=gdal.WarpOptions(
            resampleAlg=RESAMPLING[resampling],
            errorThreshold=error,
            multithread=False,
            # By itself GDAL takes it from the bounds of what it warps: of a narrow or rotated piece
            # they are much larger, and the piece would be blurred.
            warpOptions=[f"YSCALE={1 / max(steps[0], 1)}", f"XSCALE={1 / max(steps[1], 1)}"],
        ),
    )
    return np.moveaxis(wanted.ReadAsArray().reshape(pixels.shape[-1], *target.shape), 0, -1)
