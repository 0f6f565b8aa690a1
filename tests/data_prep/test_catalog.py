import dataclasses
import datetime
import pickle

import numpy as np
import pytest
from osgeo import gdal

from data_prep import catalog, dataset, errors, grids, quality, rasters
from data_prep.grids import Grid, Window
from tests.data_prep import tiny

DAY = [datetime.date.fromisoformat(k) for k in tiny.DATES]


def opened(path, shifts=None):
    images = catalog.Catalog(dataset.load(path), shifts)
    images.check()
    return images


def rewrite(folder, name, image, grid, **options):
    """Puts another file in the place of one of the tiny set's."""
    rasters.write(folder / name, image, grid, **options)
    rasters.close_all()
    rasters.info.cache_clear()


def test_fine_pixels_are_the_files_pixels(tmp_path):
    images = opened(tiny.make(tmp_path))
    whole = images.read("fine", DAY[1])
    assert (whole.dn == tiny.land(96, 80, seed=1)).all() and whole.valid.all()
    part = images.read("fine", DAY[1], Window(10, 20, 30, 40))
    assert (part.dn == whole.dn[10:40, 20:60]).all()


def test_any_window_of_a_warped_image_has_the_same_pixels(tmp_path):
    images = opened(tiny.make(tmp_path, height=320, width=288, ratio=16))
    images.shifts = dict.fromkeys(DAY, (1.3, -2.6))
    whole = images.read("coarse", DAY[0])
    again = pickle.loads(pickle.dumps(images))
    for window in (Window(0, 0, 32, 288), Window(200, 130, 120, 158), Window(255, 255, 2, 2)):
        part = again.read("coarse", DAY[0], window)
        assert (part.dn == whole.dn[window.slices]).all()
        assert (part.valid == whole.valid[window.slices]).all()
    with pytest.raises(ValueError, match="border"):
        images.read("coarse", DAY[0], Window(300, 0, 32, 32))


def test_the_images_of_some_dates_are_soon_sent_however_many_there_are(tmp_path):
    path = tiny.make(tmp_path)
    text = path.read_text().replace("[coarse]", "[coarse]\nperiod_days = 10")
    (tmp_path / f"C_{tiny.DATES[1]}.tif").unlink()  # the composite of the first date holds for it
    path.write_text(text)
    images = opened(path)
    part = pickle.loads(pickle.dumps(images.of([DAY[1]])))
    for side in ("fine", "coarse"):
        found, expected = (k.read(side, DAY[1]) for k in (part, images))
        assert (found.dn == expected.dn).all() and (found.valid == expected.valid).all()
    assert (part.fine_dates, part.ratio, part.grid) == ([DAY[1]], images.ratio, images.grid)
    for k in range(20, 30):
        for side in "FC":
            (tmp_path / f"{side}_2002-01-{k}.tif").hardlink_to(tmp_path / f"{side}_{DAY[2]}.tif")
    sizes = [len(pickle.dumps(k.of([DAY[1]]))) for k in (images, opened(path))]
    assert sizes[0] == sizes[1]


def test_shift_moves_the_coarse_image_down_and_right_and_frees_the_border(tmp_path):
    path = tiny.make(tmp_path, ratio=8)
    plain, moved = opened(path), opened(path, {DAY[0]: (8.0, 16.0)})
    before, after = plain.read("coarse", DAY[0]), moved.read("coarse", DAY[0])
    inner = np.s_[12:-4, 20:-4]
    assert np.abs(after.dn[inner] - np.roll(before.dn, (8, 16), (0, 1))[inner]).max() <= 1
    assert not after.valid[:8].any() and not after.valid[:, :16].any()
    assert after.valid[8:, 16:].all()
    # Other dates stay where they are.
    assert (moved.read("coarse", DAY[1]).dn == plain.read("coarse", DAY[1]).dn).all()


def test_coinciding_coarse_pixels_are_copied_also_with_a_whole_shift(tmp_path):
    path = tiny.make(tmp_path)
    grid = tiny.grid(96, 80)
    image = np.repeat(np.repeat(tiny.blocks(tiny.land(96, 80), 8), 8, 0), 8, 1)
    for date in tiny.DATES:
        rewrite(tmp_path, f"C_{date}.tif", image, grid)
    tiny.describe(tmp_path, more="")
    path.write_text(path.read_text().replace("[coarse]", "[coarse]\nratio = 8"))
    assert (opened(path).read("coarse", DAY[0]).dn == image).all()
    moved = opened(path, {DAY[0]: (3.0, -2.0)}).read("coarse", DAY[0])
    assert (moved.dn[3:, :-2] == image[:-3, 2:]).all()
    assert not moved.valid[:3].any() and not moved.valid[:, -2:].any()


def test_a_fine_image_may_cover_a_part_of_the_grid(tmp_path):
    path = tiny.make(tmp_path)
    rewrite(tmp_path, f"F_{tiny.DATES[1]}.tif", tiny.land(40, 80, seed=1), tiny.grid(40, 80))
    image = opened(path).read("fine", DAY[1])
    assert image.valid[:40].all() and not image.valid[40:].any()
    assert (image.dn[:40] == tiny.land(40, 80, seed=1)).all()


def test_fine_images_of_other_extents_on_one_lattice_are_copied(tmp_path):
    path = tiny.make(tmp_path)
    later = tiny.land(96, 80, seed=1)
    offset = tiny.grid(96, 80).crop(Window(-10, 5, 96, 80))
    rewrite(tmp_path, f"F_{tiny.DATES[1]}.tif", later, offset)
    images = opened(path)
    image = images.read("fine", DAY[1])
    assert (image.dn[:86, 5:] == later[10:, :75]).all()
    assert not image.valid[86:].any() and not image.valid[:, :5].any()
    path.write_text(path.read_text() + '[grid]\nextent = "intersection"\n')
    shared = opened(path)
    assert shared.grid.shape == (86, 75)
    assert (shared.read("fine", DAY[1]).dn == later[10:, :75]).all()
    path.write_text(path.read_text().replace("intersection", "union"))
    assert opened(path).grid.shape == (106, 85)


def test_records_keep_south_up_fine_images_as_they_are(tmp_path):
    path = tiny.make(tmp_path)
    x0, a, b, y0, c, d = tiny.grid(96, 80).geotransform
    south_up = Grid(80, 96, (x0, a, b, y0 + 96 * d, c, -d), tiny.UTM)
    for k, date in enumerate(tiny.DATES):
        rewrite(tmp_path, f"F_{date}.tif", tiny.land(96, 80, seed=k)[::-1], south_up)
    images = opened(path)
    assert images.grid == dataclasses.replace(south_up, crs=images.grid.crs)
    assert (images.read("fine", DAY[0]).dn == tiny.land(96, 80)[::-1]).all()
    upright = opened(tiny.make(tmp_path / "upright")).read("coarse", DAY[0])
    assert np.abs(images.read("coarse", DAY[0]).dn - upright.dn[::-1]).max() <= 1


def test_invalid_coarse_pixels_do_not_bleed(tmp_path):
    path = tiny.make(tmp_path)
    broken = tiny.blocks(tiny.land(96, 80), 8)
    good = opened(path).read("coarse", DAY[0])
    broken[5, 5] = 32000
    rewrite(tmp_path, f"C_{tiny.DATES[0]}.tif", broken, tiny.grid(12, 10, size=240.0))
    image = opened(path).read("coarse", DAY[0])
    assert image.dn.max() <= 4000
    assert not image.valid[40:48, 40:48][2:6, 2:6].any()
    far = np.ones((96, 80), bool)
    far[32:56, 32:56] = False
    assert image.valid[far].all() and (image.dn[far] == good.dn[far]).all()


def test_quality_on_a_grid_of_its_own_with_dilation(tmp_path):
    path = tiny.make(tmp_path)
    state = np.zeros((6, 5, 1), np.uint16)
    state[2, 2] = 0b01
    state[4, 0] = 0b1000
    for date in tiny.DATES:
        rasters.write(tmp_path / f"Q_{date}.tif", state, tiny.grid(6, 5, size=480.0))
    path.write_text(
        path.read_text()
        + '[[coarse.quality]]\nfiles = "Q_{year}-{month}-{day}.tif"\n'
        + "[coarse.quality.rules]\ncloud = { bits = [0, 1], values = [1, 2] }\n"
        + "snow = { bits = 3 }\n"
    )
    text = path.read_text()
    path.write_text(
        text.replace("[coarse]", '[coarse]\nresampling = "nearest"\nreject = ["cloud"]')
    )
    expected = np.ones((96, 80), bool)
    expected[32:48, 32:48] = False
    assert (opened(path).read("coarse", DAY[0]).valid == expected).all()
    path.write_text(path.read_text().replace("reject", "dilate = 1\nreject"))
    expected[16:64, 16:64] = False
    assert (opened(path).read("coarse", DAY[0]).valid == expected).all()


def test_quality_mask_of_fine_images_dilated_across_window_borders(tmp_path):
    path = tiny.make(tmp_path)
    mask = np.zeros((96, 80, 1), np.uint8)
    mask[30, 30] = 4
    for date in tiny.DATES:
        rasters.write(tmp_path / f"Q_{date}.tif", mask, tiny.grid(96, 80))
    text = path.read_text().replace("[fine]", '[fine]\ndilate = 3\nreject = ["cloud"]')
    path.write_text(
        text
        + '[[fine.quality]]\nfiles = "Q_{year}-{month}-{day}.tif"\n'
        + "[fine.quality.rules]\ncloud = { values = 4 }\n"
    )
    images = opened(path)
    expected = np.ones((96, 80), bool)
    expected[27:34, 27:34] = False
    assert (images.read("fine", DAY[0]).valid == expected).all()
    window = Window(31, 31, 16, 16)
    assert (images.read("fine", DAY[0], window).valid == expected[window.slices]).all()


def test_bands_of_two_resolutions(tmp_path):
    fine, image = tiny.grid(96, 80), tiny.land(96, 80)
    for date in tiny.DATES:
        rasters.write(tmp_path / f"S_{date}_10.tif", image[..., :1], fine)
        rasters.write(
            tmp_path / f"S_{date}_20.tif",
            tiny.blocks(image, 2)[..., 1:],
            tiny.grid(48, 40, size=60),
        )
    path = tiny.make(tmp_path)
    path.write_text(
        path.read_text().replace(
            'files = "F_{year}-{month}-{day}.tif"',
            'files = "S_{year}-{month}-{day}_{band}.tif"\nbands = { green = "10", nir = "20" }',
        )
    )
    read = opened(path).read("fine", DAY[0])
    assert (read.dn[..., 0] == image[..., 0]).all()
    wanted, _ = grids.warp(
        tiny.blocks(image, 2)[..., 1:], tiny.grid(48, 40, size=60), fine, "bilinear"
    )
    assert np.abs(read.dn[..., 1] - wanted[..., 0]).max() <= 0.5


def test_sides_keep_their_own_encodings(tmp_path):
    path = tiny.make(tmp_path)
    for k, date in enumerate(tiny.DATES):
        coarse = tiny.blocks(tiny.land(96, 80, seed=k), 8).astype(np.float32) / 10000
        coarse[0, 0] = -3.4e38
        rewrite(tmp_path, f"C_{date}.tif", coarse, tiny.grid(12, 10, size=240.0), nodata=-3.4e38)
    head, tail = path.read_text().split("[coarse]")
    tail = tail.replace("scale = 0.0001", "scale = 1.0").replace("[0, 10000]", "[0, 1]")
    path.write_text(f"{head}[coarse]{tail}")
    images = opened(path)
    assert images.encoding("fine").dtype == "int16" and images.encoding("coarse").dtype == "float32"
    image = images.read("coarse", DAY[0])
    fine = opened(tiny.make(tmp_path / "int")).read("coarse", DAY[0])
    assert not image.valid[0, 0] and image.valid[8:, 8:].all()
    np.testing.assert_allclose(
        images.encoding("coarse").reflectance(image.dn)[16:, 16:],
        fine.dn[16:, 16:] * 1e-4,
        atol=1e-4,
    )


def test_scale_from_the_file_whether_factor_or_divisor(tmp_path):
    for k, scale in enumerate((0.0001, 10000.0)):
        path = tiny.make(tmp_path / str(k))
        for n, date in enumerate(tiny.DATES):
            image = tiny.blocks(tiny.land(96, 80, seed=n), 8)
            name = f"C_{date}.tif"
            rewrite(tmp_path / str(k), name, image, tiny.grid(12, 10, size=240.0), scale=scale)
        head, tail = path.read_text().split("[coarse]")
        path.write_text(f"{head}[coarse]{tail.replace('scale = 0.0001', '')}")
        assert opened(path).encoding("coarse").scale == pytest.approx(1e-4)


def test_no_scale_anywhere(tmp_path):
    path = tiny.make(tmp_path)
    path.write_text(path.read_text().replace("scale = 0.0001", "", 1))
    with pytest.raises(errors.InputError, match=r"fine\.scale: expected a number"):
        opened(path)


@pytest.mark.parametrize("joined", [False, True])
def test_a_vrt_states_the_scale_of_its_files_alone(tmp_path, joined):
    path = tiny.make(tmp_path)
    text = path.read_text().replace("scale = 0.0001\n", "", 1)
    path.write_text(text.replace("{day}.tif", "{day}_{tile}.vrt" if joined else "{day}.vrt", 1))
    for stated in (None, 2e-4):
        for k, date in enumerate(tiny.DATES):
            image = tiny.land(96, 80, seed=k)
            rewrite(tmp_path, f"F_{date}.tif", image, tiny.grid(96, 80), scale=stated)
            for tile in ("_0", "_1") if joined else ("",):
                gdal.Translate(
                    str(tmp_path / f"F_{date}{tile}.vrt"),
                    str(tmp_path / f"F_{date}.tif"),
                    format="VRT",
                    srcWin=[40, 0, 40, 96] if tile == "_1" else [0, 0, 40 if tile else 80, 96],
                )
        if stated is None:
            with pytest.raises(errors.InputError, match=r"fine\.scale: .*states none"):
                opened(path)
        else:
            assert opened(path).encoding("fine").scale == stated


def test_composites_are_matched_to_the_dates_within_them(tmp_path):
    path = tiny.make(tmp_path)
    for date in tiny.DATES[1:]:
        (tmp_path / f"C_{date}.tif").unlink()
    head, tail = path.read_text().split("[coarse]")
    path.write_text(f"{head}[coarse]\nperiod_days = 10{tail}")
    images = opened(path)
    assert images.coarse_dates == DAY[:2]
    assert not images.has("coarse", DAY[2])
    assert images.source_date("coarse", DAY[1]) == DAY[0]
    assert (images.read("coarse", DAY[1]).dn == images.read("coarse", DAY[0]).dn).all()
    # Of nine days the first is that of the composite, so that the last is eight days later.
    path.write_text(path.read_text().replace("period_days = 10", "period_days = 9"))
    assert not opened(path).has("coarse", DAY[1])


def test_stack_of_dates(tmp_path):
    stack = np.moveaxis(
        np.stack([tiny.blocks(tiny.land(96, 80, 1, seed=k), 8)[..., 0] for k in range(5)]), 0, -1
    )
    rasters.write(tmp_path / "stack.tif", stack, tiny.grid(12, 10, size=240.0))
    rasters.write(tmp_path / "F_2001-01-20.tif", tiny.land(96, 80, 1), tiny.grid(96, 80))
    path = tmp_path / "x.toml"
    path.write_text(
        'name = "x"\nbands = ["ndvi"]\n[fine]\nfiles = "F_{year}-{month}-{day}.tif"\nscale = 1e-4\n'
        '[coarse]\nfiles = "stack.tif"\nscale = 1e-4\nresampling = "nearest"\n'
        "stack = { first = 2001-01-01, every_days = 16 }\n"
    )
    images = opened(path)
    days = [datetime.date(2001, 1, d) for d in (1, 20)]
    assert images.coarse_dates[:2] == days and len(images.coarse_dates) == 5
    # 20 January lies within the composite from the 17th on, the second band.
    expected = np.kron(stack[..., 1], np.ones((8, 8), np.int16))
    assert (images.read("coarse", days[1]).dn[..., 0] == expected).all()


def test_quality_layers_beside_a_stack_hold_for_its_dates(tmp_path):
    path = tiny.make(tmp_path, dates=tiny.DATES[:2])
    rasters.write(
        tmp_path / "S.tif", tiny.blocks(tiny.land(96, 80, 2), 8), tiny.grid(12, 10, size=240.0)
    )
    state = np.zeros((12, 10, 1), np.uint8)
    state[3:5, 2:7] = 1
    rasters.write(tmp_path / f"Q_{tiny.DATES[1]}.tif", state, tiny.grid(12, 10, size=240.0))
    text = path.read_text().replace('["green", "nir"]', '["nir"]', 1)
    given = 'files = "S.tif"\nstack = { first = "2001-10-08", every_days = 9 }\nreject = ["bad"]'
    text = text.replace('files = "C_{year}-{month}-{day}.tif"', given)
    layer = "[[coarse.quality]]\noptional = true\nrules.bad = { values = 1 }\n"
    path.write_text(text.replace("[dates]", f"{layer}[dates]"))
    with pytest.raises(errors.InputError, match=r"coarse\.quality: expected 'files' of each"):
        opened(path)
    layer += 'files = "Q_{year}-{month}-{day}.tif"\n'
    path.write_text(text.replace("[dates]", f"{layer}[dates]"))
    images = opened(path)
    whole = Window(0, 0, 12, 10)
    first, second = (images.read_native("coarse", day, whole).valid for day in DAY[:2])
    assert first.all() and (second == (state[..., 0] == 0)).all()


def test_bands_of_a_stack_have_names_of_their_own(tmp_path):
    path = tiny.make(tmp_path, dates=tiny.DATES[:2])
    stack = tiny.blocks(tiny.land(96, 80, 3), 8)
    given = {"band_names": ("NIR", "NIR_1", "NIR_2")}
    rasters.write(tmp_path / "series.tif", stack, tiny.grid(12, 10, size=240.0), **given)
    text = path.read_text().replace('["green", "nir"]', '["nir"]', 1)
    path.write_text(
        text.replace(
            'files = "C_{year}-{month}-{day}.tif"',
            'files = "series.tif"\nstack = { first = "2001-10-08", every_days = 9 }',
        )
    )
    images = opened(path)
    read = images.read_native("coarse", images.coarse_dates[1], Window(0, 0, 12, 10))
    assert (read.dn == stack[..., 1:2]).all()


def test_the_union_of_fine_images_in_two_systems_holds_them_whole(tmp_path):
    path = tiny.make(tmp_path, height=160, width=160)
    west, zone_56 = tiny.grid(160, 160, x=7.5e5), grids.crs_wkt("EPSG:32656")
    for date in tiny.DATES:
        rewrite(tmp_path, f"F_{date}.tif", tiny.land(160, 160), west)
        coarse = tiny.blocks(tiny.land(160, 160), 8)
        rewrite(tmp_path, f"C_{date}.tif", coarse, tiny.grid(20, 20, size=240.0, x=7.5e5))
    anywhere = Grid(1, 1, (0.0, 1.0, 0.0, 0.0, 0.0, -1.0), zone_56)
    ((north, x),) = grids.locate(west, anywhere, np.array([0.0]), np.array([160.0]))
    east = Grid(160, 160, (x, 30.0, 0.0, -north, 0.0, -30.0), zone_56)
    rewrite(tmp_path, f"F_{tiny.DATES[1]}.tif", tiny.land(160, 160), east)
    path.write_text(path.read_text() + '[grid]\nextent = "union"\n')
    images = opened(path)
    border = np.array([0.0, 0.0, 160.0, 160.0]), np.array([0.0, 160.0, 0.0, 160.0])
    corners = grids.locate(east, images.grid, *border)
    assert (corners > -0.51).all() and (corners < np.array(images.grid.shape) + 0.51).all()


@pytest.mark.filterwarnings("error")
def test_an_image_without_a_place_in_the_system_of_the_others_is_named(tmp_path):
    path = tiny.make(tmp_path)
    nowhere = Grid(80, 96, (5e12, 30.0, 0.0, 6e12, 0.0, -30.0), grids.crs_wkt("EPSG:32601"))
    rewrite(tmp_path, f"F_{tiny.DATES[1]}.tif", tiny.land(96, 80), nowhere)
    path.write_text(path.read_text() + '[grid]\nextent = "union"\n')
    with pytest.raises(
        errors.InputError, match=rf"F_{tiny.DATES[1]}.* expected .* with a place in"
    ):
        opened(path)


def test_no_crs_at_all_needs_agreeing_grids_and_says_so(tmp_path):
    path = tiny.make(tmp_path)
    bare = Grid(80, 96)
    for k, date in enumerate(tiny.DATES):
        image = tiny.land(96, 80, seed=k)
        rewrite(tmp_path, f"F_{date}.tif", image, bare)
        rewrite(tmp_path, f"C_{date}.tif", tiny.blocks(image, 8), Grid(10, 12))
    images = opened(path)
    assert images.ratio == pytest.approx(8)
    assert any("1:8" in note for note in images.notes)
    with_crs = opened(tiny.make(tmp_path / "crs"))
    assert (images.read("coarse", DAY[0]).dn == with_crs.read("coarse", DAY[0]).dn).all()
    rewrite(tmp_path, f"C_{tiny.DATES[1]}.tif", tiny.land(13, 10), Grid(10, 13))
    with pytest.raises(errors.InputError, match=rf"C_{tiny.DATES[1]}.*13 pixels, no CRS"):
        opened(path)


def test_coarse_without_crs_beside_fine_with_one(tmp_path):
    path = tiny.make(tmp_path)
    for date in tiny.DATES:
        image = tiny.blocks(tiny.land(96, 80), 8)
        rewrite(
            tmp_path,
            f"C_{date}.tif",
            image,
            dataclasses.replace(tiny.grid(12, 10, size=240.0), crs=""),
        )
    with pytest.raises(errors.InputError, match=r"C_.*no CRS.*assume_crs"):
        opened(path)
    path.write_text(path.read_text().replace("[coarse]", '[coarse]\nassume_crs = "EPSG:32655"'))
    assert opened(path).read("coarse", DAY[0]).valid.all()


def with_clouds(path, side="fine"):
    """The description with quality layers Q_<date>.tif whose 4 means cloud."""
    text = path.read_text().replace(f"[{side}]", f'[{side}]\nreject = ["cloud"]')
    path.write_text(
        f'{text}[[{side}.quality]]\nfiles = "Q_{{year}}-{{month}}-{{day}}.tif"\n'
        f"[{side}.quality.rules]\ncloud = {{ values = 4 }}\n"
    )
    return path


def test_a_quality_layer_of_the_same_size_lies_where_it_says(tmp_path):
    path = with_clouds(tiny.make(tmp_path))
    mask = np.zeros((96, 80, 1), np.uint8)
    mask[30, 30] = 4
    for date in tiny.DATES:
        rasters.write(tmp_path / f"Q_{date}.tif", mask, tiny.grid(96, 80).moved(10, 20))
    expected = np.zeros((96, 80), bool)
    expected[10:, 20:] = True  # beyond the layer nothing is known
    expected[40, 50] = False
    assert (opened(path).read("fine", DAY[0]).valid == expected).all()


def test_a_band_in_a_file_of_its_own_lies_where_it_says(tmp_path):
    image = tiny.land(96, 80)
    for date in tiny.DATES:
        rasters.write(tmp_path / f"S_{date}_g.tif", image[..., :1], tiny.grid(96, 80))
        rasters.write(tmp_path / f"S_{date}_n.tif", image[..., 1:], tiny.grid(96, 80).moved(5, 0))
    path = tiny.make(tmp_path)
    path.write_text(
        path.read_text().replace(
            'files = "F_{year}-{month}-{day}.tif"',
            'files = "S_{year}-{month}-{day}_{band}.tif"\nbands = { green = "g", nir = "n" }',
        )
    )
    read = opened(path).read("fine", DAY[0])
    assert (read.dn[5:, :, 1] == image[:-5, :, 1]).all() and read.valid[5:].all()
    assert (read.dn[5:, :, 0] == image[5:, :, 0]).all() and not read.valid[:5].any()


def test_layers_without_a_place_need_the_images_size(tmp_path):
    path = with_clouds(tiny.make(tmp_path))
    for date in tiny.DATES:
        rasters.write(tmp_path / f"Q_{date}.tif", np.zeros((96, 80, 1), np.uint8), Grid(80, 96))
    assert opened(path).read("fine", DAY[0]).valid.all()
    rewrite(tmp_path, f"Q_{tiny.DATES[0]}.tif", np.zeros((48, 40, 1), np.uint8), Grid(40, 48))
    with pytest.raises(errors.InputError, match=rf"Q_{tiny.DATES[0]}.*the size of the image"):
        opened(path)


def test_a_quality_layer_without_crs_shares_the_assumed_one(tmp_path):
    path = with_clouds(tiny.make(tmp_path), "coarse")
    path.write_text(path.read_text().replace("[coarse]", '[coarse]\nassume_crs = "EPSG:32655"'))
    mask = np.zeros((6, 5, 1), np.uint8)
    mask[2, 1] = 4
    for date in tiny.DATES:
        bare = dataclasses.replace(tiny.grid(12, 10, size=240.0), crs="")
        rewrite(tmp_path, f"C_{date}.tif", tiny.blocks(tiny.land(96, 80), 8), bare)
        rasters.write(
            tmp_path / f"Q_{date}.tif",
            mask,
            dataclasses.replace(tiny.grid(6, 5, size=480.0), crs=""),
        )
    valid = opened(path).read("coarse", DAY[0]).valid
    assert not valid[36:44, 20:28].any() and valid[:28].all() and valid[52:].all()


def test_the_union_of_fine_images_of_which_one_has_no_crs(tmp_path):
    path = tiny.make(tmp_path, more='[grid]\nextent = "union"')
    bare = dataclasses.replace(tiny.grid(96, 80).moved(10, 0), crs="")
    rewrite(tmp_path, f"F_{tiny.DATES[1]}.tif", tiny.land(96, 80, seed=1), bare)
    images = opened(path)
    assert images.grid.shape == (106, 80)
    assert (images.read("fine", DAY[1]).dn[10:] == tiny.land(96, 80, seed=1)).all()


@pytest.mark.parametrize(
    "stated, removed, message",
    [
        ({"scale": 2e-4}, ("scale",), "expected band 1 to state the scale .* 0.0001, found 0.0002"),
        ({"scale": 1.005e-4}, ("scale",), "expected band 1 to state the scale .* found 0.0001005"),
        ({"scale": [1e-4, 5e-4]}, ("scale",), "expected band 2 to state the scale"),
        (
            {"scale": 1e-4, "offset": -0.1},
            ("scale",),
            "band 1 to state the offset .* 0, found -0.1",
        ),
        ({"scale": 1e-4, "offset": -0.1}, (), "band 1 to state the offset"),
    ],
)
def test_scales_and_offsets_that_differ_are_refused(tmp_path, stated, removed, message):
    path = tiny.make(tmp_path)
    if removed:
        path.write_text(path.read_text().replace("scale = 0.0001\n", "", 1))
    for k, date in enumerate(tiny.DATES):
        image = tiny.land(96, 80, seed=k)
        rewrite(tmp_path, f"F_{date}.tif", image, tiny.grid(96, 80), scale=1e-4)
    rewrite(tmp_path, f"F_{tiny.DATES[1]}.tif", tiny.land(96, 80), tiny.grid(96, 80), **stated)
    with pytest.raises(errors.InputError, match=message):
        opened(path)
    path.write_text(path.read_text().replace("[fine]", "[fine]\noffset = 0.0"))
    if not removed:
        opened(path)


def test_the_files_offset_holds_beside_their_own_scale_written_out(tmp_path):
    path = tiny.make(tmp_path)
    for k, date in enumerate(tiny.DATES):
        image = tiny.land(96, 80, seed=k)
        rewrite(tmp_path, f"F_{date}.tif", image, tiny.grid(96, 80), scale=1e-4, offset=-0.2)
    assert opened(path).encoding("fine").offset == -0.2
    path.write_text(path.read_text().replace("scale = 0.0001", "scale = 0.001", 1))
    with pytest.raises(errors.InputError, match=r"found -0\.2; fine\.offset says"):
        opened(path)


def test_one_scale_in_single_and_in_double_precision_is_one(tmp_path):
    path = tiny.make(tmp_path)
    for k, date in enumerate(tiny.DATES):
        stated = {"scale": 2.75e-5, "offset": -0.2}
        if k == 1:
            stated = {key: float(np.float32(value)) for key, value in stated.items()}
        image = tiny.land(96, 80, seed=k)
        rewrite(tmp_path, f"F_{date}.tif", image, tiny.grid(96, 80), **stated)
    text = path.read_text()
    for scale in ("", "scale = 2.7499999e-5\n"):
        path.write_text(text.replace("scale = 0.0001\n", scale, 1))
        assert opened(path).encoding("fine").offset == -0.2


def test_each_band_has_its_own_nodata_value(tmp_path):
    path = tiny.make(tmp_path)
    image = tiny.land(96, 80)
    image[3, 4, 1], image[5, 6, 1], image[7, 8, 0] = 9999, 7777, 7777
    for date in tiny.DATES:
        rewrite(tmp_path, f"F_{date}.tif", image, tiny.grid(96, 80))
    vrt = gdal.Translate(
        "", str(tmp_path / f"F_{tiny.DATES[0]}.tif"), options=gdal.TranslateOptions(format="VRT")
    )
    vrt.GetRasterBand(1).SetNoDataValue(7777)
    vrt.GetRasterBand(2).SetNoDataValue(9999)
    gdal.GetDriverByName("VRT").CreateCopy(str(tmp_path / "first.vrt"), vrt)
    del vrt
    (tmp_path / "first.vrt").rename(tmp_path / f"F_{tiny.DATES[0]}.vrt")
    path.write_text(
        path.read_text().replace('F_{year}-{month}-{day}.tif"', 'F_{year}-{month}-{day}.vrt"')
    )
    path.write_text(
        path.read_text().replace('train = ["2001-10-08", "2001-10-17", "2001-11-02"]', "train = []")
    )
    valid = opened(path).read("fine", DAY[0]).valid
    assert [tuple(k) for k in np.argwhere(~valid)] == [(3, 4), (7, 8)]


@pytest.mark.parametrize(
    "dtype, stated, described, expected",
    [
        ("uint16", -9999, "", None),
        ("uint8", 300, "", None),
        ("int16", np.nan, "", None),
        ("float64", -1.7976931348623157e308, "", None),
        ("float64", -3.4028235e38, "", -3.4028235e38),
        ("uint16", None, "fill = [-9999, 0]", 0),
        ("uint16", 7, "fill = -9999", 7),
    ],
)
def test_no_fill_that_pixels_cannot_hold_is_written(tmp_path, dtype, stated, described, expected):
    path = tiny.make(tmp_path)
    for k, date in enumerate(tiny.DATES):
        image = (tiny.land(96, 80, seed=k) // 16).astype(dtype)
        rewrite(tmp_path, f"F_{date}.tif", image, tiny.grid(96, 80), nodata=stated)
    path.write_text(path.read_text().replace("[fine]", f"[fine]\n{described}"))
    encoding = opened(path).encoding("fine")
    assert encoding.fill == expected
    known = np.zeros((1, 1), bool)
    written = encoding.digital_numbers(np.full((1, 1, 2), 0.3), known)
    np.testing.assert_array_equal(written, np.full((1, 1, 2), encoding.nodata, encoding.dtype))


@pytest.mark.filterwarnings("error")
def test_nodata_in_double_precision_is_read_without_a_warning(tmp_path):
    path = tiny.make(tmp_path)
    lowest = np.finfo(np.float64).min
    image = tiny.land(96, 80).astype(np.float64)
    image[:5] = lowest
    for date in tiny.DATES:
        rewrite(tmp_path, f"F_{date}.tif", image, tiny.grid(96, 80), nodata=lowest)
    read = opened(path).read("fine", DAY[0])
    assert not read.valid[:5].any() and read.valid[5:].all()


@pytest.mark.parametrize("scale", [0.0, -1e-4])
def test_a_file_that_states_no_usable_scale_is_named(tmp_path, scale):
    path = tiny.make(tmp_path)
    path.write_text(path.read_text().replace("scale = 0.0001\n", "", 1))
    for date in tiny.DATES:
        rewrite(tmp_path, f"F_{date}.tif", tiny.land(96, 80), tiny.grid(96, 80), scale=scale)
    message = rf"fine\.scale: expected a number above 0, because .*F_.*\.tif states {scale}"
    with pytest.raises(errors.InputError, match=message):
        opened(path)


def test_a_nodata_value_that_is_no_number_hides_what_is_none(tmp_path):
    path = tiny.make(tmp_path)
    image = tiny.land(96, 80).astype(np.float32)
    image[3, 4, 1], image[5, 6] = np.nan, np.nan
    for date in tiny.DATES:
        rewrite(tmp_path, f"F_{date}.tif", image, tiny.grid(96, 80), nodata=np.nan)
    valid = opened(path).read("fine", DAY[0]).valid
    assert [tuple(k) for k in np.argwhere(~valid)] == [(3, 4), (5, 6)]


def test_interpolated_numbers_stay_within_their_type():
    dn = np.array([-1.5, 2.5, 3.5, 65535.4, 7e4], np.float32)
    np.testing.assert_array_equal(catalog._as_type(dn, np.dtype("uint16")), [0, 2, 4, 65535, 65535])


@pytest.mark.parametrize("kind", ["mask", "alpha"])
def test_pixels_that_a_file_masks_are_invalid(tmp_path, kind):
    path = tiny.make(tmp_path)
    covered = np.full((96, 80), 255, np.uint8)
    covered[20:30, 5:50] = 0
    for date in tiny.DATES:
        file = tmp_path / f"F_{date}.tif"
        bands = 2 + (kind == "alpha")
        rewrite(tmp_path, file.name, tiny.land(96, 80, bands), tiny.grid(96, 80))
        masked = gdal.OpenEx(str(file), gdal.OF_UPDATE)
        if kind == "mask":
            masked.CreateMaskBand(gdal.GMF_PER_DATASET)
            masked.GetRasterBand(1).GetMaskBand().WriteArray(covered)
        else:
            masked.GetRasterBand(3).SetColorInterpretation(gdal.GCI_AlphaBand)
            masked.GetRasterBand(3).WriteArray(covered)
        del masked
    rasters.close_all()
    rasters.info.cache_clear()
    read = opened(path).read("fine", DAY[0], Window(10, 2, 50, 60))
    assert (read.valid == (covered > 0)[10:60, 2:62]).all()


def test_bytes_of_four_bands_have_no_alpha(tmp_path):
    path = tiny.make(tmp_path)
    path.write_text(
        path.read_text().replace('["green", "nir"]', '["blue", "green", "red", "nir"]', 1)
    )
    for side, grid in (("F", tiny.grid(96, 80)), ("C", tiny.grid(12, 10, size=240.0))):
        for date in tiny.DATES:
            image = (tiny.land(*grid.shape, 4) // 16).astype(np.uint8)
            image[:5, :5, 3] = 0
            rewrite(tmp_path, f"{side}_{date}.tif", image, grid)
    assert opened(path).read("fine", DAY[0]).valid.all()


def test_pixel_sizes_in_metres_beside_grids_in_degrees(tmp_path):
    path = tiny.make(tmp_path)
    degrees = 0.00027
    wgs84 = grids.crs_wkt("EPSG:4326")
    for k, date in enumerate(tiny.DATES):
        image = tiny.land(96, 80, seed=k)
        smooth = np.repeat(np.repeat(tiny.blocks(image, 8), 8, 0), 8, 1)
        grid = Grid(80, 96, (145, degrees, 0, -34, 0, -degrees), wgs84)
        rewrite(tmp_path, f"F_{date}.tif", image, grid)
        rewrite(tmp_path, f"C_{date}.tif", smooth, grid)
    path.write_text(path.read_text().replace("[coarse]", "[coarse]\npixel_size = 240.0"))
    metres = degrees * np.pi / 180 * 6378137
    assert opened(path).ratio == pytest.approx(240 / metres)


def test_the_ratio_of_oblong_pixels_is_the_root_of_that_of_their_areas(tmp_path):
    path = tiny.make(tmp_path)
    oblong = Grid(10, 6, (5e5, 240.0, 0.0, 6e6, 0.0, -480.0), tiny.UTM)
    for date in tiny.DATES:
        rewrite(tmp_path, f"C_{date}.tif", tiny.land(6, 10), oblong)
    assert opened(path).grid_ratio(DAY[0]) == pytest.approx(np.sqrt(8 * 16))


# --- what is wrong, in one sentence ---


def test_wrong_crs_and_empty_intersection(tmp_path):
    path = tiny.make(tmp_path)
    other = dataclasses.replace(tiny.grid(12, 10, size=240.0), crs=grids.crs_wkt("EPSG:32610"))
    rewrite(tmp_path, f"C_{tiny.DATES[2]}.tif", tiny.land(12, 10), other)
    message = rf"C_{tiny.DATES[2]}\.tif: .*overlaps .*zone 55N.*no common area.*zone 10N"
    with pytest.raises(errors.InputError, match=message):
        opened(path)


def test_missing_band(tmp_path):
    path = tiny.make(tmp_path)
    one = tiny.land(96, 80)[..., :1]
    rewrite(tmp_path, f"F_{tiny.DATES[1]}.tif", one, tiny.grid(96, 80))
    with pytest.raises(errors.InputError, match=rf"F_{tiny.DATES[1]}.*band 2, found 1"):
        opened(path)


def test_swapped_by_pixel_size_and_by_detail(tmp_path):
    path = tiny.make(tmp_path)
    text = path.read_text()
    path.write_text(text.replace('"F_', '"X_').replace('"C_', '"F_').replace('"X_', '"C_'))
    with pytest.raises(errors.InputError, match=r"larger than.*swapped"):
        opened(path)
    with pytest.raises(errors.InputError, match=r"larger than.*swapped"):
        _ = catalog.Catalog(dataset.load(path)).ratio  # which programs may ask for first
    for date in tiny.DATES:
        image = np.repeat(np.repeat(tiny.blocks(tiny.land(96, 80), 8), 8, 0), 8, 1)
        noisy = tiny.land(96, 80, detail=0.5)
        rewrite(
            tmp_path,
            f"C_{date}.tif",
            tiny.land(96, 80, detail=20.0) // 2 + image // 2,
            tiny.grid(96, 80),
        )
        rewrite(tmp_path, f"F_{date}.tif", noisy, tiny.grid(96, 80))
    path.write_text(path.read_text().replace("[coarse]", "[coarse]\nratio = 8"))
    with pytest.raises(errors.InputError, match=r"smoother.*swapped"):
        opened(path)


def test_an_empty_fine_image_tells_nothing_of_detail(tmp_path):
    path = tiny.make(tmp_path)
    for date in tiny.DATES:
        fine = np.full((96, 80, 2), -9999, np.int16)
        if date != tiny.DATES[0]:
            fine = tiny.land(96, 80)
        rewrite(tmp_path, f"F_{date}.tif", fine, tiny.grid(96, 80), nodata=-9999)
        rewrite(tmp_path, f"C_{date}.tif", tiny.land(96, 80), tiny.grid(96, 80))
    path.write_text(path.read_text().replace("[coarse]", "[coarse]\nratio = 8"))
    assert not opened(path).read("fine", DAY[0]).valid.any()


def test_another_type_than_the_other_dates(tmp_path):
    path = tiny.make(tmp_path)
    image = tiny.land(96, 80).astype(np.float32)
    rewrite(tmp_path, f"F_{tiny.DATES[1]}.tif", image, tiny.grid(96, 80))
    with pytest.raises(errors.InputError, match=rf"F_{tiny.DATES[1]}.*int16.*float32"):
        opened(path)


def test_no_files_and_unknown_date(tmp_path):
    path = tiny.make(tmp_path)
    with pytest.raises(errors.InputError, match="coarse image of 1999"):
        opened(path).read("coarse", datetime.date(1999, 1, 1))
    for file in tmp_path.glob("C_*"):
        file.unlink()
    with pytest.raises(errors.InputError, match=r"coarse: expected files like C_.*found none"):
        opened(path)


def test_an_image_that_is_not_like_the_others_is_refused_by_whoever_reads_it(tmp_path):
    path = tiny.make(tmp_path)
    other = tiny.land(96, 80, seed=1)
    far = dataclasses.replace(tiny.grid(96, 80, x=9e5))
    for image, grid, options, said in (
        (other.astype(np.float32), tiny.grid(96, 80), {}, "expected int16 pixels"),
        (other, far, {}, "no common area"),
        (other[..., :1].copy(), tiny.grid(96, 80), {}, "expected band 2, found 1 bands"),
        (other, tiny.grid(96, 80), {"band_names": ("NIR", "green")}, "names band 2 so"),
    ):
        rewrite(tmp_path, f"F_{tiny.DATES[1]}.tif", image, grid, **options)
        images = catalog.Catalog(dataset.load(path))
        assert images.read("fine", DAY[0]).valid.all()
        with pytest.raises(errors.InputError, match=f"F_{tiny.DATES[1]}.*{said}"):
            images.read("fine", DAY[1])


def test_bare_pixels_are_compared_with_what_their_header_says(tmp_path):
    image = tiny.land(96, 80, seed=1)
    file = tmp_path / "a.bil"
    rewrite(tmp_path, "a.bil", image, tiny.grid(96, 80), driver="ENVI", interleave="BIL")
    assert rasters.check_stored(str(file)) == ""
    header = file.with_suffix(".hdr").read_text()
    for old, new, said in (
        ("byte order = 0", "byte order = 1", "the other way round"),
        ("lines   = 96", "lines   = 97", "expected 31040 bytes, .* found 30720"),
    ):
        assert old in header
        file.with_suffix(".hdr").write_text(header.replace(old, new))
        rasters.close_all()
        rasters.info.cache_clear()
        with pytest.raises(errors.InputError, match=f"a.bil: .*{said}"):
            rasters.check_stored(str(file))
    file.with_suffix(".hdr").write_text(header.replace("lines   = 96", "lines   = 90"))
    rasters.close_all()
    rasters.info.cache_clear()
    assert rasters.check_stored(str(file)) == "1920 bytes more than its header accounts for"


def test_a_header_belongs_to_the_files_that_an_image_is_read_from(tmp_path):
    rewrite(tmp_path, "a.bil", tiny.land(96, 80), tiny.grid(96, 80), driver="ENVI")
    assert [k.name for k in rasters.files_behind(str(tmp_path / "a.bil"))] == ["a.bil", "a.hdr"]


@pytest.mark.parametrize("pattern", ["", "/data/F_{year}-{month}-{day}.tif", "F_{year}/**/"])
def test_a_pattern_names_files_below_the_root(tmp_path, pattern):
    path = tiny.make(tmp_path)
    path.write_text(path.read_text().replace("F_{year}-{month}-{day}.tif", pattern))
    with pytest.raises(errors.InputError, match=r"fine\.files: expected a pattern"):
        dataset.load(path)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_pixels_of_no_usable_type_are_refused_by_name(tmp_path, dtype):
    path = tiny.make(tmp_path)
    for date in tiny.DATES:
        rewrite(tmp_path, f"F_{date}.tif", tiny.land(96, 80).astype(dtype), tiny.grid(96, 80))
    with pytest.raises(errors.InputError, match=rf"F_.*tif: expected pixels of uint8.*{dtype}"):
        catalog.Catalog(dataset.load(path))


def test_an_overview_of_interpolated_pixels_is_the_image_in_the_middle_of_each_cell(tmp_path):
    path = tiny.make(tmp_path, 98, 83, 1)
    # A plane on pixels of 240 m: interpolation is exact on it.
    rows, cols = np.meshgrid(np.arange(15), np.arange(13), indexing="ij")
    plane = np.stack([800 + 80 * rows + 24 * cols, 3000 - 40 * rows], -1)
    plane = plane.astype(np.int16)
    rewrite(tmp_path, f"C_{tiny.DATES[0]}.tif", plane, tiny.grid(15, 13, size=240.0))
    images = opened(path, {DAY[0]: (4.0, -8.0)})
    found = images.overview("coarse", DAY[0], 4)
    assert found.dn.shape == (24, 20, 2)
    # The middle of cell (i, j) lies at fine (4 i + 2, 4 j + 2), moved by (4, −8): at coarse
    # position (4 i − 2) / 8, (4 j + 10) / 8, of which half a pixel is the first one's middle.
    i, j = np.meshgrid(np.arange(3, 20), np.arange(2, 18), indexing="ij")
    row, col = (4 * i - 2) / 8 - 0.5, (4 * j + 10) / 8 - 0.5
    expected = np.stack([800 + 80 * row + 24 * col, 3000 - 40 * row], -1)
    np.testing.assert_allclose(found.dn[3:20, 2:18], expected, rtol=0, atol=0.51)
    assert found.valid[3:20, 2:18].all()


@pytest.mark.parametrize(("shift", "moved"), [((0.0, 0.0), (0, 0)), ((2.4, -2.6), (2, -3))])
def test_an_overview_of_pixels_of_the_grid_is_the_one_in_the_middle(tmp_path, shift, moved):
    images = opened(tiny.make(tmp_path, 98, 83, 1), {DAY[1]: shift})
    found = images.overview("coarse", DAY[1], 5)
    land = np.full((98 + 6, 83 + 6, 2), -1)
    land[3 + moved[0] : 101 + moved[0], 3 + moved[1] : 86 + moved[1]] = tiny.land(98, 83, seed=1)
    expected = land[3:-3, 3:-3][2:95:5, 2:80:5]
    assert (found.dn[found.valid] == expected[found.valid]).all()
    assert (found.valid == (expected >= 0).all(-1)).all()
    assert found.dn.shape == (19, 16, 2)


def test_an_overview_of_next_to_nothing_is_a_pixel(tmp_path):
    images = opened(tiny.make(tmp_path, 8, 8, 8))
    assert images.overview("coarse", DAY[0], 20).dn.shape == (1, 1, 2)


def test_what_both_images_of_a_date_show(tmp_path):
    path = tiny.make(tmp_path, 640, 320)
    # 1 of 4 columns of the fine image and 1 of 2 rows of the coarse one are hidden: 3 / 8 are left.
    fine, coarse = tiny.land(640, 320), tiny.blocks(tiny.land(640, 320), 8)
    fine[:, 240:], coarse[:40] = -1, -1
    rewrite(tmp_path, f"F_{tiny.DATES[0]}.tif", fine, tiny.grid(640, 320))
    rewrite(tmp_path, f"C_{tiny.DATES[0]}.tif", coarse, tiny.grid(80, 40, size=240.0))
    # What is found out about the choice of dates must not change it.
    images = opened(path, {DAY[0]: (160.0, 0.0)})
    images = images.without({DAY[0]: quality.CellMask(np.ones((80, 40), bool), 8)})
    assert images.clear_share(DAY[0]) == pytest.approx(3 / 8, abs=0.01)
    assert images.clear_share(DAY[1]) == 1
    assert not images.read("coarse", DAY[0]).valid.any()


def test_an_image_that_cannot_be_read_is_not_passed_over(tmp_path):
    images = opened(tiny.make(tmp_path))
    file = tmp_path / f"F_{tiny.DATES[0]}.tif"
    file.write_bytes(file.read_bytes()[:200])
    rasters.close_all()
    assert images.clear_share(DAY[0]) == 1
    with pytest.raises(errors.InputError, match=file.name):
        images.read("fine", DAY[0])
