"""Makes a small simulated data set whose truth is known, laid out like CSIRO's CIA download.

    python -m data_prep.make_sample --output_dir=/data/sample --seed=1

The folder then holds Landsat-like images and MODIS-like ones on the same grid (`CIA/`), the latter
also on MODIS' sinusoidal grid (`MODIS_sinusoidal/`), masks beside them, the surface as it really
was (`truth/`), the descriptions that read it (`sample.toml`, `sample_sinusoidal.toml`), and
`truth.json`, which states all that was put in. The same seed gives the same bytes.
"""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags, logging

from data_prep import entry, errors

if TYPE_CHECKING:
    from data_prep.simulation import Sample

FLAGS = flags.FLAGS

flags.DEFINE_string("output_dir", None, "Folder to be made.", required=True)
flags.DEFINE_integer("seed", 1, "Decides the land, the clouds and the noise.", 0)
flags.DEFINE_integer("size", 480, "Height and width of the fine images, pixels of 25 m.", 96)
flags.DEFINE_integer("dates", 8, "Number of dates, 16 days apart.", 3, 14)
flags.DEFINE_bool(
    "truth_images", True, "Whether to write the surface without clouds and noise as well."
)
flags.DEFINE_bool("overwrite", False, "Whether a sample that is already there may be replaced.")

TRUTH = "truth.json"


def main(argv: Sequence[str]) -> None:
    """Makes the sample that `FLAGS` ask for."""
    del argv
    from data_prep import sample_layout, simulation

    sample = simulation.Sample(
        FLAGS.seed, FLAGS.size, sample_layout.chosen(FLAGS.dates), FLAGS.truth_images
    )
    logging.info(
        "Making %d dates of %d x %d x 6 pixels in %s.",
        len(sample.dates),
        sample.size,
        sample.size,
        FLAGS.output_dir,
    )
    make(sample, FLAGS.output_dir, overwrite=FLAGS.overwrite)
    described = Path(FLAGS.output_dir) / "sample.toml"
    print(
        f"Sample: {described.parent}\nDescription: {described}\nTruth: {described.parent / TRUTH}"
    )


def make(sample: "Sample", output_dir: str | Path, overwrite: bool = False) -> dict[str, Any]:
    """Makes a sample; the folder is there whole or not at all.

    Args:
        sample: What to make.
        output_dir: The folder.
        overwrite: Whether a sample that is there may be replaced.

    Returns:
        What `truth.json` states.

    Raises:
        InputError: The folder holds files, or cannot be written.
    """
    from data_prep import sample_layout, sample_truth, simulation

    with _new_folder(Path(output_dir), overwrite) as folder:
        truth = sample_truth.state(sample, simulation.write(sample, folder))
        for name, sinusoidal in (("sample.toml", False), ("sample_sinusoidal.toml", True)):
            described = sample_layout.description(sample.dates, sinusoidal)
            (folder / name).write_text(described, encoding="utf-8")
        text = json.dumps(truth, indent=2, ensure_ascii=False) + "\n"
        (folder / TRUTH).write_text(text, encoding="utf-8")
    return truth


@contextlib.contextmanager
def _new_folder(path: Path, overwrite: bool) -> Iterator[Path]:
    """A folder under a temporary name that takes the place of `path` at the end."""
    if path.exists() and not path.is_dir():
        raise errors.InputError(f"--output_dir: expected a folder, found the file {path}.")
    filled = path.is_dir() and any(path.iterdir())
    if filled and not (overwrite and (path / TRUTH).is_file()):
        found = "a sample (--overwrite replaces it)" if (path / TRUTH).is_file() else "other files"
        raise errors.InputError(
            f"--output_dir: expected a new or an empty folder, found {found} in {path}."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as error:
        raise errors.InputError(
            f"--output_dir: expected a writable folder, found {path.parent}: "
            f"{errors.reason(error)}."
        ) from None
    try:
        made = scratch / path.name
        made.mkdir()
        yield made
        if path.is_dir():
            path.replace(scratch / "former")
        made.replace(path)
    except OSError as error:
        raise errors.InputError(f"{path}: could not be written: {errors.reason(error)}.") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def cli() -> None:
    """The command's entry."""
    entry.run(main)


if __name__ == "__main__":
    cli()
