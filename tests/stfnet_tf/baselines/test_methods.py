"""What holds for every method, on a landscape whose truth is known."""

import dataclasses

import numpy as np
import pytest

from stfnet_tf.baselines import base
from tests.stfnet_tf.baselines import landscapes

WITHOUT_COARSE = ("copy", "linear")


def rmse(prediction, truth):
    error = prediction.f2[prediction.valid] - truth[prediction.valid]
    return float(np.sqrt(np.mean(error**2)))


@pytest.mark.parametrize("name", base.names())
def test_accuracy(name):
    inputs, truth = landscapes.scene()
    before = [array.copy() for array in (inputs.f1, inputs.c2, inputs.f3)]
    prediction = base.method(name).predict(inputs)
    assert prediction.f2.shape == truth.shape and prediction.f2.dtype == np.float32
    assert prediction.valid.all() and prediction.valid.dtype == bool
    assert np.isfinite(prediction.f2).all()
    for array, copy in zip((inputs.f1, inputs.c2, inputs.f3), before, strict=True):
        np.testing.assert_array_equal(array, copy)
    if name not in WITHOUT_COARSE:
        copied = rmse(base.method("copy").predict(inputs), truth)
        assert rmse(prediction, truth) < copied


@pytest.mark.parametrize("name", base.names())
def test_nothing_happens(name):
    inputs = landscapes.unchanging()
    prediction = base.method(name).predict(inputs)
    # Means over similar neighbours take away some of the texture, whose σ is 0.004.
    assert rmse(prediction, inputs.f1) < 0.004


@pytest.mark.parametrize("name", base.names())
def test_clouds(name):
    inputs, _ = landscapes.scene(48)
    clear = np.ones((48, 48), bool)
    f1_cloud, c2_cloud = clear.copy(), clear.copy()
    f1_cloud[:12] = False
    c2_cloud[30:40, 30:40] = False
    cloudy = dataclasses.replace(
        inputs,
        f1=np.where(f1_cloud[..., None], inputs.f1, np.nan).astype(np.float32),
        c2=np.where(c2_cloud[..., None], inputs.c2, np.nan).astype(np.float32),
        valid_f1=f1_cloud,
        valid_c2=c2_cloud,
    )
    prediction = base.method(name).predict(cloudy)
    assert np.isfinite(prediction.f2).all()
    expected = clear if name in WITHOUT_COARSE else c2_cloud
    np.testing.assert_array_equal(prediction.valid, expected)
    assert (prediction.f2[~prediction.valid] == 0).all()
    # The other side stands in under F1's cloud, so no made-up number appears there.
    assert np.abs(prediction.f2[:12] - inputs.f3[:12]).max() < 0.25


@pytest.mark.parametrize("name", base.names())
def test_what_invalid_pixels_hold_does_not_matter(name):
    inputs, _ = landscapes.scene(48)
    rng = np.random.default_rng(1)
    images = ("f1", "f3", "c1", "c2", "c3")
    masks = {f"valid_{k}": ~landscapes.clouds(rng, 48) for k in images}

    def predict(rubbish):
        hidden = {
            k: np.where(masks[f"valid_{k}"][..., None], getattr(inputs, k), rubbish())
            for k in images
        }
        hidden = {k: v.astype(np.float32) for k, v in hidden.items()}
        return base.method(name).predict(dataclasses.replace(inputs, **hidden, **masks))

    first = predict(lambda: 0.0)
    again = predict(lambda: rng.choice([-0.9999, 1.0, 6.5535, 1e6], (48, 48, 2)))
    assert 0 < first.valid.sum() < first.valid.size
    np.testing.assert_array_equal(again.valid, first.valid)
    np.testing.assert_array_equal(again.f2, first.f2)
    for change, same in zip(first.changes or (), again.changes or (), strict=True):
        np.testing.assert_array_equal(same, change)


@pytest.mark.parametrize("name", base.names())
def test_all_clouds(name):
    inputs, _ = landscapes.scene(24)
    nowhere = np.zeros((24, 24), bool)
    masked = dataclasses.replace(
        inputs, valid_f1=nowhere, valid_f3=nowhere, valid_c1=nowhere, valid_c2=nowhere
    )
    prediction = base.method(name).predict(masked)
    assert not prediction.valid.any()
    assert (prediction.f2 == 0).all()


@pytest.mark.parametrize("name", [n for n in base.names() if not base.method(n).two_sided])
def test_one_sided(name):
    inputs, truth = landscapes.scene(48, one_sided=True)
    prediction = base.method(name).predict(inputs)
    assert prediction.valid.all()
    if name not in WITHOUT_COARSE:
        assert rmse(prediction, truth) < rmse(base.method("copy").predict(inputs), truth)


@pytest.mark.parametrize("name", ["fsdaf", "spstfm", "elm", "lbf"])
def test_seed_decides(name):
    inputs, _ = landscapes.scene(40)
    first, again = (base.method(name).predict(inputs).f2 for _ in range(2))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize(("name", "share"), [("spstfm", 0.95), ("elm", 0.95), ("lbf", 0.5)])
def test_what_was_learned_comes_closer_than_the_coarse_change(name, share):
    """Where t2 looks as t3 did, or as t1, the fine change is that from which was learned."""
    inputs, _ = landscapes.scene(48)
    f13 = inputs.f3 - inputs.f1
    plain = np.sqrt(np.mean((inputs.c3 - inputs.c1 - f13) ** 2))
    for side, c2 in enumerate((inputs.c3, inputs.c1)):
        change = base.method(name).predict(dataclasses.replace(inputs, c2=c2)).changes[side]
        assert np.sqrt(np.mean((change - f13) ** 2)) < share * plain


@pytest.mark.parametrize("name", ["spstfm", "elm", "lbf"])
def test_changes_lead_from_both_sides(name):
    inputs, _ = landscapes.scene(40)
    prediction = base.method(name).predict(inputs)
    forward, backward = inputs.f1 + prediction.changes[0], inputs.f3 - prediction.changes[1]
    low, high = np.minimum(forward, backward), np.maximum(forward, backward)
    assert ((prediction.f2 > low - 1e-5) & (prediction.f2 < high + 1e-5)).all()


@pytest.mark.parametrize("name", ["spstfm", "elm", "lbf"])
def test_changes_are_known_where_their_side_is(name):
    inputs, _ = landscapes.scene(40)
    valid_f1, valid_c3 = np.ones((2, 40, 40), bool)
    valid_f1[:10], valid_c3[:, 30:] = False, False
    inputs = dataclasses.replace(inputs, valid_f1=valid_f1, valid_c3=valid_c3)
    for change, valid in zip(
        base.method(name).predict(inputs).changes, (valid_f1, valid_c3), strict=True
    ):
        np.testing.assert_array_equal(np.isfinite(change), np.stack([valid, valid], axis=-1))


@pytest.mark.parametrize("name", base.names())
def test_one_band_and_an_odd_shape(name):
    inputs, _ = landscapes.scene(40)
    cut = {k: getattr(inputs, k)[:33, :27, :1] for k in ("f1", "f3", "c1", "c2", "c3")} | {
        k: getattr(inputs, f"valid_{k[6:]}")[:33, :27]
        for k in ("valid_f1", "valid_f3", "valid_c1", "valid_c2", "valid_c3")
    }
    prediction = base.method(name).predict(dataclasses.replace(inputs, **cut, ratio=6.5))
    assert prediction.f2.shape == (33, 27, 1)
    assert prediction.valid.all() and np.isfinite(prediction.f2).all()


@pytest.mark.parametrize("name", base.names())
@pytest.mark.parametrize(
    ("shape", "count"),
    [((12, 10), 0), ((12, 10), 1), ((12, 10), 3), ((1, 1), 1), ((6, 5), 30), ((1, 40), 40)],
)
def test_a_few_pixels(name, shape, count):
    scene, _ = landscapes.scene(40)
    images = ("f1", "f3", "c1", "c2", "c3")
    valid = np.zeros(shape, bool)
    valid.ravel()[:count] = True
    cut = {k: getattr(scene, k)[: shape[0], : shape[1]] for k in images}
    inputs = dataclasses.replace(scene, **cut, **{f"valid_{k}": valid for k in images})
    prediction = base.method(name).predict(inputs)
    np.testing.assert_array_equal(prediction.valid, valid)
    assert prediction.f2.dtype == np.float32 and np.isfinite(prediction.f2).all()
    known = np.stack(
        [inputs.f1, inputs.f3, inputs.f1 + inputs.c2 - inputs.c1, inputs.f3 + inputs.c2 - inputs.c3]
    )[:, valid]
    # A method may look around and extrapolate, but not far.
    assert (np.abs(prediction.f2[valid] - known.mean(axis=0)) < 0.2).all()


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("starfm", 0.00742),  # ImageFusion, the pair of 08-12
        ("starfm_both", 0.00871),  # ImageFusion, both pairs
        ("estarfm", 0.00772),  # its authors' Python code
        ("fitfc", 0.00944),  # ImageFusion, both sides averaged
    ],
)
def test_no_weaker_than_public_codes(name, public, stfnet_data):
    from data_prep import catalog, dataset, triplets
    from stfnet_tf import cases

    described = dataset.load("configs/boreal2001.toml")
    images = catalog.Catalog(described)
    triplet = triplets.Triplet(*landscapes.DATES)
    case = cases.read(images, triplet, "2001-07-11")
    prediction = base.method(name).predict(case.inputs)
    error = prediction.f2[case.valid] - case.truth[case.valid]
    assert np.sqrt(np.mean(error**2, axis=0)).mean() < 1.05 * public
