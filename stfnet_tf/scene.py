"""A model over a whole scene: windows with a halo in, one georeferenced raster a date out.

A window is read with as many more pixels on every side as its result depends on, so the raster
equals the network on the whole image, whatever the window's size; memory does not grow with the
scene. The next window is read and the last one written while the network works.
"""

import collections
import concurrent.futures
import contextlib
import copy
import dataclasses
import datetime
import functools
import itertools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import stfnet_tf
from data_prep import catalog, errors, grids, locks, progress, rasters, records, tiles, triplets
from stfnet_tf import checkpoints, fusion, model_card, presets, psf
from stfnet_tf import model as stfnet_model

# Read ahead of the network: enough to hide a slow disk, little enough to bound memory.
READ_AHEAD = 2
# Height and width of what is fused at a time, in pixels: as large as 2 GiB of memory allow, because
# a larger window has a smaller share of halo.
WINDOW = 640
# Height and width of what mean changes are summed over at a time: smaller, because the first of
# them is read while nothing else can be done.
_SUMMED = 512
QUALITY_SCALE = 1e-4
QUALITY_NODATA = -1
# Added to a pixel's sides where they are those of further dates.
FILLED = 4
FINGERPRINT_TAG = "STFNET_FINGERPRINT"

_SIDES = (
    "3 both, 1 forward only, 2 backward only, 0 none; 7, 5, 6 likewise from the further dates in "
    "STFNET_FILL"
)

Arrays = dict[str, np.ndarray]
Signature = Callable[..., Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A trained model as fusing needs it, from a training run or from a SavedModel.

    Attributes:
        name: Where it comes from, for provenance.
        bands: Band names in order.
        fine: Encoding of its fine images, in and out.
        coarse: Encoding of its coarse images.
        config: The model's configuration.
        halo: Pixels beyond a tile that its result depends on.
        fuse_tile: The signature of that name.
        coarse_change: The signature of that name.
        model: The network of a training run.
    """

    name: str
    bands: tuple[str, ...]
    fine: records.Encoding
    coarse: records.Encoding
    config: presets.ModelConfig
    halo: int
    fuse_tile: Signature
    coarse_change: Signature
    model: stfnet_model.StfNet | None = None

    @classmethod
    def of(cls, name: str, made: fusion.Fusion) -> "Predictor":
        """A model in this process."""
        return cls(
            name,
            made.info.bands,
            made.info.fine,
            made.info.coarse,
            made.model.config,
            fusion.halo(made.model.config),
            made.fuse_tile,
            made.coarse_change,
            made.model,
        )

    @classmethod
    def from_run(
        cls,
        model_dir: str | Path,
        images: catalog.Catalog,
        earlier: "Predictor | None" = None,
    ) -> "Predictor":
        """The best model of a training run, in the encodings of the images to be fused.

        The network works in reflectance, so it may have been trained on other encodings.

        Args:
            model_dir: What training was given as `--model_dir`.
            images: What is to be fused.
            earlier: Made of another run and no longer needed: if it differs by its weights alone,
                it is given these ones, which spares a second or two.

        Raises:
            InputError: There is no trained model, or it was trained for other bands.
        """
        config = presets.ModelConfig.load(model_dir)
        _check_bands(str(model_dir), config.bands, images)
        fine, coarse = images.encoding("fine"), images.encoding("coarse")
        if earlier is not None and earlier.model is not None:
            if (earlier.config, earlier.fine, earlier.coarse) == (config, fine, coarse):
                checkpoints.load_weights(earlier.model, model_dir)
                return dataclasses.replace(earlier, name=str(model_dir))
        model = checkpoints.load_model(model_dir)
        info = records.DatasetInfo.load(model_dir)
        info = dataclasses.replace(info, fine=fine, coarse=coarse)
        return cls.of(str(model_dir), fusion.Fusion(model, info))

    @classmethod
    def from_saved_model(cls, folder: str | Path, images: catalog.Catalog) -> "Predictor":
        """An export, by its signatures alone.

        Raises:
            InputError: There is none, or it was made for other bands or encodings.
        """
        card = model_card.load(folder)
        loaded = tf.saved_model.load(str(folder))

        def signature(name: str) -> Signature:
            function = loaded.signatures[name]
            # The loaded object owns the variables that its signatures use.
            function.keeps_alive = loaded
            return function

        return cls.from_card(card, str(folder), images, signature)

    @classmethod
    def from_card(
        cls,
        card: Mapping[str, Any],
        name: str,
        images: catalog.Catalog,
        signature: Callable[[str], Signature],
    ) -> "Predictor":
        """An export known by its card, wherever it runs.

        Args:
            card: The model card.
            name: Where the model is, for provenance and messages.
            images: What is to be fused.
            signature: Returns the function of a signature.

        Raises:
            InputError: It was made for other bands or encodings.
        """
        _check_bands(name, tuple(card["bands"]), images)
        encodings = {side: records.Encoding(**card[side]) for side in ("fine", "coarse")}
        for side, expected in encodings.items():
            found = images.encoding(side)
            if (found.dtype, found.scale, found.offset) != (
                expected.dtype,
                expected.scale,
                expected.offset,
            ):
                raise errors.InputError(
                    f"{name}: expected {side} images as {expected.dtype} × {expected.scale} + "
                    f"{expected.offset}, found {found.dtype} × {found.scale} + {found.offset}; "
                    f"--model_dir takes any encoding."
                )
        return cls(
            name,
            tuple(card["bands"]),
            encodings["fine"],
            encodings["coarse"],
            presets.ModelConfig(**card["model"]),
            card["halo"],
            signature("fuse_tile"),
            signature("coarse_change"),
        )


def _check_bands(name: str, bands: tuple[str, ...], images: catalog.Catalog) -> None:
    if tuple(bands) != images.dataset.bands:
        raise errors.InputError(
            f"{name}: expected a model for the bands {', '.join(images.dataset.bands)} of "
            f"{images.dataset.path}, found one for {', '.join(bands)}."
        )


@dataclasses.dataclass(frozen=True)
class Fused:
    """What fusing one date made.

    Attributes:
        triplet: The dates.
        path: The fused raster.
        quality_path: Its quality and flag layers.
        rmse: Root mean square error per band in reflectance over the pixels whose truth is
            known; None where none is.
        pixels: How many those are.
        known: Share of the scene's pixels that were fused.
        filled: Share of the scene's pixels that further triplets filled.
    """

    triplet: triplets.Triplet
    path: Path
    quality_path: Path
    rmse: tuple[float, ...] | None
    pixels: int
    known: float
    filled: float = 0.0


def fuse(
    predictor: Predictor,
    images: catalog.Catalog,
    triplet: triplets.Triplet,
    output_dir: str | Path,
    window: int = WINDOW,
) -> Fused:
    """Fuses one date of a scene; see `fuse_dates`."""
    return fuse_dates(predictor, images, [triplet], output_dir, window)[0]


def fuse_dates(
    predictor: Predictor,
    images: catalog.Catalog,
    dates: Sequence[triplets.Triplet],
    output_dir: str | Path,
    window: int = WINDOW,
    fingerprints: Sequence[str] = (),
    further: Mapping[triplets.Triplet, Predictor] | None = None,
) -> list[Fused]:
    """Fuses dates of a scene, each into `<output_dir>/<date>.tif` and `<date>_quality.tif`.

    Dates between the same fine images go through the scene together: what they share is read,
    and brought onto the fine grid, once for all.

    Args:
        predictor: The model.
        images: The scene's images.
        dates: t2 is what is to be fused; t3 None fuses from the earlier pair alone.
        output_dir: Where the rasters go, each whole or not at all.
        window: Height and width, in pixels, of what is fused at a time; it changes speed and
            memory, not the result.
        fingerprints: For each date what its rasters are to be known by; see `series`.
        further: Models of their own for triplets that fill gaps (`Triplet.fill`).

    Raises:
        InputError: An image cannot be read or a raster cannot be written.
    """
    cells = tiles.windows(*images.grid.shape, window)
    changes = _whole_image_changes(predictor, images, dates)
    outputs = [
        _Output(images, triplet, Path(output_dir), fingerprint)
        for triplet, fingerprint in itertools.zip_longest(dates, fingerprints)
    ]
    models = further or {}
    fillings = [
        [_Filling(images, k, models.get(k, predictor)) for k in triplet.fill] for triplet in dates
    ]
    with (
        contextlib.ExitStack() as files,
        contextlib.closing(_read_ahead(images, dates, cells, predictor.halo)) as read,
        concurrent.futures.ThreadPoolExecutor(1) as writing,
    ):
        for output in outputs:
            files.enter_context(output.opened(predictor))
        written: concurrent.futures.Future | None = None
        for cell, inner, batches in progress.track(read, f"Fusing {_named(dates)}", len(cells)):
            for output, filling, batch, change in zip(
                outputs, fillings, batches, changes, strict=True
            ):
                result = _run(predictor.fuse_tile, batch, change)
                result = {k: v[0][inner] for k, v in result.items()}
                shown = int(np.count_nonzero(result["sides"]))
                for gaps in filling:
                    result = gaps.filled(cell, result)
                if written is not None:
                    written.result()
                written = writing.submit(output.write, cell, result, shown)
        if written is not None:
            written.result()
    return [output.fused() for output in outputs]


def _named(dates: Sequence[triplets.Triplet]) -> str:
    first, *others = (str(triplet.t2) for triplet in dates)
    return f"{first} to {others[-1]}" if others else first


def _run(function: Signature, batch: Arrays, change: Arrays) -> Arrays:
    return {k: np.asarray(v) for k, v in function(**(batch | change)).items()}


def _read_ahead(
    images: catalog.Catalog,
    dates: Sequence[triplets.Triplet],
    cells: list[grids.Window],
    halo: int,
) -> Generator[tuple[grids.Window, tuple[slice, slice], list[Arrays]], None, None]:
    """Reads each window with its halo, a few windows ahead.

    Yields:
        The window, where it lies in what was read, and for each date the images and masks
        [1, H, W, ·].
    """
    with concurrent.futures.ThreadPoolExecutor(1) as reading:
        queue: collections.deque = collections.deque()
        remaining = iter(cells)
        while True:
            for cell in remaining:
                wide = tiles.expand(cell, halo, *images.grid.shape)
                inner = cell.moved(-wide.row, -wide.col).slices
                queue.append((cell, inner, reading.submit(_read, images, dates, wide)))
                if len(queue) > READ_AHEAD:
                    break
            if not queue:
                return
            cell, inner, future = queue.popleft()
            try:
                yield cell, inner, future.result()
            except GeneratorExit:
                reading.shutdown(cancel_futures=True)
                raise


def _read(
    images: catalog.Catalog, dates: Sequence[triplets.Triplet], window: grids.Window
) -> list[Arrays]:
    """The five images and their masks; what a one-sided triplet lacks is nowhere valid."""

    @functools.cache
    def pixels(side: str, date: datetime.date | None) -> tuple[np.ndarray, np.ndarray]:
        if date is None:
            shape = (1, *window.shape, len(images.dataset.bands))
            return np.zeros(shape, images.encoding(side).dtype), np.zeros(shape[:-1], bool)
        image = images.read(side, date, window)
        return image.dn[None], image.valid[None]

    batches = []
    for triplet in dates:
        batch = {}
        for name in fusion.BOTH_SIDES:
            date = getattr(triplet, f"t{name[1]}")
            batch[name], batch[f"valid_{name}"] = pixels(records.side_of(name), date)
        batches.append(batch)
    return batches


def _whole_image_changes(
    predictor: Predictor,
    images: catalog.Catalog,
    dates: Sequence[triplets.Triplet],
) -> list[Arrays]:
    """`v12` and `v23` for `fuse_tile`; a pass over the scene where the weights need it.

    In windows of its own: sums of single precision over other windows differ in their last digits,
    and with them every pixel that they weigh.
    """
    bands = len(predictor.bands)
    if predictor.config.combination != "global":
        return [{k: np.zeros((1, bands), np.float32) for k in ("v12", "v23")}] * len(dates)
    cells = tiles.windows(*images.grid.shape, _SUMMED)
    sums: list[collections.Counter[str]] = [collections.Counter() for _ in dates]
    # What the coarse change at a pixel depends on, and no more.
    config = predictor.config
    halo = psf.radius(config.coarse_filter_sigma) + psf.radius(config.back_projection_sigma)
    read = _read_ahead(images, dates, cells, halo)
    for _, inner, batches in progress.track(read, f"Measuring {_named(dates)}", len(cells)):
        for total, batch in zip(sums, batches, strict=True):
            own = dict(batch)
            for name in ("valid_f1", "valid_f3"):
                own[name] = np.zeros_like(batch[name])
                own[name][(0, *inner)] = batch[name][(0, *inner)]
            for k, v in _run(predictor.coarse_change, own, {}).items():
                total[k] = total[k] + v.astype(np.float64)  # type: ignore[assignment]
    return [
        {
            f"v{k}": (total[f"total{k}"] / np.maximum(total[f"count{k}"], 1)).astype(np.float32)
            for k in ("12", "23")
        }
        for total in sums
    ]


def _quality_layers(quality: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Expected errors in steps of `QUALITY_SCALE`, then the sides; int16, [height, width, ·]."""
    layers = np.empty((*quality.shape[:2], quality.shape[2] + 1), np.int16)
    steps = np.rint(quality / np.float32(QUALITY_SCALE))
    np.fmax(steps, QUALITY_NODATA, out=steps)  # what is not known is NaN; nothing else is below 0
    np.minimum(steps, np.iinfo(np.int16).max, out=steps)
    layers[..., :-1] = steps
    layers[..., -1:] = sides
    return layers


class _Filling:
    """What one further triplet knows of the pixels that a date's own ones leave unknown."""

    def __init__(self, images: catalog.Catalog, triplet: triplets.Triplet, predictor: Predictor):
        # A copy, because reading goes on in another thread, and the original keeps what it warped.
        self._images = copy.copy(images)
        self._triplet = triplet
        self._predictor = predictor
        (self._change,) = _whole_image_changes(predictor, images, [triplet])

    def filled(self, cell: grids.Window, result: Arrays) -> Arrays:
        """A window's result, unknown pixels replaced where this triplet's images show them."""
        unknown = result["sides"][..., 0] == 0
        if not unknown.any():
            return result
        (batch,) = _read(self._images, [self._triplet], cell)
        f1, f3, c1, c2, c3 = (batch[f"valid_{k}"][0] for k in fusion.BOTH_SIDES)
        # Of each pixel by itself, so that the result does not depend on the windows.
        unknown &= c2 & ((f1 & c1) | (f3 & c3))
        if not unknown.any():
            return result
        wide = tiles.expand(cell, self._predictor.halo, *self._images.grid.shape)
        (batch,) = _read(self._images, [self._triplet], wide)
        found = _run(self._predictor.fuse_tile, batch, self._change)
        inner = cell.moved(-wide.row, -wide.col).slices
        found["sides"] = np.where(found["sides"] > 0, found["sides"] + FILLED, 0)
        filled = ((k, v[0][inner], result[k]) for k, v in found.items())
        return {k: np.where(unknown[..., None], v, own).astype(own.dtype) for k, v, own in filled}


class _Output:
    """One date's rasters while they are written, and what is found out about them on the way."""

    def __init__(
        self,
        images: catalog.Catalog,
        triplet: triplets.Triplet,
        output_dir: Path,
        fingerprint: str | None,
    ):
        self.triplet = triplet
        self.path, self.quality_path = paths(output_dir, triplet)
        self._images = images
        self._fingerprint = fingerprint
        self._truth = _Truth(images, triplet)
        self._known = self._filled = 0

    @contextlib.contextmanager
    def opened(self, predictor: Predictor) -> Iterator[None]:
        """Both rasters, to be written in a `with` block at whose end they are there."""
        encoding = predictor.fine
        tags = self._tags(predictor)
        with (
            # The layers of errors and sides come first: with the image, the date is finished.
            rasters.create(
                self.path,
                self._images.grid,
                bands=len(predictor.bands),
                dtype=encoding.dtype,
                driver="COG",
                nodata=encoding.nodata,
                band_names=predictor.bands,
                scale=encoding.scale,
                offset=encoding.offset,
                tags=tags,
            ) as self._image,
            rasters.create(
                self.quality_path,
                self._images.grid,
                bands=len(predictor.bands) + 1,
                dtype="int16",
                driver="COG",
                nodata=QUALITY_NODATA,
                band_names=(*(f"{band}_expected_error" for band in predictor.bands), "sides"),
                scale=(*[QUALITY_SCALE] * len(predictor.bands), 1.0),
                offset=0.0,
                tags=tags | {"SIDES": _SIDES},
                # Which side a pixel comes from has no mean.
                options=("OVERVIEW_RESAMPLING=NEAREST",),
            ) as self._quality,
        ):
            yield

    def _tags(self, predictor: Predictor) -> dict[str, str]:
        """Where the rasters come from."""
        tags = {
            "STFNET_VERSION": stfnet_tf.__version__,
            "STFNET_MODEL": predictor.name,
            "STFNET_PRESET": predictor.config.preset,
            "STFNET_DATES": " ".join(self.triplet.iso),
            "TENSORFLOW_VERSION": tf.__version__,
        }
        if self._fingerprint:
            tags[FINGERPRINT_TAG] = self._fingerprint
        for name in fusion.BOTH_SIDES:
            date = getattr(self.triplet, f"t{name[1]}")
            if date is not None:
                file = self._images.file(records.side_of(name), date)
                tags[f"STFNET_{name.upper()}"] = Path(file).name
        if self.triplet.fill:
            tags["STFNET_FILL"] = "; ".join(" ".join(k.iso) for k in self.triplet.fill)
        return tags

    def write(self, cell: grids.Window, result: Arrays, shown: int) -> None:
        """Writes one window's F̂2, quality and sides, of which the date's own images show some."""
        known = int(np.count_nonzero(result["sides"]))
        self._known += known
        self._filled += known - shown
        self._image.write(cell, result["f2"])
        self._quality.write(cell, _quality_layers(result["quality"], result["sides"]))
        self._truth.compare(cell, result)

    def fused(self) -> Fused:
        """What was made, once both rasters are there."""
        height, width = self._images.grid.shape
        return Fused(
            self.triplet,
            self.path,
            self.quality_path,
            self._truth.rmse(),
            self._truth.pixels,
            self._known / (height * width),
            self._filled / (height * width),
        )


def paths(output_dir: Path, triplet: triplets.Triplet) -> tuple[Path, Path]:
    """The two rasters of a date: the image, and its expected errors and sides."""
    path = output_dir / f"{triplet.t2}.tif"
    return path, path.with_name(f"{triplet.t2}_quality.tif")


@contextlib.contextmanager
def alone(output_dir: Path, triplet: triplets.Triplet) -> Iterator[None]:
    """The right to write a date's rasters; what a killed program has left of them is removed.

    Raises:
        InputError: Another program holds it.
    """
    image, quality = paths(output_dir, triplet)
    with locks.hold(image):
        rasters.sweep(image)
        rasters.sweep(quality)
        yield


class _Truth:
    """Adds up the squared error against the true F2, where there is one."""

    def __init__(self, images: catalog.Catalog, triplet: triplets.Triplet):
        # A copy, because reading goes on in another thread, and the original keeps what it warped.
        self._images = copy.copy(images)
        self._date = triplet.t2 if images.has("fine", triplet.t2) else None
        self._total = np.zeros(len(images.dataset.bands))
        self.pixels = 0

    def compare(self, cell: grids.Window, result: Arrays) -> None:
        if self._date is None:
            return
        encoding = self._images.encoding("fine")
        true = self._images.read("fine", self._date, cell)
        valid = true.valid & (result["sides"][..., 0] > 0)
        error = encoding.reflectance(result["f2"][valid]) - encoding.reflectance(true.dn[valid])
        self._total += np.sum(error.astype(np.float64) ** 2, 0)
        self.pixels += int(valid.sum())

    def rmse(self) -> tuple[float, ...] | None:
        return tuple(np.sqrt(self._total / self.pixels)) if self.pixels else None
