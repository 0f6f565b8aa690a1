"""StfNet: two streams, and the training step that makes them agree (Liu et al. 2019)."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from stfnet_tf import (
    change,
    combination,
    expected_error,
    losses,
    optimizers,
    presets,
    psf,
    running_scores,
    strategies,
    streams,
)

Batch = Mapping[str, tf.Tensor]
IMAGES = ("f1", "f3", "c1", "c2", "c3")
# A low-passed coarse change is trusted where at least this share of the filter's weight fell on
# valid pixels; outside, it is extrapolation.
SUPPORT = 0.05
# Back-projection reaches about two σ beyond the coarse image's border, its corners included.
LEAST_REACH = 0.005


class CoarseChange(keras.layers.Layer):
    """D_ij = g(C_j) − g(C_i), low-passed over its valid pixels.

    The coarse change is noisy at the fine grid: neighbouring coarse pixels differ by resampling
    and registration, not by what happened on the ground.

    Args:
        operator: g.
        sigma: σ of the low-pass in fine pixels; 0 for none.
    """

    def __init__(self, operator: change.ChangeOperator, sigma: float, **kwargs: Any):
        super().__init__(dtype="float32", **kwargs)
        self.operator = operator
        self.sigma = sigma

    def call(self, inputs: Sequence[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """(C_i, C_j, valid_i, valid_j) to the change [b, h, w, bands] and its validity."""
        earlier, later, valid_earlier, valid_later = inputs
        valid = valid_earlier * valid_later
        difference = self.operator.between(earlier, later)
        if not self.sigma:
            return tf.math.multiply_no_nan(difference, valid), valid
        difference, support = psf.normalised_blur(difference, valid, self.sigma)
        return difference, tf.cast(support > SUPPORT, tf.float32)


class StfNet(keras.Model):
    """The two-stream network, a functional model that owns its losses.

    Call it with a dict of reflectance images `f1 f3 c1 c2 c3`, float32 [batch, height, width,
    bands], 0 where invalid, and `valid_f1 … valid_c3`, float32 [batch, height, width, 1]. Height
    and width are open. It returns the two changes in the units of the change operator and where
    each is known:

        f12, f23          [batch, height, width, bands]
        valid12, valid23  [batch, height, width, 1]

    and `fuse` returns F̂2. Training batches hold `f2` and `valid_f2` as well.

    Args:
        config: What to build.

    Example:
        model = StfNet(presets.build("paper", bands=("red", "nir")))
        model.compile("adam")
        model.fit(batches)
        f2 = model.fuse(batch).f2

    Reference: X. Liu et al., IEEE TGRS 57(9), 2019, doi 10.1109/TGRS.2019.2907310.
    """

    def __init__(self, config: presets.ModelConfig):
        bands = len(config.bands)
        inputs = {k: keras.Input((None, None, bands), name=k) for k in IMAGES}
        inputs |= {f"valid_{k}": keras.Input((None, None, 1), name=f"valid_{k}") for k in IMAGES}
        sides = _Sides(config)
        predicted: dict[str, tf.Tensor] = {}
        for side in ("12", "23"):
            predicted |= sides.predict(side, side, inputs)
        super().__init__(inputs=inputs, outputs=predicted, name="stfnet")
        self.config = config
        self.operator = sides.operator
        self.coarse_change = sides.coarse_change
        self.forward_stream = sides.streams["12"]
        self.backward_stream = sides.streams["23"]
        self._sides = sides
        self.measured = Measured(config, name="measured")
        if config.expected_error == "calibrated":
            self.expected_error = expected_error.ExpectedError(config, name="expected_error")
        self.loss_weights = losses.Weights(config)
        self._scores = running_scores.RunningScores(self.loss_weights.terms, config.bands)

    def fuse(
        self,
        batch: Batch,
        v12: tf.Tensor | None = None,
        v23: tf.Tensor | None = None,
    ) -> combination.Fused:
        """F̂2 from the images of both sides; see `combination` for `v12` and `v23`."""
        predicted = self({k: batch[k] for k in self.input_names}, training=False)
        return self._combine(batch, predicted, v12, v23)

    @functools.cached_property
    def fuse_graph(self) -> Callable[[Batch], combination.Fused]:
        """`fuse` of batches of any size, as a graph."""
        return tf.function(lambda batch: self.fuse(batch), reduce_retracing=True, autograph=False)

    @functools.cached_property
    def call_graph(self) -> tf.Graph:
        """The network as a graph, to be looked at."""
        inputs = {k: tf.TensorSpec(v.shape, v.dtype) for k, v in self.input.items()}
        traced = tf.function(lambda batch: self(batch), autograph=False)
        return traced.get_concrete_function(inputs).graph

    def _combine(
        self,
        batch: Batch,
        predicted: Batch,
        v12: tf.Tensor | None = None,
        v23: tf.Tensor | None = None,
    ) -> combination.Fused:
        known = {
            **{k: predicted[k] for k in ("c12", "c23", "valid12", "valid23")},
            **{k: batch[k] for k in IMAGES},
            **{f"valid_{k}": batch[f"valid_{k}"] for k in IMAGES},
        }
        weight = combination.forward_weight(known, self.config, v12, v23)
        forward, backward = self._levelled(batch, predicted)
        fused = combination.combine(
            forward,
            backward,
            predicted["valid12"] > 0,
            predicted["valid23"] > 0,
            weight,
            self.config.psf_sigma,
        )
        if self.config.expected_error == "calibrated":
            fused = fused._replace(quality=self.expected_error(batch, fused, weight))
        return fused

    def sides(self, batch: Batch) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
        """F̂2⁺ as "12" and F̂2⁻ as "23", reflectance, and where each stands, 1 or 0."""
        predicted = self({k: batch[k] for k in self.input_names}, training=False)
        made = self._levelled(batch, predicted)
        return {k: (f2, predicted[f"valid{k}"]) for k, f2 in zip(("12", "23"), made, strict=True)}

    def across(self, side: str, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        """F̂3 from the forward stream ("12") or F̂1 from the backward one ("23"), and where."""
        predicted = self._sides.predict(side, "13", batch, training=False)
        if side == "12":
            return self.operator.add(batch["f1"], predicted["f13"]), predicted["valid13"]
        return self.operator.add(batch["f3"], -predicted["f13"]), predicted["valid13"]

    def _levelled(self, batch: Batch, predicted: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        """F̂2⁺ and F̂2⁻ without what fine and coarse images differ by for a time only."""
        forward, backward = self._both_sides(batch, predicted)
        if self.config.level_sigma:
            level1, level3 = combination.levels(batch, self.config)
            forward -= (1 - self.measured.persistence) * level1
            backward -= (1 - self.measured.persistence) * level3
        return forward, backward

    def stand_in(self, side: str) -> "StandIn":
        """What the stream of "12" or "23" is given where the other fine image is invalid."""
        return self._sides.stand_in[side]

    def stream_inputs(self, side: str, batch: Batch) -> dict[str, tf.Tensor]:
        """What the streams of "12" or "23" are given, in reflectance; see `streams.build`."""
        return self._sides.inputs(side, side, batch)

    def _both_sides(self, batch: Batch, predicted: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        """F̂2⁺ = F1 + F̂12 and F̂2⁻ = F3 − F̂23, reflectance."""
        return (
            self.operator.add(batch["f1"], predicted["f12"]),
            self.operator.add(batch["f3"], -predicted["f23"]),
        )

    def loss_terms(
        self, batch: Batch, training: bool
    ) -> tuple[dict[str, list[losses.Masked]], dict[str, tf.Tensor]]:
        """Every term of the loss on this replica's share of the batch, in units of g².

        Args:
            batch: Images and masks, `f2` and `valid_f2` included.
            training: As for Keras' layers.

        Returns:
            Each term's masked sums, and what the network predicted: its outputs and, in "pair"
            mode, `f13_forward` and `f13_backward`.
        """
        predicted = dict(self({k: batch[k] for k in self.input_names}, training=training))
        valid13 = batch["valid_f1"] * batch["valid_f3"]
        f13 = self.operator.between(batch["f1"], batch["f3"])
        both = predicted["valid12"] * predicted["valid23"]
        terms = {
            "temporal_consistency": [
                losses.squared_error(predicted["f12"] + predicted["f23"], f13, both)
            ]
        }
        if self.config.supervision == "pair":
            outer = {k: self._sides.predict(k, "13", batch, training) for k in ("12", "23")}
            # F2 is never known: the streams learn from the outer pairs, and C13 stands for both.
            known13 = outer["12"]["valid13"] * valid13
            predicted |= {
                "f13_forward": outer["12"]["f13"],
                "f13_backward": outer["23"]["f13"],
                "valid13": known13,
            }
            terms["reconstruction"] = [
                losses.squared_error(side["f13"], f13, known13) for side in outer.values()
            ]
        else:
            f12 = self.operator.between(batch["f1"], batch["f2"])
            f23 = self.operator.between(batch["f2"], batch["f3"])
            terms["reconstruction"] = [
                losses.squared_error(
                    predicted["f12"], f12, predicted["valid12"] * batch["valid_f2"]
                ),
                losses.squared_error(
                    predicted["f23"], f23, predicted["valid23"] * batch["valid_f2"]
                ),
            ]
        if self.config.coarse_consistency:
            terms["coarse_consistency"] = self._coarse_consistency(batch, predicted)
        if self.config.time_reversal:
            mirrored = _mirrored(batch)
            terms["time_reversal"] = [
                losses.squared_error(reverse["f13"], -f13, reverse["valid13"] * valid13)
                for reverse in (
                    self._sides.predict(k, "13", mirrored, training) for k in ("12", "23")
                )
            ]
        if self.config.rest:
            terms["rest"] = [
                losses.squared_error(still["f11"], tf.zeros_like(still["f11"]), still["valid11"])
                for still in (
                    self._sides.predict("12", "11", _still(batch, "1"), training),
                    self._sides.predict("23", "11", _still(batch, "3"), training),
                )
            ]
        return terms, predicted

    def _coarse_consistency(self, batch: Batch, predicted: Batch) -> list[losses.Masked]:
        """‖PSF ∗ (F̂2⁺ − F1) − C12‖² and its mirror image, weighted by the blur's support.

        In reflectance, the domain in which the coarse sensor averages.
        """
        forward, backward = self._both_sides(batch, predicted)
        terms = []
        for fine_change, side, (i, j) in (
            (forward - batch["f1"], "12", ("c1", "c2")),
            (batch["f3"] - backward, "23", ("c2", "c3")),
        ):
            blurred, support = psf.normalised_blur(
                fine_change, predicted[f"valid{side}"], self.config.psf_sigma
            )
            known = batch[f"valid_{i}"] * batch[f"valid_{j}"]
            terms.append(losses.squared_error(blurred, batch[j] - batch[i], known * support))
        return terms

    @tf.autograph.experimental.do_not_convert
    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """One optimisation step on the global batch that `data` is this replica's share of."""
        data, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            terms, predicted = self.loss_terms(data, training=True)
            values = self.loss_weights.total(terms)
        variables = self.trainable_variables
        gradients = strategies.all_sum(tape.gradient(values["loss"], variables))
        optimizers.apply(self.optimizer, zip(gradients, variables, strict=True))
        scores = self._report(data, values["loss"], terms, predicted)
        return scores | {"gradient_norm": tf.linalg.global_norm(gradients)}

    @tf.autograph.experimental.do_not_convert
    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """The same terms and scores without a step."""
        data, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        terms, predicted = self.loss_terms(data, training=False)
        return self._report(data, self.loss_weights.total(terms)["loss"], terms, predicted)

    def _report(
        self,
        batch: Batch,
        loss: tf.Tensor,
        terms: Mapping[str, Sequence[losses.Masked]],
        predicted: Batch,
    ) -> dict[str, tf.Tensor]:
        """Updates the running scores; returns all of them by name.

        `rmse` is that of F̂2 where F2 is known ("triplet"), of F̂1 and F̂3 from one another
        ("pair"); `consistency` is that of F̂2⁺ − F̂2⁻. Reflectance.
        """
        self._scores.update_loss(loss, terms)
        if self.config.supervision == "pair":
            f3 = self.operator.add(batch["f1"], predicted["f13_forward"])
            f1 = self.operator.add(batch["f3"], -predicted["f13_backward"])
            self._scores.update_errors(f3 - batch["f3"], predicted["valid13"])
            self._scores.update_errors(f1 - batch["f1"], predicted["valid13"])
        else:
            fused = self._combine(batch, predicted)
            known = tf.cast(fused.sides > 0, tf.float32) * batch["valid_f2"]
            self._scores.update_errors(fused.f2 - batch["f2"], known)
        forward, backward = self._both_sides(batch, predicted)
        both = predicted["valid12"] * predicted["valid23"]
        self._scores.update_consistency(forward - backward, both)
        return {metric.name: metric.result() for metric in self.metrics}

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """All running scores; Keras resets them at each epoch."""
        return self._scores.metrics


class Measured(keras.layers.Layer):
    """What was measured on the images and belongs to a model as its weights do, saved with them.

    Args:
        config: What is needed.

    Attributes:
        persistence: With `level_sigma`: how much of what fine and coarse images differ by at t1
            and t3 holds at t2 as well, 0–1; 1 until `ridge_start` measures it.
    """

    def __init__(self, config: presets.ModelConfig, **kwargs: Any):
        super().__init__(dtype="float32", trainable=False, **kwargs)
        if config.level_sigma:
            self.persistence = self.add_weight(name="persistence", shape=(), initializer="ones")
        self.built = True


class _Sides:
    """The streams of both sides, and how images become their inputs.

    Args:
        config: What to build.
    """

    def __init__(self, config: presets.ModelConfig):
        self.config = config
        self.operator = change.OPERATORS[config.change]()
        self.coarse_change = CoarseChange(
            self.operator, config.coarse_filter_sigma, name="coarse_change"
        )
        forward = streams.build("forward", config)
        backward = forward if config.shared_streams else streams.build("backward", config)
        self.streams = {"12": forward, "23": backward}
        self.wanted = streams.inputs_of(config)
        self.amplify = Gain(config.gain, name="gain")
        self.attenuate = Gain(1 / config.gain, name="attenuation")
        self.stand_in = {
            side: StandIn(config.coarse_filter_sigma or config.ratio, name=f"stand_in_{side}")
            for side in self.streams
            if config.both_fine
        }
        self.reach = Reach(config.back_projection_sigma, name="reach")

    def predict(
        self, side: str, dates: str, images: Batch, training: bool | None = None
    ) -> dict[str, tf.Tensor]:
        """One stream's prediction.

        Args:
            side: "12" for the forward stream, which stands on F1; "23" for the backward one,
                which stands on F3.
            dates: Which coarse change it is shown: "12", "23", or "13" for both.
            images: `f1 f3 c1 c2 c3` and their masks, reflectance.
            training: As for Keras' layers.

        Returns:
            For dates ij: `fij`, the predicted fine change; `cij`, the coarse change; `validij`,
            where the prediction stands.
        """
        given = self.inputs(side, dates, images)
        gained = ("coarse_change", "fine", "other", "outer_change")
        predicted = self.streams[side](
            [self.amplify(v) if k in gained else v for k, v in given.items() if k in self.wanted],
            training=training,
        )
        reached = given["valid_coarse"]
        if self.config.back_projection:
            reached = self.reach(reached)
        return {
            f"f{dates}": self.attenuate(predicted),
            f"c{dates}": given["coarse_change"],
            f"valid{dates}": reached * given["valid_fine"],
        }

    def inputs(self, side: str, dates: str, images: Batch) -> dict[str, tf.Tensor]:
        """What one stream may be given, in the order of its inputs; see `streams.build`."""
        i, j = dates[0], dates[1]
        own, other = ("1", "3") if side == "12" else ("3", "1")
        coarse, valid = self.coarse_change(
            [images[f"c{i}"], images[f"c{j}"], images[f"valid_c{i}"], images[f"valid_c{j}"]]
        )
        given = {"coarse_change": coarse, "fine": images[f"f{own}"]}
        if self.config.both_fine:
            fine = [f"f{own}", f"f{other}", f"valid_f{other}"]
            pair = [f"c{own}", f"c{other}", f"valid_c{own}", f"valid_c{other}"]
            given["other"] = self.stand_in[side]([images[k] for k in (*fine, *pair)])
            given["outer_change"], _ = self.coarse_change(
                [images[k] for k in ("c1", "c3", "valid_c1", "valid_c3")]
            )
        return given | {"valid_coarse": valid, "valid_fine": images[f"valid_f{own}"]}


def _mirrored(batch: Batch) -> dict[str, tf.Tensor]:
    """The triplet with time reversed: t1 and t3 change places."""
    swap = {"1": "3", "2": "2", "3": "1"}
    return {k[:-1] + swap[k[-1]]: v for k, v in batch.items()}


def _still(batch: Batch, date: str) -> dict[str, tf.Tensor]:
    """A triplet in which every image is that of one date."""
    return {k: batch[k[:-1] + date] for k in batch}


class Gain(keras.layers.Layer):
    """Multiplies by a constant, in float32 whatever the policy."""

    def __init__(self, factor: float, **kwargs: Any):
        super().__init__(dtype="float32", **kwargs)
        self.factor = factor

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return inputs * self.factor


class StandIn(keras.layers.Layer):
    """The other date's fine image; where it is invalid, what this date's tells of it.

    That is this date's plus the low-passed coarse change, until `learn` is told better.

    Args:
        sigma: σ of the coarse change's low-pass, fine pixels.
    """

    def __init__(self, sigma: float, **kwargs: Any):
        super().__init__(dtype="float32", trainable=False, **kwargs)
        self.sigma = sigma

    def build(self, shapes: Sequence[Sequence[int | None]]) -> None:
        """The weights of this date's bands and of the coarse change, and a constant."""
        bands = shapes[0][-1]
        self.own = self.add_weight(name="own", shape=(bands, bands), initializer="identity")
        self.change = self.add_weight(name="change", shape=(), initializer="ones")
        self.constant = self.add_weight(name="constant", shape=(bands,), initializer="zeros")

    def learn(self, weights: np.ndarray, constant: np.ndarray) -> None:
        """Expects the other image to be this one · `weights` + `constant`, reflectance."""
        self.own.assign(weights)
        self.change.assign(0.0)
        self.constant.assign(constant)

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        """(own, other, valid other; own coarse, other coarse, their masks) to the image."""
        own, other, valid_other, coarse_own, coarse_other, valid_coarse_own, valid_coarse = inputs
        change, _ = psf.normalised_blur(
            coarse_other - coarse_own, valid_coarse_own * valid_coarse, self.sigma
        )
        expected = tf.tensordot(own, self.own, 1) + self.change * change + self.constant
        return tf.where(valid_other > 0, other, expected)


class Reach(keras.layers.Layer):
    """Where a low-pass finds enough valid pixels, 1, else 0.

    Args:
        sigma: σ of the low-pass, fine pixels.
    """

    def __init__(self, sigma: float, **kwargs: Any):
        super().__init__(dtype="float32", **kwargs)
        self.sigma = sigma

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.cast(psf.blur(inputs, self.sigma) > LEAST_REACH, tf.float32)
