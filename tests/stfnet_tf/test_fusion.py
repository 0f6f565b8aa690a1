import math

import numpy as np
import pytest
import tensorflow as tf

from data_prep import grids, rasters, records
from stfnet_tf import fusion, model, presets

BANDS = ("red", "nir")


def make_info(**fine) -> records.DatasetInfo:
    return records.DatasetInfo(
        name="made",
        bands=BANDS,
        fine=records.Encoding(**{"dtype": "int16", "scale": 1e-4, "fill": -9999, **fine}),
        coarse=records.Encoding("float32", 1.0),
        ratio=2.0,
        psf_fwhm=1.0,
        tile_size=16,
        supervision="pair",
    )


def make_images(seed=0, shape=(2, 12, 14)) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    fine = {k: rng.integers(100, 5000, (*shape, 2)).astype(np.int16) for k in ("f1", "f3")}
    coarse = {k: rng.uniform(0.01, 0.5, (*shape, 2)).astype(np.float32) for k in ("c1", "c2", "c3")}
    return fine | coarse


def make(info=None, **changes) -> fusion.Fusion:
    info = info or make_info()
    config = presets.build("paper", bands=BANDS, ratio=info.ratio, **changes)
    return fusion.Fusion(model.StfNet(config), info)


def outputs(function, images) -> dict[str, np.ndarray]:
    return {k: v.numpy() for k, v in function(**images).items()}


def test_digital_numbers_are_scaled_on_both_ways():
    made, images = make(), make_images()
    found = outputs(made.serving_default, images)
    batch = {k: v.astype(np.float32) * (1e-4 if k[0] == "f" else 1) for k, v in images.items()}
    batch |= {f"valid_{k}": np.ones((*v.shape[:3], 1), np.float32) for k, v in images.items()}
    expected = made.model.fuse(batch)
    np.testing.assert_allclose(found["f2"], np.round(expected.f2 * 1e4), atol=1)
    assert found["f2"].dtype == np.int16
    np.testing.assert_array_equal(found["sides"], 3)


def test_fill_nan_and_masks_say_the_same():
    made, images = make(), make_images()
    masks = {f"valid_{k}": np.ones((2, 12, 14), bool) for k in images}
    masks["valid_f1"][0, 3, 4] = masks["valid_c3"][1, 5, 6] = False
    masked = outputs(made.fuse_masked, images | masks)
    filled = {k: v.copy() for k, v in images.items()}
    filled["f1"][0, 3, 4, 1] = -9999  # one band is enough
    filled["c3"][1, 5, 6, 0] = np.nan
    found = outputs(made.serving_default, filled)
    for name in masked:
        np.testing.assert_array_equal(found[name], masked[name])
    assert found["sides"][0, 3, 4] == 2 and found["sides"][1, 5, 6] == 1


def test_all_masked_gives_nodata_with_a_sign():
    made, images = make(), make_images()
    masks = {f"valid_{k}": np.zeros((2, 12, 14), bool) for k in images}
    found = outputs(made.fuse_masked, images | masks)
    np.testing.assert_array_equal(found["f2"], -9999)
    np.testing.assert_array_equal(found["sides"], 0)
    assert np.all(np.isnan(found["quality"]))


def test_valid_range_counts():
    made = make(make_info(valid_min=0, valid_max=10000))
    images = make_images()
    images["f1"][0, 0, 0, 0], images["f3"][0, 1, 1, 1] = -5, 10001
    sides = outputs(made.serving_default, images)["sides"]
    assert (sides[0, 0, 0], sides[0, 1, 1], sides[0, 2, 2]) == (2, 1, 3)


def test_forward_only_is_fusing_without_a_later_pair():
    made, images = make(), make_images()
    masks = {f"valid_{k}": np.full((2, 12, 14), k[1] != "3") for k in images}
    both = outputs(made.fuse_masked, images | masks)
    one = outputs(made.forward_only, {k: images[k] for k in ("f1", "c1", "c2")})
    np.testing.assert_array_equal(one["f2"], both["f2"])
    np.testing.assert_array_equal(one["sides"], 1)
    assert np.all(np.isnan(one["quality"]))  # nothing to compare with: no number, rather than 0


def test_a_tile_may_be_told_the_whole_images_change():
    made, images = make(), make_images(shape=(1, 12, 14))
    masks = {f"valid_{k}": np.ones((1, 12, 14), bool) for k in images}
    change = {
        "v12": np.mean(np.abs(images["c2"] - images["c1"]), (1, 2)),
        "v23": np.mean(np.abs(images["c3"] - images["c2"]), (1, 2)),
    }
    whole = outputs(made.fuse_masked, images | masks)
    told = outputs(made.fuse_tile, images | masks | change)
    np.testing.assert_array_equal(whole["f2"], told["f2"])
    change["v12"] *= 3
    assert np.any(whole["f2"] != outputs(made.fuse_tile, images | masks | change)["f2"])


def test_records_are_fused_as_their_images():
    made, images = make(), make_images(shape=(2, 12, 12))
    valid = np.random.default_rng(1).uniform(size=(2, 12, 12)) > 0.2
    serialized = [
        records.encode(
            records.Tile(
                images={k: v[n] for k, v in images.items()},
                valid={k: valid[n] for k in images},
                dates=("a", "b", "c"),
                origin=(0, 0),
                scene="s",
            )
        )
        for n in range(2)
    ]
    found = {
        k: v.numpy() for k, v in made.serialized_examples(examples=np.array(serialized)).items()
    }
    expected = outputs(made.fuse_masked, images | {f"valid_{k}": valid for k in images})
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize(
    ("dtype", "fill", "reflectance", "expected"),
    [
        ("int16", -9999, [-0.9999, 9.0, -9.0], [-9998, 32767, -32768]),
        ("uint8", 0, [0.0, 0.6, 2.0], [1, 153, 255]),
        ("uint16", None, [-0.1, 0.6, 9.0], [1, 153, 2295]),
        ("uint16", -9999.0, [-0.1, 0.6, 9.0], [1, 153, 2295]),
        ("uint8", 0.5, [0.0, 0.6, 2.0], [1, 153, 255]),
        ("uint8", math.nan, [0.0, 0.6, 2.0], [1, 153, 255]),
    ],
)
def test_encoding_never_gives_nodata_to_a_known_pixel(dtype, fill, reflectance, expected):
    scale = 1e-4 if dtype == "int16" else 1 / 255
    encoding = records.Encoding(dtype, scale, 0.0, fill)
    image = np.float32(reflectance).reshape(1, 1, 3, 1)
    known = np.ones((1, 1, 3, 1), bool)
    found = fusion.encode(image, known, encoding).numpy().ravel()
    np.testing.assert_array_equal(found, expected)
    assert np.all(found != encoding.nodata)
    in_numpy = encoding.digital_numbers(image[0], known[0, ..., 0])
    assert in_numpy.dtype == dtype
    np.testing.assert_array_equal(in_numpy.ravel(), expected)


@pytest.mark.parametrize("fill", [0.0, 1.0, -0.2, -9999.0])
def test_a_float_that_equals_nodata_is_told_from_it_by_gdal(tmp_path, fill):
    encoding = records.Encoding("float32", 1.0, 0.0, fill)
    image = np.float32([[[fill], [fill], [0.5]]])
    known = np.array([[True, False, True]])
    written = fusion.encode(image[None], known[None, ..., None], encoding).numpy()[0]
    np.testing.assert_allclose(written, image, rtol=2e-6, atol=1e-30)
    rasters.write(tmp_path / "a.tif", written, grids.Grid(3, 1), nodata=encoding.nodata)
    from osgeo import gdal

    opened = gdal.Open(str(tmp_path / "a.tif"))
    found = opened.GetRasterBand(1).GetMaskBand().ReadAsArray()
    np.testing.assert_array_equal(found > 0, known)


@pytest.mark.parametrize(
    "encoding",
    [
        records.Encoding("int16", 1e-4, 0.0, -9999),
        records.Encoding("int16", 1e-4, 0.0, 0),
        records.Encoding("uint16", 0.0000275, -0.2, 0),
        records.Encoding("uint8", 1 / 255, 0.0, 255),
        records.Encoding("float32", 1.0, 0.0, -9999.0),
        records.Encoding("float32", 1.0, 0.0, 0.0),
        records.Encoding("float32", 0.5, 0.1),
    ],
)
def test_numpy_and_the_graph_encode_alike(encoding):
    rng = np.random.default_rng(0)
    whole = rng.integers(-20, 20, (40, 50, 2)) * encoding.scale + encoding.offset
    image = np.where(rng.random(whole.shape) < 0.5, whole, rng.normal(0.2, 2, whole.shape))
    image = image.astype(np.float32)
    known = rng.random((40, 50)) < 0.8
    in_graph = fusion.encode(image[None], known[None, ..., None], encoding).numpy()[0]
    found = encoding.digital_numbers(image, known)
    assert found.dtype == in_graph.dtype == encoding.dtype
    np.testing.assert_array_equal(found, in_graph)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("c1", (1, 12, 14, 2)), ("f3", (2, 12, 1, 2)), ("valid_c2", (2, 1, 14)), ("v12", (1, 2))],
)
def test_a_shape_that_would_be_broadcast_is_refused(name, shape):
    made, images = make(), make_images()
    batch = images | {f"valid_{k}": np.ones((2, 12, 14), bool) for k in images}
    batch |= {k: np.zeros((2, 2), np.float32) for k in ("v12", "v23")}
    batch[name] = batch[name][tuple(slice(k) for k in shape)]
    with pytest.raises(tf.errors.InvalidArgumentError, match=name):
        made.fuse_tile(**{k: tf.constant(v) for k, v in batch.items()})


def test_wrong_number_of_bands_is_refused():
    images = {k: v[..., :1] for k, v in make_images().items()}
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError, TypeError)):
        make().serving_default(**{k: tf.constant(v) for k, v in images.items()})


def test_smaller_than_the_halo_is_defined():
    made, images = make(), make_images(shape=(1, 3, 2))
    found = outputs(made.serving_default, images)
    assert found["f2"].shape == (1, 3, 2, 2)
    np.testing.assert_array_equal(found["sides"], 3)


@pytest.mark.parametrize("part", [np.s_[:0], np.s_[:, :0]])
def test_an_empty_batch_or_image_is_refused(part):
    images = {k: v[part] for k, v in make_images().items()}
    with pytest.raises(tf.errors.InvalidArgumentError, match="at least one image"):
        outputs(make().serving_default, images)
