"""Raster files: windowed reads of anything that GDAL opens, and atomic writes.

No other module opens or writes a raster; beside this one only `grids` and `gdal_settings` touch
GDAL. Arrays are (height, width, bands). Nothing here keeps state but a small cache of open files
per process, so that every function can be called from worker processes as well.
"""

import contextlib
import dataclasses
import functools
import glob
import math
import os
import re
import shutil
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from osgeo import gdal, gdal_array, osr

from data_prep import errors, gdal_settings, grids, names
from data_prep.grids import Grid, Window

_ADDRESS = re.compile(
    r"\b(https?|ftps?|dods|dap[24]?|s3|gs)://|/vsi(curl|s3|gs|az|adls|oss|swift|hdfs|webhdfs)",
    re.IGNORECASE,
)

Files = str | tuple[str, ...]
"""One raster's name (a path or a GDAL sub-dataset), or neighbouring tiles to be joined."""


@dataclasses.dataclass(frozen=True)
class Info:
    """What a raster file states about itself.

    Attributes:
        grid: Its grid.
        bands: Number of bands.
        dtype: NumPy name of the pixels' type.
        nodatas: Each band's nodata value, or None.
        scales: Each band's scale, or None.
        offsets: Each band's offset, or None.
        band_names: The bands' descriptions, "" where there is none.
        driver: GDAL's short name of the format.
        masked: Whether a mask of the file's own tells which pixels count.
        alphas: Numbers of the bands that tell it by not being 0.
    """

    grid: Grid
    bands: int
    dtype: str
    nodatas: tuple[float | None, ...]
    scales: tuple[float | None, ...]
    offsets: tuple[float | None, ...]
    band_names: tuple[str, ...]
    driver: str
    masked: bool
    alphas: tuple[int, ...]

    @property
    def nodata(self) -> float | None:
        """The first band's."""
        return self.nodatas[0] if self.nodatas else None

    @property
    def scale(self) -> float | None:
        """The first band's."""
        return self.scales[0] if self.scales else None

    @property
    def offset(self) -> float | None:
        """The first band's."""
        return self.offsets[0] if self.offsets else None


# --- reading ---


class _OpenFiles(threading.local):
    """The rasters that this thread has open, most recently used last.

    GDAL's handles must not cross threads or processes: a forked child finds the parent's number
    here and starts with an empty cache.
    """

    LIMIT = 48

    def __init__(self):
        self.process = os.getpid()
        self.handles: dict[Files, gdal.Dataset] = {}

    def get(self, files: Files) -> gdal.Dataset:
        if self.process != os.getpid():
            self.__init__()  # type: ignore[misc]
        handle = self.handles.pop(files, None) or _open(files)
        self.handles[files] = handle
        while len(self.handles) > self.LIMIT:
            self.handles.pop(next(iter(self.handles)))
        return handle


_open_files = _OpenFiles()


def set_cache(size: int) -> None:
    """Sets the bytes that GDAL may hold of decoded blocks in this process."""
    gdal.SetCacheMax(int(size))


def close_all() -> None:
    """Closes the rasters that this thread has open; for files that are to change on disk."""
    _open_files.handles.clear()


def _open(files: Files) -> gdal.Dataset:
    if isinstance(files, tuple):
        return _open_mosaic(files)
    if not gdal_settings.network_allowed() and (found := _on_network(files)):
        raise errors.InputError(
            f"{files}: expected a raster on this machine, found '{found}'; "
            f"{gdal_settings.NETWORK}=1 in the environment allows reading over the network."
        )
    if ":" not in files and not Path(files).exists() and not files.startswith("/vsi"):
        raise errors.InputError(f"{files}: expected a raster, found no such file.")
    try:
        return gdal.OpenEx(files, gdal.OF_RASTER | gdal.OF_VERBOSE_ERROR)
    except RuntimeError as error:
        raise errors.InputError(
            f"{files}: expected a raster that GDAL {gdal.__version__} reads, found: "
            f"{errors.reason(error)}."
        ) from None


def _on_network(name: str, depth: int = 0) -> str:
    """The part of a raster's name, or of a VRT's sources, that lies on the network; "" for none.

    GDAL itself is kept off it, but the libraries of some formats open addresses on their own.
    """
    if _ADDRESS.search(name):
        return name
    if depth > 8 or (source := _vrt(name)) is None:
        return ""
    try:
        root = ElementTree.fromstring(source)
    except (ValueError, ElementTree.ParseError):
        return ""  # no VRT after all; what else it is, GDAL finds out
    # Titles, licences and DOIs are no sources; GDAL looks for files in other domains alone.
    said = {k for data in root.iter("Metadata") if not data.get("domain") for k in data.iter()}
    for element in root.iter():
        if element in said:
            continue
        for text in filter(None, (element.text, *element.attrib.values())):
            if _ADDRESS.search(text):
                return text.strip()
            if element.tag.startswith("Source"):
                # Not as a path, which would drop the doubled slashes of names within archives.
                beside = "" if text.strip().startswith("/") else name[: name.rfind("/") + 1]
                inner = beside + text.strip()
                if found := _on_network(inner, depth + 1):
                    return found
    return ""


def _vrt(name: str) -> bytes | None:
    """A VRT's text, also from within an archive; None for any other file, or none at all."""
    if (handle := gdal.VSIFOpenL(name, "rb")) is None:
        return None
    try:
        if b"<VRTDataset" not in bytes(gdal.VSIFReadL(1, 1024, handle) or b""):
            return None
        gdal.VSIFSeekL(handle, 0, os.SEEK_SET)
        return bytes(gdal.VSIFReadL(1, gdal.VSIStatL(name).size, handle) or b"")
    finally:
        gdal.VSIFCloseL(handle)


def _open_mosaic(files: tuple[str, ...]) -> gdal.Dataset:
    """Neighbouring tiles on one lattice, joined as an in-memory VRT."""
    first = info(files[0])
    for file in files[1:]:
        _check_neighbour(file, files[0])
    given = {}
    if first.nodata is None:
        # What lies between the tiles must not be taken for black: a value that no sensor measures,
        # but when it is saturated.
        dtype = np.dtype(first.dtype)
        lowest = np.nan if dtype.kind == "f" else np.iinfo(dtype).min
        given["VRTNodata"] = np.iinfo(dtype).max if dtype.kind == "u" else lowest
    try:
        with _raising_errors(_left_out):
            mosaic = gdal.BuildVRT("", list(files), options=gdal.BuildVRTOptions(**given))
    except RuntimeError as error:
        raise errors.InputError(
            f"{', '.join(files)}: expected neighbouring tiles, found: {errors.reason(error)}."
        ) from None
    for band in first.alphas:
        # What the tiles' own alpha leaves out must not take a value above 0 in the joined one.
        mosaic.GetRasterBand(band).DeleteNoDataValue()
    return mosaic


def _left_out(level: int, message: str) -> bool:
    """Whether GDAL says that it joins tiles without one of them."""
    return level >= gdal.CE_Failure or "Skipping" in message


def _check_neighbour(file: str, first: str) -> None:
    """Refuses what a VRT would join unmoved, and names both files where it would leave one out.

    Raises:
        InputError: A tile differs from the first one in CRS, bands or type, or its pixels are not
            those of the first one's lattice.
    """
    tile, expected = info(file), info(first)
    if not tile.grid.same_crs(expected.grid) or tile.bands != expected.bands:
        raise errors.InputError(
            f"{file}: expected a neighbour of {first} with the same CRS and bands "
            f"({grids.crs_name(expected.grid.crs)}, {expected.bands}), found "
            f"{grids.crs_name(tile.grid.crs)}, {tile.bands}."
        )
    if tile.dtype != expected.dtype:
        raise errors.InputError(
            f"{file}: expected {expected.dtype} pixels as in its neighbour {first}, found "
            f"{tile.dtype}."
        )
    offset = tile.grid.offset_in(expected.grid)
    if offset is None:
        raise errors.InputError(
            f"{file}: expected pixels that continue those of its neighbour {first} "
            f"({expected.grid.describe()}, {expected.grid.transform}), found "
            f"{tile.grid.describe()}, {tile.grid.transform}."
        )


@contextlib.contextmanager
def _naming(files: Files) -> Iterator[None]:
    """Names the raster whose header turns out to be damaged when it is asked for more."""
    try:
        yield
    except (RuntimeError, errors.InputError) as error:
        raise errors.InputError(
            f"{_name(files)}: expected a sound header, found: {errors.reason(error)}."
        ) from None


def _grid_of(handle: gdal.Dataset) -> Grid:
    transform = handle.GetGeoTransform(can_return_null=True)
    crs = handle.GetProjection() or ""
    if crs:
        grids.crs_wkt(crs)  # which refuses what is no system
    grid = Grid(
        handle.RasterXSize, handle.RasterYSize, tuple(transform) if transform else None, crs
    )
    # A place that overflows, or pixels without an area, lie nowhere.
    with np.errstate(all="ignore"):
        there = grid.positions(*grid.coordinates(np.array([0.0, 1.0]), np.array([0.0, 1.0])))
    if not np.isfinite(there).all():
        raise RuntimeError(f"a geotransform of {transform}")
    return grid


@functools.lru_cache(maxsize=4096)
def info(files: Files) -> Info:
    """What a raster states about itself.

    Raises:
        InputError: No such file, nothing that GDAL reads, or a container without bands of its own.
    """
    handle = _open_files.get(files)
    if not handle.RasterCount:
        inside = _shortened(subdatasets(_name(files)))
        raise errors.InputError(
            f"{_name(files)}: expected a raster with bands, found a container of sub-datasets, of "
            f"which a band is to name one: {inside}."
        )
    with _naming(files):
        return _stated(handle)


def _stated(handle: gdal.Dataset) -> Info:
    bands = [handle.GetRasterBand(k + 1) for k in range(handle.RasterCount)]
    scales = tuple(band.GetScale() for band in bands)
    offsets = tuple(band.GetOffset() for band in bands)
    if handle.GetDriver().ShortName == "VRT":
        # Also where nobody stated them, a VRT states 1 and 0.
        scales = tuple(
            None if stated == (1, 0) else stated[0] for stated in zip(scales, offsets, strict=True)
        )
    return Info(
        grid=_grid_of(handle),
        bands=len(bands),
        dtype=np.dtype(gdal_array.GDALTypeCodeToNumericTypeCode(bands[0].DataType)).name,
        nodatas=tuple(band.GetNoDataValue() for band in bands),
        scales=scales,
        offsets=offsets,
        band_names=tuple(band.GetDescription() for band in bands),
        driver=handle.GetDriver().ShortName,
        masked=any(k.GetMaskFlags() in _MASKED for k in bands),
        alphas=tuple(
            k + 1 for k, band in enumerate(bands) if band.GetColorInterpretation() == _ALPHA
        ),
    )


_ALPHA = gdal.GCI_AlphaBand
_COLOURS = {"red": gdal.GCI_RedBand, "green": gdal.GCI_GreenBand, "blue": gdal.GCI_BlueBand}
# A mask of a band or of all of them; not one that GDAL makes of nodata or of an alpha band.
_MASKED = (0, gdal.GMF_PER_DATASET, gdal.GMF_PER_DATASET | gdal.GMF_NODATA)
# Formats whose pixels lie bare in a file that a text header beside it describes.
_BARE = ("ENVI", "EHdr", "GenBin", "ISCE", "ROI_PAC", "MFF2")
# Neighbouring pixels of an image differ by less than its contrast, and with the bytes of each
# pixel in the wrong order by as much.
_ROUGH, _SMOOTH = 0.7, 0.35


def check_stored(files: Files) -> str:
    """Compares what a header says with the bare pixels that it describes.

    Args:
        files: A raster of any format; those that keep both in one file pass.

    Returns:
        What is odd but may be meant, "" where nothing is.

    Raises:
        InputError: The file is shorter than the header says, or the bytes of its pixels lie in the
            other order.
    """
    stated = info(files)
    if isinstance(files, tuple) or stated.driver not in _BARE:
        return ""
    itemsize = np.dtype(stated.dtype).itemsize
    expected = stated.grid.height * stated.grid.width * stated.bands * itemsize
    found = gdal.VSIStatL(files).size
    if found < expected:
        raise errors.InputError(
            f"{files}: expected {expected} bytes, as {stated.bands} bands of "
            f"{stated.grid.describe()} take, found {found}."
        )
    side = min(stated.grid.height, stated.grid.width, 64)
    row, col = (stated.grid.height - side) // 2, (stated.grid.width - side) // 2
    pixels = read(files, (1,), Window(row, col, side, side))[..., 0]
    if itemsize > 1 and _roughness(pixels) > _ROUGH and _roughness(pixels.byteswap()) < _SMOOTH:
        raise errors.InputError(
            f"{files}: expected the bytes of its pixels in the order that its header states, found "
            f"them the other way round."
        )
    return f"{found - expected} bytes more than its header accounts for" * (found > expected)


def _roughness(pixels: np.ndarray) -> float:
    """Median change from pixel to pixel, relative to the contrast; infinite for no numbers."""
    values = pixels.astype(np.float64)
    if not np.isfinite(values).all():
        return math.inf
    return float(np.median(np.abs(np.diff(values, axis=0))) / max(values.std(), 1e-300))


def subdataset(file: str, name: str) -> str:
    """GDAL's name of a sub-dataset inside an HDF or NetCDF container.

    Args:
        file: The container.
        name: The sub-dataset's last part, such as "sur_refl_b01_1"; where that is not the only
            one, with the groups that it lies in, as GDAL lists them.

    Raises:
        InputError: The container has none of that name, or several; the message lists what it has.
    """
    inside = subdatasets(file)
    matching = [k for k in inside if k.rsplit(":", 1)[-1] == name] or [
        k for k in inside if re.split("[:/]", k)[-1] == name
    ]
    if len(matching) == 1:
        return matching[0]
    found = _shortened(inside) if inside else f"{info(file).bands} bands, which go by number"
    raise errors.InputError(f"{file}: expected one sub-dataset '{name}', found {found}.")


@functools.lru_cache(maxsize=4096)
def subdatasets(file: str) -> tuple[str, ...]:
    """GDAL's names of all sub-datasets inside a container; none inside another raster.

    Raises:
        InputError: No such file, or nothing that GDAL reads.
    """
    handle = _open_files.get(file)
    with _naming(file):
        return tuple(name for name, _ in handle.GetSubDatasets()) or _only_one(handle)


def _only_one(handle: gdal.Dataset) -> tuple[str, ...]:
    """What a container of one variable lists none for: GDAL opens it as that variable."""
    first = handle.GetRasterBand(1) if handle.RasterCount else None
    name = first.GetMetadataItem("NETCDF_VARNAME") if first else None
    if name and not handle.GetDescription().startswith("NETCDF:"):
        return (f'NETCDF:"{handle.GetDescription()}":{name}',)
    return (handle.GetDescription(),) if handle.GetDriver().ShortName == "HDF5Image" else ()


def _shortened(subdatasets: Sequence[str]) -> str:
    """Their last parts, by which a description names them."""
    return ", ".join(name.rsplit(":", 1)[-1] for name in subdatasets) or "none"


@functools.lru_cache(maxsize=4096)
def files_behind(file: str) -> tuple[Path, ...]:
    """All files that what a raster says comes from: itself, its header, what a VRT names.

    Of what lies in an archive, the archive. Not the statistics that programs leave beside rasters
    that they show.

    Raises:
        InputError: No such file, or nothing that GDAL reads.
    """
    handle = _open_files.get(file)
    with _naming(file):
        listed = handle.GetFileList() or ()
    beside = [names.on_disk(name) for name in listed if not name.endswith(".aux.xml")]
    found = {path for path in beside if path and path.is_file()}
    return tuple(sorted(found | {path for path in [names.on_disk(file)] if path}))


def exists(name: str) -> bool:
    """Whether a raster on this machine exists, also inside an archive.

    Whether one elsewhere does only turns out when it is opened.
    """
    path = names.on_disk(name)
    if path is None or not names.inside(name):
        return path is None or path.exists()
    file = names.file_of(name)
    return path.exists() and (not file.startswith("/vsi") or gdal.VSIStatL(file) is not None)


def tags(file: str | Path) -> dict[str, str]:
    """A raster's own metadata, as the file holds it now.

    Raises:
        InputError: No such file, or nothing that GDAL reads.
    """
    handle = _open(str(file))
    with _naming(str(file)):
        return dict(handle.GetMetadata() or {})


def read(
    files: Files,
    bands: Sequence[int] = (),
    window: Window | None = None,
    shape: tuple[int, int] | None = None,
) -> np.ndarray:
    """Reads pixels as they are stored.

    Args:
        files: A raster or neighbouring tiles.
        bands: 1-based band numbers in the wanted order; all where empty.
        window: A window inside the raster; all where None.
        shape: (height, width) of a smaller picture of it, from the nearest pixels, or overviews
            where the file has them; the window's own where None.

    Returns:
        (H, W, B) in the file's type.

    Raises:
        InputError: There is no such band, or the file ends too early.
        ValueError: The window reaches over the border.
    """
    handle = _open_files.get(files)
    wanted = list(bands) or list(range(1, handle.RasterCount + 1))
    missing = [band for band in wanted if not 1 <= band <= handle.RasterCount]
    if missing or not wanted:
        raise errors.InputError(
            f"{_name(files)}: expected band {missing[0] if missing else 1}, found "
            f"{handle.RasterCount} bands."
        )
    window = window or Window(0, 0, handle.RasterYSize, handle.RasterXSize)
    inside = window.intersection(Window(0, 0, handle.RasterYSize, handle.RasterXSize))
    if inside != window:
        raise ValueError(f"{_name(files)}: {window} reaches over the border")
    height, width = shape or window.shape
    try:
        pixels = handle.ReadAsArray(
            window.col,
            window.row,
            window.width,
            window.height,
            buf_xsize=width,
            buf_ysize=height,
            band_list=wanted,
            interleave="pixel" if len(wanted) > 1 else "band",
        )
    except RuntimeError as error:
        raise errors.InputError(
            f"{_name(files)}: expected {handle.RasterYSize} whole rows, found a damaged or "
            f"truncated file: {errors.reason(error)}."
        ) from None
    return pixels.reshape(height, width, len(wanted))


def read_mask(
    files: Files, bands: Sequence[int], window: Window, shape: tuple[int, int] | None = None
) -> np.ndarray:
    """Reads which pixels of some bands count, where a file tells it by a mask.

    Args:
        files: A raster or neighbouring tiles whose `Info` says "masked".
        bands: 1-based band numbers.
        window: A window inside the raster.
        shape: As for `read`.

    Returns:
        (H, W) bool.

    Raises:
        InputError: A file that ends too early.
    """
    handle = _open_files.get(files)
    height, width = shape or window.shape
    usable = np.ones((height, width), bool)
    place = window.col, window.row, window.width, window.height, width, height
    try:
        for number in bands:
            band = handle.GetRasterBand(number)
            usable &= band.GetMaskBand().ReadAsArray(*place) > 0
            if band.GetMaskFlags() & gdal.GMF_PER_DATASET:
                break
    except RuntimeError as error:
        raise errors.InputError(
            f"{_name(files)}: expected a whole mask, found a damaged or truncated file: "
            f"{errors.reason(error)}."
        ) from None
    return usable


def _name(files: Files) -> str:
    return files if isinstance(files, str) else f"{files[0]} and {len(files) - 1} neighbours"


# --- writing ---

_CREATION = {
    "GTiff": (
        "TILED=YES",
        "BLOCKXSIZE=256",
        "BLOCKYSIZE=256",
        "COMPRESS=DEFLATE",
        "BIGTIFF=IF_SAFER",
    ),
    "ENVI": (),
    # Differences of neighbours at the lowest level: smaller than whole numbers at the highest, in a
    # quarter of the time.
    "COG": (
        "COMPRESS=DEFLATE",
        "LEVEL=1",
        "PREDICTOR=YES",
        "BLOCKSIZE=256",
        "BIGTIFF=IF_SAFER",
        "NUM_THREADS=ALL_CPUS",
        "OVERVIEW_RESAMPLING=AVERAGE",
    ),
}
# What a COG is built from is read once and removed, so nothing is gained by compressing it.
_SCRATCH = ("TILED=YES", "BLOCKXSIZE=256", "BLOCKYSIZE=256", "BIGTIFF=IF_SAFER")
# Bytes of GDAL's block cache meanwhile: no block is used for long, so that more of them would only
# take memory, and finishing be what needs most of it.
_FINISHING_CACHE = 64 * 2**20


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A scratch name beside `path`; what is written there takes the final names at the end.

    A format may write several files (data and header). The main one is moved last, so that it is
    never there without the others.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=_scratch_prefix(path), dir=path.parent))
    except OSError as error:
        raise errors.InputError(
            f"{path}: expected a writable folder, found: {errors.reason(error)}."
        ) from None
    try:
        yield folder / path.name
        for made in sorted(folder.iterdir(), key=lambda k: k.name == path.name):
            made.replace(path.parent / made.name)
    except (RuntimeError, OSError) as error:
        raise errors.InputError(f"{path}: could not be written: {errors.reason(error)}.") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _scratch_prefix(path: Path) -> str:
    return f".writing-{path.name}-"


def sweep(path: str | Path) -> None:
    """Removes what a killed process left of writing `path`; for the only one that writes it."""
    path = Path(path)
    for folder in path.parent.glob(f"{glob.escape(_scratch_prefix(path))}*"):
        shutil.rmtree(folder, ignore_errors=True)


class Writer:
    """A raster that is being written, window by window; see `create`."""

    def __init__(self, handle: gdal.Dataset):
        self._handle: gdal.Dataset | None = handle

    def close(self) -> None:
        """Lets go of the file."""
        self._handle = None

    def write(self, window: Window, pixels: np.ndarray, bands: Sequence[int] = ()) -> None:
        """Writes (H, W, B) pixels into a window.

        Args:
            window: Where.
            pixels: What, in the raster's type.
            bands: 1-based band numbers; the first ones where empty.
        """
        assert self._handle is not None, "written after its block ended"
        for k in range(pixels.shape[-1]):
            band = self._handle.GetRasterBand(bands[k] if bands else k + 1)
            band.WriteArray(pixels[..., k], window.col, window.row)


@contextlib.contextmanager
def create(
    path: str | Path,
    grid: Grid,
    *,
    bands: int,
    dtype: str | np.dtype,
    driver: str = "GTiff",
    nodata: float | None = None,
    band_names: Sequence[str] | None = None,
    scale: float | Sequence[float] | None = None,
    offset: float | Sequence[float] | None = None,
    tags: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
    interleave: str | None = None,
) -> Iterator[Writer]:
    """A raster to be written window by window; it takes its name when the block ends well.

    Args:
        path: The file.
        grid: Its grid.
        bands: Number of bands.
        dtype: NumPy type of the pixels.
        driver: GDAL's name of the format; "COG" is built from a scratch GeoTIFF at the end.
        nodata: The value that means "no data".
        band_names: One name a band.
        scale: Reflectance per digital number, one for all bands or one each.
        offset: Reflectance at 0, likewise.
        tags: Metadata of the file.
        options: Creation options, "KEY=VALUE", beside the house's own or in their place.
        interleave: "BSQ", "BIL" or "BIP".

    Raises:
        InputError: The file cannot be written: folder, permission, a full disk.
    """
    path = Path(path)
    if interleave:
        tiff = {"BSQ": "BAND", "BIL": "LINE", "BIP": "PIXEL"}
        value = tiff[interleave] if driver in ("GTiff", "COG") else interleave
        options = (*options, f"INTERLEAVE={value}")
    # Of two values for one key GDAL takes the first.
    chosen = dict(option.split("=", 1) for option in (*_CREATION.get(driver, ()), *options))
    options = [f"{key}={value}" for key, value in chosen.items()]
    code = gdal_array.NumericTypeCodeToGDALTypeCode(np.dtype(dtype).type)
    with _replacing(path) as scratch, _raising_errors():
        staged = driver == "COG"
        made = scratch.with_name(f"{scratch.name}.scratch.tif") if staged else scratch
        handle = gdal.GetDriverByName("GTiff" if staged else driver).Create(
            str(made),
            grid.width,
            grid.height,
            bands,
            code,
            options=list(_SCRATCH) if staged else options,
        )
        writer = Writer(handle)
        try:
            _describe(handle, grid, nodata, band_names, scale, offset, tags)
            yield writer
            handle.FlushCache()
            if staged:
                with _cache_of_at_most(_FINISHING_CACHE):
                    if chosen.get("OVERVIEWS", "AUTO") == "AUTO":
                        _add_overviews(
                            handle, chosen["OVERVIEW_RESAMPLING"], int(chosen["BLOCKSIZE"])
                        )
                    gdal.GetDriverByName("COG").CreateCopy(str(scratch), handle, options=options)
                made.unlink()
        except BaseException as error:
            # Closing what could not be written fails once more, and that is no news. The frames
            # of the error hold the file as well.
            traceback.clear_frames(error.__traceback__)
            osr.DontUseExceptions()
            gdal.DontUseExceptions()
            del handle
            writer.close()
            gdal.UseExceptions()
            osr.UseExceptions()
            raise
        # Formats finish their files when they are closed, and that is when nobody holds them.
        del handle
        writer.close()
        header = scratch.with_suffix(".hdr")
        if driver == "ENVI" and header.exists():  # GDAL describes the file by its scratch name
            text = header.read_bytes().replace(os.fsencode(scratch), os.fsencode(path.name))
            header.write_bytes(text)


@contextlib.contextmanager
def _cache_of_at_most(size: int) -> Iterator[None]:
    """GDAL's block cache within `size` bytes for the time of a block."""
    before = gdal.GetCacheMax()
    set_cache(min(before, size))
    try:
        yield
    finally:
        set_cache(before)


def _add_overviews(handle: gdal.Dataset, resampling: str, block: int) -> None:
    """Halves the scratch raster down to one block.

    The COG driver would do it by itself, but compress the halves, read them again and compress them
    once more, which takes as long as the image itself.
    """
    levels: list[int] = []
    while max(handle.RasterXSize, handle.RasterYSize) > block << len(levels):
        levels.append(2 << len(levels))
    if levels:
        handle.BuildOverviews(resampling, levels)


@contextlib.contextmanager
def _raising_errors(
    wrong: Callable[[int, str], bool] = lambda level, _: level >= gdal.CE_Failure,
) -> Iterator[None]:
    """Raises what GDAL only reports: an error while it closes a file, such as a full disk.

    Args:
        wrong: Tells by its level and words whether what is reported is an error.
    """
    reported: list[str] = []

    def handler(level: int, _: int, message: str) -> None:
        if wrong(level, message):
            reported.append(message)

    gdal.PushErrorHandler(handler)
    try:
        yield
    finally:
        gdal.PopErrorHandler()
    if reported:
        raise RuntimeError(reported[0])


def _describe(
    handle: gdal.Dataset,
    grid: Grid,
    nodata: float | None,
    band_names: Sequence[str] | None,
    scale: float | Sequence[float] | None,
    offset: float | Sequence[float] | None,
    tags: Mapping[str, str] | None,
) -> None:
    """Sets all that a file states beside its pixels, before the first pixel is written."""
    if grid.geotransform:
        handle.SetGeoTransform(list(grid.geotransform))
    if grid.crs:
        handle.SetProjection(grid.crs)
    if tags:
        handle.SetMetadata(dict(tags))
    for k in range(handle.RasterCount):
        band = handle.GetRasterBand(k + 1)
        if nodata is not None:
            band.SetNoDataValue(float(nodata))
        if band_names:
            band.SetDescription(band_names[k])
        for value, setter in ((scale, band.SetScale), (offset, band.SetOffset)):
            if value is not None:
                setter(float(value[k] if isinstance(value, Sequence) else value))
    # Viewers take the first three bands for red, green and blue otherwise. Other formats would keep
    # it in a file beside theirs.
    if band_names and set(_COLOURS) <= set(band_names) and handle.GetDriver().ShortName == "GTiff":
        for name, colour in _COLOURS.items():
            handle.GetRasterBand(band_names.index(name) + 1).SetColorInterpretation(colour)


def write(
    path: str | Path,
    pixels: np.ndarray,
    grid: Grid,
    *,
    driver: str = "GTiff",
    nodata: float | None = None,
    band_names: Sequence[str] | None = None,
    scale: float | Sequence[float] | None = None,
    offset: float | Sequence[float] | None = None,
    tags: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
    interleave: str | None = None,
) -> None:
    """Writes a whole (H, W, B) image; it is there whole or not at all.

    The arguments are `create`'s.
    """
    if pixels.shape[:2] != grid.shape:
        raise ValueError(f"{path}: image {pixels.shape[:2]} on a grid {grid.shape}")
    with create(
        path,
        grid,
        bands=pixels.shape[2],
        dtype=pixels.dtype,
        driver=driver,
        nodata=nodata,
        band_names=band_names,
        scale=scale,
        offset=offset,
        tags=tags,
        options=options,
        interleave=interleave,
    ) as raster:
        raster.write(grid.window, pixels)
