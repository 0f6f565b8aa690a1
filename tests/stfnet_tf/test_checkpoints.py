"""What is saved of a model is all that it is."""

import numpy as np
import pytest
import tensorflow as tf

from data_prep import errors
from stfnet_tf import checkpoints, presets
from stfnet_tf import model as stfnet_model


@pytest.mark.parametrize(
    ("preset", "supervision"), [("paper", "triplet"), ("plus", "pair"), ("plus", "triplet")]
)
def test_every_variable_of_a_model_comes_back(tmp_path, preset, supervision):
    config = presets.build(preset, bands=("red", "nir"), ratio=4.0, supervision=supervision)
    config.save(tmp_path)
    saved = stfnet_model.StfNet(config)
    saved.compile("sgd")
    rng = np.random.default_rng(1)
    for variable in saved.weights:
        variable.assign(rng.uniform(size=variable.shape))
    state = checkpoints.RunState()
    checkpoints.Checkpoints(tmp_path, saved, state, tf.distribute.get_strategy()).save_best()
    loaded = checkpoints.load_model(tmp_path)
    assert config.level_sigma == 0 or any("persistence" in w.name for w in loaded.weights)
    assert len(loaded.weights) == len(saved.weights)
    for ours, theirs in zip(loaded.weights, saved.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy(), ours.name)


def test_weights_of_another_model_and_damaged_ones_are_refused(tmp_path):
    config = presets.build("paper", bands=("red",), kernel_sizes=(3, 3, 3))
    config.save(tmp_path)
    checkpoints.save_model(stfnet_model.StfNet(config), tmp_path)
    checkpoints.load_model(tmp_path)
    presets.build("plus", bands=("red",), supervision="pair").save(tmp_path)
    with pytest.raises(
        errors.InputError, match=r"best\.weights\.h5: expected the weights .*others"
    ):
        checkpoints.load_model(tmp_path)
    config.save(tmp_path)
    path = tmp_path / checkpoints.BEST
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(errors.InputError, match="damaged"):
        checkpoints.load_model(tmp_path)
