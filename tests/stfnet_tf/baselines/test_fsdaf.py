"""FSDAF's steps, each where its result is known."""

import dataclasses

import numpy as np
import pytest

from stfnet_tf.baselines import fsdaf
from tests.stfnet_tf.baselines import landscapes


def test_blocks_need_not_be_whole_pixels_wide():
    valid = np.ones((5, 10), bool)
    blocks = fsdaf.Blocks.of(valid, 2.5)
    assert (blocks.rows, blocks.cols) == (2, 4)
    np.testing.assert_array_equal(blocks.label[0], [0, 0, 0, 1, 1, 2, 2, 2, 3, 3])
    valid[0, 0] = False
    image = np.arange(50.0).reshape(5, 10)
    blocks = fsdaf.Blocks.of(valid, 2.5)
    assert blocks.mean(image)[0] == pytest.approx(np.mean([1, 2, 10, 11, 12, 20, 21, 22]))


def test_blocks_without_enough_pixels_are_not_used():
    valid = np.ones((8, 8), bool)
    valid[:4, :3] = False
    np.testing.assert_array_equal(fsdaf.Blocks.of(valid, 4).used, [False, True, True, True])


def test_unmixing_recovers_the_classes_change():
    labels = landscapes.fields(96)
    truth = np.array([[0.03], [-0.02], [0.05]])
    blocks = fsdaf.Blocks.of(np.ones(labels.shape, bool), 8)
    method = fsdaf.Fsdaf(classes=3)
    found = method._unmix(blocks, labels, blocks.mean(truth[labels]))
    np.testing.assert_allclose(found, truth, atol=1e-6)


def test_two_blocks_tell_of_two_classes():
    labels = np.repeat([[0, 1]], 4, axis=0).repeat(4, axis=1)
    blocks = fsdaf.Blocks.of(np.ones((4, 8), bool), 4)
    found = fsdaf.Fsdaf(classes=2)._unmix(blocks, labels, np.array([[0.03], [-0.02]]))
    np.testing.assert_allclose(found, [[0.03], [-0.02]], atol=1e-6)


@pytest.mark.filterwarnings("error")
def test_no_more_classes_than_different_pixels():
    image = np.array([[0.1, 0.1, 0.3], [0.3, 0.3, 0.9]])[..., None]
    valid = np.array([[True, True, True], [True, True, False]])
    labels = fsdaf._cluster(image, valid, 5, 0)
    assert labels[0, 0] == labels[0, 1] != labels[0, 2] == labels[1, 0] == labels[1, 1]
    assert set(labels[valid]) == {0, 1}


def test_thin_plate_reproduces_a_plane():
    row, col = np.mgrid[:40, :56].astype(float)
    plane = (0.1 + 0.002 * row - 0.001 * col)[..., None]
    blocks = fsdaf.Blocks.of(np.ones((40, 56), bool), 4)
    np.testing.assert_allclose(fsdaf._thin_plate(blocks, plane), plane, atol=1e-9)


def test_blocks_on_one_line_carry_no_plate():
    row, col = np.mgrid[:40, :40]
    image = np.random.default_rng(0).uniform(0.1, 0.4, (40, 40, 1))
    diagonal = row // 8 == col // 8
    np.testing.assert_array_equal(
        fsdaf._thin_plate(fsdaf.Blocks.of(diagonal, 8), image)[diagonal], image[diagonal]
    )


def test_homogeneity_by_hand():
    labels = np.zeros((5, 5), int)
    labels[:, 3:] = 1
    share = fsdaf._homogeneity(labels, np.ones((5, 5), bool), 3)[..., 0]
    assert share[2, 1] == pytest.approx(1)
    assert share[2, 2] == pytest.approx(2 / 3)
    assert share[2, 3] == pytest.approx(2 / 3)


def test_the_residual_of_a_block_is_kept():
    rng = np.random.default_rng(0)
    blocks = fsdaf.Blocks.of(np.ones((16, 16), bool), 4)
    residual = rng.normal(0, 0.02, (16, 2))
    shared = fsdaf._distribute(
        residual, rng.normal(0, 0.02, (16, 16, 2)), rng.random((16, 16, 1)), blocks
    )
    np.testing.assert_allclose(blocks.mean(shared), residual, atol=1e-12)
    same_sign = shared * residual[blocks.label] >= 0
    assert same_sign.all()


def test_a_residual_is_shared_out_by_hand():
    blocks = fsdaf.Blocks.of(np.ones((1, 3), bool), 3)
    plate_error = np.array([[[0.04], [0.01], [-0.05]]])
    homogeneity = np.array([[[1.0], [0.0], [0.8]]])
    # 0.04 as the plate says, 0.02 evenly, and none where both together have the other sign.
    shared = fsdaf._distribute(np.array([[0.02]]), plate_error, homogeneity, blocks)
    np.testing.assert_allclose(shared[0, :, 0], [0.04, 0.02, 0.0])


def test_within_one_class_the_change_follows_the_plate():
    """A change that grows evenly across the land does so within coarse pixels, too."""
    inputs, _ = landscapes.scene(48, one_sided=True)
    noise = np.random.default_rng(0).normal(0, 1e-4, (48, 48, 2))
    ramp = np.broadcast_to(np.linspace(0, 0.1, 48)[None, :, None], noise.shape)
    still = np.full(noise.shape, 0.2, np.float32)
    inputs = dataclasses.replace(
        inputs, f1=(still + noise).astype(np.float32), c1=still, c2=(still + ramp).astype("float32")
    )
    change = fsdaf.Fsdaf(classes=1, neighbours=1).predict(inputs).f2 - inputs.f1
    blocks = fsdaf.Blocks.of(inputs.valid_f1, inputs.ratio)
    stepped = blocks.mean(ramp)[blocks.label]
    assert np.abs(change - ramp).mean() < 0.3 * np.abs(stepped - ramp).mean()
