import dataclasses
import datetime

import numpy as np
import pytest

from data_prep import catalog, dataset, errors, grids, rasters, triplets
from stfnet_tf import export, fusion, scene
from tests.stfnet_tf import scenes

TRIPLET = triplets.Triplet(*map(datetime.date.fromisoformat, scenes.DATES))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("scene")


@pytest.fixture(scope="module")
def images(folder):
    return scenes.make(folder)


def whole_image(predictor, images, triplet=TRIPLET) -> dict[str, np.ndarray]:
    """The network on the whole image at once."""
    batch = {}
    for name in fusion.BOTH_SIDES:
        image = images.read("fine" if name[0] == "f" else "coarse", getattr(triplet, f"t{name[1]}"))
        batch |= {name: image.dn[None], f"valid_{name}": image.valid[None]}
    zeros = np.zeros((1, 2), np.float32)
    return {k: v.numpy()[0] for k, v in predictor.fuse_tile(**batch, v12=zeros, v23=zeros).items()}


@pytest.mark.parametrize("window", [32, 47, 512])
def test_raster_equals_the_network_on_the_whole_image(images, tmp_path, window):
    predictor = scenes.predictor(images, combination="local", combination_sigma=0.3, psf_fwhm=0.5)
    fused = scene.fuse(predictor, images, TRIPLET, tmp_path, window)
    expected = whole_image(predictor, images)
    found = rasters.read(str(fused.path))
    assert np.max(np.abs(found.astype(int) - expected["f2"])) <= 1  # a rounding tie may tip
    assert np.mean(found != expected["f2"]) < 1e-3
    sides = rasters.read(str(fused.quality_path))[..., -1]
    np.testing.assert_array_equal(sides, expected["sides"][..., 0])
    assert fused.known == pytest.approx(np.mean(expected["sides"] > 0))


def test_whole_image_weights_do_not_depend_on_the_window(images, tmp_path):
    predictor = scenes.predictor(images, combination="global")
    one, many = (
        rasters.read(str(scene.fuse(predictor, images, TRIPLET, tmp_path / str(w), w).path))
        for w in (512, 32)
    )
    assert np.max(np.abs(one.astype(int) - many)) <= 1
    assert np.mean(one != many) < 1e-3


def test_windows_of_any_size_agree_to_a_millionth_of_reflectance(tmp_path):
    images = scenes.make(tmp_path, floating=True)
    predictor = scenes.predictor(images)
    expected, *others = (
        rasters.read(str(scene.fuse(predictor, images, TRIPLET, tmp_path / str(w), w).path))
        for w in (512, 32, 45)
    )
    assert expected.dtype == np.float32 and expected.max() > 0.3
    for found in others:
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("combination", ["global", "local"])
def test_dates_fused_together_are_those_fused_alone(tmp_path, combination):
    """A one-sided date among them, and one between other fine images."""
    images = scenes.make(tmp_path, between=("2001-06-20", "2001-08-30"))
    predictor = scenes.predictor(images, combination=combination)
    days = [datetime.date.fromisoformat(k) for k in (*scenes.DATES, "2001-06-20", "2001-08-30")]
    dates = [
        TRIPLET,
        triplets.Triplet(days[0], days[3], days[2]),
        triplets.Triplet(days[2], days[4], None),
    ]
    together = scene.fuse_dates(predictor, images, dates, tmp_path / "together", 32)
    assert [k.triplet for k in together] == dates
    for triplet, one in zip(dates, together, strict=True):
        alone = scene.fuse(predictor, images, triplet, tmp_path / "alone", 32)
        assert (one.rmse, one.pixels, one.known) == (alone.rmse, alone.pixels, alone.known)
        assert one.path.read_bytes() == alone.path.read_bytes()
        assert one.quality_path.read_bytes() == alone.quality_path.read_bytes()


def test_what_dates_share_is_read_once(tmp_path, monkeypatch):
    images = scenes.make(tmp_path, between=("2001-06-20",))
    day = datetime.date(2001, 6, 20)
    dates = [TRIPLET, triplets.Triplet(TRIPLET.t1, day, TRIPLET.t3)]
    reads = []
    read = catalog.Catalog.read

    def counted(self, side, date, window=None):
        reads.append((side, date, window))
        return read(self, side, date, window)

    monkeypatch.setattr(catalog.Catalog, "read", counted)
    scene.fuse_dates(
        scenes.predictor(images, combination="local"), images, dates, tmp_path / "out", 32
    )
    outer = [k for k in reads if k[1] in (TRIPLET.t1, TRIPLET.t3)]
    assert outer and len(outer) == len(set(outer))


@pytest.mark.parametrize("size", [70, 700])
def test_rasters_are_cloud_optimized_by_gdals_own_judgement(tmp_path, size):
    from osgeo import gdal
    from osgeo_utils.samples import validate_cloud_optimized_geotiff

    grid = grids.Grid(size, 50 if size < 512 else size, scenes.GRID.geotransform, scenes.GRID.crs)
    images = scenes.make(tmp_path, grid=grid)
    fused = scene.fuse(scenes.predictor(images), images, TRIPLET, tmp_path / "out")
    for path in (fused.path, fused.quality_path):
        warnings, found, _ = validate_cloud_optimized_geotiff.validate(str(path), full_check=True)
        assert not found and not warnings
        opened = gdal.Open(str(path))
        assert (opened.GetRasterBand(1).GetOverviewCount() > 0) == (size > 512)


def test_overviews_mix_no_sides(tmp_path):
    """What is none of the codes was averaged."""
    grid = grids.Grid(600, 600, scenes.GRID.geotransform, scenes.GRID.crs)
    images = scenes.make(tmp_path, grid=grid)
    fused = scene.fuse(scenes.predictor(images), images, TRIPLET, tmp_path / "out")
    small = rasters.read(str(fused.quality_path), shape=(300, 300))[..., -1]
    whole = rasters.read(str(fused.quality_path))[..., -1]
    assert set(np.unique(small)) <= set(np.unique(whole))


def test_raster_states_all_that_the_fine_images_state(images, tmp_path):
    fused = scene.fuse(scenes.predictor(images), images, TRIPLET, tmp_path)
    stated = rasters.info(str(fused.path))
    assert stated.grid == scenes.GRID
    assert stated.nodata == -9999
    assert (stated.dtype, stated.scale, stated.offset) == ("int16", 1e-4, 0.0)
    from osgeo import gdal

    opened = gdal.Open(str(fused.path))
    assert [opened.GetRasterBand(k).GetDescription() for k in (1, 2)] == list(scenes.BANDS)
    assert opened.GetMetadataItem("LAYOUT", "IMAGE_STRUCTURE") == "COG"
    tags = opened.GetMetadata()
    assert tags["STFNET_PRESET"] == "paper"
    assert tags["STFNET_F1"] == "fine_20010524.tif"
    assert tags["STFNET_DATES"] == " ".join(scenes.DATES)


def test_rmse_is_that_of_the_written_raster(images, tmp_path):
    fused = scene.fuse(scenes.predictor(images), images, TRIPLET, tmp_path, 32)
    found = rasters.read(str(fused.path)).astype(float)
    true = images.read("fine", TRIPLET.t2)
    valid = true.valid & (found[..., 0] != -9999)
    expected = np.sqrt(np.mean((found - true.dn)[valid] ** 2, 0)) * 1e-4
    np.testing.assert_allclose(fused.rmse, expected, rtol=1e-4)
    assert fused.pixels == valid.sum()


@pytest.mark.parametrize("combination", ["global", "local"])
@pytest.mark.parametrize("window", [32, 512])
def test_what_neither_image_shows_is_filled_from_further_ones(tmp_path, window, combination):
    images = scenes.with_gaps(tmp_path)
    before, after = map(datetime.date.fromisoformat, scenes.FURTHER)
    further = triplets.Triplet(before, TRIPLET.t2, after)
    own = scenes.predictor(images, combination=combination)
    other = scenes.predictor(images, combination=combination, residual=True)
    with_fill = dataclasses.replace(TRIPLET, fill=(further,))
    plain = scene.fuse(own, images, TRIPLET, tmp_path / "plain", window)
    expected = scene.fuse(other, images, further, tmp_path / "further", window)
    (fused,) = scene.fuse_dates(
        own, images, [with_fill], tmp_path / "out", window, further={further: other}
    )

    def pixels(made):
        return [rasters.read(str(k)) for k in (made.path, made.quality_path)]

    (image, quality), (own_image, own_quality) = pixels(fused), pixels(plain)
    other_image, other_quality = pixels(expected)
    # Rows 20 to 22 no image shows, and of C2 a part of row 26 is missing.
    filled = np.zeros(scenes.GRID.shape, bool)
    filled[23:30] = True
    filled[26, :40] = False
    assert (own_quality[20:30, :, -1] == 0).all() and (own_image[20:30] == -9999).all()
    assert (image[~filled] == own_image[~filled]).all()
    assert (quality[~filled] == own_quality[~filled]).all()
    assert (image[filled] == other_image[filled]).all()
    assert (quality[filled][:, :-1] == other_quality[filled][:, :-1]).all()
    assert (quality[filled][:, -1] == 7).all() and (other_quality[filled][:, -1] == 3).all()
    assert fused.filled == filled.mean() and fused.known == plain.known + filled.mean()
    tag = rasters.tags(fused.path)["STFNET_FILL"]
    assert tag == f"{before} 2001-07-11 {after}"
    assert plain.filled == 0 and "STFNET_FILL" not in rasters.tags(plain.path)


def test_one_sided(images, tmp_path):
    triplet = triplets.Triplet(TRIPLET.t1, TRIPLET.t2, None)
    fused = scene.fuse(scenes.predictor(images), images, triplet, tmp_path)
    sides = rasters.read(str(fused.quality_path))[..., -1]
    assert set(np.unique(sides)) == {0, 1}


def test_truth_may_be_absent(tmp_path):
    images = scenes.make(tmp_path, without=("fine_20010711.tif",))
    fused = scene.fuse(scenes.predictor(images), images, TRIPLET, tmp_path / "out")
    assert fused.rmse is None and fused.known > 0.9


def test_an_export_fuses_the_same_raster(images, tmp_path):
    info = scenes.info(images)
    made = fusion.Fusion(scenes.network(), info)
    version = export.save(made, tmp_path / "made")
    loaded = scene.Predictor.from_saved_model(version, images)
    one = scene.fuse(scene.Predictor.of("run", made), images, TRIPLET, tmp_path / "run")
    two = scene.fuse(loaded, images, TRIPLET, tmp_path / "export")
    np.testing.assert_array_equal(rasters.read(str(one.path)), rasters.read(str(two.path)))


def test_a_failing_read_leaves_no_raster(images, tmp_path, folder):
    triplet = triplets.Triplet(TRIPLET.t1, datetime.date(2001, 7, 12), TRIPLET.t3)
    with pytest.raises(errors.InputError, match="2001-07-12"):
        scene.fuse(scenes.predictor(images), images, triplet, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


def test_other_bands_are_refused(images, tmp_path):
    made = fusion.Fusion(scenes.network(), scenes.info(images))
    version = export.save(made, tmp_path / "made")
    other = tmp_path / "other"
    other.mkdir()
    elsewhere = scenes.make(other)
    object.__setattr__(elsewhere.dataset, "bands", ("red", "swir1"))
    with pytest.raises(errors.InputError, match="found one for red, nir"):
        scene.Predictor.from_saved_model(version, elsewhere)


def test_nodata_that_the_fine_images_type_cannot_hold_is_another(tmp_path):
    images = scenes.make(tmp_path, without=("fine_20010711.tif",))
    for path in tmp_path.glob("fine_*.tif"):
        pixels = rasters.read(str(path))
        unsigned = np.where(pixels < 0, 0, pixels).astype(np.uint16)
        rasters.close_all()
        rasters.write(path, unsigned, scenes.GRID, nodata=-9999, band_names=scenes.BANDS)
    rasters.info.cache_clear()
    text = scenes.TOML.replace("fill = -9999\n", "valid_range = [1, 30000]\n", 1)
    (tmp_path / "made.toml").write_text(text)
    images = catalog.Catalog(dataset.load(tmp_path / "made.toml", tmp_path))
    fused = scene.fuse(scenes.predictor(images), images, TRIPLET, tmp_path / "out")
    found, sides = rasters.read(str(fused.path)), rasters.read(str(fused.quality_path))[..., -1]
    assert rasters.info(str(fused.path)).nodata == 0
    assert (sides == 0).any()
    np.testing.assert_array_equal(found[sides == 0], 0)
    assert (found[sides > 0] > 0).all()
