"""The training loop: everything that `stfnet_tf.train` does after its flags are read.

    config = train_config.TrainConfig(epochs=20)
    model = train_config.model_config(info, "paper")
    result = trainer.run(config, model, "shards", "runs/first")

The loop is Keras' own `Model.fit`. What makes a stopped run go on bit-equal is that the batches
are a function of the step (`input_pipeline`), and that weights, optimizer, step and running
scores are saved together (`checkpoints`).
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras
from absl import logging

from data_prep import disk, errors, locks, memory, progress, records
from stfnet_tf import (
    board,
    calibration,
    callbacks,
    checkpoints,
    input_pipeline,
    losses,
    optimizers,
    presets,
    psf,
    ridge_start,
    strategies,
    train_config,
)
from stfnet_tf import model as stfnet_model


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
        model: The trained model, with the best weights.
        steps: Training steps done, over all starts.
        history: One row an epoch, as in `history.csv`.
        best: The lowest value of `TrainConfig.monitor`.
        best_step: The step at which it was reached.
        seconds: Time spent training, over all starts.
        compiled: What `run` may train next.
    """

    model: stfnet_model.StfNet
    steps: int
    history: Sequence[Mapping[str, float]]
    best: float
    best_step: int
    seconds: float
    compiled: "Compiled"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a configuration comes to on given shards.

    Attributes:
        crops: Patches cut from a tile each time that it is read.
        epoch_steps: Steps of an epoch.
        total_steps: Steps of the run.
    """

    crops: int
    epoch_steps: int
    total_steps: int

    @classmethod
    def of(cls, config: train_config.TrainConfig, shards: input_pipeline.Shards) -> "Plan":
        """Counts epochs and steps.

        Raises:
            InputError: A patch is larger than a tile.
        """
        tile = shards.info.tile_size
        if config.patch_size > tile:
            raise errors.InputError(
                f"--patch_size: expected at most the shards' tile size of {tile} pixels, found "
                f"{config.patch_size}; use a smaller patch, or write shards with a larger "
                f"--tile_size."
            )
        crops = config.crops_per_tile or input_pipeline.crops_per_tile(
            shards.info, config.patch_size
        )
        epoch_steps = input_pipeline.steps_per_epoch(shards, config.batch_size, crops)
        return cls(crops, epoch_steps, config.steps or config.epochs * epoch_steps)

    def stretches(self, step: int) -> Iterator[tuple[int, int, int]]:
        """What is left to do from `step` on, as calls of `Model.fit`.

        Yields:
            First epoch, number of epochs, and steps of each: the rest of an epoch that was
            interrupted, then whole epochs, then what the last one has.
        """
        while step < self.total_steps:
            epoch, within = divmod(step, self.epoch_steps)
            left = self.total_steps - step
            if within or left < self.epoch_steps:
                epochs, steps = 1, min(self.epoch_steps - within, left)
            else:
                epochs, steps = left // self.epoch_steps, self.epoch_steps
            yield epoch, epochs, steps
            step += epochs * steps


class Compiled:
    """A compiled model, to be trained once or, from where it started, many times.

    To make the graphs of a training step takes seconds, which is most of the time that fitting to
    one date of a small scene takes; so the dates of a scene share them.

    Args:
        config: How to train.
        model_config: What to train.
        steps: Of the whole run, over which the learning rate is planned.
        strategy: The devices.
    """

    def __init__(
        self,
        config: train_config.TrainConfig,
        model_config: presets.ModelConfig,
        steps: int,
        strategy: tf.distribute.Strategy,
    ):
        self._made_for = (config, model_config, steps)
        self.strategy = strategy
        self.schedule = optimizers.Schedule(
            config.schedule,
            config.learning_rate,
            steps=steps,
            warmup=config.warmup_steps,
            final=config.final_rate,
            boundaries=config.rate_boundaries,
            factor=config.rate_factor,
        )
        # Nothing but the initial weights is drawn by it, and it discards what was compiled before.
        keras.utils.set_random_seed(config.seed)
        with strategy.scope():
            self.model = stfnet_model.StfNet(model_config)
            self.model.compile(
                optimizers.build(
                    config.optimizer,
                    self.schedule,
                    config.optimizer_arguments,
                    clip_norm=config.clip_norm,
                    ema=config.ema,
                ),
                jit_compile=config.jit_compile,
            )
            own = optimizers.make_variables(self.model.optimizer, self.model.trainable_variables)
        # Every replica reports the values of the global batch.
        self.model.distribute_reduction_method = "first"
        self._start: list[tuple[tf.Variable, np.ndarray]] | None = None
        if own is not None:
            weights = self.model.loss_weights.variables.values()
            self._start = [(k, k.numpy()) for k in (*self.model.variables, *own, *weights)]

    def again(
        self, config: train_config.TrainConfig, model_config: presets.ModelConfig, steps: int
    ) -> bool:
        """Goes back to where the model started, for another run of the same kind.

        Args:
            config: How that run trains.
            model_config: What it trains.
            steps: Of that whole run.

        Returns:
            Whether it is of the same kind; nothing happens otherwise, nor with an optimizer of the
            older API, which makes its variables at the first step.
        """
        if self._start is None or self._made_for != (config, model_config, steps):
            return False
        for variable, value in self._start:
            variable.assign(value)
        return True


def run(
    config: train_config.TrainConfig,
    model_config: presets.ModelConfig,
    records_dir: str | Path,
    model_dir: str | Path,
    *,
    terminal: bool = False,
    command: str = "",
    compiled: Compiled | None = None,
) -> Result:
    """Trains, or goes on training, until the configured end.

    Args:
        config: How to train.
        model_config: What to train; `train_config.model_config` makes one for a data set.
        records_dir: Shards and their `dataset_info.json`.
        model_dir: Receives what `checkpoints` lists; a run that is there is continued.
        terminal: Whether to draw a progress bar; plain log lines otherwise.
        command: To be recorded in `config.json`.
        compiled: Of an earlier run, which must be done with its model; it is used if this run is
            of the same kind, with the same result as without.

    Raises:
        InputError: The configuration does not fit the shards, the devices or the run that
            `model_dir` holds; a record is damaged; or training diverges.
        callbacks.TerminatedError: SIGTERM; all is saved, the same call goes on.
        strategies.PeerLostError: Another worker died; the same call in a new process goes on.
    """
    with strategies.noticing_lost_peers(), _reproducible(config):
        # The first thing that uses TensorFlow: several processes must find each other first.
        strategy = compiled.strategy if compiled else strategies.create(config.distribution)
        trainer = Trainer(
            *(config, model_config, Path(records_dir), Path(model_dir), strategy), compiled
        )
        with (
            trainer.alone(),
            disk.naming_full(model_dir),
            trainer.naming_damage(),
            trainer.naming_divergence(),
        ):
            trainer.claim(command)
            return trainer.train(terminal)


class Trainer:
    """One start of a run; see `run`.

    Args:
        config: How to train.
        model_config: What to train.
        records_dir: Where the shards are.
        model_dir: Where the run is.
        strategy: The devices.
        compiled: As for `run`.
    """

    def __init__(
        self,
        config: train_config.TrainConfig,
        model_config: presets.ModelConfig,
        records_dir: Path,
        model_dir: Path,
        strategy: tf.distribute.Strategy,
        compiled: Compiled | None = None,
    ):
        self.config = config
        self.model_config = model_config
        self.model_dir = model_dir
        self.strategy = strategy
        self.shards = input_pipeline.Shards.load(records_dir, "train")
        self.validation = None
        if self.shards.info.splits.get("val", records.Split()).records:
            self.validation = input_pipeline.Shards.load(records_dir, "val")
        self.plan = Plan.of(config, self.shards)
        strategies.check_batch_size(strategy, config.batch_size)
        self._check_kernels()
        self._check_memory()
        if compiled is None or not compiled.again(config, model_config, self.plan.total_steps):
            compiled = Compiled(config, model_config, self.plan.total_steps, strategy)
        self.compiled = compiled
        self.model = compiled.model
        self.weights = losses.Schedules(self.model.loss_weights, config.weight_points)
        scores = [metric.name for metric in self.model.metrics]
        if config.monitor not in scores:
            raise errors.InputError(
                f"--monitor: expected one of {', '.join(scores)}; found '{config.monitor}'."
            )
        self.state = checkpoints.RunState()
        self.store = checkpoints.Checkpoints(model_dir, self.model, self.state, strategy)
        self.chief = strategies.is_chief(strategy)

    def _check_kernels(self) -> None:
        """Refuses kernels with weights that would never meet a pixel."""
        patch, largest = self.config.patch_size, max(self.model_config.kernel_sizes)
        if largest > 2 * patch - 1:
            raise errors.InputError(
                f"--kernel_sizes: expected sizes of at most {2 * patch - 1}, because all that a "
                f"pixel could see in patches of {patch} × {patch} lies within them, found "
                f"{largest}; use a smaller kernel, or a larger --patch_size."
            )

    def _check_memory(self) -> None:
        """Refuses what does not fit in this host's memory, by what it takes at least.

        Of blurs that is their matrix; of a batch, its images and what the layers make of them.
        """
        if tf.config.list_physical_devices("GPU"):
            return  # they have their own, and say how much of it is missing
        bands = len(self.model_config.bands)
        # Six images and masks as they are read, and what each layer of both streams gives.
        floats = 6 * (bands + 1) + 2 * (sum(self.model_config.filters) + bands)
        pixels = self.config.batch_size * self.config.patch_size**2
        for name, sigma in self.model_config.blurs.items():
            memory.require(
                psf.least_memory(sigma),
                f"--{name}={getattr(self.model_config, name):g}, "
                f"--ratio={self.model_config.ratio:g}",
                "smaller ones need less",
            )
        memory.require(
            4 * floats * pixels / strategies.workers(self.strategy),
            f"--batch_size={self.config.batch_size}, --patch_size={self.config.patch_size}",
            "smaller ones need less",
        )

    @property
    def step(self) -> int:
        """Training steps done."""
        return int(self.state.step.numpy())

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """Holds the right to write `model_dir`; other workers of this run write nothing there.

        Raises:
            InputError: Another program holds it.
        """
        if not self.chief:
            return contextlib.nullcontext()
        return locks.hold(self.model_dir / train_config.CONFIG_FILE)

    def claim(self, command: str) -> None:
        """Takes `model_dir` for this run and describes it there.

        Raises:
            InputError: It holds another run.
        """
        self.model_dir.mkdir(parents=True, exist_ok=True)
        train_config.RunDescription.of(
            self.config, self.model_config, self.shards.info, command
        ).claim(self.model_dir, write=self.chief)
        if self.chief:
            self.model_config.save(self.model_dir)
            self.shards.info.save(self.model_dir)

    def train(self, terminal: bool) -> Result:
        """Trains from where the run is to its end."""
        if self.config.warmup_steps >= self.plan.total_steps:
            logging.warning(
                "--warmup_steps=%d: the run ends after %d steps, before it reaches its learning "
                "rate of %g.",
                *(self.config.warmup_steps, self.plan.total_steps, self.config.learning_rate),
            )
        saving = self._saving()
        resumed = saving.resume()
        if resumed:
            self._go_on()
        elif self.model_config.start == "ridge":
            ridge_start.apply(
                self.model,
                lambda: self._tiles(self.shards, self.shards.records, "Looking at changes"),
            )
        history = callbacks.History(
            self.model_dir / "history.csv" if self.chief else None, int(self.state.closed.numpy())
        )
        tensorboard = self._board(new=not resumed) if self.chief else None
        end = callbacks.EpochEnd(
            store=self.store,
            saving=saving,
            validate=self._validate(saving),
            monitor=self.config.monitor,
            patience=self.config.early_stopping,
            least_improvement=self.config.least_improvement,
            every=self.config.validate_every,
            epoch_steps=self.plan.epoch_steps,
            total_steps=self.plan.total_steps,
            history=history,
            report=tensorboard.report if tensorboard else None,
        )
        end.set_model(self.model)
        bar = callbacks.Progress(self.state, self.plan.total_steps, terminal)
        listeners = [
            callbacks.WeightSchedules(self.weights, self.state),
            *((self._scalars(), bar) if self.chief else ()),
            callbacks.Divergence(self.state, self.config.summary_steps),
            end,
            saving,
        ]
        with saving, bar:
            self._fit(end, listeners)
        saving.save()
        if self.chief:
            self.store.load_best()
            self._calibrate()
        return Result(
            self.model,
            self.step,
            history.rows,
            float(self.state.best.numpy()),
            int(self.state.best_step.numpy()),
            float(self.state.seconds.numpy()),
            self.compiled,
        )

    def _go_on(self) -> None:
        """Says what is left to do, which may be more than before if --early_stopping is another."""
        stalled, patience = int(self.state.stalled.numpy()), self.config.early_stopping
        if not patience or stalled < patience:
            self.state.finished.assign(False)
        if self.step >= self.plan.total_steps:
            logging.info("%s: was at its end already, step %d.", self.model_dir, self.step)
        elif self.state.finished.numpy():
            logging.info(
                "%s: had stopped early at step %d, after %d validations without a lower %s; it "
                "goes on with a larger --early_stopping, or with 0.",
                *(self.model_dir, self.step, stalled, self.config.monitor),
            )
        else:
            logging.info("%s: going on after step %d.", self.model_dir, self.step)

    def _calibrate(self) -> None:
        """Lets the best model learn how large an error to expect."""
        if self.model_config.expected_error != "calibrated":
            return
        model = self.model
        if self.strategy.num_replicas_in_sync > 1:
            # A model of its own: this process alone does it, on one device.
            model = checkpoints.load_model(self.model_dir)

        def tiles() -> Iterator[Mapping[str, tf.Tensor]]:
            for shards in filter(None, (self.shards, self.validation)):
                yield from self._tiles(shards, calibration.TILES, "Looking at errors")

        # A finished run that is started again has learned it already.
        if not model.expected_error.calibrated:
            if calibration.calibrate(model, tiles):
                checkpoints.save_model(model, self.model_dir)
            self.store.load_best()

    @staticmethod
    def _tiles(
        shards: input_pipeline.Shards, most: int, description: str
    ) -> Iterator[Mapping[str, tf.Tensor]]:
        """Up to `most` whole tiles; tells how far it is, where there are several."""
        tiles = (tile for _, tile in input_pipeline.examples(shards, most))
        count = min(most, shards.records)
        return progress.track(tiles, description, count) if count > 1 else tiles

    def _fit(self, end: callbacks.EpochEnd, listeners: list[keras.callbacks.Callback]) -> None:
        """Calls `Model.fit` until the run is at its end."""
        # Stopped between an epoch's last step and the end of its validation.
        at_end = self.step % self.plan.epoch_steps == 0 or self.step >= self.plan.total_steps
        if at_end and int(self.state.closed.numpy()) < self.step:
            end.close()
        for epoch, epochs, steps in self.plan.stretches(self.step):
            if self.state.finished.numpy():
                return
            self.model.fit(
                self._batches(),
                initial_epoch=epoch,
                epochs=epoch + epochs,
                steps_per_epoch=steps,
                callbacks=listeners,
                verbose=0,
            )

    def _batches(self) -> Any:
        """The training batches from the present step on."""
        local_replicas = self.strategy.num_replicas_in_sync // strategies.workers(self.strategy)

        def make(worker: int, workers: int, batch_size: int) -> tf.data.Dataset:
            return input_pipeline.training(
                self.shards,
                batch_size=batch_size,
                patch_size=self.config.patch_size,
                crops=self.plan.crops,
                seed=self.config.seed,
                step=self.step,
                replicas=local_replicas,
                worker=worker,
                workers=workers,
                augment=self.config.augment,
            )

        return strategies.distribute(self.strategy, self.config.batch_size, make)

    def _validate(self, saving: callbacks.Saving) -> Callable[[], Mapping[str, float]] | None:
        """A function that scores the present weights on the validation split."""
        shards = self.validation
        if shards is None:
            return None
        replicas = self.strategy.num_replicas_in_sync
        local_replicas = replicas // strategies.workers(self.strategy)
        # As many pixels at once as in training, or one tile.
        share = (self.config.patch_size / shards.info.tile_size) ** 2 / replicas
        batch_size = replicas * max(1, int(self.config.batch_size * share))
        tiles = self.config.validation_tiles

        def make(worker: int, workers: int, batch_size: int) -> tf.data.Dataset:
            return input_pipeline.validation(
                shards,
                batch_size=batch_size,
                tiles=tiles,
                worker=worker,
                workers=workers,
                replicas=local_replicas,
            )

        batches = strategies.distribute(self.strategy, batch_size, make)
        steps = input_pipeline.validation_steps(shards, batch_size, tiles)

        def validate() -> Mapping[str, float]:
            scores = self.model.evaluate(
                batches, steps=steps, callbacks=[saving], return_dict=True, verbose=0
            )
            # Keras averages over batches; the terms know how many pixels each batch had.
            return scores | {"loss": self.model.loss_weights.stated_total(scores)}

        return validate

    def _saving(self) -> callbacks.Saving:
        saving = callbacks.Saving(
            self.store,
            self.plan.epoch_steps,
            self.config.checkpoint_steps,
            self.config.checkpoint_seconds,
            strategies.agreement(self.strategy),
        )
        saving.set_model(self.model)
        return saving

    def _scalars(self) -> callbacks.Scalars:
        return callbacks.Scalars(
            self.model_dir / "tensorboard",
            self.state,
            self.compiled.schedule,
            self.weights.weights,
            self.config.batch_size,
            self.config.summary_steps,
            self.config.profiled_steps,
        )

    def _board(self, new: bool) -> board.Board:
        shown = input_pipeline.examples(self.validation or self.shards, self.config.panels)
        made = board.Board(
            self.model_dir / "tensorboard", self.model, self.shards.info, list(shown)
        )
        if new:
            stated = dataclasses.asdict(self.model_config) | dataclasses.asdict(self.config)
            made.start({k: v for k, v in stated.items() if k not in train_config.MAY_CHANGE})
        return made

    @contextlib.contextmanager
    def naming_damage(self) -> Iterator[None]:
        """Where reading fails, finds and names the shard and the record."""
        try:
            yield
        except input_pipeline.DAMAGE:
            for shards in filter(None, (self.shards, self.validation)):
                shards.name_damage()
            raise

    @contextlib.contextmanager
    def naming_divergence(self) -> Iterator[None]:
        """Where training leaves the finite numbers, says what may keep it within them."""
        try:
            yield
        except checkpoints.DivergedError as error:
            clipping = "a smaller --clip_norm" if self.config.clip_norm else "--clip_norm=1"
            raise errors.InputError(
                f"--learning_rate={self.config.learning_rate:g}: expected training to stay within "
                f"finite numbers, found {error}; try a smaller one, or {clipping}, in another "
                f"--model_dir than {self.model_dir}."
            ) from None


@contextlib.contextmanager
def _reproducible(config: train_config.TrainConfig) -> Iterator[None]:
    """Sets the order of sums, and the precision for as long as the run lasts."""
    if not tf.config.list_physical_devices("GPU"):
        # Costs nothing on CPUs; on GPUs it would slow convolutions down.
        tf.config.experimental.enable_op_determinism()
    policy = keras.mixed_precision.global_policy()
    if config.mixed_bfloat16:
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(policy)
