"""Many dates of a scene: which are finished already, and where the others are fused.

A date is finished when both of its rasters are there, whole, and carry the fingerprint of what
they are to be made from: images (name, size, time of change), how they are read, shifts, dates and
model. Where a raster was made from anything else, nothing is begun unless it may be overwritten.

Dates are independent of each other, so the files are the same wherever they are fused: in this
process, in a pool of processes, or on a Dask cluster.
"""

import contextlib
import dataclasses
import datetime
import hashlib
import itertools
import json
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from absl import logging

from data_prep import (
    catalog,
    errors,
    executors,
    grids,
    locks,
    memory,
    names,
    rasters,
    records,
    sealed,
    triplets,
)
from stfnet_tf import checkpoints, fit_options, fitting, fusion, presets, scene

# Dates that go through the scene together: what they share is then read an eighth as often, and
# their windows still fit in memory beside the network.
TOGETHER = 8
# Pixels of all dates that are fused before a pool of processes has started.
_SMALL = 20_000_000
# What a process needs beside its share of the cores.
_WORKER_BYTES = 2 * 2**30
# Counts up when what is written changes, so that older rasters are not taken for finished.
_FORMAT = 3


@dataclasses.dataclass(frozen=True)
class Source:
    """Where the model comes from.

    Attributes:
        path: Folder of a training run, of an export, or of one fitted model a date.
        exported: Whether it is an export.
        fit: For models that are fitted to each date, what the user asks of them.
    """

    path: Path
    exported: bool = False
    fit: fit_options.FitOptions | None = None

    def fingerprint(self) -> str:
        """A name for all that the model depends on.

        Raises:
            InputError: There is no model.
        """
        if self.fit is not None:
            return _digest(dataclasses.asdict(self.fit))
        if self.exported:
            files = sorted(k for k in self.path.rglob("*") if k.is_file())
        else:
            files = [self.path / presets.CONFIG_FILE, self.path / checkpoints.BEST]
        try:
            named = [[k.relative_to(self.path).as_posix(), sealed.checksum(k)] for k in files]
        except OSError as error:
            raise errors.InputError(
                f"{error.filename}: expected what training writes, found: {error.strerror}; train "
                f"longer, or continue the run with the same command."
            ) from None
        return _digest(named)

    def predictor(self, images: catalog.Catalog) -> scene.Predictor:
        """The model that is there."""
        load = scene.Predictor.from_saved_model if self.exported else scene.Predictor.from_run
        return dataclasses.replace(load(self.path.absolute(), images), name=str(self.path))


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the work is done.

    Attributes:
        kind: One of `executors.KINDS`.
        workers: Processes; 0 takes what cores and memory allow, and this very process for little
            work.
        scheduler: Address of a Dask scheduler.
    """

    kind: str = "processes"
    workers: int = 0
    scheduler: str = ""


@dataclasses.dataclass(frozen=True)
class _Date:
    """A date to be fused.

    Attributes:
        triplet: t2 and its neighbours.
        fingerprint: What its rasters are to be known by.
        found: Fingerprints of the rasters that are there, as `_found` returns them.
    """

    triplet: triplets.Triplet
    fingerprint: str
    found: tuple[str | None, ...]

    @property
    def other(self) -> bool:
        """Whether what is there was made from anything else."""
        return any(k not in (None, self.fingerprint) for k in self.found)


@dataclasses.dataclass(frozen=True)
class _Task:
    """Dates that are fused together, in one process."""

    images: catalog.Catalog
    source: Source
    model: str
    dates: tuple[_Date, ...]
    output_dir: Path
    window: int
    threads: int


@dataclasses.dataclass(frozen=True)
class _Failed:
    """A date that could not be fused, and why."""

    date: datetime.date
    sentence: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which dates there are, and which of them are to be fused.

    Attributes:
        images: The scene's images.
        source: The model.
        model: Its fingerprint.
        output_dir: Where the rasters go.
        missing: Dates to be fused.
        finished: Dates whose rasters are there.
    """

    images: catalog.Catalog
    source: Source
    model: str
    output_dir: Path
    missing: tuple[_Date, ...]
    finished: tuple[triplets.Triplet, ...]

    @classmethod
    def of(
        cls,
        images: catalog.Catalog,
        source: Source,
        dates: Sequence[triplets.Triplet],
        output_dir: str | Path,
        overwrite: bool = False,
    ) -> "Plan":
        """Looks at what is there.

        Args:
            images: The scene's images.
            source: The model.
            dates: What is wanted.
            output_dir: Where the rasters go.
            overwrite: Whether rasters made from anything else may be replaced.

        Raises:
            InputError: Such rasters are there and may not be, or there is no model.
        """
        folder = Path(output_dir)
        model = source.fingerprint()
        missing, finished = [], []
        for triplet in dates:
            fingerprint = _digest([_FORMAT, model, _inputs(images, triplet)])
            date = _Date(triplet, fingerprint, _found(folder, triplet, images))
            if set(date.found) == {fingerprint}:
                finished.append(triplet)
            elif date.other and not overwrite:
                raise errors.InputError(
                    f"{scene.paths(folder, triplet)[0]}: expected nothing, or rasters made from "
                    f"the same images by the same model, found others; --overwrite replaces them."
                )
            else:
                missing.append(date)
        return cls(images, source, model, folder, tuple(missing), tuple(finished))

    def run(self, window: int = scene.WINDOW, place: Place = Place()) -> Iterator[scene.Fused]:
        """Fuses what is missing.

        Args:
            window: As for `scene.fuse_dates`.
            place: Where.

        Yields:
            Each date once its rasters are there.

        Raises:
            InputError: A date could not be fused, after all others were; or a process was killed.
                What is finished stays.
        """
        for triplet in self.finished:
            locks.sweep(scene.paths(self.output_dir, triplet)[0])
        # Each date has its lock as well; this one keeps two programs from sharing a series out. It
        # is called the same however many dates are finished.
        wanted = [*self.finished, *(date.triplet for date in self.missing)]
        series = self.output_dir / f"{min((k.t2 for k in wanted), default='none')} and later"
        if not self.missing:
            locks.sweep(series)
            return
        self._check_memory(window)
        with locks.hold(series):
            yield from self._run(window, place)

    def _run(self, window: int, place: Place) -> Iterator[scene.Fused]:
        failed = []
        for fused in itertools.chain.from_iterable(self._fused(window, place)):
            if isinstance(fused, _Failed):
                failed.append(fused)
                if len(self.missing) > 1:
                    logging.error("%s: not fused: %s", fused.date.isoformat(), fused.sentence)
                continue
            # As the user named the folder; it was made absolute for processes elsewhere.
            path, quality_path = scene.paths(self.output_dir, fused.triplet)
            yield dataclasses.replace(fused, path=path, quality_path=quality_path)
        if failed:
            others = len(self.missing) - len(failed)
            raise errors.InputError(
                failed[0].sentence
                + (f" (Of {len(self.missing)} dates, {others} were fused.)" if others else "")
            )

    def _fused(self, window: int, place: Place) -> Iterator[list["scene.Fused | _Failed"]]:
        workers = self._workers(place)
        tasks = self._tasks(workers, window, place)
        if workers == 1 and place.kind == "processes":
            # Each shows its own progress, and the first is done before the second begins.
            yield from map(_fuse, tasks)
            return
        lost = (
            f"{self.output_dir}: expected every process to finish its dates, found one killed "
            f"(out of memory?); the same command goes on with the others, "
            f"--workers={max(workers // 2, 1)} needs less."
        )
        with executors.make(place.kind, workers, place.scheduler) as pool:
            pending = executors.submitted(pool, _fuse, [(task,) for task in tasks], lost)
            yield from executors.results(pending, "Fusing", lost)

    def _check_memory(self, window: int) -> None:
        """Refuses windows of which not even images and results fit in memory."""
        height, width = (min(k, window) for k in self.images.grid.shape)
        sizes = [self.images.encoding(k).dtype for k in ("fine", "fine", *["coarse"] * 3)]
        stored = sum(np.dtype(k).itemsize for k in sizes)
        # As they are stored, as reflectance, both predictions, the result and its quality.
        each = len(self.images.dataset.bands) * (stored + 4 * (5 + 2 + 2))
        memory.require(height * width * each, f"--window={window}", "a smaller one needs less")

    def _workers(self, place: Place) -> int:
        """How many processes are worth starting."""
        if place.workers:
            return place.workers
        if place.scheduler:
            return max(len(self.missing), 1)  # a cluster has as many as it has
        height, width = self.images.grid.shape
        little = self.source.fit is None and height * width * len(self.missing) < _SMALL
        if place.kind == "processes" and (little or len(self.missing) < 2):
            return 1
        affordable = max(psutil.virtual_memory().available // _WORKER_BYTES, 1)
        return max(min(executors.cores(), affordable, len(self.missing)), 1)

    def _tasks(self, workers: int, window: int, place: Place) -> list[_Task]:
        """Dates between the same fine images go together, a fitted model's each by itself."""
        between: dict[Any, list[_Date]] = {}
        for date in self.missing:
            between.setdefault((date.triplet.t1, date.triplet.t3), []).append(date)
        # A fit's sums depend on the number of threads in their last digits; fusing does not.
        fitted = self.source.fit is not None
        own = workers > 1 and not (fitted or place.scheduler)
        threads = max(executors.cores() // workers, 1) if own else 0
        made = []
        for dates in between.values():
            size = 1 if fitted else min(TOGETHER, -(-len(dates) // workers))
            for k in range(0, len(dates), size):
                made.append(
                    _Task(
                        *(self.images, self.source, self.model, tuple(dates[k : k + size])),
                        *(self.output_dir.absolute(), window, threads),
                    )
                )
        return made


# What the next task of the same run finds again in this process.
_resident: dict[str, scene.Predictor] = {}
_fitters: dict[str, fitting.Fitter] = {}
# Fits in turn give the same model other weights; a Dask worker may run tasks in several threads.
_fitting = threading.Lock()


def _fuse(task: _Task) -> list[scene.Fused | _Failed]:
    """Fuses dates together, or each by itself where one of them fails; runs in a worker process.

    Raises:
        InputError: There is no model for any of them.
    """
    if task.threads:  # TensorFlow reads it when it first computes
        os.environ["TF_NUM_INTRAOP_THREADS"] = str(task.threads)
    if task.source.fit is None:
        _predictor(task)
    try:
        return [*_fuse_together(task)]
    except errors.InputError as error:
        if len(task.dates) == 1:
            return [_Failed(task.dates[0].triplet.t2, str(error))]
        logging.warning("Each date by itself, because of them together: %s", error)
    alone = []
    for date in task.dates:
        found = _found(task.output_dir, date.triplet, task.images)
        # Some may have been finished before the failure; another program's are still not expected.
        own = set(found) <= {*date.found, date.fingerprint}
        alone.append(dataclasses.replace(date, found=found) if own else date)
    return [made for date in alone for made in _fuse(dataclasses.replace(task, dates=(date,)))]


def _fuse_together(task: _Task) -> list[scene.Fused]:
    """Fuses dates together.

    Raises:
        InputError: As `scene.fuse_dates`; or another program is, or was, at work on a date.
    """
    with contextlib.ExitStack() as held:
        if task.source.fit is not None:
            held.enter_context(_fitting)
        for date in task.dates:
            held.enter_context(scene.alone(task.output_dir, date.triplet))
            if _found(task.output_dir, date.triplet, task.images) != date.found:
                raise errors.InputError(
                    f"{scene.paths(task.output_dir, date.triplet)[0]}: expected what was there "
                    f"when this program started, found it written by another meanwhile."
                )
        return scene.fuse_dates(
            _predictor(task),
            task.images,
            [date.triplet for date in task.dates],
            task.output_dir,
            task.window,
            [date.fingerprint for date in task.dates],
            _further(task),
        )


def _predictor(task: _Task) -> scene.Predictor:
    """The model, fitted first where that is wanted."""
    encodings = [dataclasses.asdict(task.images.encoding(k)) for k in ("fine", "coarse")]
    key = _digest([task.model, str(task.source.path), task.images.dataset.bands, encodings])
    if key not in _resident:
        _resident.clear()
    predictor = _resident.get(key)
    if task.source.fit is not None:
        (date,) = task.dates
        if date.other:  # the model was fitted to other images, or otherwise
            shutil.rmtree(task.source.path / date.triplet.t2.isoformat(), ignore_errors=True)
        predictor = _fitted(task, date.triplet, task.source.path, predictor)
    elif predictor is None:
        predictor = task.source.predictor(task.images)
    _resident[key] = predictor
    return predictor


def _further(task: _Task) -> dict[triplets.Triplet, scene.Predictor]:
    """Models that are fitted to the triplets which fill gaps, each kept with its date's own."""
    if task.source.fit is None:
        return {}
    made = {}
    for date in task.dates:
        for fill in date.triplet.fill:
            outer = " ".join(str(day) for day in fill.dates if day != fill.t2)
            folder = task.source.path / fill.t2.isoformat() / f"filling from {outer}"
            made[fill] = _fitted(task, fill, folder)
    return made


def _fitted(
    task: _Task,
    triplet: triplets.Triplet,
    folder: Path,
    earlier: scene.Predictor | None = None,
) -> scene.Predictor:
    """A model that is fitted to a triplet; `earlier` as for `scene.Predictor.from_run`."""
    if task.model not in _fitters:
        assert task.source.fit is not None
        _fitters.clear()
        _fitters[task.model] = fitting.Fitter(task.source.fit)
    run = _fitters[task.model].fit(task.images, triplet, folder)
    made = scene.Predictor.from_run(run, task.images, earlier)
    # What the rasters say of it must not depend on where they lie.
    return dataclasses.replace(made, name=f"fitted to {triplet}")


def _found(
    folder: Path, triplet: triplets.Triplet, images: catalog.Catalog
) -> tuple[str | None, ...]:
    """The fingerprint of each raster of a date: "" for one without, None where none is there."""
    return tuple(_fingerprint(path, images.grid) for path in scene.paths(folder, triplet))


def _fingerprint(path: Path, grid: grids.Grid) -> str | None:
    try:
        stated = rasters.tags(path)
        # A file that was cut off opens, but lacks what its end held.
        rasters.close_all()
        rasters.read(str(path), (), grids.Window(grid.height - 1, grid.width - 1, 1, 1))
    except (errors.InputError, ValueError):
        return "" if path.exists() else None
    finally:
        rasters.close_all()
    return stated.get(scene.FINGERPRINT_TAG, "")


def _inputs(images: catalog.Catalog, triplet: triplets.Triplet) -> dict[str, Any]:
    """All that the images of a triplet depend on, as JSON knows it."""
    described = images.dataset
    files, shifts, clouds = [], [], []
    for name in fusion.BOTH_SIDES:
        side, date = records.side_of(name), getattr(triplet, f"t{name[1]}")
        if date is None:
            continue
        shifts.append([name, *map(repr, images.shift(side, date))])
        if side == "coarse" and (mask := images.residual_clouds(date)) is not None:
            clouds.append([name, mask.digest])
        for file in images.files_of(side, date):
            stat = file.stat()
            place = os.path.relpath(file, described.root)
            files.append([name, place, stat.st_size, stat.st_mtime_ns])
        # Another member of the same archive is another image.
        if inside := names.inside(images.file(side, date)):
            files.append([name, inside])
    return {
        "dates": triplet.iso,
        **({"fill": [_inputs(images, k) for k in triplet.fill]} if triplet.fill else {}),
        "bands": described.bands,
        "files": files,
        "shifts": shifts,
        "clouds": clouds,
        "grid": dataclasses.asdict(images.grid),
        "encodings": [dataclasses.asdict(images.encoding(k)) for k in ("fine", "coarse")],
        # Where other dates lie has no part in it.
        "sides": {k: described.side(k).reading for k in ("fine", "coarse")},
    }


def _digest(stated: Any) -> str:
    return hashlib.sha256(json.dumps(stated, sort_keys=True, default=str).encode()).hexdigest()
