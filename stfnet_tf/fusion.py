"""Digital numbers in, digital numbers out: the one function that `fuse` runs and `export` saves.

Scaling, masks, change operator, streams and combination are all in its graph, so a client sends
what its rasters hold and gets what its rasters hold back.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from data_prep import records
from stfnet_tf import checkpoints, combination, expected_error, presets, psf
from stfnet_tf import model as stfnet_model

Signature: TypeAlias = "tf.types.experimental.ConcreteFunction"
BOTH_SIDES = ("f1", "f3", "c1", "c2", "c3")
FORWARD = ("f1", "c1", "c2")


class Fusion(tf.Module):
    """A StfNet with the encodings of its images.

    Every method takes images in digital numbers, [batch, height, width, bands] in their side's
    dtype, and returns

        f2       digital numbers in the fine images' encoding; `nodata` where nothing is known
        quality  expected absolute error in reflectance, float32; NaN where it is not known: where
                 f2 is not and, as long as a model is not calibrated, where only one side gave it,
                 far from pixels that both gave
        sides    uint8 [batch, height, width, 1]: 3 both streams, 1 forward only, 2 backward
                 only, 0 none

    A pixel is invalid where its mask says so, where it holds the fill value, lies outside the
    valid range or is no number; in that order of precedence nothing overrides an invalid pixel.

    Args:
        model: The network.
        info: Encodings and band names.
    """

    def __init__(self, model: stfnet_model.StfNet, info: records.DatasetInfo):
        super().__init__(name="stfnet_fusion")
        self.model = model
        self.info = info
        bands = len(info.bands)
        self._image = {
            k: tf.TensorSpec([None, None, None, bands], info.encoding(k).dtype, name=k)
            for k in BOTH_SIDES
        }
        self._valid = {
            f"valid_{k}": tf.TensorSpec([None, None, None], tf.bool, name=f"valid_{k}")
            for k in BOTH_SIDES
        }

    @functools.cached_property
    def serving_default(self) -> Signature:
        """`f1 f3 c1 c2 c3` to `f2 quality sides`."""
        return _traced(lambda **images: self._fuse(images), self._image)

    @functools.cached_property
    def fuse_masked(self) -> Signature:
        """The same with `valid_f1 … valid_c3`."""
        return _traced(lambda **batch: self._fuse(batch), self._image | self._valid)

    @functools.cached_property
    def fuse_tile(self) -> Signature:
        """The same for a tile of an image whose `v12` and `v23` are given."""
        shape = [None, len(self.info.bands)]
        change = {k: tf.TensorSpec(shape, tf.float32, name=k) for k in ("v12", "v23")}
        return _traced(lambda **batch: self._fuse(batch), self._image | self._valid | change)

    @functools.cached_property
    def coarse_change(self) -> Signature:
        """`fuse_masked`'s inputs to the sums from which `v12` and `v23` follow."""
        return _traced(lambda **batch: self._coarse_change(batch), self._image | self._valid)

    @functools.cached_property
    def forward_only(self) -> Signature:
        """`f1 c1 c2` alone."""
        given = {k: self._image[k] for k in FORWARD}
        return _traced(lambda **images: self._forward(images), given)

    @functools.cached_property
    def serialized_examples(self) -> Signature:
        """Records as data_prep.write_tfrecords writes them."""
        given = {"examples": tf.TensorSpec([None], tf.string, name="examples")}
        return _traced(lambda **inputs: self._examples(inputs["examples"]), given)

    @property
    def signatures(self) -> dict[str, Signature]:
        """The SavedModel's signatures by name."""
        return {
            "serving_default": self.serving_default,
            "fuse_masked": self.fuse_masked,
            "fuse_tile": self.fuse_tile,
            "coarse_change": self.coarse_change,
            "forward_only": self.forward_only,
            "serialized_examples": self.serialized_examples,
        }

    def _fuse(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        fused = self.model.fuse(self._prepare(batch), batch.get("v12"), batch.get("v23"))
        known = fused.sides > 0
        return {
            "f2": encode(fused.f2, known, self.info.fine),
            "quality": fused.quality,
            "sides": fused.sides,
        }

    def _prepare(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Digital numbers to what the model takes: reflectance, 0 where invalid, and masks."""
        prepared: dict[str, tf.Tensor] = {}
        with tf.control_dependencies(_shape_checks(batch, len(self.info.bands))):
            for k in BOTH_SIDES:
                reflectance, valid = decode(tf.identity(batch[k]), self.info.encoding(k))
                if f"valid_{k}" in batch:
                    valid &= batch[f"valid_{k}"][..., None]
                mask = tf.cast(valid, tf.float32)
                # What integers decode to is finite: a product does, in a third of the time.
                masked = reflectance * mask
                if not batch[k].dtype.is_integer:
                    masked = tf.where(valid, reflectance, 0.0)
                prepared |= {k: masked, f"valid_{k}": mask}
        return prepared

    def _coarse_change(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Sums from which a client gets `v12` and `v23` of an image that it sends in tiles.

        Σ|C12| and Σ|C23|, [batch, bands], over pixels valid in their fine image as well, and how
        many those are, [batch, 1].
        """
        predicted = self.model(self._prepare(batch), training=False)
        return {
            f"{name}{side}": value
            for side in ("12", "23")
            for name, value in zip(
                ("total", "count"),
                combination.absolute_change(predicted[f"c{side}"], predicted[f"valid{side}"]),
                strict=True,
            )
        }

    def _forward(self, images: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """No later pair: the images of t3 count as nowhere valid."""
        nowhere = tf.zeros(tf.shape(images["f1"])[:3], tf.bool)
        absent = {k: tf.zeros_like(images[k[0] + "1"]) for k in ("f3", "c3")}
        absent |= {f"valid_{k}": nowhere for k in ("f3", "c3")}
        return self._fuse({**images, **absent})

    def _examples(self, serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        """Records of one tile size."""
        specs = {}
        for k in BOTH_SIDES:
            specs[k] = tf.TensorSpec(
                [None, None, len(self.info.bands)], self.info.encoding(k).dtype
            )
            specs[f"valid_{k}"] = tf.TensorSpec([None, None], tf.bool)

        def parse(example):
            parsed = records.parse(example, self.info)
            return {k: parsed[k][..., 0] if k.startswith("valid") else parsed[k] for k in specs}

        return self._fuse(tf.map_fn(parse, serialized, fn_output_signature=specs))


def _traced(function: Callable[..., Any], specs: Mapping[str, tf.TensorSpec]) -> Signature:
    """The graph of a function.

    Nothing in it branches on a tensor in Python's words, and AutoGraph takes most of the time that
    tracing takes to find that out.
    """
    return tf.function(function, autograph=False).get_concrete_function(**specs)


def load(model_dir: str | Path) -> Fusion:
    """The function of a trained model, in the encodings that it was trained on.

    Args:
        model_dir: What training was given as `--model_dir`.

    Raises:
        InputError: It holds no trained model.
    """
    return Fusion(checkpoints.load_model(model_dir), records.DatasetInfo.load(model_dir))


def halo(config: presets.ModelConfig) -> int:
    """How many pixels beyond a tile its result depends on, all outputs included."""
    ratio = config.ratio
    coarse = psf.radius(config.coarse_filter_sigma)
    projected = psf.radius(config.back_projection_sigma)
    stream = coarse + config.receptive_field // 2
    if config.both_fine:
        stream += psf.radius(config.coarse_filter_sigma or ratio)
    if config.back_projection:
        stream += psf.radius(config.psf_sigma) + projected
    side = max(stream, psf.radius(config.level_sigma * ratio))
    neighbourhood = psf.radius(config.combination_sigma * ratio)
    weights = {"local": coarse + projected + neighbourhood, "discrepancy": 2 * neighbourhood}
    fused = max(side, weights.get(config.combination, 0))
    # The quality layer looks around.
    seen, predicted = expected_error.reach(config)
    return max(side + psf.radius(config.psf_sigma), fused + predicted, seen)


def _shape_checks(batch: Mapping[str, tf.Tensor], bands: int) -> list[tf.Operation]:
    """Assertions, part of the graph: nothing is empty, nothing broadcast to another's shape."""
    first = tf.shape(batch["f1"])
    image = tf.concat([first[:3], [bands]], 0)
    expected = {k: image for k in BOTH_SIDES}
    expected |= {f"valid_{k}": first[:3] for k in BOTH_SIDES if f"valid_{k}" in batch}
    expected |= {k: tf.stack([first[0], bands]) for k in ("v12", "v23") if k in batch}
    present = tf.debugging.assert_positive(
        tf.reduce_prod(first), message="f1: expected at least one image of at least one pixel"
    )
    return [present] + [
        tf.debugging.assert_equal(
            tf.shape(batch[k]),
            shape,
            message=f"{k}: expected the batch, height and width of f1 and {bands} bands",
        )
        for k, shape in expected.items()
    ]


def decode(dn: tf.Tensor, encoding: records.Encoding) -> tuple[tf.Tensor, tf.Tensor]:
    """Digital numbers to reflectance.

    Args:
        dn: [batch, height, width, bands].
        encoding: What the digital numbers mean.

    Returns:
        Reflectance, float32, anything where not valid; and where all bands are valid, bool
        [batch, height, width, 1].
    """
    value = tf.cast(dn, tf.float32)
    bounds = [] if dn.dtype.is_integer else [tf.math.is_finite(value)]
    if encoding.fill is not None and np.isfinite(encoding.fill):
        bounds.append(value != np.float32(encoding.fill))
    if encoding.valid_min is not None:
        bounds.append(value >= encoding.valid_min)
    if encoding.valid_max is not None:
        bounds.append(value <= encoding.valid_max)
    valid = functools.reduce(tf.logical_and, bounds) if bounds else tf.ones_like(dn, tf.bool)
    return value * encoding.scale + encoding.offset, tf.reduce_all(valid, -1, keepdims=True)


def encode(reflectance: tf.Tensor, known: tf.Tensor, encoding: records.Encoding) -> tf.Tensor:
    """Reflectance to digital numbers: rounded, held within the dtype and off its nodata value.

    Args:
        reflectance: [batch, height, width, bands].
        known: bool, [batch, height, width, 1].
        encoding: What the digital numbers mean.

    Returns:
        [batch, height, width, bands] in the encoding's dtype, its `nodata` where not known.
    """
    dtype = tf.as_dtype(encoding.dtype)
    value = (reflectance - encoding.offset) / encoding.scale
    nodata = encoding.nodata
    if dtype.is_integer:
        low, high = float(dtype.min), float(dtype.max)
        low += nodata == low
        high -= nodata == high
        value = tf.round(tf.clip_by_value(value, low, high))
    value = tf.where(value == nodata, encoding.beside_nodata, value)
    return tf.cast(tf.where(known, value, nodata), dtype)
