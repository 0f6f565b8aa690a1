"""Fusing scenes of ever larger size, against the bare network and against STARFM and ESTARFM.

All sizes are timed in turn in one process, because they are compared with each other. Each is fused
again in processes in which nothing else happens, so that its peak memory can be told; it is another
each time, because threads meet at other moments.
"""

import itertools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measure, network, workload
from benchmarks.table import AtLeast, AtMost, Options, Report
from data_prep import executors
from stfnet_tf import presets

SIZES = (1000, 2000, 4000, 7000)
QUICK_SIZES = (500, 1000)
# Pixels after which a rate is known well enough; a smaller scene is fused several times.
ENOUGH = 4_000_000
OTHERS = ("starfm", "estarfm")
OTHERS_SIZE = 300
MEMORY_SIZES = (2000, 7000)


def run(options: Options) -> Report:
    """Whole scenes from rasters to rasters, with the `paper` preset of six bands."""
    report = Report()
    sizes = [k for k in (QUICK_SIZES if options.quick else SIZES) if k <= options.largest]
    seconds = executors.alone(_of_sizes, sizes, options)
    peaks: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(options.rounds):
        for size in sizes:
            peaks[size].append(executors.alone(_peak, size, options))
    for size in sizes:
        _add_size(report, size, seconds, peaks[size])
    if len(sizes) > 1:
        per_pixel = [[taken / size**2 for taken in seconds[f"fuse {size}"]] for size in sizes]
        report.add(
            "time per pixel, slowest size against fastest",
            "×",
            [max(of_round) / min(of_round) for of_round in zip(*per_pixel, strict=True)],
            AtMost(1.1),
        )
    if all(size in peaks for size in MEMORY_SIZES):
        small, large = (peaks[size] for size in MEMORY_SIZES)
        ratios = measure.ratios(large, small)
        report.add("peak memory of 7,000² against 2,000²", "×", ratios, AtMost(1.2))
    shutil.rmtree(options.folder / "fused")
    for size in sizes[1:]:  # the other methods are measured on the first
        shutil.rmtree(_scene(size, options))
    others = executors.alone(_others, 100 if options.quick else OTHERS_SIZE, options)
    for name, taken in others.items():
        if name != "stfnet":
            report.add(
                f"speed of fusing against {name}",
                "×",
                measure.ratios(taken, others["stfnet"]),
            )
    report.note(
        "scenes are uncompressed GeoTIFFs with the coarse images on the fine grid; out come two "
        "compressed Cloud-Optimized GeoTIFFs with overviews, thirteen layers in all. The bare "
        "network is both streams on tensors in memory, without a halo. STARFM and ESTARFM are "
        f"this project's own, on {OTHERS_SIZE} × {OTHERS_SIZE} pixels of three bands in memory."
    )
    return report


def _add_size(report: Report, size: int, seconds: measure.Seconds, peaks: Sequence[float]) -> None:
    name = f"{size:,}²"
    fused, bare = seconds[f"fuse {size}"], seconds[f"bare {size}"]
    report.add(f"fusing {name}", "µs/pixel", [taken / size**2 * 1e6 for taken in fused])
    report.add(f"peak memory of {name}", "GiB", [k / 2**30 for k in peaks], AtMost(2.0))
    report.add(
        f"speed of {name} against the bare network",
        "×",
        measure.ratios(bare, fused),
        AtLeast(0.85),
    )
    report.add(
        f"bare network's share of the matrix product's rate, windows of {name}",
        "",
        measure.ratios(seconds[f"limit {size}"], bare),
        AtLeast(0.70),
    )


def _fusing(size: int, options: Options) -> tuple[Any, Callable[[], object]]:
    """A `paper` network, and a function that fuses a scene with it."""
    from stfnet_tf import fusion, model, scene

    images = workload.open_scene(workload.make(_scene(size, options), size, truth=False))
    network_ = model.StfNet(
        presets.build("paper", bands=workload.BANDS, ratio=float(workload.RATIO))
    )
    predictor = scene.Predictor.of("made", fusion.Fusion(network_, workload.info(images)))
    output = options.folder / "fused"
    output.mkdir(exist_ok=True)
    return network_, lambda: scene.fuse(predictor, images, workload.TRIPLET, output)


def _scene(size: int, options: Options) -> Path:
    return options.folder / f"untold{size}"


def _peak(size: int, options: Options) -> float:
    """Bytes of memory that fusing takes at most."""
    _, fuse = _fusing(size, options)
    fuse()
    return executors.peak_mib() * 2**20


def _of_sizes(sizes: Sequence[int], options: Options) -> measure.Seconds:
    """Seconds of fusing, of the bare network and of a matrix product of as many operations."""
    from data_prep import tiles
    from stfnet_tf import scene

    product, flops = network.matrix_product()
    runs: dict[str, Callable[[], object]] = {}
    parts: dict[str, float] = {}  # of what is to be known, of each run
    for size in sizes:
        network_, fuse = _fusing(size, options)
        bare, share = _bare(network_, [w.shape for w in tiles.windows(size, size, scene.WINDOW)])
        times = 1 if options.quick else max(1, ENOUGH // size**2)
        for name, function, part in (
            ("bare", bare, share),
            ("fuse", lambda fuse=fuse, times=times: [fuse() for _ in range(times)], times),
            ("limit", product, flops / network.forward_flops(network_.config, size**2)),
        ):
            runs[f"{name} {size}"], parts[f"{name} {size}"] = function, part
    seconds = measure.alternate(runs, options.rounds)
    return {name: [each / parts[name] for each in taken] for name, taken in seconds.items()}


def _bare(network_: Any, shapes: Sequence[tuple[int, int]]) -> tuple[Callable[[], object], float]:
    """Both streams on windows in memory, and how many times the scene's pixels those are."""
    import tensorflow as tf

    chosen: list[tuple[int, int]] = []
    for shape in itertools.cycle(shapes):
        if sum(h * w for h, w in chosen) >= ENOUGH:
            break
        chosen.append(shape)
    bands = len(workload.BANDS)
    given = {
        shape: [tf.random.stateless_normal((1, *shape, bands), (k, 1)) for k in range(4)]
        for shape in set(chosen)
    }

    @tf.function(autograph=False, reduce_retracing=True)
    def streams(c12: tf.Tensor, f1: tf.Tensor, c23: tf.Tensor, f3: tf.Tensor) -> tuple:
        return (
            network_.forward_stream([c12, f1]),
            network_.backward_stream([c23, f3]),
        )

    def run_all() -> None:
        for shape in chosen:
            for predicted in streams(*given[shape]):
                predicted.numpy()

    share = sum(h * w for h, w in chosen) / sum(h * w for h, w in shapes)
    return run_all, share


def _others(size: int, options: Options) -> measure.Seconds:
    """Seconds of this and of other methods on the same three bands in memory."""
    from data_prep import grids
    from stfnet_tf import model
    from stfnet_tf.baselines import base

    images = workload.open_scene(workload.make(_scene(SIZES[0], options), SIZES[0], truth=False))
    window = grids.Window(0, 0, size, size)
    known: dict[str, np.ndarray] = {}
    for name in ("f1", "f3", "c1", "c2", "c3"):
        side = "fine" if name[0] == "f" else "coarse"
        image = images.read(side, workload.DATES[int(name[1]) - 1], window)
        known[name] = image.dn[..., 1:4].astype(np.float32) * np.float32(1e-4)
        known[f"valid_{name}"] = image.valid
    t1, t2, t3 = workload.DATES
    inputs = base.Inputs(
        dates=(t1, t2, t3),
        ratio=float(workload.RATIO),
        **known,  # type: ignore[arg-type]
    )
    network_ = model.StfNet(presets.build("paper", bands=workload.BANDS[1:4]))
    batch = {
        k: (v[None] if v.ndim == 3 else v[None, ..., None].astype(np.float32))
        for k, v in known.items()
    }
    runs: dict[str, Callable[[], object]] = {"stfnet": lambda: network_.fuse(batch).f2.numpy()}
    for name in OTHERS:
        method = base.method(name)
        runs[name] = lambda method=method: method.predict(inputs)  # type: ignore[misc]
    return measure.alternate(runs, options.rounds)
