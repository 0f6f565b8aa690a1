import datetime
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from data_prep import errors, rasters, triplets
from stfnet_tf import client, export, fusion, model_card, scene
from tests.stfnet_tf import scenes

pytest.importorskip("tensorflow_serving.apis", reason="the extra 'serving' is not installed")
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import predict_pb2

from tests.stfnet_tf import serving

ROOT = Path(__file__).parents[2]
TRIPLET = triplets.Triplet(*map(datetime.date.fromisoformat, scenes.DATES))
HASTY = client.Patience(timeout=20.0, tries=3, pause=0.05, longest_pause=0.2)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return scenes.make(tmp_path_factory.mktemp("scene"))


@pytest.fixture(scope="module")
def made(images):
    return fusion.Fusion(scenes.network(psf_fwhm=0.5), scenes.info(images))


@pytest.fixture(scope="module")
def version(made, tmp_path_factory):
    return export.save(made, tmp_path_factory.mktemp("export") / "made")


@pytest.fixture(scope="module")
def standing_in(version):
    with serving.stand_in(version) as server:
        yield server


@pytest.fixture
def server(standing_in):
    standing_in.faults.plan.clear()
    standing_in.faults.calls = 0
    return standing_in


def fuse(address, version, images, folder, patience=HASTY):
    card = version / "assets" / model_card.FILE
    with client.connect(address, "made", patience) as connected:
        return scene.fuse(client.predictor(connected, card, images), images, TRIPLET, folder, 40)


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_a_served_raster_is_the_local_one(made, version, images, tmp_path, protocol, capsys):
    with serving.serve(version) as server:
        with capsys.disabled():
            print(f" [{protocol}, served by: {server.kind}]", end="", flush=True)
        served = fuse(getattr(server, protocol), version, images, tmp_path / "served")
    local = scene.fuse(scene.Predictor.of("made", made), images, TRIPLET, tmp_path / "local", 40)
    for name in ("path", "quality_path"):
        np.testing.assert_array_equal(
            rasters.read(str(getattr(served, name))), rasters.read(str(getattr(local, name)))
        )


def test_the_program_removes_what_a_killed_one_has_left(server, version, images, tmp_path):
    for name in ("2001-07-11.tif", "2001-07-11_quality.tif"):
        left = tmp_path / f".writing-{name}-abcdefgh"
        left.mkdir()
        (left / name).write_bytes(b"half of it")
    flags = {
        **{"server": server.grpc, "model_name": "made", "output_dir": tmp_path},
        **{"card": version / "assets" / model_card.FILE, "dataset": images.dataset.path},
    }
    command = [sys.executable, "-m", "stfnet_tf.client", *(f"--{k}={v}" for k, v in flags.items())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = sorted(k.name for k in tmp_path.iterdir())
    assert found == ["2001-07-11.tif", "2001-07-11_quality.tif"]


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
@pytest.mark.parametrize("fault", ["refuse", "drop"])
def test_passing_faults_are_tried_again(server, version, images, tmp_path, protocol, fault):
    server.faults.plan[:] = [fault, fault]
    # gRPC itself waits a second or more before it connects again.
    patience = client.Patience(timeout=20.0, tries=8, pause=0.5, longest_pause=2.0)
    fused = fuse(getattr(server, protocol), version, images, tmp_path, patience)
    windows = 1 + 2 * 2  # measured whole; fused in tiles of 40 on 50 × 70
    assert not server.faults.plan
    # A connection that is cut below gRPC never reaches the service.
    failed = 0 if (protocol, fault) == ("grpc", "drop") else 2
    assert server.faults.calls == windows + failed
    assert fused.path.is_file()


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_a_slow_answer_is_tried_again(server, version, images, tmp_path, protocol):
    fuse(getattr(server, protocol), version, images, tmp_path / "warm")
    server.faults.plan[:] = ["slow"]
    server.faults.delay = 6.0
    patience = client.Patience(timeout=3.0, tries=3, pause=0.05, longest_pause=0.2)
    fused = fuse(getattr(server, protocol), version, images, tmp_path / "slow", patience)
    assert fused.path.is_file()


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
@pytest.mark.parametrize("fault", ["refuse", "drop"])
def test_lasting_faults_end_in_one_sentence_and_no_raster(
    server, version, images, tmp_path, protocol, fault
):
    server.faults.plan[:] = [fault] * 20
    with pytest.raises(errors.InputError, match=r"expected an answer within 3 tries"):
        fuse(getattr(server, protocol), version, images, tmp_path / "out")
    assert server.faults.calls == (0 if (protocol, fault) == ("grpc", "drop") else 3)
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_an_answer_of_another_shape_gets_into_no_raster(
    server, version, images, tmp_path, protocol
):
    server.faults.plan[:] = ["", "", "", "", "shape"]  # the first four only measure
    with pytest.raises(errors.InputError, match="is --card that of the served version"):
        fuse(getattr(server, protocol), version, images, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_a_wrong_request_is_not_tried_again(server, protocol):
    with client.connect(getattr(server, protocol), "made", HASTY) as connected:
        with pytest.raises(errors.InputError, match="f1"):
            connected.predict("forward_only", {"f1": np.zeros((1, 0, 4, 2), np.int16)})
    assert server.faults.calls == 1


def test_nobody_there(version, images, tmp_path):
    address = f"grpc://127.0.0.1:{serving.free_port()}"
    with pytest.raises(errors.InputError, match="UNAVAILABLE"):
        fuse(address, version, images, tmp_path)


def test_unknown_address():
    with pytest.raises(errors.InputError, match=r"found 'localhost:8500'"):
        with client.connect("localhost:8500", "made", HASTY):
            pass


def test_requests_match_the_signature_definitions(made, version):
    """A PredictRequest for each signature has the names, types and shapes that are served."""
    raw = (version / "saved_model.pb").read_bytes()
    served = saved_model_pb2.SavedModel.FromString(raw).meta_graphs[0].signature_def
    for name, function in made.signatures.items():
        request = predict_pb2.PredictRequest()
        request.model_spec.signature_name = name
        for key, spec in function.structured_input_signature[1].items():
            shape = [2 if n is None else n for n in spec.shape]
            value = [b"x"] * 2 if spec.dtype == tf.string else np.zeros(shape, spec.dtype.name)
            request.inputs[key].CopyFrom(tf.make_tensor_proto(value, dtype=spec.dtype))
        definition = served[name]
        assert set(request.inputs) == set(definition.inputs)
        for key, tensor in request.inputs.items():
            expected = definition.inputs[key]
            assert tensor.dtype == expected.dtype, key
            assert tf.TensorShape(expected.tensor_shape).is_compatible_with(
                tf.TensorShape(tensor.tensor_shape)
            ), key
