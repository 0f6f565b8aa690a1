"""Shards from rasters, against GDAL's own warp and translate of the same rasters."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from benchmarks import measure, workload
from benchmarks.table import AtLeast, AtMost, Options, Report
from data_prep import dataset, preparation

WORKERS = (1, 2, 4)
SHARD_BYTES = 32 * 2**20


def run(options: Options) -> Report:
    """Three dates, coarse images on a grid of their own: warped, masked, cut, written."""
    report = Report()
    # About as many pixels as CIA has; of few pixels, what a worker takes to start is a large part.
    size = 768 if options.quick else 4096
    described = workload.make(options.folder / f"native{size}", size, native=True)
    target = options.folder / "prepared"

    def ours(workers: int) -> Callable[[], object]:
        def prepare() -> None:
            shutil.rmtree(target, ignore_errors=True)
            preparation.prepare(
                dataset.load(described), target, workers=workers, shard_bytes=SHARD_BYTES
            )

        return prepare

    runs = {f"{n}": ours(n) for n in WORKERS}
    if shutil.which("gdalwarp") and shutil.which("gdal_translate"):
        runs["GDAL"] = lambda: _gdal(described.parent, size, target)
    else:
        report.note("gdalwarp and gdal_translate are not installed (Debian: gdal-bin).")
    seconds = measure.alternate(runs, options.rounds)
    shutil.rmtree(target, ignore_errors=True)
    # Pixels of all six images on the fine grid, two bytes a band.
    megabytes = 6 * size**2 * len(workload.BANDS) * 2 / 1e6
    for n in WORKERS:
        name = f"shards, {n} worker{'s' * (n > 1)}"
        report.add(name, "MB/s", measure.rates(megabytes, seconds[f"{n}"]))
    if "GDAL" in seconds:
        report.add("gdalwarp and gdal_translate", "MB/s", measure.rates(megabytes, seconds["GDAL"]))
        report.add(
            "time of 1 worker against GDAL's",
            "×",
            measure.ratios(seconds["1"], seconds["GDAL"]),
            AtMost(2.0),
        )
    report.add(
        "speed of 2 workers against 1",
        "×",
        measure.ratios(seconds["1"], seconds["2"]),
        AtLeast(1.7),
    )
    report.add("speed of 4 workers against 1", "×", measure.ratios(seconds["1"], seconds["4"]))
    report.note(
        f"{size} × {size} pixels, 3 dates; GDAL warps the coarse images to the fine grid and "
        f"copies the fine ones, uncompressed, on one core; the shards hold masks and checksums "
        f"as well."
    )
    return report


def _gdal(folder: Path, size: int, target: Path) -> None:
    """What a user without this project would run: one file out for each image."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    x0, pixel, _, y0, *_ = workload.grid(size).transform
    extent = [str(v) for v in (x0, y0 - size * pixel, x0 + size * pixel, y0)]
    common = ["-q", "-co", "TILED=YES"]
    warp = ["gdalwarp", *common, "-r", "bilinear", "-te", *extent, "-tr", f"{pixel}", f"{pixel}"]
    copy = ["gdal_translate", *common]
    for date in workload.DATES:
        for command, source, made in ((warp, "native", "coarse"), (copy, "fine", "fine")):
            files = (folder / f"{source}_{date:%Y%m%d}.tif", target / f"{made}_{date:%Y%m%d}.tif")
            subprocess.run([*command, *map(str, files)], check=True)
