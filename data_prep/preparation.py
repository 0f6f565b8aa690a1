"""From a description to a finished folder of shards: registration, jobs, statistics.

Shards are kept apart until all are finished, so that what an earlier run left stays whole until
there is something to replace it. `dataset_info.json` is written last. A folder without it is not
finished, and the same call goes on with the shards that are missing.
"""

import dataclasses
import hashlib
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path

from absl import logging

from data_prep import (
    corrections,
    errors,
    executors,
    locks,
    memory,
    overlap,
    records,
    shards,
    triplets,
    unstated_gaps,
    versions,
)
from data_prep.catalog import Catalog
from data_prep.dataset import Dataset
from data_prep.grids import Window
from data_prep.triplets import Triplet

PACKAGES = ("stfnet-tf", "gdal", "numpy", "scipy", "scikit-image")

_CACHE_BYTES = 2**30  # GDAL's decoded blocks in all processes together
_SMALL_BYTES = 32 * 2**20  # less than that is written before a pool of processes has started


def prepare(
    dataset: Dataset,
    output_dir: str | Path,
    *,
    executor: str = "processes",
    workers: int = 0,
    scheduler: str = "",
    shard_bytes: int = 128 * 2**20,
    only: Triplet | None = None,
    corrected: Catalog | None = None,
) -> records.DatasetInfo:
    """Writes a data set's shards, but for those that an earlier run has finished.

    Args:
        dataset: The description; it says what is done about shifts and residual clouds.
        output_dir: The folder for the shards and `dataset_info.json`.
        executor: Where the work is done, one of `executors.KINDS`.
        workers: Processes; 0 takes one a core.
        scheduler: Address of a Dask scheduler.
        shard_bytes: Size of a shard.
        only: Write this one triplet, for training, instead of those that the description forms.
        corrected: The same images, where their shifts and residual clouds are known already.

    Returns:
        What `dataset_info.json` says.

    Raises:
        InputError: No triplets, an unreadable raster, a disk that is full, or another program that
            writes the same folder.
    """
    known = (corrected.shifts, corrected.clouds) if corrected is not None else ()
    images = Catalog(dataset, *known)
    images.check()
    for note in images.notes:
        logging.info("Assumed: %s", note)
    formed = _triplets(images) if only is None else {"train": [only], "val": [], "test": []}
    if only is None:  # who names it has looked
        unstated_gaps.check(images, sorted({t.t1 for some in formed.values() for t in some}))
    workers = workers or executors.cores()
    _check_tile(images, workers)
    if executor == "processes" and _volume(images, formed) < _SMALL_BYTES:
        workers = 1
    with executors.make(executor, workers, scheduler) as pool:
        # Processes start, and load what they need, while shifts and clouds are looked for.
        executors.submitted(pool, shards.loaded, [()] * workers, _lost(Path(output_dir), workers))
        if corrected is None:
            wanted = {date for part in formed.values() for t in part for date in t.dates}
            images = corrections.corrected(images, pool, wanted)
        folder = Path(output_dir)
        _make(folder)
        with locks.hold(folder / records.INFO_FILE):
            return _write(images, formed, folder, pool, workers, shard_bytes)


def _triplets(images: Catalog) -> dict[str, list[Triplet]]:
    """Triplets of all splits."""
    dataset = images.dataset
    formed = triplets.of(images)
    if not any(formed.values()):
        raise errors.InputError(
            f"{dataset.path}: expected dates that form a triplet (t1, t2, t3), or a t2 after t1, "
            f"with coarse and fine images; found fine images of "
            f"{', '.join(d.isoformat() for d in images.fine_dates)}."
        )
    return formed


def _check_tile(images: Catalog, workers: int) -> None:
    """A tile must fit in a record, and a few copies of it in every worker's memory."""
    size = images.dataset.tile_size
    bytes_ = shards.record_bytes(images, Window(0, 0, *(min(size, n) for n in images.grid.shape)))
    if bytes_ > shards.LARGEST_RECORD:
        raise errors.InputError(
            f"--tile_size={size}: expected tiles of at most {shards.LARGEST_RECORD / 2**30:.0f} "
            f"GiB, as a record can hold, found {bytes_ / 2**30:.1f}; a smaller one fits."
        )
    memory.require(
        3 * bytes_ * workers, f"--tile_size={size}, {workers} workers", "less of either needs less"
    )


def _volume(images: Catalog, formed: Mapping[str, Sequence[Triplet]]) -> int:
    """Bytes of all records together."""
    return sum(map(len, formed.values())) * shards.record_bytes(images, images.grid.window)


def _lost(folder: Path, workers: int) -> str:
    return (
        f"{folder}: expected every process to finish its shards, found one killed (out of "
        f"memory?); the same command goes on, --workers={max(workers // 2, 1)} needs less."
    )


def _write(
    images: Catalog,
    formed: Mapping[str, Sequence[Triplet]],
    folder: Path,
    pool: Executor,
    workers: int,
    shard_bytes: int,
) -> records.DatasetInfo:
    """Writes the shards that are missing, then `dataset_info.json`, as the only one."""
    dataset = images.dataset
    run = fingerprint(images, formed, shard_bytes)
    jobs = shards.plan(
        dataset,
        images,
        formed,
        tile_size=dataset.tile_size,
        min_valid=dataset.min_valid,
        shard_bytes=shard_bytes,
        run=run,
    )
    _clear(folder / shards.PROGRESS, jobs)
    reports = {job.file: report for job in jobs if (report := shards.finished(job, folder))}
    missing = [job for job in jobs if job.file not in reports]
    logging.info(
        "%s: %d triplets, %d tiles in %d shards, of which %d are there already.",
        dataset.name,
        sum(map(len, formed.values())),
        sum(len(job.items) for job in jobs),
        len(jobs),
        len(reports),
    )
    cache = max(min(_CACHE_BYTES // workers, 192 * 2**20), 64 * 2**20)
    place = str(folder.resolve())
    lost = _lost(folder, workers)
    tasks = [(job, images, place, cache) for job in missing]
    pending = executors.submitted(pool, shards.write, tasks, lost)
    for report in executors.results(pending, "writing shards", lost):
        reports[report.shard.file] = report
    info = _info(images, formed, [reports[job.file] for job in jobs], run)
    try:
        if any((folder / shards.PROGRESS / job.file).exists() for job in jobs):
            # What says "finished" must not stand beside shards that are being replaced.
            (folder / records.INFO_FILE).unlink(missing_ok=True)
            shards.publish(jobs, folder)
        info.save(folder)
    except OSError as error:
        raise errors.InputError(
            f"{folder / records.INFO_FILE}: could not be written: {error.strerror}."
        ) from None
    return info


def fingerprint(images: Catalog, formed: Mapping[str, Sequence[Triplet]], shard_bytes: int) -> str:
    """A name for all that the shards' bytes depend on: description, dates, shifts, files."""
    dataset = images.dataset
    stated = {
        "description": dataset.description,
        "sides": [dataset.side(k).reading for k in ("fine", "coarse")],
        "options": [
            dataset.tile_size,
            dataset.min_valid,
            dataset.supervision,
            dataset.coregister,
            shard_bytes,
        ],
        "triplets": {split: [t.iso for t in part] for split, part in formed.items()},
        "encodings": [dataclasses.asdict(images.encoding(k)) for k in ("fine", "coarse")],
        "shifts": [[d.isoformat(), *map(repr, v)] for d, v in sorted(images.shifts.items())],
        "clouds": [[d.isoformat(), v.digest] for d, v in sorted(images.clouds.items())],
        "files": [
            [str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in images.files()
        ],
    }
    return hashlib.sha256(json.dumps(stated, sort_keys=True, default=str).encode()).hexdigest()


def _overlap(images: Catalog, formed: Mapping[str, Sequence[Triplet]]) -> str:
    """What the images of the first triplet have in common, for a sentence."""
    split, triplet = next((split, part[0]) for split, part in formed.items() if part)
    hidden = images.dataset.supervision == "pair" and split == "train"
    names = [
        name
        for name in records.IMAGES
        if not (name == "f2" and (hidden or not images.has("fine", triplet.t2)))
        and not (name in ("f3", "c3") and triplet.t3 is None)
    ]
    return f"on {triplet} {overlap.describe(images, triplet, [names])}"


def _make(folder: Path) -> None:
    try:
        (folder / shards.PROGRESS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.InputError(
            f"--output_dir: expected a writable folder, found {folder}: {error.strerror}."
        ) from None


def _clear(progress: Path, jobs: Sequence[shards.Job]) -> None:
    """Removes what other or interrupted runs left of their work."""
    wanted = {job.file for job in jobs}
    for file in progress.iterdir():
        if file.name.removesuffix(".json") not in wanted:
            file.unlink()


def _info(
    images: Catalog,
    formed: Mapping[str, Sequence[Triplet]],
    reports: Sequence[shards.Report],
    run: str,
) -> records.DatasetInfo:
    dataset = images.dataset
    bands = len(dataset.bands)
    splits = {}
    for split in records.SPLITS:
        mine = [report for report in reports if report.split == split]
        splits[split] = records.Split(
            records=sum(report.shard.records for report in mine),
            skipped=sum(report.skipped for report in mine),
            triplets=tuple(triplet.stated for triplet in formed[split]),
            shards=tuple(report.shard for report in mine),
        )
    if not sum(split.records for split in splits.values()):
        wanted = (
            f"at least {dataset.min_valid:g} of their pixels" if dataset.min_valid else "pixels"
        )
        raise errors.InputError(
            f"{dataset.path}: expected tiles with {wanted} valid in all images, found none among "
            f"{sum(split.skipped for split in splits.values())}; {_overlap(images, formed)}."
        )
    statistics = {}
    for side in ("fine", "coarse"):
        moments = shards.Moments.empty(bands)
        # Only what teaches may shape the network's normalisation.
        for report in reports:
            if report.split == "train" or not splits["train"].records:
                moments = moments + report.moments[side]
        statistics[side] = moments.statistics(images.encoding(side))
    return records.DatasetInfo(
        name=dataset.name,
        bands=dataset.bands,
        fine=images.encoding("fine"),
        coarse=images.encoding("coarse"),
        ratio=images.ratio,
        psf_fwhm=dataset.coarse.psf_fwhm,
        tile_size=dataset.tile_size,
        supervision=dataset.supervision,
        splits=splits,
        statistics=statistics,
        description={
            **dataset.description,
            "prepared": {
                "root": str(dataset.root.resolve()),
                "coregister": dataset.coregister,
                "shifts": {d.isoformat(): list(v) for d, v in sorted(images.shifts.items())},
                "clouds": {d.isoformat(): v.share for d, v in sorted(images.clouds.items())},
                "min_valid": dataset.min_valid,
                "fingerprint": run,
            },
        },
        command=shlex.join(sys.argv),
        versions=versions.installed(PACKAGES),
    )
