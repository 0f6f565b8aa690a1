"""What holds for every image, mask, size and model: searched for counterexamples by hypothesis.

`make properties` looks a hundred times as long.
"""

import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from data_prep import rasters, records
from stfnet_tf import change, combination, fuse, fusion, model, presets, psf, scene
from tests.stfnet_tf import scenes

BANDS = ("red", "nir")
FLOATING = records.Encoding("float32", 1.0, 0.0, -9999.0)
SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.integers(1, 17)
# Small kernels and ratios, so that small images have an inside.
SMALL = {"filters": (4,), "kernel_sizes": (3, 3), "ratio": 2.0, "combination_sigma": 0.5}
MODELS = {
    "paper": {**SMALL},
    "local": {**SMALL, "combination": "local", "coarse_filter": 0.5, "residual": True},
    "log": {**SMALL, "change": "log", "combination": "equal"},
    "plus": {"supervision": "pair", "ratio": 2.0, "combination_sigma": 0.5},
}
# Networks whose output layer starts at zero: the predictors that are there before any training.
UNTRAINED = {
    f"{change}, {combination}": {
        **SMALL, "residual": True, "change": change, "combination": combination
    }
    for change, combination in (
        ("difference", "global"), ("log", "local"), ("logit", "discrepancy")
    )
} | {"plus": MODELS["plus"]}  # fmt: skip
ANYTHING = st.sampled_from([np.nan, np.inf, -np.inf, 3e38, -9999.0, 0.0, 0.3])


def network(preset: str, changes: dict, weights: bool = True) -> model.StfNet:
    """A model, with weights that matter where they are wanted."""
    made = model.StfNet(presets.build(preset, **{"bands": BANDS, **changes}))
    if weights:
        rng = np.random.default_rng(3)
        for variable in made.trainable_variables:
            variable.assign(rng.normal(0, 0.2, variable.shape))
    return made


@functools.cache
def fused_by(name: str, untrained: bool = False) -> fusion.Fusion:
    """The function of a model on images of reflectance; built once."""
    options = UNTRAINED[name] if untrained else MODELS[name]
    made = network("plus" if name == "plus" else "paper", options, not untrained)
    info = records.DatasetInfo(
        "any", BANDS, FLOATING, FLOATING, 2.0, 1.0, 32, made.config.supervision
    )
    return fusion.Fusion(made, info)


def images(seed: int, height: int, width: int, share: float = 0.8) -> dict[str, np.ndarray]:
    """Any five images and their masks, as signatures take them."""
    rng = np.random.default_rng(seed)
    base = rng.uniform(0.05, 0.6, (1, height, width, len(BANDS)))
    batch = {}
    for name in fusion.BOTH_SIDES:
        batch[name] = (base + rng.normal(0, 0.02, base.shape)).astype(np.float32)
        batch[f"valid_{name}"] = rng.random((1, height, width)) < share
    return batch


def result(function, batch) -> dict[str, np.ndarray]:
    made = function(**{k: tf.constant(v) for k, v in batch.items()})
    return {k: np.asarray(v) for k, v in made.items()}


def assert_same(found, expected, **tolerance):
    for name, value in expected.items():
        np.testing.assert_allclose(
            found[name].astype(float), value.astype(float), err_msg=name, **tolerance
        )


# --- the change operator ---

REFLECTANCE = arrays.arrays(np.float32, 20, elements=st.floats(-0.25, 1.5, width=32))


@given(REFLECTANCE, REFLECTANCE, REFLECTANCE, st.sampled_from(sorted(change.OPERATORS)))
def test_changes_add_up(x1, x2, x3, name):
    operator = change.OPERATORS[name]()
    total = operator.between(x1, x2) + operator.between(x2, x3)
    # As exactly as floats add: a few units in the last place of the largest term.
    largest = max(float(np.abs(operator.transform(x)).max()) for x in (x1, x2, x3))
    np.testing.assert_allclose(
        total, operator.between(x1, x3), rtol=0, atol=4 * np.spacing(np.float32(2 * largest))
    )
    np.testing.assert_array_equal(operator.between(x1, x1), np.zeros_like(x1))


# --- combination ---


@given(SEEDS, SIZES, SIZES, st.sampled_from(presets.COMBINATIONS), st.floats(0, 1))
def test_weights_lie_within_0_and_1_and_sum_to_1(seed, height, width, kind, share):
    """Of both sides, at every pixel and band; and what they weigh lies between the two."""
    batch = images(seed, height, width, share)
    known = {k: tf.constant(v) for k, v in batch.items() if not k.startswith("valid")}
    known |= {k: tf.cast(v[..., None], tf.float32) for k, v in batch.items() if "valid" in k}
    for side, (i, j) in (("12", ("c1", "c2")), ("23", ("c2", "c3"))):
        known[f"valid{side}"] = known[f"valid_{i}"] * known[f"valid_{j}"]
        known[f"c{side}"] = (known[j] - known[i]) * known[f"valid{side}"]
    config = presets.build("paper", bands=BANDS, ratio=2.0, combination=kind)
    forward = combination.forward_weight(known, config)
    backward = combination.forward_weight(_reversed(known), config)
    assert np.all((forward >= 0) & (forward <= 1))
    np.testing.assert_allclose(forward + backward, 1.0, rtol=0, atol=2e-6)
    everywhere = tf.ones([1, height, width, 1], tf.bool)
    f2 = combination.combine(
        known["f1"], known["f3"], everywhere, everywhere, forward, config.psf_sigma
    ).f2
    low, high = (np.asarray(pick(known["f1"], known["f3"])) for pick in (tf.minimum, tf.maximum))
    assert np.all((f2 >= low - 1e-6) & (f2 <= high + 1e-6))


def _reversed(known):
    """The same images with time running backwards."""
    swapped = {"1": "3", "3": "1", "12": "23", "23": "12"}
    found = {}
    for name, value in known.items():
        stem = name.rstrip("0123456789")
        number = name[len(stem) :]
        found[stem + swapped.get(number, number)] = value
    return found


# --- the whole model ---


@given(SEEDS, SIZES, SIZES, st.sampled_from(sorted(UNTRAINED)))
@example(1047, 6, 17, "logit, discrepancy")  # has a pixel of reflectance −0.006
def test_where_nothing_changed_the_prediction_is_f1(seed, height, width, name):
    """t1 = t2 = t3: the predictors that training starts from return F1 itself."""
    batch = images(seed, height, width)
    for side in "fc":
        for number in "23":
            if f"{side}{number}" in batch:
                batch[f"{side}{number}"] = batch[f"{side}1"]
                batch[f"valid_{side}{number}"] = batch[f"valid_{side}1"]
    found = result(fused_by(name, untrained=True).fuse_masked, batch)
    known = found["sides"][..., 0] > 0
    assert np.all(known == (batch["valid_f1"] & batch["valid_c1"])) or name == "plus"
    expected = batch["f1"][known]
    if name.startswith("logit"):  # which keeps every prediction inside 0–1, whatever F1 is
        expected = np.clip(expected, change.FLOOR / 10, 1 - change.FLOOR / 10)
    np.testing.assert_allclose(found["f2"][known], expected, rtol=0, atol=2e-6)


@given(SEEDS, st.floats(0.02, 0.7), st.floats(0.02, 0.7), SIZES, SIZES,
       st.sampled_from(sorted(UNTRAINED)))  # fmt: skip
def test_constant_images_give_a_constant_one(seed, before, after, height, width, name):
    """With any masks, at the border too."""
    rng = np.random.default_rng(seed)
    batch = images(seed, height, width)
    if name == "plus":
        # Where less than a coarse pixel is known of a fine image, its change does not come in.
        assume(min(height, width) > 3)
        batch |= {f"valid_f{k}": np.ones_like(batch["valid_f1"]) for k in "13"}
    between = before + rng.uniform(0, 1) * (after - before)
    for side in "fc":
        for number, value in (("1", before), ("2", between), ("3", after)):
            if f"{side}{number}" in batch:
                batch[f"{side}{number}"] = np.full_like(batch["f1"], value)
    found = result(fused_by(name, untrained=True).fuse_masked, batch)
    known = found["sides"][..., 0] > 0
    np.testing.assert_allclose(found["f2"][known], between, rtol=0, atol=5e-6)


@given(SEEDS, st.floats(0.02, 0.7), st.sampled_from(sorted(MODELS)))
def test_inside_constant_images_any_network_is_constant(seed, value, name):
    """Whatever its weights; only what sees the border may differ."""
    made = fused_by(name)
    reach = fusion.halo(made.model.config)
    side = 2 * reach + 3
    batch = images(seed, side, side, share=2.0)
    for image in fusion.BOTH_SIDES:
        batch[image] = np.full_like(batch[image], value)
    inside = result(made.fuse_masked, batch)["f2"][0, reach:-reach, reach:-reach]
    np.testing.assert_allclose(inside, np.broadcast_to(inside[:1, :1], inside.shape), atol=2e-6)


@given(SEEDS, SIZES, SIZES, st.sampled_from(sorted(MODELS)), ANYTHING, ANYTHING)
def test_masked_pixels_influence_nothing(seed, height, width, name, first, second):
    """The result is the same to the last bit whatever they hold."""
    batch = images(seed, height, width, 0.6)
    outcomes = []
    for value in (first, second):
        filled = dict(batch)
        for image in fusion.BOTH_SIDES:
            filled[image] = np.where(batch[f"valid_{image}"][..., None], batch[image], value)
            filled[image] = filled[image].astype(np.float32)
        outcomes.append(result(fused_by(name).fuse_masked, filled))
    for key, value in outcomes[0].items():
        np.testing.assert_array_equal(value, outcomes[1][key], err_msg=key)


@given(SEEDS, SIZES, SIZES, st.sampled_from(sorted(MODELS)), ANYTHING)
def test_the_gradient_of_masked_pixels_is_zero(seed, height, width, name, value):
    """Exactly, whatever they hold, and finite elsewhere."""
    batch = images(seed, height, width, 0.6)
    for image in fusion.BOTH_SIDES:
        batch[image][~batch[f"valid_{image}"]] = value
    given_ = {k: tf.constant(v) for k, v in batch.items()}
    with tf.GradientTape() as tape:
        watched = [given_[k] for k in fusion.BOTH_SIDES]
        tape.watch(watched)
        found = fused_by(name).fuse_masked(**given_)
        known = found["sides"] > 0
        total = tf.reduce_sum(tf.where(known, found["f2"], 0.0) ** 2)
    for image, gradient in zip(fusion.BOTH_SIDES, tape.gradient(total, watched), strict=True):
        masked = ~batch[f"valid_{image}"]
        np.testing.assert_array_equal(gradient.numpy()[masked], 0.0, err_msg=image)
        assert np.all(np.isfinite(gradient)), image


@given(SEEDS, SIZES, SIZES, st.sampled_from(sorted(UNTRAINED)))
def test_bands_in_another_order_give_the_result_in_that_order(seed, height, width, name):
    batch = images(seed, height, width)
    function = fused_by(name, untrained=True).fuse_masked
    expected = result(function, batch)
    swapped = {k: v[..., ::-1].copy() if v.ndim == 4 else v for k, v in batch.items()}
    found = result(function, swapped)
    assert_same(
        {"f2": found["f2"][..., ::-1], "quality": found["quality"][..., ::-1]}
        | {"sides": found["sides"]},
        expected, rtol=0, atol=2e-6,
    )  # fmt: skip


@given(SEEDS, SIZES, SIZES, st.sampled_from([*sorted(UNTRAINED), "trained"]),
       st.sampled_from([(1,), (2,), (1, 2)]))  # fmt: skip
def test_flipped_images_give_the_flipped_result(seed, height, width, name, axes):
    """Of all that has no direction of its own; a trained network of single pixels as well."""
    batch = images(seed, height, width)
    made = fused_by("plus") if name == "trained" else fused_by(name, untrained=True)
    expected = result(made.fuse_masked, batch)
    found = result(made.fuse_masked, {k: np.flip(v, axes).copy() for k, v in batch.items()})
    assert_same({k: np.flip(v, axes) for k, v in found.items()}, expected, rtol=0, atol=3e-6)


# --- tiles ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tiles")


@given(st.integers(1, 41), st.integers(1, 41), st.integers(1, 45), st.sampled_from(sorted(MODELS)))
@example(1, 1, 1, "plus")
@example(1, 41, 7, "paper")
def test_tiles_of_any_size_are_the_whole_image(folder, height, width, window, name):
    """Through rasters on disk, to a millionth of reflectance, for images down to one pixel."""
    place = folder / f"{height}x{width}"
    place.mkdir(exist_ok=True)
    grid = dataclasses.replace(scenes.GRID, height=height, width=width)
    found = scenes.make(place, grid=grid, floating=True)
    assert found.encoding("fine") == found.encoding("coarse") == FLOATING
    predictor = scene.Predictor.of("made", fused_by(name))
    (triplet,) = fuse.choose(found, ["2001-07-11"])
    whole, tiled = (
        scene.fuse(predictor, found, triplet, place / label, size)
        for label, size in (("whole", max(height, width)), ("tiled", window))
    )
    for one, other in ((whole.path, tiled.path), (whole.quality_path, tiled.quality_path)):
        expected, value = rasters.read(str(one)), rasters.read(str(other))
        # The quality layer is stored in steps, of which a tie may go either way.
        atol = 1e-6 if expected.dtype == np.float32 else 1
        np.testing.assert_allclose(value.astype(float), expected.astype(float), rtol=0, atol=atol)
    rasters.close_all()


# --- precision ---

# bfloat16 keeps 8 bits, so rounding errs by 2⁻⁹. Inputs and weights of three layers and two sums
# between them are rounded: at most 8 · 2⁻⁹ of what the terms would add up to without their signs.
BFLOAT16_BOUND = 2**-6


@functools.cache
def in_precision(policy: str, signs: bool = True) -> model.StfNet:
    """The paper's network in some precision, its weights with or without their signs."""
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(policy)
    try:
        made = network("paper", {"ratio": 2.0, "combination": "equal"})
    finally:
        keras.mixed_precision.set_global_policy(before)
    if not signs:
        made.set_weights([np.abs(weight) for weight in made.get_weights()])
    return made


@given(SEEDS, SIZES, SIZES)
def test_bfloat16_is_float32_within_its_bound(seed, height, width):
    """Changes by at most `BFLOAT16_BOUND`, masks and types not at all."""
    batch = images(seed, height, width)
    inputs = {k: tf.constant(v) for k, v in batch.items() if not k.startswith("valid")}
    inputs |= {k: tf.cast(v[..., None], tf.float32) for k, v in batch.items() if "valid" in k}
    exact, rough = (in_precision(k)(inputs) for k in ("float32", "mixed_bfloat16"))
    for name, expected in exact.items():
        assert rough[name].dtype == tf.float32, name
        bound = 0.0
        if name in ("f12", "f23"):
            shown = inputs["f1" if name == "f12" else "f3"]
            unsigned = in_precision("float32", signs=False)
            stream = unsigned.forward_stream if name == "f12" else unsigned.backward_stream
            gain = unsigned.config.gain
            largest = stream([tf.abs(exact[f"c{name[1:]}"]) * gain, shown * gain]) / gain
            bound = BFLOAT16_BOUND * largest.numpy()
        difference = np.abs(rough[name].numpy() - expected.numpy())
        assert np.all(difference <= bound), (name, (difference / bound).max())


@given(arrays.arrays(np.float32, (1, 9, 7, 1), elements=st.floats(-1, 1, width=32)), SEEDS,
       st.floats(0.1, 6.0))  # fmt: skip
def test_a_masked_blur_stays_between_what_it_blurs(image, seed, sigma):
    valid = (np.random.default_rng(seed).random(image.shape) < 0.6).astype(np.float32)
    blurred, support = psf.normalised_blur(tf.constant(image), tf.constant(valid), sigma)
    reached = support.numpy() > psf.REACHED
    inside = image[valid > 0]
    if inside.size:
        assert blurred.numpy()[reached].max(initial=-2) <= inside.max() + 1e-5
        assert blurred.numpy()[reached].min(initial=2) >= inside.min() - 1e-5
    np.testing.assert_array_equal(blurred.numpy()[~reached], 0.0)
