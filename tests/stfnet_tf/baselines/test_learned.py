"""The methods that learn from the outer pairs: sparse codes, random layers, trees."""

import dataclasses

import numpy as np
import pytest

from stfnet_tf.baselines import elm, lbf, spstfm
from tests.stfnet_tf.baselines import landscapes


def test_patches_cover_the_image_and_come_back():
    image = np.random.default_rng(0).random((23, 17))
    corners = spstfm._corners(image.shape, 7, 5)
    values = spstfm._patches(image, corners, 7)
    np.testing.assert_allclose(spstfm._assemble(values, corners, 7, image.shape), image)


def test_the_code_of_the_coarse_patch_gives_the_fine_detail():
    rng = np.random.default_rng(0)
    d_coarse = np.linalg.qr(rng.normal(size=(16, 3)))[0].T
    d_fine = rng.normal(size=(3, 16))
    coder = spstfm.Coder(d_fine, d_coarse, coarse_scale=0.01, sparsity=1e-6, patch=4, step=4)
    code = rng.normal(size=(6, 3))
    corners = spstfm._corners((8, 12), 4, 4)
    change = spstfm._assemble(code @ d_coarse * 0.01, corners, 4, (8, 12))
    expected = spstfm._assemble(code @ d_fine, corners, 4, (8, 12))
    np.testing.assert_allclose(coder.detail(change), expected, atol=1e-4)


def test_too_little_to_learn_from():
    image = np.zeros((9, 9))
    assert spstfm.Spstfm()._learn(image, image, np.ones((9, 9), bool), 0) is None


def test_a_gap_in_a_uniform_change_leaves_no_trace_around_it(monkeypatch):
    rng = np.random.default_rng(0)
    coder = spstfm.Coder(rng.normal(size=(3, 49)), rng.normal(size=(3, 49)), 0.01, 1e-3, 7, 5)
    monkeypatch.setattr(spstfm.Spstfm, "_learn", lambda *_: coder)
    inputs, _ = landscapes.scene(40)
    uniform = dataclasses.replace(inputs, c2=inputs.c1 + np.float32(0.02))
    clear = np.ones((40, 40), bool)
    clear[15:25, 10:30] = False
    gap = dataclasses.replace(uniform, c2=uniform.c2 * clear[..., None], valid_c2=clear)
    whole, around = (spstfm.Spstfm().predict(i).changes[0] for i in (uniform, gap))
    np.testing.assert_allclose(around[clear], whole[clear], atol=1e-6)


def test_machine_fits_a_smooth_function():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (4000, 3))
    y = np.stack([np.sin(2 * x[:, 0]) * x[:, 1], x[:, 2] ** 2], axis=-1) * 0.01
    machine = elm.Machine.fit(x[:3000], y[:3000], 200, 1e-3, rng)
    predicted = machine(x[3000:].reshape(10, 100, 3)).reshape(-1, 2)
    error = np.sqrt(np.mean((predicted - y[3000:]) ** 2, axis=0))
    assert (error < 0.15 * y.std(axis=0)).all()


@pytest.mark.filterwarnings("error")
def test_machine_saturates_far_from_what_it_learned():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (100, 3))
    machine = elm.Machine.fit(x, x[:, :1], 20, 1e-3, rng)
    assert np.isin(machine._hidden(1e12 * x), [0, 1]).all()
    np.testing.assert_allclose(
        machine._hidden(x),
        0.5
        + 0.5
        * np.tanh(((x - machine.centre) / machine.scale @ machine.weights + machine.biases) / 2),
    )


@pytest.mark.parametrize("bands", [1, 2])
def test_leaves_and_regression_fit_steps(bands):
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (6000, 4)).astype(np.float32)
    y = np.stack([np.where(x[:, b] > 0.2, 0.03, -0.01) for b in range(bands)], axis=-1)
    stage = lbf.Stage.fit(x[:5000], y[:5000], lbf.Lbf(ridge=1.0), 0)
    predicted = stage(x[5000:].reshape(10, 100, 4)).reshape(-1, bands)
    assert np.sqrt(np.mean((predicted - y[5000:]) ** 2)) < 0.4 * y.std()
    assert stage.regression.coef_.shape[-1] == len(np.concatenate(stage.encoder.categories_))
