"""How a run is trained: one frozen dataclass, saved beside the checkpoints as `config.json`.

No TensorFlow here, so that a program can list its options without loading it.
"""

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep import errors, records, sealed, versions
from stfnet_tf import presets

CONFIG_FILE = "config.json"
DISTRIBUTIONS = ("auto", "one_device", "mirrored", "multi_worker", "tpu")
SCHEDULES = ("constant", "cosine", "exponential", "piecewise")
# NumPy's.
LARGEST_SEED = 2**32 - 1
# TensorFlow counts in 32 bits here and there.
LARGEST_COUNT = 2**31 - 1
# What may differ when a run continues: none of it changes the steps that are still to come.
MAY_CHANGE = (
    *("distribution", "checkpoint_steps", "checkpoint_seconds", "summary_steps", "panels"),
    *("profile", "early_stopping", "least_improvement"),
)
PACKAGES = ("stfnet-tf", "tensorflow", "tf-keras", "tensorflow-addons", "numpy")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How a model is trained; what the model is, losses included, is its `ModelConfig`.

    Attributes:
        steps: Training steps of the run; 0 to count in epochs.
        epochs: Epochs of the run, where --steps is 0. In an epoch every tile is visited once.
        batch_size: Patches of the global batch, shared out among all replicas.
        patch_size: Height and width of a patch in fine pixels, at most those of a tile.
        crops_per_tile: Patches cut at random each time that a tile is read; 0 for as many as
            hold twice a tile's pixels.
        augment: Flip and rotate patches, all images of a triplet alike.
        seed: All randomness follows from it, 0–4294967295; on CPUs, two runs with the same seed
            end with bit-equal weights.

        optimizer: A tf-keras optimizer by name, such as Adam, AdamW or SGD; with TensorFlow
            Addons installed also LAMB, Lookahead(RectifiedAdam), SWA(SGD), MovingAverage(Adam).
        optimizer_args: The optimizer's arguments, as in "beta_2=0.99,weight_decay=1e-4"; those
            of a wrapper with its name before them, as in "Lookahead.sync_period=6".
        learning_rate: The highest learning rate of the run.
        schedule: How it falls over the run: constant; cosine; exponential, down to --final_rate;
            piecewise, times --rate_factor at each of --rate_boundaries.
        final_rate: Share of the learning rate that cosine and exponential leave at the end, at
            most 1.
        rate_boundaries: Where piecewise steps down, as shares of the run.
        rate_factor: What piecewise multiplies the learning rate by.
        warmup_steps: Steps over which the learning rate first rises.
        clip_norm: Scale the gradient of the global batch down to this norm; 0 for never.
        ema: Momentum of an exponential moving average of the weights, such as 0.999; the
            averages are what is validated, evaluated and exported. 0 for none.

        weight_schedules: What share of its weight a term of the loss has at which step, as in
            "temporal_consistency=0:0@500:1,rest=1000:1@2000:0": linear between step:share points,
            constant before the first and after the last. Validation takes the whole weights.

        distribution: auto; one_device; mirrored, all GPUs of this host; multi_worker, all hosts
            that TF_CONFIG lists; tpu.
        mixed_bfloat16: Compute in bfloat16, keep weights in float32: faster on recent GPUs, TPUs
            and CPUs with AMX.
        jit_compile: Compile the training step with XLA.

        validate_every: Epochs between two validations.
        validation_tiles: How many tiles to validate on, evenly spread; 0 for all.
        monitor: The score whose lowest value marks the best model: of validation, or of training
            where there is no validation split.
        early_stopping: Stop after so many validations without a lower value; 0 for never.
        least_improvement: Share of the lowest value by which the next one must be lower to count.

        checkpoint_steps: Save the run every so many steps; 0 to go by time alone.
        checkpoint_seconds: Save the run every so many seconds; 0 to go by steps alone.
        summary_steps: Steps between two points in TensorBoard.
        panels: How many tiles TensorBoard shows as images, every 25 steps at most.
        profile: First and last step of a profile for TensorBoard, as in "10,15"; empty for none.
    """

    steps: int = 0
    epochs: int = 50
    batch_size: int = 16
    patch_size: int = 64
    crops_per_tile: int = 0
    augment: bool = True
    seed: int = 1

    optimizer: str = "Adam"
    optimizer_args: str = ""
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    final_rate: float = 0.01
    rate_boundaries: tuple[float, ...] = (0.5, 0.75)
    rate_factor: float = 0.1
    warmup_steps: int = 0
    clip_norm: float = 0.0
    ema: float = 0.0

    weight_schedules: str = ""

    distribution: str = "auto"
    mixed_bfloat16: bool = False
    jit_compile: bool = False

    validate_every: int = 1
    validation_tiles: int = 0
    monitor: str = "loss"
    early_stopping: int = 0
    least_improvement: float = 0.0

    checkpoint_steps: int = 0
    checkpoint_seconds: float = 120.0
    summary_steps: int = 10
    panels: int = 4
    profile: str = ""

    def __post_init__(self):
        object.__setattr__(self, "rate_boundaries", tuple(self.rate_boundaries))
        for name, allowed in (("schedule", SCHEDULES), ("distribution", DISTRIBUTIONS)):
            if getattr(self, name) not in allowed:
                raise errors.InputError(
                    f"--{name}: expected one of {', '.join(allowed)}; found "
                    f"'{getattr(self, name)}'."
                )
        at_least = {
            **dict.fromkeys(("batch_size", "patch_size", "validate_every", "summary_steps"), 1),
            **dict.fromkeys(("steps", "epochs", "crops_per_tile", "warmup_steps", "panels"), 0),
            **dict.fromkeys(("validation_tiles", "early_stopping", "checkpoint_steps"), 0),
            **dict.fromkeys(("checkpoint_seconds", "clip_norm", "learning_rate", "ema"), 0),
            **dict.fromkeys(("final_rate", "rate_factor", "seed", "least_improvement"), 0),
        }
        for name, low in at_least.items():
            value = getattr(self, name)
            if not math.isfinite(value) or value < low:
                raise errors.InputError(
                    f"--{name}: expected a number of at least {low}, found {value}."
                )
        whole = {k: LARGEST_COUNT for k in at_least if isinstance(getattr(self, k), int)}
        for name, high in {**whole, "final_rate": 1, "seed": LARGEST_SEED}.items():
            if getattr(self, name) > high:
                raise errors.InputError(
                    f"--{name}: expected a number of at most {high}, found {getattr(self, name)}."
                )
        for name in ("learning_rate", "final_rate", "rate_factor"):
            if getattr(self, name) == 0:
                raise errors.InputError(f"--{name}: expected a number above 0, found 0.")
        if not self.steps and not self.epochs:
            raise errors.InputError("--steps, --epochs: expected one of them above 0, found 0.")
        if list(self.rate_boundaries) != sorted(self.rate_boundaries) or not all(
            0 < b < 1 for b in self.rate_boundaries
        ):
            raise errors.InputError(
                f"--rate_boundaries: expected ascending shares within 0–1, found "
                f"{', '.join(map(str, self.rate_boundaries))}."
            )
        _ = self.optimizer_arguments, self.profiled_steps, self.weight_points

    @property
    def optimizer_arguments(self) -> dict[str, Any]:
        """`optimizer_args`, parsed."""
        arguments: dict[str, Any] = {}
        for part in filter(None, re.split(r"\s*,\s*", self.optimizer_args.strip())):
            name, equals, text = part.partition("=")
            if not equals or not re.fullmatch(r"[\w.]+", name):
                raise errors.InputError(
                    f"--optimizer_args: expected name=value,name=value; found '{part}'."
                )
            try:
                arguments[name] = json.loads(text.lower())
            except ValueError:
                arguments[name] = text
        return arguments

    @property
    def weight_points(self) -> dict[str, tuple[tuple[int, float], ...]]:
        """`weight_schedules`, parsed: (step, share) points by term."""
        schedules: dict[str, tuple[tuple[int, float], ...]] = {}
        for part in filter(None, re.split(r"\s*,\s*", self.weight_schedules.strip())):
            name, _, text = part.partition("=")
            try:
                pairs = [point.split(":") for point in text.split("@")]
                points = tuple((int(step), float(share)) for step, share in pairs)
            except ValueError:
                points = ()
            steps = [step for step, _ in points]
            if (
                not points
                or name in schedules
                or any(not math.isfinite(share) or share < 0 for _, share in points)
                or any(late <= early for early, late in zip([-1, *steps], steps, strict=False))
            ):
                raise errors.InputError(
                    f"--weight_schedules: expected term=step:share@step:share,term=… with each "
                    f"term once, ascending steps and shares of at least 0; found '{part}'."
                )
            schedules[name] = points
        return schedules

    @property
    def profiled_steps(self) -> tuple[int, int] | None:
        """`profile`, parsed."""
        if not self.profile:
            return None
        match = re.fullmatch(r"(\d+),(\d+)", self.profile.replace(" ", ""))
        if not match or int(match[1]) >= int(match[2]):
            raise errors.InputError(
                f"--profile: expected first and last step as in 10,15; found '{self.profile}'."
            )
        return int(match[1]), int(match[2])


def model_config(
    info: records.DatasetInfo, preset: str = "paper", **changes: Any
) -> presets.ModelConfig:
    """A preset for a data set: bands, sensors and supervision are the data set's own.

    Args:
        info: The data set.
        preset: A key of `presets.PRESETS`.
        **changes: Fields of `ModelConfig` to set otherwise.

    Raises:
        InputError: Values that their fields or the data set do not allow.
    """
    own = {
        "bands": info.bands,
        "ratio": info.ratio,
        "psf_fwhm": info.psf_fwhm,
        "supervision": info.supervision,
    }
    try:
        config = presets.build(preset, **{**own, **changes})
    except errors.InputError as error:
        raise errors.InputError(f"--{error}") from None  # it begins with the field's name
    if config.bands != info.bands:
        raise errors.InputError(
            f"--bands: the model has {', '.join(config.bands)}, the shards of '{info.name}' have "
            f"{', '.join(info.bands)}; leave --bands out, or write shards with the model's bands."
        )
    taught = info.splits["train"].triplets if "train" in info.splits else ()
    if taught and not any(t3 for _, _, t3 in taught) and not config.coarse_consistency:
        raise errors.InputError(
            f"--coarse_consistency: expected a weight above 0, because the triplets of "
            f"'{info.name}' have no later pair and the coarse change is all there is to learn "
            f"from; found 0, as in the preset '{preset}'; --preset=plus has one."
        )
    if config.supervision == "triplet" and info.supervision == "pair":
        raise errors.InputError(
            f"--supervision=triplet: needs F2 in training, which '{info.name}' does not have; use "
            f"--supervision=pair."
        )
    return config


@dataclasses.dataclass(frozen=True)
class RunDescription:
    """`config.json`: what a folder holds a run of.

    Attributes:
        training: How it is trained.
        model: What is trained.
        shards: Checksums of what it is trained and validated on.
        command: What started it last.
        versions: The libraries that started it last.
    """

    training: TrainConfig
    model: presets.ModelConfig
    shards: tuple[str, ...]
    command: str = ""
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(
        cls,
        training: TrainConfig,
        model: presets.ModelConfig,
        info: records.DatasetInfo,
        command: str,
    ) -> "RunDescription":
        """Describes a run that starts now."""
        shards = [
            shard.sha256
            for split in ("train", "val")
            for shard in (info.splits[split].shards if split in info.splits else ())
        ]
        return cls(training, model, tuple(shards), command, versions.installed(PACKAGES))

    def claim(self, model_dir: Path, write: bool) -> None:
        """Makes sure that `model_dir` holds this run or none, and records it there.

        Args:
            model_dir: The run's folder.
            write: Whether this process is the one that writes.

        Raises:
            InputError: It holds another run; the message names what differs.
        """
        path = model_dir / CONFIG_FILE
        raw = json.loads(json.dumps(dataclasses.asdict(self)))
        if path.exists():
            try:
                self._compare(sealed.read(path), raw, model_dir)
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise errors.InputError(
                    f"{path}: expected the description of a run, found: {errors.reason(error)}."
                ) from None
        if write:
            sealed.write(path, raw)

    def _compare(self, before: dict[str, Any], now: dict[str, Any], model_dir: Path) -> None:
        held, found = before["model"]["bands"], now["model"]["bands"]
        if held != found:
            raise errors.InputError(
                f"--model_dir: the model in {model_dir} has the bands {_shown(held)}, the shards "
                f"have {_shown(found)}; give it shards with its own bands, or choose another "
                f"--model_dir for a new model."
            )
        may_change = set(MAY_CHANGE)
        if self.training.schedule in ("constant",):
            # A longer run is the same run: its learning rate does not know the end.
            may_change |= {"steps", "epochs"}
        for part in ("training", "model"):
            for name, value in now[part].items():
                held = before[part].get(name)
                if held != value and name not in may_change:
                    raise errors.InputError(
                        f"--model_dir: {model_dir} holds a run with --{name}={_shown(held)}, found "
                        f"--{name}={_shown(value)}; continue it as it was or choose another "
                        f"folder."
                    )
        if before["shards"] != now["shards"]:
            raise errors.InputError(
                f"--model_dir: {model_dir} holds a run on other shards than these; continue it "
                f"with its own or choose another folder."
            )


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
