"""StfNet: two streams, and the training step that makes them agree (Liu et al. 2019)."""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from stfnet_tf import (
    change,
    combination,
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
            return tf.where(valid > 0, difference, 0.0), valid
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
        operator = change.OPERATORS[config.change]()
        coarse_change = CoarseChange(operator, config.coarse_filter_sigma, name="coarse_change")
        forward = streams.build("forward", config)
        backward = forward if config.shared_streams else streams.build("backward", config)
        stream_calls = {}
        for name, stream, fine, (i, j) in (
            ("12", forward, "f1", ("c1", "c2")),
            ("23", backward, "f3", ("c2", "c3")),
        ):
            coarse, valid = coarse_change(
                (inputs[i], inputs[j], inputs[f"valid_{i}"], inputs[f"valid_{j}"])
            )
            predicted = _Gain(1 / config.gain, name=f"f{name}")(
                stream(
                    [
                        _Gain(config.gain, name=f"c{name}_gain")(coarse),
                        _Gain(config.gain, name=f"{fine}_gain")(inputs[fine]),
                    ]
                )
            )
            stream_calls[f"f{name}"] = predicted
            stream_calls[f"c{name}"] = coarse
            stream_calls[f"valid{name}"] = keras.layers.Multiply(
                name=f"valid{name}", dtype="float32"
            )([valid, inputs[f"valid_{fine}"]])
        super().__init__(inputs=inputs, outputs=stream_calls, name="stfnet")
        self.config = config
        self.operator = operator
        self.coarse_change = coarse_change
        self.forward_stream = forward
        self.backward_stream = backward
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

    def _combine(
        self,
        batch: Batch,
        predicted: Batch,
        v12: tf.Tensor | None = None,
        v23: tf.Tensor | None = None,
    ) -> combination.Fused:
        forward, backward = self._both_sides(batch, predicted)
        valid12, valid23 = predicted["valid12"], predicted["valid23"]
        weight = combination.forward_weight(
            predicted["c12"], predicted["c23"], valid12, valid23, self.config, v12, v23
        )
        return combination.combine(
            forward, backward, valid12 > 0, valid23 > 0, weight, self.config.psf_sigma
        )

    def _both_sides(self, batch: Batch, predicted: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        """F̂2⁺ = F1 + F̂12 and F̂2⁻ = F3 − F̂23, reflectance."""
        return (
            self.operator.add(batch["f1"], predicted["f12"]),
            self.operator.add(batch["f3"], -predicted["f23"]),
        )

    def _stream(
        self, stream: keras.Model, coarse: tf.Tensor, fine: tf.Tensor, training: bool
    ) -> tf.Tensor:
        gain = self.config.gain
        return stream([coarse * gain, fine * gain], training=training) / gain

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
        c13, known13 = self.coarse_change(
            (batch["c1"], batch["c3"], batch["valid_c1"], batch["valid_c3"])
        )
        known13 *= valid13
        if self.config.supervision == "pair":
            # F2 is never known: the streams learn from the outer pairs, and C13 stands for both.
            forward = self._stream(self.forward_stream, c13, batch["f1"], training)
            backward = self._stream(self.backward_stream, c13, batch["f3"], training)
            predicted |= {"f13_forward": forward, "f13_backward": backward, "valid13": known13}
            terms["reconstruction"] = [
                losses.squared_error(forward, f13, known13),
                losses.squared_error(backward, f13, known13),
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
            reverse = [
                (self.forward_stream, batch["f3"]),
                (self.backward_stream, batch["f1"]),
            ]
            terms["time_reversal"] = [
                losses.squared_error(self._stream(stream, -c13, fine, training), -f13, known13)
                for stream, fine in reverse
            ]
        if self.config.rest:
            terms["rest"] = [
                losses.squared_error(
                    self._stream(stream, tf.zeros_like(fine), fine, training),
                    tf.zeros_like(fine),
                    valid,
                )
                for stream, fine, valid in (
                    (self.forward_stream, batch["f1"], batch["valid_f1"]),
                    (self.backward_stream, batch["f3"], batch["valid_f3"]),
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

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """One optimisation step on the global batch that `data` is this replica's share of."""
        data, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            terms, predicted = self.loss_terms(data, training=True)
            values = self.loss_weights.total(terms)
        variables = self.trainable_variables
        gradients = strategies.all_sum(tape.gradient(values["loss"], variables))
        optimizers.apply(self.optimizer, zip(gradients, variables, strict=True))
        scores = self._report(data, values, predicted)
        return scores | {"gradient_norm": tf.linalg.global_norm(gradients)}

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """The same terms and scores without a step."""
        data, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        terms, predicted = self.loss_terms(data, training=False)
        return self._report(data, self.loss_weights.total(terms), predicted)

    def _report(self, batch: Batch, values: Batch, predicted: Batch) -> dict[str, tf.Tensor]:
        """Updates the running scores; returns all of them by name.

        `rmse` is that of F̂2 where F2 is known ("triplet"), of F̂1 and F̂3 from one another
        ("pair"); `consistency` is that of F̂2⁺ − F̂2⁻. Reflectance.
        """
        self._scores.update_terms(values)
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


class _Gain(keras.layers.Layer):
    """Multiplies by a constant, in float32 whatever the policy."""

    def __init__(self, factor: float, **kwargs: Any):
        super().__init__(dtype="float32", **kwargs)
        self.factor = factor

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return inputs * self.factor
