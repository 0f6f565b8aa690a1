import numpy as np
import pytest
import tensorflow as tf

from data_prep import errors, records
from tests.data_prep import decoding


def make_info(**changes) -> records.DatasetInfo:
    defaults = {
        "name": "t",
        "bands": ("red", "nir"),
        "fine": records.Encoding("int16", 1e-4, 0.0, -9999),
        "coarse": records.Encoding("float32", 1.0),
        "ratio": 16.0,
        "psf_fwhm": 1.0,
        "tile_size": 8,
        "supervision": "triplet",
    }
    return records.DatasetInfo(**(defaults | changes))


def make_tile(seed=0, height=5, width=7, without=()) -> records.Tile:
    rng = np.random.default_rng(seed)
    info = make_info()
    names = [k for k in records.IMAGES if k not in without]
    return records.Tile(
        images={
            k: (rng.uniform(-300, 9000, (height, width, 2))).astype(info.encoding(k).dtype)
            for k in names
        },
        valid={k: rng.uniform(size=(height, width)) > 0.3 for k in names},
        dates=("2001-05-24", "2001-07-11", "2001-08-12"),
        origin=(256, 512),
        scene="p093r084",
    )


@pytest.mark.parametrize("without", [(), ("f2",), ("f2", "f3", "c3")])
def test_round_trip_is_exact_in_graph_and_outside(without):
    tile, info = make_tile(without=without), make_info()
    serialized = records.encode(tile)
    back = decoding.decode(serialized, info)
    parsed = tf.function(lambda s: records.parse(s, info))(tf.constant(serialized))
    for name in tile.images:
        np.testing.assert_array_equal(back.images[name], tile.images[name])
        np.testing.assert_array_equal(parsed[name], tile.images[name])
        np.testing.assert_array_equal(back.valid[name], tile.valid[name])
        np.testing.assert_array_equal(parsed[f"valid_{name}"][..., 0], tile.valid[name])
    for name in without:
        assert name not in back.images
        assert parsed[name].shape == tile.images["f1"].shape
        assert not np.any(parsed[f"valid_{name}"])
    assert (back.dates, back.origin, back.scene) == (tile.dates, tile.origin, tile.scene)


def test_same_tile_same_bytes():
    assert records.encode(make_tile()) == records.encode(make_tile())


def test_record_is_hardly_larger_than_its_pixels():
    tile = make_tile(height=128, width=128)
    pixels = sum(image.nbytes for image in tile.images.values()) + 128 * 128
    assert len(records.encode(tile)) < pixels + 500


def test_wrong_number_of_bands_is_refused():
    with pytest.raises(tf.errors.InvalidArgumentError, match="bands"):
        records.parse(tf.constant(records.encode(make_tile())), make_info(bands=("red",)))


def test_info_round_trip(tmp_path):
    info = make_info(
        splits={
            "train": records.Split(3, 1, (("a", "b", "c"),), (records.Shard("x", 3, 10, "00"),))
        },
        statistics={"fine": {"mean": [0.1, 0.2], "count": 4}},
    )
    info.save(tmp_path)
    assert records.DatasetInfo.load(tmp_path) == info
    assert [p.name for p in tmp_path.iterdir()] == [records.INFO_FILE]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected JSON"),
        ('{"schema": 99}', "expected record schema 1, found 99"),
        ('{"schema": 1}', "damaged"),
        ("[]", "found: list"),
    ],
)
def test_unreadable_info_is_one_sentence(tmp_path, text, message):
    (tmp_path / records.INFO_FILE).write_text(text)
    with pytest.raises(errors.InputError, match=message):
        records.DatasetInfo.load(tmp_path)


def test_missing_info_names_the_file(tmp_path):
    with pytest.raises(errors.InputError, match=r"dataset_info\.json"):
        records.DatasetInfo.load(tmp_path)


def test_encoding_states_reflectance():
    encoding = records.Encoding("uint16", 0.0000275, -0.2, 0)
    np.testing.assert_allclose(
        encoding.reflectance(np.array([7273, 43636], np.uint16)), [0.0, 1.0], atol=1e-4
    )
