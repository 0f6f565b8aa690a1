"""What is going to be damaged: small data sets, shards, a run, an export, fused rasters, scores.

Everything after the rasters is made by the programs themselves.
"""

import shutil
from pathlib import Path

import numpy as np
from scipy import ndimage

from data_prep import grids, rasters
from faults.processes import Command, apart, forked

DATES = ("2001-10-08", "2001-10-17", "2001-11-02", "2001-11-09")
MIDDLE = DATES[1]
BANDS = ("green", "nir")
RATIO = 8
SIZE = 48
KINDS = ("tiff", "envi", "float")
NETWORK = (
    *("--filters=4", "--kernel_sizes=3,3", "--combination=local", "--combination_sigma=0.25"),
    *("--batch_size=2", "--patch_size=16", "--panels=0", "--schedule=constant"),
    "--checkpoint_steps=2",
)
# Pixels beyond which a changed pixel changes nothing in a fused raster: warping, then the halo.
REACH = 2 * RATIO + 8


def commands(work: Path) -> dict[str, Command]:
    """The programs, as they are run in the folder `work`."""
    made = {}
    for kind in KINDS:
        described = f"--dataset={work / kind / 'set.toml'}"
        made[f"inspect {kind}"] = Command("data_prep.inspect", (described, "--json", "--workers=1"))
        made[f"prepare {kind}"] = Command(
            "data_prep.write_tfrecords",
            (described, f"--output_dir={work / f'shards_{kind}'}", "--workers=1"),
        )
        made[f"fuse {kind}"] = Command(
            "stfnet_tf.fuse",
            (
                *(described, f"--model_dir={work / 'run'}", "--overwrite"),
                *(f"--output_dir={work / f'fused_{kind}'}", f"--dates={MIDDLE},{DATES[3]}"),
            ),
        )
    flagfile = f"--flagfile={work / 'train.flags'}"
    made["train"] = Command("stfnet_tf.train", (flagfile, f"--model_dir={work / 'new'}"))
    made["train on"] = Command(
        "stfnet_tf.train", (flagfile, f"--model_dir={work / 'run'}", "--steps=6")
    )
    made["export"] = Command(
        "stfnet_tf.export", (f"--model_dir={work / 'run'}", f"--export_dir={work / 'saved'}")
    )
    made["fuse export"] = Command(
        "stfnet_tf.fuse",
        (
            *(f"--dataset={work / 'tiff' / 'set.toml'}", f"--saved_model={work / 'saved/tiff/1'}"),
            *(f"--output_dir={work / 'fused_export'}", "--overwrite", f"--dates={MIDDLE}"),
        ),
    )
    made["evaluate"] = Command(
        "stfnet_tf.evaluate",
        (
            *(f"--dataset={work / 'tiff' / 'set.toml'}", f"--predictions={work / 'fused_tiff'}"),
            *(f"--output_dir={work / 'scores'}", f"--dates={MIDDLE}"),
        ),
    )
    return made


def make(work: Path, place: Path, models: bool = True) -> None:
    """Makes all of it in `work`; what the programs print goes to `place`.

    Args:
        work: The folder.
        place: Another one.
        models: Whether to train a model, and to make what needs one.

    Raises:
        RuntimeError: A program fails on what is not damaged.
    """
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    for kind in KINDS:
        apart(_images, work / kind, kind)
    (work / "train.flags").write_text(
        "\n".join(["# How to train.", f"--records_dir={work / 'shards_tiff'}", "--steps=4"])
        + "\n"
        + "\n".join(NETWORK)
        + "\n"
    )
    run = commands(work)
    train = Command("stfnet_tf.train", (run["train on"].flags[0], run["train on"].flags[1]))
    order = [run[f"prepare {kind}"] for kind in KINDS]
    if models:
        order += [train, *(run[f"fuse {kind}"] for kind in KINDS)]
        order += [run[k] for k in ("export", "fuse export", "evaluate")]
    for command in order:
        end = forked(command, place)
        if end.code:
            raise RuntimeError(f"{command} ended with {end.code}: {end.err[-2000:]}")


def _images(folder: Path, kind: str) -> None:
    """Four dates of fine and coarse images and their description."""
    folder.mkdir()
    crs = grids.crs_wkt("EPSG:32655")
    fine = grids.Grid(SIZE, SIZE, (5e5, 30.0, 0.0, 6e6, 0.0, -30.0), crs)
    side = SIZE // RATIO
    step = 30.0 * RATIO
    coarse = grids.Grid(side, side, (5e5, step, 0.0, 6e6, 0.0, -step), crs)
    base = _land(7)
    for k, date in enumerate(DATES):
        image = np.clip(base + 0.25 * _land(k) - 500, 100, 9000)
        small = image.reshape(side, RATIO, side, RATIO, -1).mean((1, 3))
        for letter, pixels, grid in (("F", image, fine), ("C", small, coarse)):
            if kind == "float":
                stored = (pixels * 1e-4).astype(np.float32)
                rasters.write(
                    folder / f"{letter}_{date}.tif", stored, grid, options=("COMPRESS=NONE",)
                )
            elif kind == "envi":
                rasters.write(
                    folder / f"{letter}_{date}.bil", pixels.astype(np.int16), grid,
                    driver="ENVI", interleave="BIL",
                )  # fmt: skip
            else:
                rasters.write(
                    folder / f"{letter}_{date}.tif", pixels.astype(np.int16), grid,
                    band_names=BANDS, nodata=-9999,
                )  # fmt: skip
    (folder / "set.toml").write_text(description(kind))


def _land(seed: int) -> np.ndarray:
    """Digital numbers with structure at several scales, [SIZE, SIZE, bands]."""
    noise = np.random.default_rng(seed).normal(size=(len(BANDS), SIZE, SIZE))
    layers = [ndimage.gaussian_filter(noise, (0, s, s), mode="wrap") * s for s in (1.5, 4.0, 10.0)]
    image = np.moveaxis(sum(layers), 0, -1)
    low, high = image.min((0, 1)), image.max((0, 1))
    return 500 + 3500 * (image - low) / (high - low)


def description(kind: str) -> str:
    """The .toml of a set."""
    ending = "bil" if kind == "envi" else "tif"
    scale, most = ("1.0", "1.0") if kind == "float" else ("0.0001", "10000")
    sides = "".join(
        f"""
[{side}]
files = "{side[0].upper()}_{{year}}-{{month}}-{{day}}.{ending}"
scale = {scale}
valid_range = [0, {most}]
"""
        for side in ("fine", "coarse")
    )
    train = ", ".join(f'"{date}"' for date in DATES[:3])
    return f"""name = "{kind}"
bands = ["green", "nir"]
{sides}
[dates]
train = [{train}]
test = ["{DATES[3]}"]
[tiles]
size = 32
"""
