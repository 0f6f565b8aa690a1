import json
import subprocess
import sys

import numpy as np
import pytest

from data_prep import errors
from stfnet_tf import export
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


def test_versions_count_up_and_are_never_overwritten(fusion, tmp_path):
    assert export.save(fusion, tmp_path).name == "1"
    assert export.save(fusion, tmp_path, version=7).name == "7"
    assert export.save(fusion, tmp_path).name == "8"
    with pytest.raises(errors.InputError, match=r"7: expected a free version"):
        export.save(fusion, tmp_path, version=7)
    assert sorted(k.name for k in tmp_path.iterdir()) == ["1", "7", "8"]


def test_the_card_says_what_a_client_needs(fusion, tmp_path):
    folder = export.save(fusion, tmp_path)
    card = json.loads((folder / "assets.extra" / export.CARD_FILE).read_text())
    assert card["bands"] == ["red", "nir"]
    assert card["fine"]["scale"] == 1e-4
    assert card["halo"] >= 8
