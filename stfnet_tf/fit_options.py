"""What a user asks of a model that is fitted to one scene, from flags or from one line of text.

No TensorFlow here, so that a program can refuse an option without loading it.
"""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from data_prep import errors
from stfnet_tf import presets, train_config


@dataclasses.dataclass(frozen=True)
class FitOptions:
    """What the user sets; everything else has defaults that suit one scene.

    Attributes:
        preset: A key of `presets.PRESETS`.
        training: Fields of `TrainConfig`.
        model: Fields of `ModelConfig`.
    """

    preset: str = "plus"
    training: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def parse(text: str) -> FitOptions:
    """Reads "plus", or "plus:combination=equal:kernel_sizes=9-5-5:steps=200".

    Args:
        text: A preset, then any fields of `TrainConfig` and `ModelConfig`; numbers of a list have
            "-" between them, and an empty list is empty.

    Raises:
        InputError: No such preset or field, or a value that cannot be read.
    """
    preset, *parts = text.split(":")
    if preset not in presets.PRESETS:
        raise errors.InputError(
            f"{text}: expected a preset ({', '.join(presets.PRESETS)}), found '{preset}'."
        )
    fields: dict[type, dict[str, Any]] = {train_config.TrainConfig: {}, presets.ModelConfig: {}}
    for part in parts:
        name, _, value = part.partition("=")
        owner = next((k for k in fields if name in typing.get_type_hints(k)), None)
        if owner is None or name in ("preset", "bands"):
            raise errors.InputError(
                f"{text}: expected an option of stfnet_tf.train such as steps=200, found '{part}'."
            )
        try:
            fields[owner][name] = _value(typing.get_type_hints(owner)[name], value)
        except ValueError:
            raise errors.InputError(f"{text}: {name} cannot be '{value}'.") from None
    return FitOptions(preset, *fields.values())


def _value(kind: Any, text: str) -> Any:
    if typing.get_origin(kind) is tuple:
        element = typing.get_args(kind)[0]
        return tuple(element(part) for part in text.split("-") if part)
    if kind is bool:
        return bool(("false", "true").index(text.lower()))
    return kind(text)
