"""What a StfNet is: one frozen dataclass, saved beside the checkpoints, that rebuilds the model.

No TensorFlow here, so that a program can list its options without loading it.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep import errors, sealed

CONFIG_FILE = "model.json"
CHANGE_OPERATORS = ("difference", "log", "logit")
COMBINATIONS = ("equal", "global", "local", "discrepancy")
SUPERVISIONS = ("pair", "triplet")
STARTS = ("random", "ridge")
EXPECTED_ERRORS = ("disagreement", "calibrated")
# A model's losses: those that it always computes, then those that a weight of 0 leaves out.
ALWAYS_COMPUTED = ("reconstruction", "temporal_consistency")
LOSS_WEIGHTS = (*ALWAYS_COMPUTED, "coarse_consistency", "time_reversal", "rest")

# Full width at half maximum of a Gaussian / its standard deviation.
FWHM_PER_SIGMA = 2.0 * math.sqrt(2.0 * math.log(2.0))
# As in data sets' descriptions.
LARGEST_RATIO = 1000.0
LARGEST_FWHM = 10.0
# σ in fine pixels: the matrix of a wider blur would not fit into a graph.
WIDEST_BLUR = 2000.0


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Every choice that defines a StfNet; symbols as in Liu et al. 2019.

    Attributes:
        bands: Band names, in the order of the images' last axis.
        preset: The name of the preset that the values started from.

        filters: Number of filters of each hidden layer of a stream, at least 1.
        kernel_sizes: Kernel height and width of each layer of a stream, the output layer's last;
            odd.
        per_band: One network a band instead of one for all bands.
        shared_streams: Both streams share one set of weights.
        residual: A stream predicts F̂ − C, the fine change beyond the coarse one, so that an
            untrained network already yields fine + coarse change.
        both_fine: Each stream sees both fine images and, with `coarse_input`, the coarse change
            between them, instead of its neighbouring fine image alone; where the other one is
            invalid, the neighbouring one plus the coarse change stands in.
        coarse_input: The stream's network sees the coarse change; without, it must tell the fine
            change from the fine images, and the coarse change comes in by `back_projection`.
        back_projection: σ of the Gaussian, in coarse pixels, through which the coarse change that
            the stream misses is added to its output: F̂12 = û + G ∗ (C12 − PSF ∗ û), one step of
            back-projection (Irani and Peleg 1991); 0 for none.
        start: The initial weights: "random", or "ridge": those of a ridge regression of the
            coarse change on the fine images, both at the coarse sensor's resolution, for streams
            that are one linear convolution each, whose centre it sets.
        change: The pointwise g whose difference g(Fj) − g(Fi) is "the change": "difference" is
            g(x) = x, "log" relative change, "logit" keeps every prediction inside 0–1.
        coarse_filter: σ of the Gaussian that low-passes the coarse change before the streams, in
            coarse pixels; 0 leaves it as it is.
        gain: Reflectance changes are multiplied by this before the network and divided after it;
            it only conditions the optimisation.

        combination: How F̂2⁺ and F̂2⁻ are weighted: "equal"; "global", inverse to the mean
            absolute coarse change of the whole image per band; "local", inverse to the coarse
            change around each pixel; "discrepancy", inverse to the root of the coarse change and
            of what fine and coarse image of the known date differ by, around each pixel.
        switch: With "global": where |v12 − v23| exceeds this reflectance, the nearer date alone.
        combination_sigma: With "local" and "discrepancy": σ of the neighbourhood, in coarse
            pixels.
        level_sigma: σ, in coarse pixels, at which fine and coarse image of a date are compared;
            what does not persist from t1 to t3 is taken out of the prediction. 0 for never.

        expected_error: What the quality layer is: "disagreement", how far both sides differ; or
            "calibrated", a regression learned after training where errors are known, which falls
            back to the former where there was too little to learn from.

        ratio: Coarse pixel size / fine pixel size, at most 1000.
        psf_fwhm: Full width at half maximum of the coarse sensor's point spread function, in
            coarse pixels, at most 10.

        supervision: "pair": F2 is never known, the streams learn from C13 → F13; "triplet": F2
            is known on the training dates.
        reconstruction: The weight of the streams' error on the change that is known: C13 → F13 in
            "pair", C12 → F12 and C23 → F23 in "triplet".
        temporal_consistency: λ, the weight of ‖F̂12 + F̂23 − F13‖².
        coarse_consistency: The weight of ‖PSF ∗ F̂12 − C12‖² + ‖PSF ∗ F̂23 − C23‖².
        time_reversal: The weight of S1(−C13, F3) = −F13 and S2(−C13, F1) = −F13.
        rest: The weight of S(0, F) = 0.
    """

    bands: tuple[str, ...]
    preset: str = "paper"

    filters: tuple[int, ...] = (32, 16)
    kernel_sizes: tuple[int, ...] = (9, 5, 5)
    per_band: bool = False
    shared_streams: bool = False
    residual: bool = False
    both_fine: bool = False
    coarse_input: bool = True
    back_projection: float = 0.0
    start: str = "random"
    change: str = "difference"
    coarse_filter: float = 0.0
    gain: float = 10.0

    combination: str = "global"
    switch: float = 0.2
    combination_sigma: float = 1.0
    level_sigma: float = 0.0
    expected_error: str = "disagreement"

    ratio: float = 16.0
    psf_fwhm: float = 1.0

    supervision: str = "triplet"
    reconstruction: float = 1.0
    temporal_consistency: float = 1.0
    coarse_consistency: float = 0.0
    time_reversal: float = 0.0
    rest: float = 0.0

    def __post_init__(self):
        for name in ("bands", "filters", "kernel_sizes"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self._one_of("change", CHANGE_OPERATORS)
        self._one_of("combination", COMBINATIONS)
        self._one_of("supervision", SUPERVISIONS)
        self._one_of("start", STARTS)
        self._one_of("expected_error", EXPECTED_ERRORS)
        if not self.bands:
            raise errors.InputError("bands: expected at least one band name, found none.")
        if any(count < 1 for count in self.filters):
            raise errors.InputError(
                f"filters: expected numbers of at least 1, found {self.filters}."
            )
        if len(self.kernel_sizes) != len(self.filters) + 1:
            raise errors.InputError(
                f"kernel_sizes: expected one more than the {len(self.filters)} filters, "
                f"found {len(self.kernel_sizes)}."
            )
        if any(size < 1 or size % 2 == 0 for size in self.kernel_sizes):
            raise errors.InputError(
                f"kernel_sizes: expected odd sizes, so that an output pixel has a centre, "
                f"found {self.kernel_sizes}."
            )
        if not (self.coarse_input or self.back_projection):
            raise errors.InputError(
                "back_projection: expected a number above 0, because coarse_input is off and the "
                "coarse change must come in; found 0."
            )
        if self.start == "ridge" and (self.filters or self.coarse_input or self.per_band):
            raise errors.InputError(
                "start: expected 'random', because 'ridge' is for a stream of one linear "
                "convolution over all bands without coarse_input; found 'ridge'."
            )
        if self.start == "ridge" and self.shared_streams:
            raise errors.InputError(
                "shared_streams: expected false, because 'ridge' starts each stream from a "
                "regression of its own; found true."
            )
        for name in ("gain", "combination_sigma"):
            self._in_range(name, low_open=True)
        self._in_range("ratio", low_open=True, high=LARGEST_RATIO)
        self._in_range("psf_fwhm", low_open=True, high=LARGEST_FWHM)
        for name in (
            "coarse_filter",
            "back_projection",
            "level_sigma",
            "switch",
            *LOSS_WEIGHTS,
        ):
            self._in_range(name, low_open=False)

        if self.start == "random" and not any(getattr(self, name) for name in LOSS_WEIGHTS):
            raise errors.InputError(
                f"{LOSS_WEIGHTS[0]}: expected a weight above 0 for at least one of "
                f"{', '.join(LOSS_WEIGHTS)}; found 0 for all, so that nothing would be learned."
            )
        for name, sigma in self.blurs.items():
            if sigma > WIDEST_BLUR:
                raise errors.InputError(
                    f"{name}: expected a blur of σ = {WIDEST_BLUR:g} fine pixels at most, found "
                    f"{getattr(self, name):g}, which is {sigma:.0f} at a ratio of {self.ratio:g}."
                )

    def _one_of(self, name: str, allowed: tuple[str, ...]) -> None:
        if getattr(self, name) not in allowed:
            raise errors.InputError(
                f"{name}: expected one of {', '.join(allowed)}; found '{getattr(self, name)}'."
            )

    def _in_range(self, name: str, low_open: bool, high: float = math.inf) -> None:
        value = getattr(self, name)
        if not math.isfinite(value) or not 0 <= value <= high or (low_open and value == 0):
            bound = "above 0" if low_open else "of at least 0"
            if high < math.inf:
                bound += f" and of at most {high:g}"
            raise errors.InputError(f"{name}: expected a number {bound}, found {value}.")

    @property
    def psf_sigma(self) -> float:
        """σ of the coarse sensor's point spread function, in fine pixels."""
        return self.psf_fwhm * self.ratio / FWHM_PER_SIGMA

    @property
    def coarse_filter_sigma(self) -> float:
        """σ of the coarse change's low-pass filter, in fine pixels."""
        return self.coarse_filter * self.ratio

    @property
    def back_projection_sigma(self) -> float:
        """σ of the back-projection, in fine pixels."""
        return self.back_projection * self.ratio

    @property
    def blurs(self) -> dict[str, float]:
        """σ, in fine pixels, of each Gaussian that an option of this name states; 0 for none."""
        sigmas = {"psf_fwhm": self.psf_sigma, "coarse_filter": self.coarse_filter_sigma}
        sigmas |= {"back_projection": self.back_projection_sigma}
        sigmas |= {"level_sigma": self.level_sigma * self.ratio}
        if self.combination in ("local", "discrepancy"):
            sigmas |= {"combination_sigma": self.combination_sigma * self.ratio}
        return sigmas

    @property
    def receptive_field(self) -> int:
        """Height and width, in pixels, of what one output pixel of a stream sees."""
        return 1 + sum(size - 1 for size in self.kernel_sizes)

    def save(self, folder: str | Path) -> None:
        """Writes `model.json` into `folder`, whole or not at all."""
        sealed.write(Path(folder) / CONFIG_FILE, dataclasses.asdict(self))

    @classmethod
    def load(cls, folder: str | Path) -> "ModelConfig":
        """Reads `model.json` from `folder`.

        Raises:
            InputError: There is no such file, or it does not describe a model.
        """
        path = Path(folder) / CONFIG_FILE
        try:
            return cls(**sealed.read(path))
        except FileNotFoundError:
            raise errors.InputError(
                f"{path}: expected the model description that training writes, found no such file."
            ) from None
        except (errors.InputError, OSError, ValueError, TypeError) as error:
            raise errors.InputError(
                f"{path}: expected a model description, found: {errors.reason(error)}."
            ) from None


# What each preset sets apart from the defaults above. `paper` is what re-implementations of Liu
# et al. 2019 agree on, and never changes.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {},
    "plus": {
        "both_fine": True,
        "combination": "discrepancy",
        "expected_error": "calibrated",
    },
}
# What a preset sets apart for one way of supervision.
SUPERVISED: Mapping[tuple[str, str], Mapping[str, Any]] = {
    # Few dates must teach what holds on others: pixels and what surrounds them, no more context.
    ("plus", "triplet"): {
        "filters": (32, 32),
        "kernel_sizes": (3, 1, 1),
        "residual": True,
    },
    # One scene and date: all that can be known of the change is in its few coarse pixels, so the
    # streams are linear and are told how the change looks at the coarse resolution.
    ("plus", "pair"): {
        "filters": (),
        "kernel_sizes": (1,),
        "coarse_input": False,
        "back_projection": 0.85,
        "start": "ridge",
        "level_sigma": 2.0,
        "reconstruction": 0.0,
        "temporal_consistency": 0.1,
        "coarse_consistency": 1.0,
    },
}


def build(preset: str, **changes: Any) -> ModelConfig:
    """Returns the configuration of a preset with some of its fields changed.

    Args:
        preset: A key of `PRESETS`.
        **changes: Fields of `ModelConfig`; `bands` is always needed.

    Raises:
        InputError: An unknown preset, or a value that its field does not allow.
    """
    if preset not in PRESETS:
        raise errors.InputError(f"preset: expected one of {', '.join(PRESETS)}; found '{preset}'.")
    supervision = changes.get("supervision", ModelConfig.supervision)
    own = {**PRESETS[preset], **SUPERVISED.get((preset, supervision), {})}
    return ModelConfig(**{**own, **changes, "preset": preset})
