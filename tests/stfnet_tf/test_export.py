import concurrent.futures
import dataclasses
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from data_prep import errors, locks
from stfnet_tf import export, model_card, warmup
from tests.stfnet_tf import test_fusion


@pytest.fixture(scope="module")
def fusion():
    return test_fusion.make()


LOAD = """
import sys
import numpy as np
import tensorflow as tf
assert not any(name.split(".")[0] in ("stfnet_tf", "data_prep") for name in sys.modules)
loaded = tf.saved_model.load(sys.argv[1])
images = np.load(sys.argv[2])
found = loaded.signatures["serving_default"](**{k: tf.constant(images[k]) for k in images})
np.savez(sys.argv[3], **{k: v.numpy() for k, v in found.items()})
"""


def test_another_process_with_tensorflow_alone_gets_the_same_digital_numbers(fusion, tmp_path):
    version = export.save(fusion, tmp_path / "made")
    images = test_fusion.make_images()
    np.savez(tmp_path / "in.npz", **images)
    command = [sys.executable, "-c", LOAD, version, tmp_path / "in.npz", tmp_path / "out.npz"]
    subprocess.run([str(k) for k in command], check=True, cwd=tmp_path)
    expected = test_fusion.outputs(fusion.serving_default, images)
    found = np.load(tmp_path / "out.npz")
    assert set(found) == {"f2", "quality", "sides"}
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


def test_the_graph_needs_no_python_and_no_custom_op(fusion, tmp_path):
    folder = export.save(fusion, tmp_path)
    meta = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    graph = meta.meta_graphs[0].graph_def
    nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
    ops = {node.op for node in nodes}
    assert not [op for op in ops if "PyFunc" in op]
    functions = {f.signature.name for f in graph.library.function}
    assert ops - functions <= set(tensorflows_own_operations()), "custom operations"


def tensorflows_own_operations() -> list[str]:
    """Every operation that TensorFlow itself brings."""
    return [name for name in dir(tf.raw_ops) if not name.startswith("_")]


def test_versions_count_up_and_are_never_overwritten(fusion, tmp_path):
    assert export.save(fusion, tmp_path).name == "1"
    assert export.save(fusion, tmp_path, version=7).name == "7"
    assert export.save(fusion, tmp_path).name == "8"
    with pytest.raises(errors.InputError, match=r"7: expected a free version"):
        export.save(fusion, tmp_path, version=7)
    assert sorted(k.name for k in tmp_path.iterdir()) == ["1", "7", "8"]


@pytest.mark.parametrize("name", ["../x/y", "a/b", "/tmp/x", "..", "."])
def test_a_name_does_not_lead_out_of_the_folder_of_exports(name):
    assert export.place("saved_models", "cia") == pathlib.Path("saved_models/cia")
    with pytest.raises(errors.InputError, match="--name: expected a name without a path"):
        export.place("saved_models", name)


def test_the_card_says_what_a_client_needs(fusion, tmp_path):
    folder = export.save(fusion, tmp_path)
    card = json.loads((folder / "assets.extra" / export.CARD_FILE).read_text())
    assert card["bands"] == ["red", "nir"]
    assert card["fine"]["scale"] == 1e-4
    assert card["halo"] >= 8


def test_check_is_0_for_a_faithful_export_and_sees_another_model(fusion, tmp_path):
    version = export.save(fusion, tmp_path)
    assert export.check(fusion, version) <= 1e-5
    other = test_fusion.make()
    other.model.set_weights([w + 0.01 for w in other.model.get_weights()])
    assert export.check(other, version) > 1e-3


def test_card_is_in_the_assets_and_readable(fusion, tmp_path):
    scored = {"2001-07-11": 0.0061, "2001-08-12": None}
    metrics = {
        "scores": [
            {"method": "stfnet", "date": date, "rmse": {"mean": error}}
            for date, error in scored.items()
        ]
    }
    folder = export.save(fusion, tmp_path, metrics=metrics)
    asset = folder / "assets" / export.CARD_FILE
    assert asset.read_text() == (folder / "assets.extra" / export.CARD_FILE).read_text()
    text = (folder / "assets.extra" / "model_card.md").read_text()
    assert "| stfnet | 2001-07-11 | 0.00610 |\n| stfnet | 2001-08-12 | – |\n" in text
    assert "- Fine images, in and out: int16, reflectance = DN × 0.0001 + 0.0" in text
    for name in fusion.signatures:
        assert f"### {name}" in text


def test_card_names_the_quantity(fusion, monkeypatch):
    info = dataclasses.replace(fusion.info, description={"quantity": "NDVI"})
    monkeypatch.setattr(fusion, "info", info)
    scored = {"scores": [{"method": "m", "date": "2015-10-14", "rmse": {"mean": 0.05}}]}
    text = model_card.as_markdown(model_card.describe(fusion, scored))
    assert "reflectance" not in text
    assert text.count("NDVI") == 4


def test_warm_up_requests_are_what_a_server_reads_and_each_one_runs(fusion, tmp_path):
    pytest.importorskip("tensorflow_serving.apis", reason="the extra 'serving' is not installed")
    from tensorflow_serving.apis import prediction_log_pb2

    folder = export.save(fusion, tmp_path)
    loaded = tf.saved_model.load(str(folder))
    seen = []
    for raw in tf.data.TFRecordDataset(str(folder / "assets.extra" / warmup.FILE)):
        request = prediction_log_pb2.PredictionLog.FromString(raw.numpy()).predict_log.request
        inputs = {k: tf.constant(tf.make_ndarray(v)) for k, v in request.inputs.items()}
        signature = loaded.signatures[request.model_spec.signature_name]
        assert set(inputs) == set(signature.structured_input_signature[1])
        assert signature(**inputs)
        seen.append(request.model_spec.signature_name)
    assert sorted(seen) == sorted(fusion.signatures)


def test_two_exports_at_once_get_two_whole_versions(fusion, tmp_path):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda _: export.save(fusion, tmp_path), range(2)))
    assert sorted(k.name for k in made) == ["1", "2"]
    assert sorted(k.name for k in tmp_path.iterdir()) == ["1", "2"]
    for folder in made:
        assert export.check(fusion, folder) <= 1e-5


C_API = r"""
import ctypes, json, pathlib, sys
import numpy as np

# The loader that TensorFlow Serving is built on, without TensorFlow's Python.
package, export, given, out = map(pathlib.Path, sys.argv[1:])
ctypes.CDLL(str(package / "libtensorflow_framework.so.2"), ctypes.RTLD_GLOBAL)
tf = ctypes.CDLL(str(package / "libtensorflow_cc.so.2"))
P, c = ctypes.c_void_p, ctypes
for name in ("NewStatus", "NewGraph", "NewSessionOptions", "LoadSessionFromSavedModel", "NewTensor",
             "AllocateTensor", "TensorData", "GraphOperationByName"):
    getattr(tf, "TF_" + name).restype = P
tf.TF_Message.restype = c.c_char_p
tf.TF_TensorByteSize.restype = c.c_size_t
tf.TF_Dim.restype = c.c_int64


class Output(c.Structure):
    _fields_ = [("oper", P), ("index", c.c_int)]


def check():
    if tf.TF_GetCode(status):
        raise RuntimeError(tf.TF_Message(status).decode())


status = P(tf.TF_NewStatus())
graph, options = P(tf.TF_NewGraph()), P(tf.TF_NewSessionOptions())
tags = (c.c_char_p * 1)(b"serve")
session = P(tf.TF_LoadSessionFromSavedModel(
    options, None, str(export).encode(), tags, 1, graph, None, status))
check()
TYPES = {"float32": 1, "uint8": 4, "int16": 5, "bool": 10}
NAMES = {v: k for k, v in TYPES.items()}
arrays = np.load(given)


def output(name):
    operation, index = name.split(":")
    found = tf.TF_GraphOperationByName(graph, operation.encode())
    assert found, name
    return Output(found, int(index))


def to_tensor(array):
    array = np.ascontiguousarray(array)
    dims = (c.c_int64 * array.ndim)(*array.shape)
    tensor = tf.TF_AllocateTensor(TYPES[array.dtype.name], dims, array.ndim,
                                  c.c_size_t(array.nbytes))
    c.memmove(tf.TF_TensorData(P(tensor)), array.ctypes.data, array.nbytes)
    return tensor


def to_strings(raw):
    # One string; TensorFlow's strings are 24 bytes of their own making.
    tensor = tf.TF_AllocateTensor(7, (c.c_int64 * 1)(1), 1, c.c_size_t(24))
    string = P(tf.TF_TensorData(P(tensor)))
    tf.TF_StringInit(string)
    tf.TF_StringCopy(string, raw, c.c_size_t(len(raw)))
    return tensor


def to_array(tensor):
    tensor = P(tensor)
    shape = [tf.TF_Dim(tensor, k) for k in range(tf.TF_NumDims(tensor))]
    raw = c.string_at(tf.TF_TensorData(tensor), tf.TF_TensorByteSize(tensor))
    return np.frombuffer(raw, NAMES[tf.TF_TensorType(tensor)]).reshape(shape)


results = {}
for name, signature in json.loads((given.parent / "signatures.json").read_text()).items():
    inputs, outputs = signature["inputs"], signature["outputs"]
    feeds = (Output * len(inputs))(*(output(k) for k in inputs.values()))
    given_as = signature.get("arrays", {})
    values = (P * len(inputs))(
        *(to_strings(arrays[k].tobytes()) if k == "examples"
          else to_tensor(arrays[given_as.get(k, k)]) for k in inputs))
    fetches = (Output * len(outputs))(*(output(k) for k in outputs.values()))
    found = (P * len(outputs))()
    tf.TF_SessionRun(session, None, feeds, values, len(inputs), fetches, found, len(outputs),
                     None, 0, None, status)
    if "refused" in signature:
        message = tf.TF_Message(status).decode()
        assert tf.TF_GetCode(status) and signature["refused"] in message, (name, message)
        continue
    check()
    for key, tensor in zip(outputs, found):
        results[f"{name}/{key}"] = to_array(tensor)
np.savez(out, **results)
assert not {m.split(".")[0] for m in sys.modules} & {"tensorflow", "keras", "tf_keras", "stfnet_tf"}
"""


def wrong_inputs(arrays: dict[str, np.ndarray]) -> dict[str, tuple[str, np.ndarray, str]]:
    """Name, input, its value, and what the runtime must say; Python checks none of these here."""
    image = arrays["c2"]
    return {
        "fewer bands": ("c2", image[..., :1], ""),
        "more bands": ("f1", np.concatenate([arrays["f1"]] * 2, -1), ""),
        "one row, which could be broadcast": ("c2", image[:, :1], "c2: expected"),
        "another width": ("f3", arrays["f3"][:, :, 1:], "f3: expected"),
        "another batch": ("c3", np.repeat(image, 2, 0), "c3: expected"),
        "an empty batch": ("f1", arrays["f1"][:0], "at least one image"),
    }


def test_the_c_runtime_alone_serves_every_signature(fusion, tmp_path):
    """What TensorFlow Serving does: load by the C API, run by tensor names, get Keras' numbers."""
    folder = export.save(fusion, tmp_path / "made")
    meta = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    signatures, arrays, expected = {}, {}, {}
    for name, inputs in warmup.requests(fusion):
        found = meta.meta_graphs[0].signature_def[name]
        signatures[name] = {
            "inputs": {k: v.name for k, v in found.inputs.items()},
            "outputs": {k: v.name for k, v in found.outputs.items()},
        }
        arrays |= {
            # As bytes: NumPy's own strings end at a zero.
            k: np.frombuffer(v.numpy()[0], np.uint8) if k == "examples" else v.numpy()
            for k, v in inputs.items()
        }
        result = fusion.signatures[name](**inputs)
        expected |= {f"{name}/{k}": v.numpy() for k, v in result.items()}
    for name, (key, value, message) in wrong_inputs(arrays).items():
        arrays[name] = value
        signatures[name] = {
            **signatures["serving_default"],
            "arrays": {key: name},
            "refused": message,
        }
    (tmp_path / "signatures.json").write_text(json.dumps(signatures))
    np.savez(tmp_path / "in.npz", **arrays)
    package = pathlib.Path(tf.__file__).parent
    command = [sys.executable, "-c", C_API, package, folder, tmp_path / "in.npz"]
    subprocess.run([*map(str, command), str(tmp_path / "out.npz")], check=True, cwd=tmp_path)
    results = np.load(tmp_path / "out.npz")
    assert set(results) == set(expected)
    for name, value in expected.items():
        scale = fusion.info.fine.scale if name.endswith("f2") else 1.0
        np.testing.assert_allclose(
            results[name] * scale, value * scale, atol=1e-5, rtol=1e-5, err_msg=name
        )


def test_a_damaged_export_is_not_loaded(fusion, tmp_path):
    version = export.save(fusion, tmp_path)
    model_card.load(version)
    files = [k for k in version.rglob("*") if k.is_file()]
    assert len(files) >= 7
    for file in files:
        whole = file.read_bytes()
        damaged = bytearray(whole)
        damaged[len(whole) // 2] ^= 16
        file.write_bytes(damaged)
        with pytest.raises(errors.InputError, match="found"):
            model_card.load(version)
        file.write_bytes(whole)
    model_card.load(version)


def test_what_a_killed_export_left_is_swept_away_and_what_one_at_work_has_is_not(fusion, tmp_path):
    for name in (".writing-dead", ".writing-alive"):
        (tmp_path / name).mkdir()
    with locks.hold(tmp_path / ".writing-alive"):
        export.save(fusion, tmp_path)
    assert sorted(k.name for k in tmp_path.iterdir()) == [".writing-alive", "1"]
