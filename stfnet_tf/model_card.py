"""The model card: what a client and a reader must know of an export."""

import dataclasses
import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import stfnet_tf
from data_prep import errors, sealed

FILE = "model_card.json"
CHECKSUMS = "checksums.json"
# Without these nobody can call the model.
_NEEDED = {"name", "bands", "fine", "coarse", "halo", "model", "signatures"}


def load(folder: str | Path) -> dict[str, Any]:
    """Reads the card of an export.

    Args:
        folder: A version folder that stfnet_tf.export wrote.

    Raises:
        InputError: There is none, or a file of the export is not what was written.
    """
    path = Path(folder) / "assets.extra" / FILE
    try:
        card = read(path)
    except OSError:
        raise errors.InputError(
            f"{folder}: expected a version folder that stfnet_tf.export wrote, found no "
            f"{path.relative_to(folder)}."
        ) from None
    except ValueError as error:
        raise errors.InputError(
            f"{path}: expected a model card, found: {errors.reason(error)}."
        ) from None
    _check(Path(folder))
    return card


def read(path: Path) -> dict[str, Any]:
    """Reads a card by itself.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no card, or damaged.
    """
    card = sealed.read(path)
    if missing := _NEEDED - set(card):
        raise ValueError(f"no {', '.join(sorted(missing))}")
    return card


def _check(folder: Path) -> None:
    """Compares an export with the checksums that it was written with; earlier ones have none."""
    path = folder / "assets.extra" / CHECKSUMS
    if not path.exists():
        return
    try:
        sealed.check_files(folder, path)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise errors.InputError(
            f"{folder}: expected the export as it was written, found damage: "
            f"{errors.reason(error)}; export the model again."
        ) from None


def describe(fusion: Any, metrics: Mapping[str, Any] | None) -> dict[str, Any]:
    """The card as plain types, for JSON.

    Args:
        fusion: A `fusion.Fusion`.
        metrics: Scores on held-out dates, as stfnet_tf.evaluate writes them.
    """
    import tensorflow as tf

    from stfnet_tf import fusion as fusions

    info = fusion.info
    return {
        "name": info.name,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "bands": list(info.bands),
        "fine": dataclasses.asdict(info.fine),
        "coarse": dataclasses.asdict(info.coarse),
        "nodata": info.fine.nodata,
        "quantity": info.quantity,
        "ratio": info.ratio,
        "halo": fusions.halo(fusion.model.config),
        "model": dataclasses.asdict(fusion.model.config),
        "dates": {split: [list(t) for t in part.triplets] for split, part in info.splits.items()},
        "metrics": metrics,
        "signatures": {
            name: {
                "inputs": {k: _spec(v) for k, v in function.structured_input_signature[1].items()},
                "outputs": {k: _spec(v) for k, v in function.structured_outputs.items()},
            }
            for name, function in fusion.signatures.items()
        },
        "versions": {"stfnet-tf": stfnet_tf.__version__, "tensorflow": tf.__version__},
    }


# What the quality layer is, by `ModelConfig.expected_error`.
QUALITY = {
    "disagreement": "how far the two sides disagree; it is not calibrated, and true errors are "
    "larger",
    "calibrated": "a regression that was learned where errors are known; where there was too "
    "little to learn from, how far the two sides disagree",
}


def _spec(tensor: Any) -> dict[str, Any]:
    return {"dtype": tensor.dtype.name, "shape": tensor.shape.as_list()}


def as_markdown(card: Mapping[str, Any]) -> str:
    """The card for people."""
    fine, coarse = card["fine"], card["coarse"]
    quantity = card["quantity"]
    lines = [
        f"# {card['name']}",
        "",
        f"A StfNet ({card['model']['preset']} preset) that predicts the fine image of a date from "
        "the coarse image of that date and the coarse–fine pairs before and after it.",
        "",
        f"- Bands, in order: {', '.join(card['bands'])}",
        f"- Fine images, in and out: {fine['dtype']}, {quantity} = DN × {fine['scale']} + "
        f"{fine['offset']}; nodata {card['nodata']}",
        f"- Coarse images, on the fine grid: {coarse['dtype']}, {quantity} = DN × "
        f"{coarse['scale']} + {coarse['offset']}; their own pixels are {card['ratio']:g} times as "
        "wide as the fine ones",
        f"- A tile of a larger image needs {card['halo']} more pixels on every side, to be cut off "
        "the result",
        f"- Made with {', '.join(f'{k} {v}' for k, v in card['versions'].items())} on "
        f"{card['created']}",
        "",
        "## Dates",
        "",
    ]
    for split, triplets in card["dates"].items():
        lines += [f"- {split}: {'; '.join(' '.join(t) for t in triplets) or 'none'}"]
    lines += ["", "## Accuracy on held-out dates", "", *_accuracy(card["metrics"], quantity), ""]
    lines += [
        "## How to call",
        "",
        "Images are `[batch, height, width, bands]` in digital numbers; masks are bool `[batch, "
        "height, width]`, true where valid. `f2` comes back in the fine images' digital numbers, "
        f"`quality` is the absolute error to be expected, in {quantity} (NaN where unknown): "
        f"{QUALITY[card['model']['expected_error']]}. `sides` tells which pair gave a pixel: 3 "
        "both, 1 the earlier, 2 the later, 0 none.",
        "",
    ]
    for name, signature in card["signatures"].items():
        lines += [f"### {name}", "", "| | dtype | shape |", "| --- | --- | --- |"]
        for kind in ("inputs", "outputs"):
            for k, spec in signature[kind].items():
                shape = ", ".join("any" if n is None else str(n) for n in spec["shape"] or [])
                lines.append(f"| {kind[:-1]} `{k}` | {spec['dtype']} | [{shape}] |")
        lines.append("")
    return "\n".join(lines)


def _accuracy(metrics: Mapping[str, Any] | None, quantity: str) -> list[str]:
    if not metrics:
        return ["Not evaluated."]
    rows = [f"| method | date | mean RMSE, {quantity} |", "| --- | --- | --- |"]
    for row in metrics["scores"]:
        # Null where no pixel could be scored.
        error = row["rmse"]["mean"]
        text = "–" if error is None else f"{error:.5f}"
        rows.append(f"| {row['method']} | {row['date']} | {text} |")
    return rows
