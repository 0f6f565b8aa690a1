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


def test_every_flipped_bit_of_the_weights_is_noticed_or_changes_nothing(tmp_path):
    config = presets.build("paper", bands=("red",), filters=(2,), kernel_sizes=(3, 1))
    config.save(tmp_path)
    saved = stfnet_model.StfNet(config)
    checkpoints.save_model(saved, tmp_path)
    path = tmp_path / checkpoints.BEST
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    # Some of them for sure in the numbers themselves.
    inside = whole.find(saved.get_weights()[0].tobytes())
    assert inside > 0
    loaded = stfnet_model.StfNet(config)
    noticed = 0
    for place in (*range(inside, inside + 24, 3), *rng.integers(len(whole), size=24)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        loaded.set_weights([np.full_like(weight, np.nan) for weight in loaded.get_weights()])
        try:
            checkpoints.load_weights(loaded, tmp_path)
        except errors.InputError:
            noticed += 1
            continue
        for ours, theirs in zip(loaded.get_weights(), saved.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert noticed >= 8


@pytest.fixture
def run(tmp_path):
    """A run with checkpoints at steps 2 and 4, each with weights of its own."""
    config = presets.build("paper", bands=("red",), filters=(2,), kernel_sizes=(3, 1))
    model = stfnet_model.StfNet(config)
    model.compile("sgd")
    model.optimizer.build(model.trainable_variables)
    state = checkpoints.RunState()
    store = checkpoints.Checkpoints(tmp_path, model, state, tf.distribute.get_strategy())
    assert not store.restore() and not store.saved
    for step in (2, 4):
        model.set_weights([np.full_like(weight, step) for weight in model.get_weights()])
        state.step.assign(step)
        store.save()
    store.save_best()
    return store


@pytest.mark.parametrize(
    "damage", ["none", "list", "no list", "index", "numbers", "cut numbers", "no numbers"]
)
def test_the_newest_checkpoint_that_is_whole_is_gone_on_from(run, tmp_path, damage):
    last = tmp_path / checkpoints.LAST
    numbers = last / "step-4.data-00000-of-00001"
    if damage == "list":
        (last / "checkpoint").write_bytes(b"\xff\x00 noise")
    if damage == "no list":
        (last / "checkpoint").unlink()
    if damage == "index":
        (last / "step-4.index").write_bytes(b"noise")
    if damage == "numbers":
        content = np.frombuffer(numbers.read_bytes(), np.uint8).copy()
        numbers.write_bytes((content ^ 1).tobytes())
    if damage == "cut numbers":
        numbers.write_bytes(numbers.read_bytes()[:100])
    if damage == "no numbers":
        numbers.unlink()
    step = 2 if "numbers" in damage or damage == "index" else 4
    assert run.restore()
    assert int(run.state.step.numpy()) == step
    assert all(np.all(weight == step) for weight in run._model.get_weights())
    run.state.step.assign(6)
    run.save()  # TensorFlow's own list is whole again
    assert tf.train.latest_checkpoint(str(last)).endswith("step-6")


def test_only_the_two_newest_checkpoints_are_kept_over_all_starts(run, tmp_path):
    last = tmp_path / checkpoints.LAST
    # What earlier versions left, a save that was killed, and what is somebody else's.
    for name in ("step-1.index", "step-1.data-00000-of-00001"):
        (last / name).write_bytes(b"old")
    (last / "step-3_temp").mkdir()
    (last / "step-3_temp" / "part-00000-of-00001").write_bytes(b"half")
    for name in ("step-1.notes", "step-a.index", "mystep-1.index"):
        (last / name).write_bytes(b"mine")
    for step in (6, 7):
        again = checkpoints.Checkpoints(
            tmp_path, run._model, run.state, tf.distribute.get_strategy()
        )
        assert again.restore()
        run.state.step.assign(step)
        again.save()
    assert {p.name for p in last.iterdir()} == {
        *("checkpoint", "step-1.notes", "step-a.index", "mystep-1.index"),
        *(f"step-{k}.{part}" for k in (6, 7) for part in ("index", "data-00000-of-00001")),
    }


@pytest.mark.parametrize("name", ["step-4.index", "step-4.data-00000-of-00001"])
def test_a_folder_in_a_checkpoints_place_is_named(run, tmp_path, name):
    path = tmp_path / checkpoints.LAST / name
    path.unlink()
    path.mkdir()
    with pytest.raises(errors.InputError, match=rf"{name}: expected a file .* found a folder"):
        run.restore()


def test_nothing_to_go_on_from_is_not_a_new_start(run, tmp_path):
    for file in (tmp_path / checkpoints.LAST).glob("step-*.index"):
        file.write_bytes(b"noise")
    with pytest.raises(errors.InputError, match=r"last: expected the state .* found damaged files"):
        run.restore()
    for file in (tmp_path / checkpoints.LAST).glob("step-*"):
        file.unlink()
    with pytest.raises(errors.InputError, match=r"last: expected the state .* found none"):
        run.restore()
    (tmp_path / checkpoints.BEST).unlink()
    assert not run.restore()
