"""What every method sees, what it returns, and how it is found by name.

A new method is one new file in this folder: it holds a class with `name`, `two_sided` and
`predict`, and binds one instance to `METHOD`. The file's name is the method's name. A trained
StfNet needs its folder, too, and is asked for as NAME=FOLDER.
"""

import dataclasses
import datetime
import importlib
import pkgutil
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from scipy import ndimage

from data_prep import errors


@dataclasses.dataclass(frozen=True)
class Inputs:
    """All that is known when F2 is predicted.

    Attributes:
        f1: Fine image of the earlier date, reflectance, [height, width, bands], finite everywhere.
        c1: Coarse image of the earlier date on the fine grid, same shape.
        c2: Coarse image of the wanted date.
        valid_f1, valid_c1, valid_c2: Usable pixels, [height, width] of bool.
        f3, c3, valid_f3, valid_c3: The later date; all None where there is none.
        dates: t1, t2 and t3 (None where there is no later date).
        ratio: Coarse pixel / fine pixel.
        psf_fwhm: Full width at half maximum of the coarse sensor's point spread function, in coarse
            pixels.
        seed: Of every random choice.
    """

    f1: np.ndarray
    c1: np.ndarray
    c2: np.ndarray
    valid_f1: np.ndarray
    valid_c1: np.ndarray
    valid_c2: np.ndarray
    dates: tuple[datetime.date, datetime.date, datetime.date | None]
    ratio: float
    psf_fwhm: float = 1.0
    f3: np.ndarray | None = None
    c3: np.ndarray | None = None
    valid_f3: np.ndarray | None = None
    valid_c3: np.ndarray | None = None
    seed: int = 0

    def __post_init__(self):
        later = (self.f3, self.c3, self.valid_f3, self.valid_c3)
        if any(a is None for a in later) and not all(a is None for a in later):
            raise ValueError("f3, c3, valid_f3 and valid_c3 are given together or not at all")
        for name in ("f1", "c1", "c2", "f3", "c3"):
            image = getattr(self, name)
            if image is None:
                continue
            if image.shape != self.f1.shape or image.ndim != 3:
                raise ValueError(f"{name} has shape {image.shape}, expected {self.f1.shape}")
            valid = getattr(self, f"valid_{name}")
            if valid.shape != image.shape[:2] or valid.dtype != bool:
                raise ValueError(
                    f"valid_{name} is {valid.dtype} {valid.shape}, expected bool {image.shape[:2]}"
                )
            # Where a mask says no there may be any number, but arithmetic must stay finite.
            if not np.isfinite(image).all():
                clean = np.where(valid[..., None] & np.isfinite(image), image, 0)
                object.__setattr__(self, f"valid_{name}", valid & np.isfinite(image).all(axis=-1))
                object.__setattr__(self, name, clean.astype(image.dtype))

    def corner(self, size: int) -> "Inputs":
        """The top left corner of all images, at most `size` pixels high and wide."""
        images = ("f1", "c1", "c2", "f3", "c3")
        cut = {
            name: getattr(self, name)[:size, :size]
            for name in (*images, *(f"valid_{image}" for image in images))
            if getattr(self, name) is not None
        }
        return dataclasses.replace(self, **cut)

    def sides(self) -> tuple["Side", ...]:
        """The earlier date as a `Side`, then the later one where there is one."""
        t1, t2, t3 = self.dates
        forward = Side(
            self.f1, self.c1, self.c2, self.valid_f1 & self.valid_c1 & self.valid_c2,
            abs((t2 - t1).days),
        )  # fmt: skip
        if self.f3 is None or self.c3 is None or self.valid_f3 is None or self.valid_c3 is None:
            return (forward,)
        backward = Side(
            self.f3, self.c3, self.c2, self.valid_f3 & self.valid_c3 & self.valid_c2,
            abs((t3 - t2).days) if t3 else 0,
        )  # fmt: skip
        return forward, backward


@dataclasses.dataclass(frozen=True)
class Side:
    """One known pair and the coarse image of the wanted date: F2 = f + (change that c → c2 tells).

    Attributes:
        f: Known fine image, reflectance, [height, width, bands].
        c: Coarse image of its date.
        c2: Coarse image of the wanted date.
        valid: Pixels usable in all three, [height, width] of bool.
        days: Between the two dates, ≥ 0.
    """

    f: np.ndarray
    c: np.ndarray
    c2: np.ndarray
    valid: np.ndarray
    days: int


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A predicted fine image.

    Attributes:
        f2: Reflectance, float32, [height, width, bands]; 0 where invalid.
        valid: [height, width] of bool.
        quality: Expected absolute error, reflectance, [height, width, bands], where a method has
            one.
        changes: (F̂12, F̂23), where a method predicts both, NaN where they are not known; they give
            the measure `consistency`.
    """

    f2: np.ndarray
    valid: np.ndarray
    quality: np.ndarray | None = None
    changes: tuple[np.ndarray, np.ndarray] | None = None


class Method(Protocol):
    """A way to predict F2."""

    @property
    def name(self) -> str:
        """As reports show it."""
        ...

    @property
    def two_sided(self) -> bool:
        """Whether it cannot do without the later pair."""
        ...

    def predict(self, inputs: Inputs) -> Prediction:
        """Predicts F2."""
        ...


def names() -> tuple[str, ...]:
    """The methods that there are files for, in alphabetical order."""
    from stfnet_tf import baselines

    files = {module.name for module in pkgutil.iter_modules(baselines.__path__)}
    return tuple(sorted(files - {"base", "windows", "stfnet"}))


def method(
    spec: str, *, with_changes: bool = False, flag: str = "methods", others: Sequence[str] = ()
) -> Method:
    """The method that a user asks for; only its own file is imported.

    Args:
        spec: A method's name, or NAME=FOLDER for the StfNet that was trained in a folder.
        with_changes: Whether a StfNet is to return F̂12 and F̂23 as well.
        flag: Where the user asks for it, for the sentence about a name that there is not.
        others: What may be asked for there besides, for the same sentence.

    Raises:
        InputError: There is no such method, or no model in the folder.
    """
    name, _, folder = spec.partition("=")
    if folder:
        from stfnet_tf.baselines import stfnet

        return stfnet.Stfnet.of(folder, name, with_changes)
    if name not in names():
        raise errors.InputError(
            f"--{flag}: expected names out of {', '.join((*names(), *others))}, or NAME=FOLDER for "
            f"a trained StfNet; found '{spec}'."
        )
    return importlib.import_module(f"stfnet_tf.baselines.{name}").METHOD


def average(predictions: list[np.ndarray], sides: tuple[Side, ...]) -> Prediction:
    """The plain mean of the sides' predictions; where one side is invalid the other stands alone.

    Args:
        predictions: F̂2 of each side, [height, width, bands].
        sides: The sides, whose masks say where each prediction may be used.
    """
    weights = np.stack([s.valid for s in sides]).astype(np.float32)
    return weighted(predictions, weights[..., None])


def weighted(predictions: list[np.ndarray], weights: np.ndarray) -> Prediction:
    """Weighted mean of the sides' predictions.

    Args:
        predictions: F̂2 of each side, [height, width, bands].
        weights: ≥ 0, [side, height, width, bands or 1]; zero where a side is invalid. They need not
            sum to one. A pixel whose weights are all zero is invalid.
    """
    total = weights.sum(axis=0)
    valid = (total > 0).all(axis=-1)
    f2 = sum(w * p for w, p in zip(weights, predictions, strict=True))
    f2 = np.where(valid[..., None], f2 / np.where(total > 0, total, 1), 0)
    return Prediction(f2.astype(np.float32), valid)


def between(
    changes: Sequence[np.ndarray], sides: tuple[Side, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """(F̂12, F̂23) for a `Prediction`, from what leads from each of two sides to F2.

    Args:
        changes: F̂2 − F1 and F̂2 − F3, reflectance, [height, width, bands].
        sides: The sides, whose masks say where each is known.

    Returns:
        float32, NaN where the side is invalid.
    """
    forward, backward = (
        np.where(side.valid[..., None], change, np.nan).astype(np.float32)
        for change, side in zip(changes, sides, strict=True)
    )
    return forward, -backward


def inverse_change_weights(sides: tuple[Side, ...], size: int) -> np.ndarray:
    """Weights of the sides, each the inverse of the coarse change in a window around the pixel.

    T_k = 1 / |Σ_window (C_k − C2)|, equation 19 of Zhu et al. 2010, doi 10.1016/j.rse.2010.05.032.

    Returns:
        [side, height, width, bands]; zero where the side is invalid.
    """
    changes = [np.abs(masked_mean(s.c2 - s.c, s.valid, size)) for s in sides]
    weights = [
        1 / (change + 1e-6) * s.valid[..., None] for change, s in zip(changes, sides, strict=True)
    ]
    return np.stack(weights)


def masked_mean(image: np.ndarray, valid: np.ndarray, size: int) -> np.ndarray:
    """Mean over the valid pixels of a square window; 0 where there is none.

    Args:
        image: [height, width, bands].
        valid: [height, width] of bool.
        size: Width of the window in pixels; cut off at the image's border.
    """
    inside = valid.astype(np.float64)
    share = ndimage.uniform_filter(inside, size, mode="constant")
    total = ndimage.uniform_filter(
        image.astype(np.float64) * inside[..., None], (size, size, 0), mode="constant"
    )
    # The running sums leave about 1e-16 where nothing is valid.
    some = share > 0.5 / size**2
    return np.where(some[..., None], total / np.where(some, share, 1)[..., None], 0)


def masked_gaussian(image: np.ndarray, valid: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian mean over the valid pixels; reflected at the image's border; 0 where there is none.

    Args:
        image: [height, width, bands].
        valid: [height, width] of bool.
        sigma: In pixels.
    """
    inside = valid.astype(np.float64)
    share = ndimage.gaussian_filter(inside, sigma)
    total = ndimage.gaussian_filter(image.astype(np.float64) * inside[..., None], (sigma, sigma, 0))
    some = share > 1e-6
    return np.where(some[..., None], total / np.where(some, share, 1)[..., None], 0)


def nearest_valid(image: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """The image with each invalid pixel as its nearest valid one; 0 where no pixel is valid.

    For what looks at a pixel's surroundings as a whole, the same that edge padding is at the
    image's border.

    Args:
        image: [height, width, bands].
        valid: [height, width] of bool.
    """
    if not valid.any():
        return np.zeros_like(image)
    rows, cols = ndimage.distance_transform_edt(~valid, return_distances=False, return_indices=True)
    return image[rows, cols]
