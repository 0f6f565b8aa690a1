import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import tensorflow as tf

from data_prep import errors, locks, records
from stfnet_tf import presets, train_config
from tests.stfnet_tf import shards as toy

ROOT = Path(__file__).parents[2]
SMALL = {"filters": (4, 4), "kernel_sizes": (3, 3, 3)}
MODEL_OPTIONS = {f.name for f in dataclasses.fields(presets.ModelConfig)}
OPTIONS = {"batch_size": 4, "patch_size": 16, "crops_per_tile": 2, "panels": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("shards")
    toy.write(path, {"train": (6, 1), "val": (2, 1)})
    return path


def run(folder, model_dir, supervision="triplet", terminal=False, compiled=None, **options):
    from stfnet_tf import trainer

    info = records.DatasetInfo.load(folder)
    changes = {k: options.pop(k) for k in MODEL_OPTIONS & options.keys()}
    model = train_config.model_config(info, "paper", supervision=supervision, **SMALL | changes)
    config = train_config.TrainConfig(**{**OPTIONS, "epochs": 2, **options})
    return trainer.run(config, model, folder, model_dir, terminal=terminal, compiled=compiled)


def best_weights(model_dir):
    found = {}

    def take(name, item):
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]

    with h5py.File(model_dir / "best.weights.h5") as file:
        file.visititems(take)
    return found


def assert_same_weights(one, other):
    a, b = best_weights(one), best_weights(other)
    assert a.keys() == b.keys() and len(a) > 6
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "whole"
    return path, run(folder, path, epochs=3, ema=0.9, early_stopping=9)


def test_a_run_leaves_what_it_promises(finished):
    path, result = finished
    assert {p.name for p in path.iterdir()} == {
        *("model.json", "dataset_info.json", "config.json", "best.weights.h5", "last"),
        *("history.csv", "tensorboard"),
    }
    # 6 tiles × 2 crops / 4 = 3 steps an epoch.
    assert result.steps == 9 and [row["step"] for row in result.history] == [3, 6, 9]
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    assert {"rmse_red", "validation_rmse_nir"} <= set(result.history[0])
    config = json.loads((path / "config.json").read_text())
    assert config["training"]["ema"] == 0.9 and config["model"]["bands"] == ["red", "nir"]
    assert "tensorflow" in config["versions"]


def test_tensorboard_has_the_documented_tags(finished):
    from tensorboard.backend.event_processing import event_accumulator

    def tags(name):
        log = event_accumulator.EventAccumulator(str(finished[0] / "tensorboard" / name))
        return log.Reload().Tags()

    scores = {"reconstruction", "temporal_consistency", "loss", "rmse_red", "rmse_nir"}
    assert scores <= set(tags("validation")["tensors"])
    assert any("2001-01-01 to 2001-03-01" in tag for tag in tags("validation")["tensors"])
    assert tags("")["graph"]
    assert "_hparams_/session_start_info" in tags("")["tensors"]


def test_scalars_of_training(folder, tmp_path):
    from tensorboard.backend.event_processing import event_accumulator

    run(folder, tmp_path, steps=4, summary_steps=2, profile="1,3")
    log = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard" / "train")).Reload()
    wanted = {"loss", "learning_rate", "gradient_norm", "patches_per_second", "rmse_nir"}
    assert wanted <= set(log.Tags()["tensors"])
    assert [event.step for event in log.Tensors("loss")] == [2, 4]
    assert list((tmp_path / "tensorboard" / "train").rglob("*.xplane.pb"))


def test_the_saved_model_is_the_one_that_was_returned(finished):
    from stfnet_tf import checkpoints

    path, result = finished
    loaded = checkpoints.load_model(path)
    for one, other in zip(loaded.get_weights(), result.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(errors.InputError, match=r"best\.weights\.h5: expected the weights"):
        checkpoints.load_model(_only_model_json(path))


@pytest.mark.parametrize(
    "options",
    [
        {"ema": 0.9, "weight_schedules": "temporal_consistency=0:0@4:1"},
        {"supervision": "pair", "optimizer": "RMSprop"},
        {**presets.PRESETS["plus"], "supervision": "pair"},
    ],
    ids=["averages", "pair", "plus"],
)
def test_a_model_that_was_trained_already_is_trained_like_a_new_one(folder, tmp_path, options):
    toy.write(tmp_path / "others", {"train": (5, 1), "val": (1, 1)})
    options = {"steps": 5, **options}
    earlier = run(tmp_path / "others", tmp_path / "earlier", **options)
    again = run(folder, tmp_path / "again", compiled=earlier.compiled, **options)
    assert again.compiled is earlier.compiled and again.model is earlier.model
    alone = run(folder, tmp_path / "alone", **options)
    assert_same_weights(tmp_path / "again", tmp_path / "alone")
    assert again.history == alone.history != earlier.history
    # It goes on from a checkpoint as well, and is not used for a run of another kind.
    more = run(folder, tmp_path / "again", compiled=earlier.compiled, **options, early_stopping=9)
    assert more.steps == 5 and more.history == alone.history
    assert run(folder, tmp_path / "x", compiled=more.compiled, **options | {"steps": 2}).steps == 2
    assert_same_weights(tmp_path / "again", tmp_path / "alone")


def _only_model_json(path):
    folder = path.parent / "empty"
    folder.mkdir(exist_ok=True)
    (folder / "model.json").write_text((path / "model.json").read_text())
    return folder


@pytest.mark.parametrize("after", [2, 3, 4, 7])
def test_a_run_that_dies_at_any_step_ends_bit_equal(folder, finished, tmp_path, monkeypatch, after):
    """Also in the middle of an epoch, and between its last step and its validation (3)."""
    from stfnet_tf import callbacks

    original = callbacks.Saving.on_train_batch_end
    calls = []

    def dying(self, batch, logs=None):
        original(self, batch, logs)
        calls.append(batch)
        if len(calls) == after:
            raise KeyboardInterrupt

    options = {"epochs": 3, "ema": 0.9, "early_stopping": 9, "checkpoint_steps": 1}
    with monkeypatch.context() as patch:
        patch.setattr(callbacks.Saving, "on_train_batch_end", dying)
        with pytest.raises(KeyboardInterrupt):
            run(folder, tmp_path, **options)
    result = run(folder, tmp_path, **options)
    path, whole = finished
    assert result.steps == whole.steps
    assert_same_weights(path, tmp_path)
    assert (path / "history.csv").read_text() == (tmp_path / "history.csv").read_text()


@pytest.mark.parametrize("summary_steps", [1, 100])
def test_a_run_that_diverges_says_so_and_saves_nothing(folder, tmp_path, summary_steps):
    """Within an epoch, or at its end."""
    message = (
        r"--learning_rate=1e\+20: expected training to stay within finite numbers, found a loss of "
        rf"(inf|nan) at step {2 if summary_steps == 1 else 3}; try a smaller one, or --clip_norm=1"
    )
    with pytest.raises(errors.InputError, match=message):
        run(folder, tmp_path, learning_rate=1e20, summary_steps=summary_steps)
    assert not list(tmp_path.glob("last/step-*")) and not (tmp_path / "best.weights.h5").exists()


def test_a_run_that_fails_leaves_the_terminal_as_it_was(folder, tmp_path, monkeypatch):
    from stfnet_tf import callbacks

    made, bars = callbacks._bar, []
    monkeypatch.setattr(callbacks, "_bar", lambda total: bars.append(made(total)) or bars[-1])
    with pytest.raises(errors.InputError, match="expected training to stay within finite"):
        run(folder, tmp_path, terminal=True, learning_rate=1e20, summary_steps=1)
    (bar,) = bars
    assert bar.tasks[0].completed == 1 and not bar.live.is_started
    assert bar.console.stderr


def test_what_was_saved_before_a_run_diverges_is_gone_on_from(
    folder, finished, tmp_path, monkeypatch
):
    from stfnet_tf import callbacks

    original = callbacks.WeightSchedules.on_train_batch_begin
    options = {"epochs": 3, "ema": 0.9, "early_stopping": 9, "checkpoint_steps": 1}

    def spoiling(self, batch, logs=None):
        if int(self._state.step.numpy()) == 6:
            for variable in self.model.trainable_variables:
                variable.assign(variable * math.nan)
        original(self, batch, logs)

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.WeightSchedules, "on_train_batch_begin", spoiling)
        with pytest.raises(errors.InputError, match="found weights that are not finite at step 7"):
            run(folder, tmp_path, **options)
    assert all(np.isfinite(value).all() for value in best_weights(tmp_path).values())
    run(folder, tmp_path, **options)
    assert_same_weights(finished[0], tmp_path)


def test_a_validation_that_is_not_finite_ends_the_run(folder, tmp_path, monkeypatch):
    from stfnet_tf import losses

    monkeypatch.setattr(losses.Weights, "stated_total", lambda *_: math.nan)
    with pytest.raises(errors.InputError, match="found a validation loss of nan at step 3; try"):
        run(folder, tmp_path)
    assert not (tmp_path / "best.weights.h5").exists()


def test_a_finished_run_is_left_as_it_is(folder, finished, tmp_path):
    path, _ = finished
    before = best_weights(path)
    again = run(folder, path, epochs=3, ema=0.9, early_stopping=9)
    assert again.steps == 9
    for name, value in best_weights(path).items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.01}, r"holds a run with --learning_rate=0.001, found .*=0.01"),
        ({"epochs": 4}, r"holds a run with --epochs=3, found --epochs=4"),
        ({"supervision": "pair"}, r"holds a run with --supervision=triplet, found .*=pair"),
    ],
)
def test_another_run_in_the_same_folder_is_refused(folder, finished, options, message):
    with pytest.raises(errors.InputError, match=message):
        run(folder, finished[0], **{"epochs": 3, "ema": 0.9, "early_stopping": 9, **options})


def test_shards_with_other_bands_than_the_model_are_refused(finished, tmp_path):
    toy.write(tmp_path / "shards", {"train": (3, 1)}, bands=("green", "red", "nir"))
    with pytest.raises(
        errors.InputError,
        match="has the bands red,nir, the shards have green,red,nir; give it shards with its own",
    ):
        run(tmp_path / "shards", finished[0], epochs=3, ema=0.9, early_stopping=9)


def test_a_constant_rate_lets_a_run_be_made_longer(folder, tmp_path):
    run(folder, tmp_path / "a", steps=2, schedule="constant")
    assert run(folder, tmp_path / "a", steps=5, schedule="constant").steps == 5
    run(folder, tmp_path / "b", steps=5, schedule="constant")
    assert_same_weights(tmp_path / "a", tmp_path / "b")


def test_early_stopping_ends_the_run_and_keeps_the_best(folder, tmp_path, caplog):
    options = {"epochs": 9, "learning_rate": 1e-12, "monitor": "rmse"}
    result = run(folder, tmp_path, early_stopping=2, **options)
    assert result.steps < 27
    rows = result.history
    assert result.best == pytest.approx(min(row["validation_rmse"] for row in rows), rel=1e-6)
    with caplog.at_level("INFO", logger="absl"):
        assert run(folder, tmp_path, early_stopping=2, **options).steps == result.steps
    assert f"had stopped early at step {result.steps}, after 2 validations" in caplog.text


def test_a_run_that_stopped_early_goes_on_where_that_is_allowed(folder, tmp_path):
    options = {"epochs": 5, "least_improvement": 0.9}
    assert run(folder, tmp_path / "parts", early_stopping=1, **options).steps == 6
    assert run(folder, tmp_path / "parts", early_stopping=2, **options).steps == 9
    assert run(folder, tmp_path / "parts", early_stopping=0, **options).steps == 15
    run(folder, tmp_path / "whole", **options)
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")
    history = [(tmp_path / k / "history.csv").read_text() for k in ("whole", "parts")]
    assert history[0] == history[1]


def test_a_warm_up_that_the_run_does_not_outlast_is_pointed_out(folder, tmp_path, caplog):
    run(folder, tmp_path / "short", steps=2, warmup_steps=1000)
    assert "--warmup_steps=1000: the run ends after 2 steps, before it reaches" in caplog.text
    caplog.clear()
    run(folder, tmp_path / "long", steps=2, warmup_steps=1)
    assert "--warmup_steps" not in caplog.text


def test_pair_without_validation(tmp_path):
    toy.write(tmp_path / "shards", {"train": (3, 1)})
    result = run(tmp_path / "shards", tmp_path / "run", "pair", steps=4)
    assert result.steps == 4 and math.isfinite(result.best)


def test_scheduled_weights_are_a_function_of_the_step(folder, tmp_path):
    from tensorboard.backend.event_processing import event_accumulator

    options = {
        "weight_schedules": "temporal_consistency=1:0@5:2",
        **{"schedule": "constant", "summary_steps": 1},
    }
    for steps in (3, 6):  # The second run goes on from the first one's end.
        run(folder, tmp_path, steps=steps, **options)
    log = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard" / "train")).Reload()
    found = {
        event.step: float(tf.make_ndarray(event.tensor_proto))
        for event in log.Tensors("weight_temporal_consistency")
    }
    # A step takes the share of the steps before it: none for the first.
    assert found == pytest.approx({1: 0, 2: 0, 3: 0.5, 4: 1, 5: 1.5, 6: 2})
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["training"]["weight_schedules"] == options["weight_schedules"]


@pytest.mark.parametrize("options", [{"mixed_bfloat16": True}, {"jit_compile": True}])
def test_precision_and_xla_train(folder, tmp_path, options):
    import tf_keras as keras

    result = run(folder, tmp_path, steps=3, **options)
    assert math.isfinite(result.history[-1]["loss"])
    assert keras.mixed_precision.global_policy().name == "float32"


def test_addons_train_and_go_on_bit_equal(folder, tmp_path):
    pytest.importorskip("tensorflow_addons")
    for k, name in enumerate(("LAMB", "Lookahead(RectifiedAdam)", "MovingAverage(SGD)")):
        options = {"optimizer": name, "schedule": "constant", "clip_norm": 1.0}
        whole, parts = tmp_path / f"whole{k}", tmp_path / f"parts{k}"
        run(folder, whole, steps=7, **options)
        run(folder, parts, steps=4, **options)
        # The end of the first part closes an epoch that the whole run does not close there.
        run(folder, parts, steps=7, **options)
        result = best_weights(parts)
        for key, value in best_weights(whole).items():
            np.testing.assert_array_equal(result[key], value)


def test_the_flag_optimizer_trains_with_lamb(folder, tmp_path):
    pytest.importorskip("tensorflow_addons")
    command = [sys.executable, "-m", "stfnet_tf.train", f"--records_dir={folder}"]
    command += [f"--model_dir={tmp_path / 'run'}", "--batch_size=4", "--patch_size=16", "--steps=3"]
    command += ["--filters=4,4", "--kernel_sizes=3,3,3", "--panels=0", "--optimizer=LAMB"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "LAMB, learning rate" in done.stdout and "Done: 3 steps" in done.stdout
    assert best_weights(tmp_path / "run")


def test_a_damaged_record_is_named(folder, tmp_path):
    info = toy.write(tmp_path / "shards", {"train": (6, 1)})
    path = tmp_path / "shards" / info.splits["train"].shards[0].file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(errors.InputError, match=rf"{path.name}, record \d: damaged"):
        run(tmp_path / "shards", tmp_path / "run", steps=9, panels=0)


def test_sigterm_saves_and_says_so(folder, tmp_path):
    command = [sys.executable, "-m", "stfnet_tf.train", f"--records_dir={folder}"]
    command += [f"--model_dir={tmp_path}", "--batch_size=4", "--patch_size=16", "--steps=100000"]
    command += ["--filters=4,4", "--kernel_sizes=3,3,3", "--checkpoint_steps=5", "--panels=0"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stderr=log, stdout=subprocess.PIPE, text=True)
        until = time.monotonic() + 240
        while not (tmp_path / "last" / "checkpoint").exists() and time.monotonic() < until:
            assert process.poll() is None, (tmp_path / "log").read_text()[-2000:]
            time.sleep(0.1)
        before = time.monotonic()
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 75
    assert time.monotonic() - before < 10
    assert "Stopped by SIGTERM after step" in out


def program(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "stfnet_tf.train", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_loads_no_tensorflow():
    code = (
        "import sys; sys.argv = ['train', '--help']\n"
        "import atexit; atexit.register(lambda: print('tensorflow' in sys.modules))\n"
        "from stfnet_tf import train; train.cli()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.rstrip().endswith("False")
    assert "--temporal_consistency: λ, the weight of" in program("--help").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--model_dir: expected a folder for the run"),
        (["--model_dir=M"], "dataset_info.json, found no such file; name a folder of shards"),
        (["--model_dir=M", "--epochs=-1"], "--epochs: expected a number of at least 0, found -1"),
        (["--model_dir=M", "--schedule=step"], "--schedule: expected one of constant, cosine"),
        (["--model_dir=M", "--profile=9"], "--profile: expected first and last step as in 10,15"),
        (["--model_dir=M", "--seed=4294967296"], "--seed: expected a number of at most 4294967295"),
        (
            ["--model_dir=M", "--crops_per_tile=9999999999"],
            "--crops_per_tile: expected a number of at",
        ),
        (
            ["--model_dir=M", "--final_rate=5"],
            "--final_rate: expected a number of at most 1, found",
        ),
        (["--model_dir=M", "--optimizer_args=x"], "--optimizer_args: expected name=value"),
        (
            ["--records_dir=R", "--bands=red"],
            "the model has red, the shards of 'toy' have red, nir",
        ),
        (["--records_dir=R", "--preset=best"], "Error: --preset: expected one of paper"),
        (["--records_dir=R", "--kernel_sizes=4,3,3"], "Error: --kernel_sizes: expected odd sizes"),
        (["--records_dir=R", "--filters=a,b"], "--filters: expected numbers with commas"),
    ],
)
def test_wrong_flags_are_one_sentence(folder, tmp_path, arguments, message):
    places = {
        "--model_dir=M": f"--model_dir={tmp_path}/m",
        "--records_dir=R": f"--records_dir={folder}",
    }
    given = [places.get(a, a) for a in arguments]
    if "--records_dir=R" in arguments:
        given.append(f"--model_dir={tmp_path}/m")
    done = program(*given)
    assert done.returncode == 2
    assert message in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": 64}, "--patch_size: expected at most the shards' tile size of 32 pixels"),
        ({"optimizer": "Adamm"}, "--optimizer: expected one of .* found 'Adamm'"),
        ({"monitor": "psnr"}, "--monitor: expected one of loss, .*; found 'psnr'"),
        ({"weight_schedules": "rest=0:1"}, "--weight_schedules: .*consistency; found 'rest'"),
    ],
)
def test_what_does_not_fit_the_shards_is_refused_before_training(
    folder, tmp_path, options, message
):
    with pytest.raises(errors.InputError, match=message):
        run(folder, tmp_path / "m", **options)
    assert not (tmp_path / "m").exists()


def test_triplet_needs_f2(folder):
    info = records.DatasetInfo.load(folder)
    pair = records.DatasetInfo(**{**info.__dict__, "supervision": "pair"})
    assert train_config.model_config(pair).supervision == "pair"
    with pytest.raises(errors.InputError, match="--supervision=triplet: needs F2"):
        train_config.model_config(pair, supervision="triplet")


def test_a_plan_covers_every_step_once():
    from stfnet_tf import trainer

    plan = trainer.Plan(crops=1, epoch_steps=5, total_steps=18)
    assert list(plan.stretches(0)) == [(0, 3, 5), (3, 1, 3)]
    assert list(plan.stretches(7)) == [(1, 1, 3), (2, 1, 5), (3, 1, 3)]
    assert list(plan.stretches(16)) == [(3, 1, 2)]
    assert list(plan.stretches(18)) == []


@pytest.mark.parametrize("name", sorted(p.name for p in (ROOT / "configs").glob("*.flags")))
def test_flag_files_name_flags_that_exist_and_explain_them(name):
    lines = (ROOT / "configs" / name).read_text().splitlines()
    known = {
        f.name
        for owner in (train_config.TrainConfig, presets.ModelConfig)
        for f in owner.__dataclass_fields__.values()
    }
    known |= {"dataset", "data_dir", "records_dir", "preset"}
    given = [line for line in lines if line.startswith("--")]
    assert given and lines[0].startswith("#")
    for line in given:
        flag = line[2:].partition("=")[0]
        assert flag in known or flag.removeprefix("no") in known


def test_a_batch_for_no_machine_is_refused_before_anything_is_made(folder, tmp_path):
    with pytest.raises(errors.InputError, match=r"--batch_size=1000000000.*GiB of free memory"):
        run(folder, tmp_path / "run", batch_size=10**9)
    assert not (tmp_path / "run").exists()


def test_a_blur_for_no_machine_is_refused_before_anything_is_made(folder, tmp_path, monkeypatch):
    from data_prep import memory

    free = memory.psutil.virtual_memory()._replace(available=2**32)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: free)
    monkeypatch.setattr(memory.psutil, "swap_memory", lambda: free._replace(free=0))
    with pytest.raises(
        errors.InputError, match=r"--psf_fwhm=10, --ratio=300: .* 5\.2 GiB of free .* found 4\.0"
    ):
        run(folder, tmp_path / "run", psf_fwhm=10.0, ratio=300.0)
    assert not (tmp_path / "run").exists()


def test_kernels_that_reach_beyond_every_patch_are_refused(folder, tmp_path):
    with pytest.raises(errors.InputError, match=r"--kernel_sizes: .* at most 31, .* found 33; use"):
        run(folder, tmp_path / "run", kernel_sizes=(3, 33, 3))
    assert not (tmp_path / "run").exists()


def test_two_programs_do_not_train_one_run(folder, tmp_path):
    with locks.hold(tmp_path / "run" / "config.json"):
        with pytest.raises(errors.InputError, match="expected to be the only program"):
            run(folder, tmp_path / "run", steps=1)
    assert not (tmp_path / "run" / "config.json").exists()


def test_text_for_a_number_of_an_optimizer_is_refused(folder, tmp_path):
    with pytest.raises(errors.InputError, match=r"--optimizer_args: Adam takes .*epsilon is a"):
        run(folder, tmp_path / "run", optimizer_args="epsilon=__import__('os')")
