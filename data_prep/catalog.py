"""What a data set holds, by date, and the one way in which its images are read.

    catalog = Catalog(dataset.load("configs/boreal2001.toml"))
    image = catalog.read("coarse", date, Window(0, 0, 256, 256))

`Catalog.read` gives any window of any image on the fine grid, in stored digital numbers with its
validity. Where an image's pixels lie on the fine grid already they are copied exactly. Elsewhere
they are interpolated once: what is invalid is taken out on the image's own grid, and the shift
found by registration is part of the same warp. Warps are done in blocks that start at fixed
places, so the same pixel has the same value whatever window it is read through, and memory does
not grow with the scene.
"""

import collections
import copy
import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import archive, errors, grids, names, quality, rasters, records, tiles
from data_prep.archive import Entry, Layer
from data_prep.dataset import Dataset, Date, Side
from data_prep.grids import Grid, Window

BLOCK = 256
_BLOCK_CACHE_BYTES = 48 * 2**20
# Of the scene's longer side, to tell how much of it an image shows.
_CLEAR_PIXELS = 256
# A warped pixel is valid when at least half of its kernel's weight lies on valid pixels.
_LEAST_SHARE = 0.5
_DTYPES = {"float64": "float32", "int32": "float32", "uint32": "float32", "int8": "int16"}


@dataclasses.dataclass(frozen=True)
class Image:
    """A window of an image.

    Attributes:
        dn: Digital numbers as stored, (H, W, B).
        valid: Where they may be used, (H, W) bool.
    """

    dn: np.ndarray
    valid: np.ndarray


class Catalog:
    """A data set's images.

    It holds no open files and can be pickled: worker processes get their own.

    Args:
        dataset: The description.
        shifts: For coarse dates, the rows and columns (fine pixels, down and right) by which the
            coarse image is moved to match the fine ones.
        clouds: For coarse dates, pixels of the fine grid that are not used; see `residual_clouds`.

    Attributes:
        dataset: The description.
        grid: The grid of all that is read: the fine images'.
        shifts: As given.
        clouds: As given.
        notes: What was assumed about files that do not state it, one sentence each.

    Raises:
        InputError: No images, or grids that cannot be brought together.
    """

    def __init__(
        self,
        dataset: Dataset,
        shifts: Mapping[Date, tuple[float, float]] | None = None,
        clouds: Mapping[Date, quality.CellMask] | None = None,
    ):
        self.dataset = dataset
        self.shifts = dict(shifts or {})
        self.clouds = dict(clouds or {})
        self.notes: list[str] = []
        self._entries = {k: archive.find(dataset, dataset.side(k)) for k in ("fine", "coarse")}
        for name, entries in self._entries.items():
            if not entries:
                side = dataset.side(name)
                sought = ", ".join(side.files) or "its table"
                raise errors.InputError(
                    f"{dataset.path}: {name}: expected files like {sought} below "
                    f"{dataset.root}, found none."
                )
        self._blocks: collections.OrderedDict[tuple, Image] = collections.OrderedDict()
        self._native: dict[tuple[str, Date], Grid] = {}
        self._clear: dict[tuple[str, Date], np.ndarray | None] = {}
        self._encodings = {k: self._encoding(dataset.side(k)) for k in self._entries}
        self.grid = self._target_grid()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_blocks": collections.OrderedDict(), "_clear": {}}

    def of(self, dates: Iterable[Date]) -> "Catalog":
        """The catalog with the images of some dates alone, to be sent to another process.

        All of it, for each of thousands of dates, would take longer than their images. Grid,
        encodings and ratio stay as they are.
        """
        dates = tuple(dates)
        part = copy.copy(self)
        part._blocks = collections.OrderedDict()
        masks = {date: self.residual_clouds(date) for date in dates}
        part.clouds = {date: mask for date, mask in masks.items() if mask is not None}
        part._entries = {side: {} for side in self._entries}
        first = next(iter(self._entries["coarse"]))  # the ratio is told by it
        for side, date in (("coarse", first), *itertools.product(self._entries, dates)):
            if (entry := self._find(side, date)) is not None:
                part._entries[side][entry.date] = entry
        part._native = {k: v for k, v in self._native.items() if k[1] in part._entries[k[0]]}
        return part

    def without(self, clouds: Mapping[Date, quality.CellMask]) -> "Catalog":
        """The catalog with what lies under some clouds left out of its coarse images."""
        screened = copy.copy(self)
        screened._blocks = collections.OrderedDict()
        screened.clouds = dict(clouds)
        return screened

    # --- what there is ---

    @property
    def fine_dates(self) -> list[Date]:
        """Dates with a fine image."""
        return sorted(self._entries["fine"])

    @property
    def coarse_dates(self) -> list[Date]:
        """Dates with a coarse image.

        A composite that stands for several days goes by the fine dates within them, or by its
        first day where there is none.
        """
        covered = {d: self._entry("coarse", d) for d in self.fine_dates if self.has("coarse", d)}
        taken = {entry.date for entry in covered.values()}
        return sorted({*covered, *(d for d in self._entries["coarse"] if d not in taken)})

    def has(self, side: str, date: Date) -> bool:
        """Whether there is an image of a date, or a composite that stands for it."""
        return self._find(side, date) is not None

    def _find(self, side: str, date: Date) -> Entry | None:
        entries = self._entries[side]
        if date in entries:
            return entries[date]
        days = self.dataset.side(side).period_days
        starts = [start for start in entries if 0 < (date - start).days < days]
        return entries[max(starts)] if starts else None

    def _entry(self, side: str, date: Date) -> Entry:
        entry = self._find(side, date)
        if entry is None:
            there = ", ".join(d.isoformat() for d in sorted(self._entries[side])[:40])
            raise errors.InputError(
                f"{self.dataset.path}: expected a {side} image of {date}, found {there}."
            )
        return entry

    def file(self, side: str, date: Date) -> str:
        """The (first) file of a date's image, for messages and tables."""
        return str(self._entry(side, date).bands[0])

    def files(self) -> list[Path]:
        """Every file that the data set's images and grid are read from, headers included."""
        found = _files(entry for entries in self._entries.values() for entry in entries.values())
        return sorted({*found, *rasters.files_behind(self._like)} if self._like else found)

    def files_of(self, side: str, date: Date) -> list[Path]:
        """Every file that a date's image and its quality layers are read from."""
        return _files([self._entry(side, date)])

    def check(self) -> None:
        """Looks at every image once, without reading pixels, before any work is begun.

        Raises:
            InputError: A file that does not open, a missing band, a type that differs
                from the other dates', an image that does not touch the fine grid, or fine and
                coarse that seem to be swapped.
        """
        for side, entries in self._entries.items():
            for date in entries:
                self.native_grid(side, date)
        if self._checked_step() < 1.5:
            self._check_detail()

    def _checked_step(self) -> float:
        """Size of coarse pixels as they are stored, in fine pixels; not smaller than those."""
        coarse = self.coarse_dates[0]
        step = self.grid_ratio(coarse)
        if step < 0.67:
            raise errors.InputError(
                f"{self.file('coarse', coarse)}: expected coarse pixels larger than those of "
                f"{self.file('fine', self.fine_dates[0])}, found them {step:.2g} times as large; "
                f"are [fine] and [coarse] swapped?"
            )
        return step

    def _check_layers(self, side: str, entry: Entry) -> None:
        leading = self._stated_grid(side, entry.date)
        for layer in (*entry.bands, *(k for k in entry.quality if k)):
            stated = rasters.info(layer.raster)
            if not 1 <= layer.band <= stated.bands:
                raise errors.InputError(
                    f"{layer}: expected band {layer.band}, found {stated.bands} bands."
                )
            if layer in entry.bands:
                dtype = _DTYPES.get(stated.dtype, stated.dtype)
                if dtype != self.encoding(side).dtype:
                    raise errors.InputError(
                        f"{layer}: expected {self.encoding(side).dtype} pixels like the other "
                        f"{side} images, found {stated.dtype}."
                    )
                self._check_scale(side, layer)
            self._own_grid(layer.raster, self.dataset.side(side), leading)
        self._check_order(side, entry)
        if excess := rasters.check_stored(entry.bands[0].raster):
            self._note(f"{entry.bands[0]}: {excess}.")

    def _check_scale(self, side: str, layer: Layer) -> None:
        """What a band states of its digital numbers must be what holds for all."""
        described, encoding = self.dataset.side(side), self.encoding(side)
        stated = rasters.info(layer.raster)
        scale, offset = (k[layer.band - 1] for k in (stated.scales, stated.offsets))
        for key, found, expected in (
            ("scale", None if scale is None else _factor(scale), encoding.scale),
            ("offset", offset or 0.0, encoding.offset),
        ):
            if getattr(described, key) is None and (found is None or not _alike(found, expected)):
                raise errors.InputError(
                    f"{layer}: expected band {layer.band} to state the {key} of the other {side} "
                    f"images and bands, {expected:g}, found {found}; {side}.{key} says which holds."
                )

    def _check_order(self, side: str, entry: Entry) -> None:
        """Bands that a file names must be where the description says that they are."""
        if self.dataset.side(side).stack:  # its bands are dates of one
            return
        for name, layer in zip(self.dataset.bands, entry.bands, strict=True):
            own = [k.lower() for k in rasters.info(layer.raster).band_names]
            if own.count(name.lower()) == 1 and own[layer.band - 1] != name.lower():
                raise errors.InputError(
                    f"{layer}: expected the {side} band '{name}' as its band {layer.band}, found "
                    f"that the file itself names band {own.index(name.lower()) + 1} so."
                )

    def _check_detail(self) -> None:
        """Coarse images resampled to the fine grid must be the smoother ones."""
        dates = [d for d in self.fine_dates if self.has("coarse", d)]
        if not dates:
            return
        side = min(*self.grid.shape, 1024)
        window = Window((self.grid.height - side) // 2, (self.grid.width - side) // 2, side, side)
        fine, coarse = (_roughness(self.read(k, dates[0], window)) for k in ("fine", "coarse"))
        # 0 where there are too few valid pixels, or all are alike: that tells nothing.
        if coarse > 1.5 * fine > 0:
            raise errors.InputError(
                f"{self.file('coarse', dates[0])}: expected a smoother image than "
                f"{self.file('fine', dates[0])}, found {coarse / fine:.1f} times as much change "
                f"from pixel to pixel; are [fine] and [coarse] swapped?"
            )

    def source_date(self, side: str, date: Date) -> Date:
        """The date that the archive gives the image that stands for `date`."""
        return self._entry(side, date).date

    def encoding(self, side: str) -> records.Encoding:
        """How a side's digital numbers state reflectance."""
        return self._encodings[side]

    def _encoding(self, side: Side) -> records.Encoding:
        layer = next(iter(self._entries[side.name].values())).bands[0]
        stated = rasters.info(layer.raster)
        own = None if stated.scale is None else _factor(stated.scale)
        scale = own if side.scale is None else side.scale
        if scale is None or not scale > 0:
            raise errors.InputError(
                f"{self.dataset.path}: {side.name}.scale: expected a number above 0, because "
                f"{layer} states {'none' if scale is None else scale}; found no such key."
            )
        offset = side.offset
        # The file's belongs to the file's scale.
        if offset is None and (own is None or _alike(own, scale)):
            offset = stated.offset
        dtype = _DTYPES.get(stated.dtype, stated.dtype)
        if dtype not in records.DTYPES:
            raise errors.InputError(
                f"{layer}: expected pixels of {', '.join((*records.DTYPES, *_DTYPES))}, found "
                f"{stated.dtype}."
            )
        # No pixel is what its type cannot hold, and none must be written so.
        stated_fills = (k for k in (*side.fill, stated.nodata) if k is not None)
        fills = (k for k in stated_fills if records.holds(dtype, k))
        return records.Encoding(
            dtype, scale, offset or 0.0, next(fills, None), *(side.valid_range or (None, None))
        )

    @property
    def ratio(self) -> float:
        """Coarse pixel size over fine pixel size."""
        coarse, fine = self.dataset.coarse, self.dataset.fine
        if coarse.ratio is not None:
            return coarse.ratio
        fine_size = fine.pixel_size or self.grid.pixel_metres
        if not fine_size and self.grid.geotransform:  # in a system of its own, taken to be metric
            fine_size = self.grid.pixel_size[0]
        if coarse.pixel_size and fine_size:
            return coarse.pixel_size / fine_size
        found = self._checked_step()
        if found < 1.01:
            raise errors.InputError(
                f"{self.dataset.path}: coarse.ratio: expected a number (the coarse sensor's pixel "
                f"size in fine pixels), because the coarse files are resampled to the fine grid; "
                f"found no such key."
            )
        return found

    def grid_ratio(self, date: Date) -> float:
        """Pixel size of a coarse image's grid in fine pixels, at the scene's middle.

        Of oblong pixels it is the root of the ratio of their areas.
        """
        native = self.native_grid("coarse", date)
        row, col = self.grid.height / 2, self.grid.width / 2
        there = grids.locate(
            self.grid, native, np.array([row, row + 1, row]), np.array([col, col, col + 1])
        )
        step = math.sqrt(abs(np.linalg.det(np.diff(there[[1, 0, 2]], axis=0))))
        return 1 / step if step > 0 and math.isfinite(step) else 1.0

    # --- grids ---

    @property
    def _like(self) -> str:
        """The raster whose grid is the target, "" where it is the fine images'."""
        stated = self.dataset.like
        return names.absolute(stated, self.dataset.root) if stated else ""

    def _target_grid(self) -> Grid:
        dataset = self.dataset
        if self._like:
            return rasters.info(self._like).grid
        tested = {d for d in dataset.dates.test if not isinstance(d, tuple)}
        dates = [d for d in self.fine_dates if d not in tested] or self.fine_dates
        first = self._stated_grid("fine", dates[0])
        if dataset.extent == "first":
            return first
        windows = []
        for date in dates:
            grid = self._place("fine", self._stated_grid("fine", date), date, first)
            # All four: in another system a rectangle is none.
            rows, cols = np.meshgrid([0, grid.height], [0, grid.width])
            corners = grids.locate(grid, first, rows.ravel(), cols.ravel())
            if not np.isfinite(corners).all():
                raise errors.InputError(
                    f"{self.file('fine', date)}: expected a fine image with a place in the system "
                    f"of {self.file('fine', dates[0])} ({first.describe()}), found "
                    f"{grid.describe()}."
                )
            corners = np.round(corners).astype(int)
            windows.append((corners.min(0), corners.max(0)))
        lows, highs = np.array(windows)[:, 0], np.array(windows)[:, 1]
        inner = dataset.extent == "intersection"
        low = lows.max(0) if inner else lows.min(0)
        high = highs.min(0) if inner else highs.max(0)
        if (high <= low).any():
            raise errors.InputError(
                f"{dataset.path}: grid.extent: expected fine images that share an area, found "
                f"none shared by {self.file('fine', dates[0])} and the others."
            )
        return first.crop(Window(int(low[0]), int(low[1]), *(int(k) for k in high - low)))

    def _stated_grid(self, side: str, date: Date) -> Grid:
        """An image's own grid as its file states it, with the assumed CRS where it has none."""
        layers = self._entry(side, date).bands
        grids = [_stated(layer.raster, self.dataset.side(side)) for layer in layers]
        # Sentinel-2's bands differ in resolution: the finest one leads.
        return max(grids, key=lambda k: k.width)

    @staticmethod
    def _own_grid(raster: rasters.Files, side: Side, leading: Grid) -> Grid | None:
        """Where the pixels of a band or quality layer lie; None where the image's own lie.

        Args:
            raster: The band's or layer's.
            side: Its side.
            leading: The image's own grid as its file states it.

        Raises:
            InputError: It cannot be told.
        """
        grid = _stated(raster, side)
        if grid.has_crs != leading.has_crs:
            grid = dataclasses.replace(grid, crs=leading.crs)
        same_shape = grid.shape == leading.shape
        if grid.geotransform and leading.geotransform:
            return None if same_shape and grid.offset_in(leading) == (0, 0) else grid
        if same_shape:
            return None
        raise errors.InputError(
            f"{raster if isinstance(raster, str) else raster[0]}: expected a place on the map, or "
            f"the size of the image that it belongs to ({leading.describe()}), found "
            f"{grid.describe()}."
        )

    def native_grid(self, side: str, date: Date) -> Grid:
        """An image's own grid, placed with respect to the fine grid.

        Raises:
            InputError: The image is not what the others are (band, type, order, bytes), or the
                two grids cannot be brought together.
        """
        key = side, self.source_date(side, date)
        if key not in self._native:
            self._check_layers(side, self._entry(side, date))
            native = self._place(side, self._stated_grid(side, date), date, self.grid)
            target = self.grid.moved(*(-k for k in self.shift(side, date)))
            try:
                common = grids.footprint(target, native)
            except errors.InputError as error:
                raise errors.InputError(f"{self.file(side, date)}: {error}") from None
            if common is None:
                raise errors.InputError(
                    f"{self.file(side, date)}: expected a {side} image that overlaps "
                    f"{self.file('fine', self.fine_dates[0])} ({self.grid.describe()}), found no "
                    f"common area with {native.describe()}."
                )
            self._native[key] = native
        return self._native[key]

    def _place(self, side: str, grid: Grid, date: Date, target: Grid) -> Grid:
        """An image's own grid with respect to `target`, the fine grid."""
        file = self.file(side, date)
        if grid.has_crs and target.has_crs:
            return grid
        if grid.geotransform and target.geotransform and grid.has_crs == target.has_crs:
            self._note(f"{side} images without CRS: their map coordinates are taken as they are.")
            return grid
        if grid.geotransform and target.geotransform and grid.pixel_size == target.pixel_size:
            self._note(f"{side} images without CRS: taken to be in that of the others.")
            return dataclasses.replace(grid, crs=target.crs)
        if grid.shape == target.shape:
            self._note(f"{side} images without CRS: taken to lie on the fine grid (same size).")
            return target
        if not (grid.geotransform or target.geotransform):
            rows, cols = target.height / grid.height, target.width / grid.width
            if side == "fine" and rows >= 1 and cols >= 1:
                self._note(f"{file}: smaller than the fine grid; taken to start at its origin.")
                return grid
            if side == "coarse" and rows == cols and rows == int(rows):
                self._note(f"{side} images without CRS: taken to cover the fine grid 1:{rows:g}.")
                return dataclasses.replace(grid, geotransform=(0.0, cols, 0.0, 0.0, 0.0, -rows))
        raise errors.InputError(
            f"{file}: expected a {side} image in the system of the fine grid "
            f"({target.describe()}), or of the same size, found {grid.describe()}; "
            f"{side}.assume_crs states a missing system."
        )

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)

    # --- reading ---

    def read(self, side: str, date: Date, window: Window | None = None) -> Image:
        """Reads a window of the fine grid from one image.

        Args:
            side: "fine" or "coarse".
            date: The image's date, or one that a composite stands for.
            window: Inside the grid; all of it where None.

        Returns:
            Digital numbers (H, W, B) in the side's encoding and their validity (H, W).

        Raises:
            InputError: No such image, or a file that cannot be read.
        """
        window = window or self.grid.window
        if window.intersection(self.grid.window) != window:
            raise ValueError(f"{window} reaches over the border of {self.grid.shape}")
        image = self._read(side, date, window)
        if side == "coarse" and (clouds := self.residual_clouds(date)) is not None:
            image = Image(image.dn, image.valid & ~clouds.read(window))
        return image

    def overview(self, side: str, date: Date, step: int) -> Image:
        """All of an image on pixels `step` times as large as the grid's.

        Args:
            side: "fine" or "coarse".
            date: The image's date, or one that a composite stands for.
            step: Of an image with the grid's own pixels it takes the one in the middle of each
                cell of `step` × `step`, and a shift to a whole pixel; others are interpolated.

        Returns:
            As `read`, (H // step, W // step), at least one pixel.

        Raises:
            InputError: No such image, or a file that cannot be read.
        """
        native = self.native_grid(side, date)  # where it lies with respect to the grid as it is
        offset = native.offset_in(self.grid)
        if offset is not None:
            row, col = (k + round(v) for k, v in zip(offset, self.shift(side, date), strict=True))
            image = self._thinned(side, date, step, (row, col))
        else:
            smaller = self.without({})
            smaller.grid = self.grid.coarsened(step)
            smaller.shifts = {k: (row / step, col / step) for k, (row, col) in self.shifts.items()}
            image = smaller.read(side, date)
        if side == "coarse" and (clouds := self.residual_clouds(date)) is not None:
            cells = Window(0, 0, *(n * step for n in image.valid.shape))
            image = Image(image.dn, image.valid & ~clouds.read(cells, step))
        return image

    def _thinned(self, side: str, date: Date, step: int, offset: tuple[int, int]) -> Image:
        grid = self.grid.coarsened(step)
        thin = self._empty(side, grid.window)
        for part in tiles.windows(*grid.shape, max(1024 // step, 1)):
            cells = Window(*(k * step for k in (part.row, part.col, *part.shape)))
            whole = self._copy(side, date, cells, offset)
            middle = np.s_[step // 2 :: step, step // 2 :: step]
            self._paste(thin, grid.window, Image(whole.dn[middle], whole.valid[middle]), part)
        return thin

    def clear_mask(
        self, date: Date, sides: Sequence[str] = ("fine", "coarse")
    ) -> np.ndarray | None:
        """Which pixels both images of a date show, of some ten thousand.

        Shifts and residual clouds have no part in it: they are found with a choice of dates.

        Args:
            date: The images' date, or one that a composite stands for.
            sides: Those of them that are looked at.

        Returns:
            (h, w) bool, or None where an image cannot be read.
        """
        shown = [mask for side in sides if (mask := self._shown(side, date)) is not None]
        return np.logical_and.reduce(shown) if len(shown) == len(sides) else None

    def _shown(self, side: str, date: Date) -> np.ndarray | None:
        if (side, date) not in self._clear:
            plain = self.without({})
            plain.shifts = {}
            step = -(-max(self.grid.shape) // _CLEAR_PIXELS)
            try:
                self._clear[side, date] = plain.overview(side, date, step).valid
            except errors.InputError:
                self._clear[side, date] = None
        return self._clear[side, date]

    def clear_share(self, date: Date) -> float:
        """Share of the scene that both images of a date show.

        Images that cannot be read count as clear, so that who uses them is told.
        """
        shown = self.clear_mask(date)
        return 1.0 if shown is None else float(shown.mean())

    def residual_clouds(self, date: Date) -> quality.CellMask | None:
        """What is left out of a coarse image as such, None for nothing."""
        own = self.clouds.get(date)
        if own is None and self.clouds and self.has("coarse", date):
            own = self.clouds.get(self.source_date("coarse", date))
        return own

    def _read(self, side: str, date: Date, window: Window) -> Image:
        offset = self._copy_offset(side, date)
        if offset is not None:
            return self._copy(side, date, window, offset)
        image = self._empty(side, window)
        row0, col0 = window.row // BLOCK * BLOCK, window.col // BLOCK * BLOCK
        for row in range(row0, window.row + window.height, BLOCK):
            for col in range(col0, window.col + window.width, BLOCK):
                cell = Window(row, col, BLOCK, BLOCK).intersection(self.grid.window)
                assert cell is not None
                self._paste(image, window, self._block(side, date, cell), cell)
        return image

    def _empty(self, side: str, window: Window) -> Image:
        encoding = self.encoding(side)
        fill = 0 if encoding.fill is None else encoding.nodata
        bands = len(self.dataset.bands)
        return Image(
            np.full((*window.shape, bands), fill, encoding.dtype), np.zeros(window.shape, bool)
        )

    @staticmethod
    def _paste(onto: Image, window: Window, piece: Image, place: Window) -> None:
        """Copies the part of `piece` (which lies at `place`) that lies in `window`."""
        shared = window.intersection(place)
        if shared is None:
            return
        there = shared.moved(-place.row, -place.col).slices
        here = shared.moved(-window.row, -window.col).slices
        onto.dn[here] = piece.dn[there]
        onto.valid[here] = piece.valid[there]

    def shift(self, side: str, date: Date) -> tuple[float, float]:
        """Rows and columns by which an image is moved: 0 but for registered coarse images."""
        if side == "fine":
            return 0.0, 0.0
        return self.shifts.get(self.source_date(side, date), self.shifts.get(date, (0.0, 0.0)))

    def _copy_offset(self, side: str, date: Date) -> tuple[int, int] | None:
        """Where in the grid the image's first pixel lies, if both have the same pixels."""
        rows, cols = self.shift(side, date)
        if rows != int(rows) or cols != int(cols):
            return None
        offset = self.native_grid(side, date).offset_in(self.grid)
        return None if offset is None else (offset[0] + int(rows), offset[1] + int(cols))

    def _copy(self, side: str, date: Date, window: Window, offset: tuple[int, int]) -> Image:
        """Pixels as they are; what the image does not cover is invalid."""
        native = self.native_grid(side, date)
        shared = window.intersection(Window(*offset, *native.shape))
        if shared == window:
            return self.read_native(side, date, window.moved(-offset[0], -offset[1]))
        image = self._empty(side, window)
        if shared is not None:
            there = shared.moved(-offset[0], -offset[1])
            self._paste(image, window, self.read_native(side, date, there), shared)
        return image

    def _block(self, side: str, date: Date, cell: Window) -> Image:
        key = (side, date, cell.row, cell.col)
        # Taken out and put back last, in one step each: a Dask worker's threads share a catalog.
        block = self._blocks.pop(key, None) or self._warp(side, date, cell)
        self._blocks[key] = block
        limit = _BLOCK_CACHE_BYTES // (block.dn.nbytes + block.valid.nbytes)
        while len(self._blocks) > max(limit, 1):
            self._blocks.popitem(last=False)
        return block

    def _warp(self, side: str, date: Date, cell: Window) -> Image:
        """One interpolation from the image's own grid, the registration's shift included."""
        rows, cols = self.shift(side, date)
        # Moving the image by (rows, cols) is reading it from that much further up and left.
        target = self.grid.crop(cell).moved(-rows, -cols)
        native = self.native_grid(side, date)
        resampling = self.dataset.side(side).resampling
        needed = grids.footprint(target, native, resampling)
        block = self._empty(side, cell)
        if needed is None:
            return block
        source = self.read_native(side, date, needed)
        dn, share = grids.warp(source.dn, native.crop(needed), target, resampling, source.valid)
        valid = share >= _LEAST_SHARE
        np.copyto(block.dn, _as_type(dn, block.dn.dtype), where=valid[..., None])
        block.valid[...] = valid
        return block

    def read_native(self, side: str, date: Date, window: Window) -> Image:
        """Reads a window of an image's own grid."""
        entry = self._entry(side, date)
        self.native_grid(side, date)  # it is checked there
        described = self.dataset.side(side)
        leading = self._stated_grid(side, date)
        dn, valid = self._read_bands(entry, side, leading, window)
        for layer, rules in zip(entry.quality, described.quality, strict=False):
            if layer is not None and any(name in rules.rules for name in described.reject):
                valid &= ~self._rejected(layer, rules.rules, described, leading, window)
        return Image(dn, valid)

    def _read_bands(
        self, entry: Entry, side: str, leading: Grid, window: Window
    ) -> tuple[np.ndarray, np.ndarray]:
        """All bands on the image's own grid, each raster opened and read once."""
        described = self.dataset.side(side)
        dtype = np.dtype(self.encoding(side).dtype)
        dn = np.empty((*window.shape, len(entry.bands)), dtype)
        valid = np.ones(window.shape, bool)
        by_raster: dict[rasters.Files, list[int]] = {}
        for k, layer in enumerate(entry.bands):
            by_raster.setdefault(layer.raster, []).append(k)
        for raster, places in by_raster.items():
            numbers = [entry.bands[k].band for k in places]
            pixels, good = self._read_raster(raster, numbers, described, leading, window)
            if len(by_raster) == 1:
                return _as_type(pixels, dtype), good
            dn[..., places] = _as_type(pixels, dtype)
            valid &= good
        return dn, valid

    def _read_raster(
        self, raster: rasters.Files, bands: list[int], side: Side, leading: Grid, window: Window
    ) -> tuple[np.ndarray, np.ndarray]:
        grid = self._own_grid(raster, side, leading)
        if grid is None:
            return read_usable(raster, bands, window, side.fill, side.valid_range)
        # A band of another resolution than the image's leading one, or of another extent.
        target = leading.crop(window)
        needed = grids.footprint(target, grid, side.resampling)
        if needed is None:
            return np.zeros((*window.shape, len(bands))), np.zeros(window.shape, bool)
        pixels, good = read_usable(raster, bands, needed, side.fill, side.valid_range)
        moved, share = grids.warp(pixels, grid.crop(needed), target, side.resampling, good)
        return moved, share >= _LEAST_SHARE

    def _rejected(
        self, layer: Layer, rules: Mapping, side: Side, leading: Grid, window: Window
    ) -> np.ndarray:
        """Where a quality layer rejects, grown, on a window of the image's own grid."""
        grid = self._own_grid(layer.raster, side, leading)
        target = leading.crop(window)
        needed = window if grid is None else grids.footprint(target, grid, "nearest")
        if needed is None:
            return np.ones(window.shape, bool)
        wide = tiles.expand(needed, side.dilate, *(grid or leading).shape)
        bad = quality.rejected(
            rasters.read(layer.raster, [layer.band], wide)[..., 0], rules, side.reject
        )
        bad = quality.grown(bad, side.dilate)
        if grid is None:
            return bad[window.moved(-wide.row, -wide.col).slices]
        moved, share = grids.warp(
            bad[..., None].astype(np.uint8), grid.crop(wide), target, "nearest"
        )
        return (moved[..., 0] > 0) | (share == 0)


def _stated(raster: rasters.Files, side: Side) -> Grid:
    """A raster's grid, with the side's assumed CRS where it states none."""
    grid = rasters.info(raster).grid
    if side.assume_crs and not grid.has_crs:
        return dataclasses.replace(grid, crs=grids.crs_wkt(side.assume_crs))
    return grid


def read_usable(
    raster: rasters.Files,
    bands: Sequence[int],
    window: Window,
    fill: Sequence[float] = (),
    valid_range: tuple[float, float] | None = None,
    shape: tuple[int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Bands of a raster, and where all of them are usable.

    That is neither fill nor nodata, each band's own, within the valid range, and not masked out by
    the file itself.

    Args:
        raster: The raster.
        bands: 1-based band numbers.
        window: A window inside the raster.
        fill: Digital numbers that mean "no data" beside those that the raster states.
        valid_range: Least and greatest usable digital number.
        shape: (height, width) of a smaller picture of the window; its own where None.

    Returns:
        (H, W, B) in the file's type, and (H, W) bool.
    """
    stated = rasters.info(raster)
    pixels = rasters.read(raster, bands, window, shape)
    # NaN equals nothing; pixels that are NaN are out of range whatever the file states.
    nodata = [None if k is None or math.isnan(k) else k for k in stated.nodatas]
    own = [nodata[k - 1] for k in bands]
    usable = np.ones(pixels.shape[:2], bool)
    for value in dict.fromkeys(own):
        mine = [k for k, found in enumerate(own) if found == value]
        part = pixels if len(mine) == len(own) else pixels[..., mine]
        unused = fill if value is None else (*fill, value)
        usable &= quality.in_range(part, unused, valid_range)
    if stated.masked:
        usable &= rasters.read_mask(raster, bands, window, shape)
    # Not those that are read: GDAL takes the last of four bands of bytes for alpha by itself.
    if alphas := [k for k in stated.alphas if k not in bands]:
        usable &= (rasters.read(raster, alphas, window, shape) > 0).all(-1)
    return pixels, usable


def _files(entries: Iterable[Entry]) -> list[Path]:
    layers = (k for entry in entries for k in (*entry.bands, *entry.quality) if k)
    named = {file for layer in layers for file in layer.files}
    return sorted({path for file in named for path in rasters.files_behind(file)})


def _roughness(image: Image) -> float:
    """Median change from pixel to pixel relative to the contrast, the mean over bands.

    The median, because coarse pixels repeated as blocks change abruptly, but seldom.
    """
    dn = image.dn.astype(np.float64)
    both = image.valid[1:] & image.valid[:-1]
    if both.sum() < 16:
        return 0.0
    step = np.median(np.abs(np.diff(dn, axis=0)[both]), axis=0)
    return float(np.mean(step / np.maximum(dn[image.valid].std(0), 1e-12)))


def _alike(first: float, second: float) -> bool:
    """Whether two files state one scale or offset, of which one may keep it in single precision."""
    return math.isclose(first, second, rel_tol=1e-6)


def _factor(scale: float) -> float:
    """Reflectance per digital number where a file states that or, as HDF does, its inverse."""
    return 1 / scale if scale > 1 else scale


def _as_type(dn: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Digital numbers in the side's type, rounded and clipped where it is an integer."""
    if dn.dtype == dtype:
        return dn
    if np.issubdtype(dtype, np.floating) or np.issubdtype(dn.dtype, np.integer):
        with np.errstate(over="ignore"):  # of nodata values in double precision
            return dn.astype(dtype)
    bounds = np.iinfo(dtype)
    rounded = np.rint(dn)
    return np.clip(rounded, bounds.min, bounds.max, out=rounded).astype(dtype)
