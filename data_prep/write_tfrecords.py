"""Writes a data set as sharded TFRecords of co-registered tiles.

    python -m data_prep.write_tfrecords --dataset=configs/cia.toml --data_dir=/data/CIA \
        --output_dir=/data/cia_shards

The folder then holds `train-00000-of-000NN.tfrecord` …, and `dataset_info.json`, which is written
last: a folder without it is not finished. The same command again goes on where it was stopped.
"""

import dataclasses
import hashlib
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, as_completed
from pathlib import Path

from absl import flags, logging

from data_prep import entry, errors

FLAGS = flags.FLAGS

flags.DEFINE_string("dataset", None, "The data set's description, a .toml file.", required=True)
flags.DEFINE_string("data_dir", None, "Folder of the images; replaces the description's root.")
flags.DEFINE_string("output_dir", None, "Folder for the shards.", required=True)
flags.DEFINE_integer(
    "tile_size", None, "Height and width of a tile, fine pixels; default: the description's.", 16
)
flags.DEFINE_float(
    "min_valid",
    None,
    "Least share of pixels valid in all images of a tile that is kept; default: the description's.",
    0.0,
    1.0,
)
flags.DEFINE_integer("shard_mb", 128, "Size of a shard in MB.", 1)
flags.DEFINE_enum(
    "coregister",
    None,
    ["off", "report", "apply"],
    "What to do about a shift between coarse and fine images: nothing, measure and say it, or "
    "undo it in the same interpolation that brings the coarse image onto the fine grid. Default: "
    "the description's.",
)
flags.DEFINE_enum("executor", "processes", ["processes", "dask"], "Where the shards are written.")
flags.DEFINE_integer("workers", 0, "Processes on this machine; 0 takes one a core.", 0)
flags.DEFINE_string("dask_scheduler", "", "Address of a Dask scheduler; '' starts a cluster here.")

_CACHE_BYTES = 2**30  # GDAL's decoded blocks in all processes together


def main(argv: Sequence[str]) -> None:
    """Writes the shards that `FLAGS` ask for."""
    del argv
    from data_prep import catalog, dataset, executors

    described = dataset.load(FLAGS.dataset, FLAGS.data_dir)
    given = {"tile_size": FLAGS.tile_size, "min_valid": FLAGS.min_valid}
    given["coregister"] = FLAGS.coregister
    described = dataclasses.replace(described, **{k: v for k, v in given.items() if v is not None})
    images = catalog.Catalog(described)
    images.check()
    for note in images.notes:
        logging.info("Assumed: %s", note)
    with executors.make(FLAGS.executor, FLAGS.workers, FLAGS.dask_scheduler) as executor:
        if described.coregister != "off":
            images = register(images, executor)
        write(
            images,
            FLAGS.output_dir,
            executor,
            workers=FLAGS.workers or len(os.sched_getaffinity(0)),
            shard_bytes=FLAGS.shard_mb * 2**20,
        )


def register(images, executor: Executor):
    """Measures the shifts and says them; returns a catalog that applies them if it is to."""
    from data_prep import catalog, registration

    found = registration.estimate(images, executor)
    for shift in found.found:
        logging.info(
            "%s: coarse to be moved %+.2f rows, %+.2f columns (± %.2f, confidence %.2f)",
            shift.date,
            shift.rows,
            shift.cols,
            shift.uncertainty,
            shift.confidence,
        )
    agree = "agree" if found.consistent else "do NOT agree"
    logging.info("Median %+.2f rows, %+.2f columns; dates %s.", found.rows, found.cols, agree)
    if images.dataset.coregister != "apply":
        return images
    return catalog.Catalog(images.dataset, found.shifts)


def write(
    images, output_dir: str | Path, executor: Executor, *, workers: int, shard_bytes: int
) -> Path:
    """Writes all shards that are not there yet, then `dataset_info.json`.

    Args:
        images: A `catalog.Catalog`.
        output_dir: The folder.
        executor: Where the shards are written.
        workers: How many of them are written at once, to share out memory.
        shard_bytes: Size of a shard.

    Returns:
        The folder.

    Raises:
        InputError: No triplets with three dates, an unreadable raster, a disk that is full.
    """
    from data_prep import records, shards, triplets
    from data_prep.progress import track

    described = images.dataset
    formed = triplets.form(described, images.fine_dates, images.coarse_dates)
    whole = {k: [t for t in v if t.t3 is not None] for k, v in formed.items()}
    if not any(whole.values()):
        raise errors.InputError(
            f"{described.path}: expected dates that form a triplet (t1, t2, t3) with coarse and "
            f"fine images, found fine images of "
            f"{', '.join(d.isoformat() for d in images.fine_dates)}; one-sided sets are for "
            f"stfnet_tf.fuse, which needs no shards."
        )
    run = fingerprint(images, shard_bytes)
    jobs = shards.plan(
        described,
        images,
        whole,
        tile_size=described.tile_size,
        min_valid=described.min_valid,
        shard_bytes=shard_bytes,
        run=run,
    )
    folder = Path(output_dir)
    _prepare(folder, jobs)
    reports = {job.file: report for job in jobs if (report := shards.finished(job, folder))}
    missing = [job for job in jobs if job.file not in reports]
    if missing:
        # What says "finished" must not stand beside shards that are being replaced.
        (folder / records.INFO_FILE).unlink(missing_ok=True)
    tiles = sum(len(job.items) for job in missing)
    logging.info(
        "%s: %d triplets, %d tiles in %d shards; %d shards are there already.",
        described.name,
        sum(map(len, whole.values())),
        tiles,
        len(jobs),
        len(reports),
    )
    cache = max(min(_CACHE_BYTES // workers, 192 * 2**20), 64 * 2**20)
    pending = [
        executor.submit(shards.write, job, images, str(folder.resolve()), cache) for job in missing
    ]
    try:
        for done in track(as_completed(pending), "writing shards", len(pending)):
            report = done.result()
            reports[report.shard.file] = report
    except BaseException:
        for future in pending:
            future.cancel()
        raise
    info = _info(images, whole, [reports[job.file] for job in jobs], run)
    info.save(folder)
    _say(info)
    return folder


def fingerprint(images, shard_bytes: int) -> str:
    """A name for all that the shards' bytes depend on: description, shifts, source files."""
    described = images.dataset
    stated = {
        "description": described.description,
        "options": [
            described.tile_size,
            described.min_valid,
            described.coregister,
            shard_bytes,
        ],
        "shifts": [[d.isoformat(), *map(repr, v)] for d, v in sorted(images.shifts.items())],
        "files": [
            [str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in images.files()
        ],
    }
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()


def _prepare(folder: Path, jobs: Sequence) -> None:
    """Makes the folder, and clears it of what other or interrupted runs left."""
    from data_prep import records, shards

    try:
        (folder / shards.PROGRESS).mkdir(parents=True, exist_ok=True)
        wanted = {job.file for job in jobs}
        for split in records.SPLITS:
            for file in folder.glob(f"{split}-[0-9]*-of-[0-9]*.tfrecord"):
                if file.name not in wanted:
                    (folder / records.INFO_FILE).unlink(missing_ok=True)
                    file.unlink()
            for file in folder.glob(f".{split}-*.tfrecord.tmp"):
                file.unlink()
        for note in (folder / shards.PROGRESS).iterdir():
            if note.name.removesuffix(".json") not in wanted:
                note.unlink()
    except OSError as error:
        raise errors.InputError(
            f"--output_dir: expected a writable folder, found {folder}: {error.strerror}."
        ) from None


def _info(images, formed: Mapping, reports: Sequence, run: str):
    from data_prep import records, shards

    described = images.dataset
    bands = len(described.bands)
    splits = {}
    for split in records.SPLITS:
        mine = [report for report in reports if report.split == split]
        splits[split] = records.Split(
            records=sum(report.shard.records for report in mine),
            skipped=sum(report.skipped for report in mine),
            triplets=tuple(triplet.iso for triplet in formed[split]),
            shards=tuple(report.shard for report in mine),
        )
    if not sum(split.records for split in splits.values()):
        raise errors.InputError(
            f"{described.path}: expected tiles with at least {described.min_valid:g} of their "
            f"pixels valid in all images, found none among "
            f"{sum(split.skipped for split in splits.values())}."
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
        name=described.name,
        bands=described.bands,
        fine=images.encoding("fine"),
        coarse=images.encoding("coarse"),
        ratio=images.ratio,
        psf_fwhm=described.coarse.psf_fwhm,
        tile_size=described.tile_size,
        supervision=described.supervision,
        splits=splits,
        statistics=statistics,
        description={
            **described.description,
            "prepared": {
                "root": str(described.root.resolve()),
                "coregister": described.coregister,
                "shifts": {d.isoformat(): list(v) for d, v in sorted(images.shifts.items())},
                "min_valid": described.min_valid,
                "fingerprint": run,
            },
        },
        command=shlex.join(sys.argv),
        versions=_versions(),
    )


def _versions() -> dict[str, str]:
    from importlib import metadata

    found = {"python": sys.version.split()[0]}
    for package in ("stfnet-tf", "gdal", "numpy", "scipy", "scikit-image"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # a checkout that was not installed
            continue
    return found


def _say(info) -> None:
    from rich import console, table

    shown = table.Table(title=f"{info.name}: {', '.join(info.bands)}")
    for name in ("split", "triplets", "tiles", "skipped", "shards", "MB"):
        shown.add_column(name, justify="left" if name == "split" else "right")
    for name, split in info.splits.items():
        size = sum(shard.bytes for shard in split.shards) / 1e6
        shown.add_row(
            name,
            str(len(split.triplets)),
            str(split.records),
            str(split.skipped),
            str(len(split.shards)),
            f"{size:.1f}",
        )
    console.Console().print(shown)


def cli() -> None:
    """Console script."""
    entry.run(main)


if __name__ == "__main__":
    cli()
