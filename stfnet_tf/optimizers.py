"""Optimizers by name, learning-rate schedules, and averages of weights.

tf-keras has its own optimizers; TensorFlow Addons, where it is installed, has more, written for
the older optimizer API. What differs between the two is settled here.
"""

import contextlib
import importlib.util
import inspect
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from data_prep import errors
from stfnet_tf import train_config

INSTALL_ADDONS = "pip install 'stfnet-tf[addons]', which brings TensorFlow 2.15"
# What the message about missing Addons can be sure of.
KNOWN_ADDONS = (
    *("LAMB", "Lookahead", "RectifiedAdam", "SWA", "MovingAverage", "AdaBelief", "Yogi"),
    *("LazyAdam", "NovoGrad", "COCOB", "ConditionalGradient", "ProximalAdagrad", "SGDW"),
)


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate over the steps of a run, with a linear warm-up before it.

    Args:
        kind: "constant"; "cosine", half a cosine wave from `rate` to `rate · final`;
            "exponential", a constant factor a step from `rate` to `rate · final`; "piecewise",
            `rate` times `factor` at each of `boundaries`.
        rate: The rate after the warm-up.
        steps: Length of the run, warm-up included.
        warmup: Steps over which the rate rises from 0.
        final: Share of `rate` that is left at the last step.
        boundaries: Shares of the run, ascending within 0–1.
        factor: What each boundary multiplies the rate by.
    """

    def __init__(
        self,
        kind: str,
        rate: float,
        steps: int,
        warmup: int = 0,
        final: float = 0.01,
        boundaries: Sequence[float] = (0.5, 0.75),
        factor: float = 0.1,
    ):
        if kind not in train_config.SCHEDULES:
            raise errors.InputError(
                f"--schedule: expected one of {', '.join(train_config.SCHEDULES)}; found '{kind}'."
            )
        self.kind, self.rate, self.steps, self.warmup = kind, rate, steps, warmup
        self.final, self.boundaries, self.factor = final, tuple(boundaries), factor

    def __call__(self, step):
        step = tf.cast(step, tf.float32)
        progress = (step - self.warmup) / max(self.steps - self.warmup, 1)
        progress = tf.clip_by_value(progress, 0.0, 1.0)
        if self.kind == "cosine":
            share = self.final + (1 - self.final) * 0.5 * (1 + tf.cos(math.pi * progress))
        elif self.kind == "exponential":
            share = self.final**progress
        elif self.kind == "piecewise":
            passed = tf.reduce_sum(
                tf.cast(step >= tf.constant(self.boundaries) * self.steps, tf.float32)
            )
            share = self.factor**passed
        else:
            share = tf.ones([])
        # The first step is not wasted on a rate of 0.
        rise = tf.minimum((step + 1) / (self.warmup + 1), 1.0)
        return self.rate * share * rise

    def get_config(self):
        """The constructor's arguments."""
        names = inspect.signature(Schedule).parameters
        return {name: getattr(self, name) for name in names}


def build(
    name: str,
    learning_rate: Any,
    arguments: Mapping[str, Any] | None = None,
    *,
    clip_norm: float = 0.0,
    ema: float = 0.0,
) -> Any:
    """Makes an optimizer.

    Args:
        name: A class of tf-keras or TensorFlow Addons, as in "AdamW" or "LAMB", or Addons'
            wrappers around one, as in "Lookahead(RectifiedAdam)" or "SWA(SGD)".
        learning_rate: A number or a schedule, for the innermost optimizer.
        arguments: Constructor arguments: of the innermost optimizer, {"beta_2": 0.99}; of a
            wrapper with its name before them, {"Lookahead.sync_period": 6}.
        clip_norm: The gradient of the global batch is scaled down to this norm; 0 for never.
        ema: Momentum of an exponential moving average of the weights, which is what is then
            evaluated and exported; 0 for none.

    Raises:
        InputError: No such optimizer, Addons missing for it, or arguments that it does not take.
    """
    names = re.findall(r"\w+", name)
    if not names or "(".join(names) + ")" * (len(names) - 1) != name.replace(" ", ""):
        raise errors.InputError(
            f"--optimizer: expected a name such as Adam or Lookahead(RectifiedAdam), found "
            f"'{name}'."
        )
    if not 0 <= ema < 1:
        raise errors.InputError(f"--ema: expected a momentum within 0–1, found {ema}.")
    by_class: dict[str, dict[str, Any]] = {each.lower(): {} for each in names}
    for key, value in (arguments or {}).items():
        owner, _, argument = key.rpartition(".")
        if (owner or names[-1]).lower() not in by_class:
            raise errors.InputError(
                f"--optimizer_args: '{key}' belongs to none of {', '.join(names)}."
            )
        by_class[(owner or names[-1]).lower()][argument] = value

    wrapped = len(names) > 1
    innermost = _class(names[-1], legacy=wrapped)
    options = dict(by_class[names[-1].lower()], learning_rate=learning_rate)
    if ema and (wrapped or _is_legacy(innermost)):
        raise errors.InputError(
            f"--ema: belongs to tf-keras' own optimizers; with {name} use "
            f"--optimizer='MovingAverage({names[-1]})'."
        )
    if ema:
        options |= {"use_ema": True, "ema_momentum": ema}
    if clip_norm and not wrapped:
        options["global_clipnorm"] = clip_norm
    optimizer = _construct(innermost, options)
    for depth, each in enumerate(reversed(names[:-1])):
        options = {"optimizer": optimizer, **by_class[each.lower()]}
        if clip_norm and depth == len(names) - 2:
            options["global_clipnorm"] = clip_norm
        optimizer = _construct(_class(each, legacy=True), options)
    if ema:
        # Keras would put the averages in at the end of each `fit`, and a run may be several.
        optimizer.finalize_variable_values = lambda variables: None
    return optimizer


def apply(optimizer: Any, gradients_and_variables: Iterable[tuple[Any, Any]]) -> None:
    """Takes a step with gradients that are already summed over all replicas, inside a replica.

    The optimizer's `global_clipnorm` is applied to these sums: clipping what each replica brings
    would make the step depend on how many there are.

    Args:
        optimizer: What `build` made, or any other optimizer of either API.
        gradients_and_variables: Pairs; the gradients are those of the global batch.
    """
    pairs = list(gradients_and_variables)
    if isinstance(optimizer, keras.optimizers.Optimizer):
        optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)
        return
    # The older API clips in `minimize` only.
    if getattr(optimizer, "global_clipnorm", None):
        clipped, _ = tf.clip_by_global_norm(
            [gradient for gradient, _ in pairs], optimizer.global_clipnorm
        )
        pairs = [(g, variable) for g, (_, variable) in zip(clipped, pairs, strict=True)]
    optimizer.apply_gradients(pairs, experimental_aggregate_gradients=False)


def make_variables(optimizer: Any, variables: Sequence[tf.Variable]) -> list[tf.Variable] | None:
    """Makes the optimizer's variables before the first step, so that it is traced only once.

    Args:
        optimizer: What `build` made, or any other.
        variables: The trainable variables that it will be given, in their strategy's scope.

    Returns:
        All its variables; None for the older API, which makes them at the first step.
    """
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        return None
    optimizer.build(variables)
    return list(optimizer.variables)


def averages_weights(optimizer: Any) -> bool:
    """Whether the weights to evaluate and export are averages over the run."""
    return bool(getattr(optimizer, "use_ema", False)) or hasattr(optimizer, "assign_average_vars")


@contextlib.contextmanager
def averaged(optimizer: Any, variables: Sequence[tf.Variable]) -> Iterator[None]:
    """The variables hold their averages inside, and what they held before afterwards.

    Args:
        optimizer: If it keeps no averages, nothing happens.
        variables: The trainable variables that it was given.
    """
    # Before the first step there is nothing to average.
    if not averages_weights(optimizer) or not int(optimizer.iterations.numpy()):
        yield
        return
    raw = [variable.numpy() for variable in variables]
    try:
        if hasattr(optimizer, "assign_average_vars"):
            optimizer.assign_average_vars(variables)
        else:
            type(optimizer).finalize_variable_values(optimizer, variables)
        yield
    finally:
        for variable, value in zip(variables, raw, strict=True):
            variable.assign(value)


def _construct(optimizer_class: type, options: Mapping[str, Any]) -> Any:
    try:
        for name, parameter in inspect.signature(optimizer_class).parameters.items():
            # Keras takes text for a number, and stumbles over it at the first step.
            if isinstance(parameter.default, float) and isinstance(options.get(name), str):
                raise ValueError(f"{name} is a number, found '{options[name]}'")
        return optimizer_class(**options)
    except (TypeError, ValueError) as error:
        taken = [
            each
            for each in inspect.signature(optimizer_class).parameters
            if each not in ("self", "name", "kwargs", "learning_rate", "optimizer")
        ]
        raise errors.InputError(
            f"--optimizer_args: {optimizer_class.__name__} takes {', '.join(taken)}; found "
            f"{_named(options)} ({errors.reason(error)})."
        ) from None


def _named(options: Mapping[str, Any]) -> str:
    shown = [f"{k}={v}" for k, v in options.items() if k not in ("learning_rate", "optimizer")]
    return ", ".join(shown) or "none"


def _is_legacy(optimizer_class: type) -> bool:
    return issubclass(optimizer_class, keras.optimizers.legacy.Optimizer)


def _class(name: str, legacy: bool) -> type:
    """The optimizer class of a name, whatever its case; Addons' wrappers need legacy ones."""
    module = keras.optimizers.legacy if legacy else keras.optimizers
    own = _optimizers_of(module, keras.optimizers.legacy.Optimizer if legacy else None)
    if name.lower() in own:
        return own[name.lower()]
    if importlib.util.find_spec("tensorflow_addons") is None:
        available = ", ".join(sorted(each.__name__ for each in own.values()))
        if name.lower() in [each.lower() for each in KNOWN_ADDONS]:
            raise errors.InputError(
                f"--optimizer: {name} comes with TensorFlow Addons, which is not installed; "
                f"{INSTALL_ADDONS}, or use one of {available}."
            )
        raise errors.InputError(
            f"--optimizer: expected one of {available} (more with TensorFlow Addons: "
            f"{INSTALL_ADDONS}); found '{name}'."
        )
    addons = _addons()
    if name.lower() in addons:
        return addons[name.lower()]
    available = ", ".join(sorted(each.__name__ for each in (own | addons).values()))
    raise errors.InputError(f"--optimizer: expected one of {available}; found '{name}'.")


def _addons() -> dict[str, type]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # That Addons is at its last release is known.
        import tensorflow_addons
    found = _optimizers_of(tensorflow_addons.optimizers, keras.optimizers.legacy.Optimizer)
    if not found:
        raise errors.InputError(
            "--optimizer: TensorFlow Addons sees another Keras than tf-keras; set "
            "TF_USE_LEGACY_KERAS=1 in the environment, found "
            f"{os.environ.get('TF_USE_LEGACY_KERAS', 'nothing')}."
        )
    return found


def _optimizers_of(module: Any, base: type | None) -> dict[str, type]:
    """Optimizer classes in a module by their name in lower case."""
    bases = (base or keras.optimizers.Optimizer,)
    return {
        name.lower(): each
        for name, each in vars(module).items()
        if inspect.isclass(each)
        and issubclass(each, bases)
        and each not in bases
        and not name.startswith("LossScale")
    }
