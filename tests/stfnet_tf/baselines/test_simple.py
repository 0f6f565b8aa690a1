"""The methods that need no search, and what others share with them, against plain arithmetic."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from stfnet_tf.baselines import base, fitfc, fsdaf, windows
from tests.stfnet_tf.baselines import landscapes


def masked():
    """Inputs with clouds of their own over F1, F3 and C2; 48 days to t2, 32 from there to t3."""
    inputs, _ = landscapes.scene(24)
    masks = np.ones((3, 24, 24), bool)
    masks[0, :6], masks[1, :, :8], masks[2, 20:, 20:] = False, False, False
    return dataclasses.replace(inputs, valid_f1=masks[0], valid_f3=masks[1], valid_c2=masks[2])


def check(name, inputs, f2, valid):
    found = base.method(name).predict(inputs)
    np.testing.assert_array_equal(found.valid, valid)
    np.testing.assert_allclose(found.f2, np.where(valid[..., None], f2, 0), atol=1e-6)


def test_copy_is_the_fine_image_nearer_in_time():
    inputs = masked()
    nearer, other = inputs.valid_f3[..., None], inputs.valid_f1 | inputs.valid_f3
    check("copy", inputs, np.where(nearer, inputs.f3, inputs.f1), other)
    t1, t2, t3 = inputs.dates
    mirrored = dataclasses.replace(inputs, dates=(t1, t2 - (t3 - t1) // 2, t3))
    nearer = inputs.valid_f1[..., None]
    check("copy", mirrored, np.where(nearer, inputs.f1, inputs.f3), other)


def test_linear_weighs_by_the_days_to_the_other_image():
    inputs = masked()
    both = (inputs.valid_f1 & inputs.valid_f3)[..., None]
    between = (32 * inputs.f1 + 48 * inputs.f3) / 80
    alone = np.where(inputs.valid_f1[..., None], inputs.f1, inputs.f3)
    check("linear", inputs, np.where(both, between, alone), inputs.valid_f1 | inputs.valid_f3)


@pytest.mark.parametrize("name", ["coarse_change", "coarse_change_filtered"])
def test_coarse_change_is_added_from_both_sides(name):
    inputs = masked()
    predictions, valids = [], []
    for f, c, valid_f in (
        (inputs.f1, inputs.c1, inputs.valid_f1), (inputs.f3, inputs.c3, inputs.valid_f3)
    ):  # fmt: skip
        valid = valid_f & inputs.valid_c2
        change = (inputs.c2 - c).astype(float)
        if name == "coarse_change_filtered":
            # Over one coarse pixel, among valid pixels alone.
            sigma = (landscapes.RATIO, landscapes.RATIO, 0)
            part, whole = (
                ndimage.gaussian_filter(k * np.ones_like(change), sigma)
                for k in (change * valid[..., None], valid[..., None])
            )
            change = part / whole
        predictions.append(np.where(valid[..., None], f + change, 0))
        valids.append(valid)
    count = np.sum(valids, axis=0)
    f2 = np.sum(predictions, axis=0) / np.maximum(count, 1)[..., None]
    check(name, inputs, f2, count > 0)


def test_weights_are_by_the_change_of_the_whole_window():
    rng = np.random.default_rng(0)
    change, valid = rng.normal(size=(2, 12, 13, 2)), rng.random((2, 12, 13)) < 0.8
    zero = np.zeros((12, 13, 2))
    sides = tuple(base.Side(zero, zero, c2, v, 1) for c2, v in zip(change, valid, strict=True))
    found = base.inverse_change_weights(sides, 5)
    for side in range(2):
        for row, col in ((0, 0), (6, 7), (11, 4)):
            window = np.s_[max(0, row - 2) : row + 3, max(0, col - 2) : col + 3]
            # Ups and downs within the window cancel out.
            mean = change[side][window][valid[side][window]].mean(0)
            expected = valid[side, row, col] / (np.abs(mean) + 1e-6)
            np.testing.assert_allclose(found[side, row, col], expected, rtol=1e-9)


def test_fitfc_gives_the_residual_back():
    """Where the fine image is the coarse one, line plus residual is the coarse image of t2."""
    inputs, _ = landscapes.scene(24, one_sided=True)
    inputs = dataclasses.replace(inputs, f1=inputs.c1)
    found = fitfc.FitFc(neighbours=1).predict(inputs)
    np.testing.assert_allclose(found.f2, inputs.c2, atol=1e-6)


def test_fsdaf_keeps_the_change_of_coarse_pixels_until_it_is_averaged(monkeypatch):
    inputs, _ = landscapes.scene(32, one_sided=True)
    # Plausible or not, so that the sums are those of the coarse pixels.
    monkeypatch.setattr(fsdaf, "_keep_plausible", lambda change, *_: change)
    alone = fsdaf.Fsdaf(neighbours=1).predict(inputs).f2 - inputs.f1
    blocks = fsdaf.Blocks.of(inputs.valid_f1, inputs.ratio)
    expected = blocks.mean(inputs.c2 - inputs.c1)
    np.testing.assert_allclose(blocks.mean(alone), expected, atol=1e-6)
    averaged = windows.mean_of_similar(inputs.f1, alone, inputs.valid_f1, 41, 20)
    found = fsdaf.Fsdaf().predict(inputs).f2 - inputs.f1
    np.testing.assert_allclose(found, averaged, atol=1e-6)


def test_fsdaf_limits_the_change_to_what_is_shown():
    coarse, classes = np.array([[0.01], [0.03], [0.05]]), np.array([[-0.02], [0.04]])
    margin = coarse.std()
    change = np.array([[[-0.5], [0.02], [0.5]]])
    found = fsdaf._keep_plausible(change, coarse, classes)
    np.testing.assert_allclose(found[0, :, 0], [-0.02 - margin, 0.02, 0.05 + margin])
