import contextlib
import dataclasses
import datetime
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from data_prep import (
    catalog,
    errors,
    executors,
    grids,
    locks,
    named_rasters,
    quality,
    rasters,
    triplets,
)
from stfnet_tf import date_sheet, export, fit_options, fuse, fusion, scene, series
from tests.stfnet_tf import scenes

ROOT = Path(__file__).parents[2]
HERE = series.Place()
BETWEEN = ("2001-06-09", "2001-06-25", "2001-09-13")


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    return scenes.make(tmp_path / "images", between=BETWEEN)


@pytest.fixture
def source(images, tmp_path):
    return series.Source(scenes.run(tmp_path / "run", images))


def dates(images):
    return fuse.choose(images, ["all"])


def fused(images, source, folder, place=HERE, **options):
    plan = series.Plan.of(images, source, dates(images), folder, **options)
    return list(plan.run(32, place))


def contents(folder: Path) -> dict[str, bytes]:
    return {k.name: k.read_bytes() for k in folder.glob("*.tif")}


def again(images: catalog.Catalog) -> catalog.Catalog:
    """The images as another program would find them."""
    return catalog.Catalog(images.dataset)


@pytest.mark.parametrize("place", [series.Place(workers=2), series.Place("dask", workers=2)])
def test_the_same_files_wherever_they_are_fused(images, source, tmp_path, place):
    if place.kind == "dask":
        pytest.importorskip("distributed", reason="the extra 'distributed' is not installed")
    here = fused(images, source, tmp_path / "here")
    there = fused(images, source, tmp_path / "there", place)
    expected = contents(tmp_path / "here")
    assert len(expected) == 8 and contents(tmp_path / "there") == expected
    assert sorted(k.path.name for k in here) == sorted(k.path.name for k in there)
    assert {k.path.parent for k in there} == {tmp_path / "there"}
    assert not [k for k in (tmp_path / "there").iterdir() if k.name.startswith(".")]


def test_fitted_in_two_processes_are_those_fitted_in_one(images, tmp_path):
    """Each date has a model of its own; two steps of training suffice to tell them apart."""
    model = {"filters": (4,), "kernel_sizes": (3, 3)}
    training = {"steps": 2, "patch_size": 32, "batch_size": 2}
    options = fit_options.FitOptions("paper", training, model)
    for name, workers in (("one", 1), ("two", 2)):
        source = series.Source(tmp_path / name / "model", fit=options)
        plan = series.Plan.of(images, source, dates(images)[:2], tmp_path / name)
        assert len(list(plan.run(32, series.Place(workers=workers)))) == 2
    assert contents(tmp_path / "one") == contents(tmp_path / "two") != {}
    models = sorted(k.name for k in (tmp_path / "two" / "model").iterdir())
    assert models == sorted(str(t.t2) for t in dates(images)[:2])


@pytest.mark.parametrize("fit", [True, False])
def test_dates_in_threads_of_one_dask_worker_do_not_mix(images, source, tmp_path, fit):
    distributed = pytest.importorskip("distributed", reason="the extra is not installed")
    training = {"steps": 2, "patch_size": 32, "batch_size": 2}
    # Three dates are two-sided; the last one has no later pair and learns from the coarse change.
    model = {"filters": (4,), "kernel_sizes": (3, 3), "coarse_consistency": 1.0}
    options = fit_options.FitOptions("paper", training, model)

    def fused_at(place, name):
        given = series.Source(tmp_path / name / "model", fit=options) if fit else source
        assert len(fused(images, given, tmp_path / name, place)) == 4

    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=4, dashboard_address=None
    ) as cluster:
        scheduler = cluster.scheduler_address
        fused_at(series.Place("dask", workers=4, scheduler=scheduler), "threads")
    fused_at(HERE, "here")
    assert contents(tmp_path / "threads") == contents(tmp_path / "here") != {}


def test_gaps_are_filled_by_models_of_their_own(tmp_path):
    images = scenes.with_gaps(tmp_path / "images")
    (triplet,) = fuse.choose(images, None)
    (further,) = triplet.fill
    assert further.iso == (scenes.FURTHER[0], scenes.DATES[1], scenes.FURTHER[1])
    training = {"steps": 2, "patch_size": 32, "batch_size": 2}
    options = fit_options.FitOptions("paper", training, {"filters": (4,), "kernel_sizes": (3, 3)})
    source = series.Source(tmp_path / "model", fit=options)

    def run(images, **asked):
        plan = series.Plan.of(images, source, fuse.choose(images, None), tmp_path / "out", **asked)
        return list(plan.run(32, HERE))

    (fused,) = run(images)
    # Of 50 rows, 20 to 29 lie in a gap; 20 to 22 no image shows, nor 40 of 70 pixels of row 26.
    assert fused.known == pytest.approx((47 * 70 - 40) / 3500)
    assert fused.filled == pytest.approx((7 * 70 - 40) / 3500)
    told = fuse.summary(fused, images.dataset)
    assert "; 12.9 % that these do not show from 2001-05-08 2001-07-11" in told
    (own,) = (tmp_path / "model" / scenes.DATES[1]).glob("filling from */*/best.weights.h5")
    assert "2001-05-08 2001-08-28" in str(own)
    made = own.stat().st_ino
    assert run(again(images)) == []
    # Other images of the further dates are other images.
    (tmp_path / "images" / "fine_20010508.tif").touch()
    with pytest.raises(errors.InputError, match="found others"):
        run(again(images))
    (fused,) = run(again(images), overwrite=True)
    assert fused.filled > 0 and own.stat().st_ino != made


def test_what_is_finished_is_left_as_it_is(images, source, tmp_path):
    out = tmp_path / "out"
    assert len(fused(images, source, out)) == 4
    before = {k.name: k.stat().st_ino for k in out.glob("*.tif")}
    assert fused(again(images), source, out) == []
    # Another program's run, from images elsewhere below another root, is the same run.
    moved = (tmp_path / "images").rename(tmp_path / "moved")
    described = dataclasses.replace(images.dataset, root=moved)
    assert fused(catalog.Catalog(described), source, out) == []
    assert {k.name: k.stat().st_ino for k in out.glob("*.tif")} == before


@pytest.mark.parametrize("damage", ["missing", "missing quality", "cut off", "empty"])
def test_what_is_missing_or_damaged_is_made_again(images, source, tmp_path, damage):
    out = tmp_path / "out"
    fused(images, source, out)
    whole = contents(out)
    name = "2001-06-09_quality.tif" if "quality" in damage else "2001-06-09.tif"
    if damage.startswith("missing"):
        (out / name).unlink()
    else:
        cut = whole[name][: len(whole[name]) * 3 // 4] if damage == "cut off" else b""
        (out / name).write_bytes(cut)
        with pytest.raises(errors.InputError, match=r"2001-06-09\.tif: .* --overwrite replaces"):
            fused(again(images), source, out)
    (done,) = fused(again(images), source, out, overwrite=not damage.startswith("missing"))
    assert done.path.name == "2001-06-09.tif"
    assert contents(out) == whole


def test_other_inputs_are_refused_and_overwritten_when_asked(images, source, tmp_path):
    out = tmp_path / "out"
    fused(images, source, out)
    before = contents(out)
    changed = tmp_path / "images" / "coarse_20010609.tif"
    pixels = rasters.read(str(changed)) // 2
    rasters.close_all()
    rasters.write(changed, pixels, scenes.GRID, nodata=-9999)
    with pytest.raises(errors.InputError, match=r"2001-06-09\.tif: expected nothing, or rasters"):
        fused(again(images), source, out)
    assert contents(out) == before
    (done,) = fused(again(images), source, out, overwrite=True)
    assert str(done.triplet.t2) == "2001-06-09"
    differ = {k for k, v in contents(out).items() if v != before[k]}
    assert "2001-06-09.tif" in differ <= {"2001-06-09.tif", "2001-06-09_quality.tif"}


def test_another_model_shift_cloud_or_triplet_is_another_raster(images, source, tmp_path):
    out = tmp_path / "out"
    fused(images, source, out)
    other = series.Source(scenes.run(tmp_path / "other", images, switch=0.1))
    shifted = catalog.Catalog(images.dataset, {datetime.date(2001, 6, 9): (0.0, 1.0)})
    masked = dataclasses.replace(images.dataset.coarse, valid_range=(0, 3000))
    read = catalog.Catalog(dataclasses.replace(images.dataset, coarse=masked))
    mask = quality.CellMask(np.eye(5, 7, dtype=bool), 10)
    clouded = catalog.Catalog(images.dataset, clouds={datetime.date(2001, 6, 9): mask})
    others = ((images, other), (shifted, source), (clouded, source), (read, source))
    for changed, model in others:
        with pytest.raises(errors.InputError, match="--overwrite"):
            series.Plan.of(changed, model, dates(images), out)
    day = datetime.date(2001, 7, 11)
    one_sided = triplets.Triplet(datetime.date(2001, 5, 24), day, None)
    with pytest.raises(errors.InputError, match="--overwrite"):
        series.Plan.of(images, source, [one_sided], out)


def test_a_raster_of_unknown_origin_is_not_replaced(images, source, tmp_path):
    rasters.write(tmp_path / "out" / "2001-06-09.tif", np.ones((2, 2, 1)), grids.Grid(2, 2))
    with pytest.raises(errors.InputError, match=r"2001-06-09\.tif: expected nothing"):
        fused(images, source, tmp_path / "out")


def test_one_program_at_a_time(images, source, tmp_path):
    out = tmp_path / "out"
    with locks.hold(out / "2001-06-25.tif"):
        with pytest.raises(errors.InputError, match=r"2001-06-25\.tif: expected to be the only"):
            fused(images, source, out)
    plan = series.Plan.of(images, source, dates(images), out)
    rasters.write(out / "2001-06-25.tif", np.ones((2, 2, 1)), grids.Grid(2, 2))
    with pytest.raises(errors.InputError, match="written by another meanwhile"):
        list(plan.run(32))
    assert rasters.read(str(out / "2001-06-25.tif")).shape == (2, 2, 1)


def test_what_another_program_writes_meanwhile_is_not_replaced(images, source, tmp_path):
    out = tmp_path / "out"
    plan = series.Plan.of(images, source, dates(images), out)
    other = series.Source(scenes.run(tmp_path / "other", images, switch=0.1))
    theirs = [t for t in dates(images) if str(t.t2) == "2001-06-25"]
    list(series.Plan.of(again(images), other, theirs, out).run(32))
    before = contents(out)
    with pytest.raises(errors.InputError, match=r"2001-06-25.* written by another meanwhile"):
        list(plan.run(32))
    after = contents(out)
    assert len(after) == 8 and before.items() <= after.items()


def test_a_pool_that_broke_before_it_had_all_the_dates_is_one_sentence(
    images, source, tmp_path, monkeypatch
):
    make = executors.make

    @contextlib.contextmanager
    def broken(*arguments):
        with make(*arguments) as pool:
            pool.submit(os._exit, 1).exception()
            yield pool

    monkeypatch.setattr(executors, "make", broken)
    with pytest.raises(errors.InputError, match=r"found one killed .* --workers=1 needs less"):
        fused(images, source, tmp_path / "out", series.Place(workers=2))


def test_no_model_is_one_sentence(images, tmp_path):
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(errors.InputError, match=r"best\.weights\.h5: expected what training"):
        series.Plan.of(images, series.Source(tmp_path), dates(images), tmp_path / "out")


def test_killed_in_the_middle_and_run_again(images, source, tmp_path):
    """No raster is there before it is whole, and what the killed run left is swept away."""
    fused(images, source, tmp_path / "whole")
    out = tmp_path / "out"
    flags = [f"--dataset={images.dataset.path}", f"--model_dir={source.path}", "--dates=all"]
    command = [sys.executable, "-m", "stfnet_tf.fuse", *flags, f"--output_dir={out}"]
    slow = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([*command, "--window=32"], env=slow, cwd=tmp_path) as running:
        while running.poll() is None and not list(out.glob(".writing-*")):
            time.sleep(0.01)
        running.kill()
    # The kernel decides how far it came; what is there is whole.
    expected = contents(tmp_path / "whole")
    assert all(expected[k] == v for k, v in contents(out).items())
    fused(again(images), source, out)
    assert contents(out) == expected
    assert sorted(k.name for k in out.iterdir()) == sorted(expected)


def test_rasters_named_one_by_one_make_the_same_image(images, source, tmp_path):
    folder = tmp_path / "images"
    (f1, f3), (c1, c2, c3) = (
        [str(folder / f"{side}_{scenes.DATES[k].replace('-', '')}.tif") for k in which]
        for side, which in (("fine", (0, 2)), ("coarse", (0, 1, 2)))
    )
    coding = named_rasters.StatedEncoding(scale=1e-4)
    given = named_rasters.NamedRasters(
        f1, c1, (c2,), f3, c3, usual=scenes.BANDS, fine=coding, coarse=coding, ratio=4.0
    )
    version = export.save(
        fusion.Fusion(scenes.network(), scenes.info(images)), tmp_path / "saved" / "made"
    )
    (expected,) = fuse.choose(images, ["2001-07-11"])
    described = scene.fuse(scenes.predictor(images), images, expected, tmp_path / "described", 32)
    for name, model in (("run", source), ("export", series.Source(version, exported=True))):
        alone = catalog.Catalog(named_rasters.describe(given))
        (done,) = fused(alone, model, tmp_path / name)
        assert done.triplet == expected
        np.testing.assert_array_equal(
            rasters.read(str(done.path)), rasters.read(str(described.path))
        )
    one_sided = dataclasses.replace(given, f3="", c3="")
    (done,) = fused(
        catalog.Catalog(named_rasters.describe(one_sided)), source, tmp_path / "one_sided"
    )
    assert set(np.unique(rasters.read(str(done.quality_path))[..., -1])) == {0, 1}


def test_another_member_of_an_archive_is_another_image(images, source, tmp_path):
    folder, archive = tmp_path / "images", tmp_path / "all.zip"
    coding = named_rasters.StatedEncoding(scale=1e-4)
    t1, t2 = (datetime.date.fromisoformat(date) for date in scenes.DATES[:2])

    def fused_from(member):
        f1, c1, c2 = (f"/vsizip/{archive}/{k}.tif" for k in ("fine_20010524", member, member))
        given = named_rasters.NamedRasters(
            f1, c1, (c2,), t1=t1, t2=(t2,), usual=scenes.BANDS, fine=coding, coarse=coding, ratio=4
        )
        return fused(catalog.Catalog(named_rasters.describe(given)), source, tmp_path / "out")

    with zipfile.ZipFile(archive, "w") as file:
        for path in folder.glob("*.tif"):
            file.write(path, path.name)
    assert len(fused_from("coarse_20010524")) == 1
    assert not fused_from("coarse_20010524")
    with pytest.raises(errors.InputError, match="--overwrite"):
        fused_from("coarse_20010711")
    os.utime(archive, ns=(0, 0))
    with pytest.raises(errors.InputError, match="--overwrite"):
        fused_from("coarse_20010524")


def test_a_sheet_of_all_dates(images, source, tmp_path):
    from skimage import io as image_io

    out = tmp_path / "out"
    fused(images, source, out)
    pixels = image_io.imread(date_sheet.draw(images, dates(images), out))
    blue = (np.abs(pixels[..., :3].astype(int) - (31, 111, 209)) < 8).all(-1)
    assert pixels.shape[1] > 400 and pixels[..., :3].std() > 20
    # Two of six pictures are in a frame: each has two long columns of its colour.
    assert blue.any() and (blue.sum(0) > 50).any()


def test_one_date_that_cannot_be_read_stops_no_other(images, source, tmp_path, caplog):
    damaged = tmp_path / "images" / "coarse_20010625.tif"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    rasters.close_all()
    out, made = tmp_path / "out", []
    with pytest.raises(errors.InputError, match=r"coarse_20010625\.tif.*Of 4 dates, 3 were fused"):
        for done in series.Plan.of(images, source, dates(images), out).run(32):
            made.append(done.path.name)
    assert sorted(made) == ["2001-06-09.tif", "2001-07-11.tif", "2001-09-13.tif"]
    assert sorted(k for k in contents(out) if "quality" not in k) == sorted(made)
    assert not [k for k in out.iterdir() if k.name.startswith(".")]


def test_a_date_that_cannot_be_finished_is_named_with_its_own_reason(images, source, tmp_path):
    out, chosen = tmp_path / "out", dates(images)
    taken = scene.paths(out, chosen[1])[0]
    taken.mkdir(parents=True)
    (taken / "file").touch()
    plan = series.Plan.of(images, source, chosen, out, overwrite=True)
    made = []
    with pytest.raises(
        errors.InputError, match=rf"{taken.name}.*Of 4 dates, 3 were fused"
    ) as found:
        made.extend(plan.run(place=series.Place(workers=1)))
    assert "another" not in str(found.value)
    assert {k.triplet for k in made} == {k for k in chosen if k != chosen[1]}


def test_two_programs_do_not_share_a_series_out(images, source, tmp_path):
    out = tmp_path / "out"
    plans = [series.Plan.of(again(images), source, dates(images), out) for _ in range(2)]
    first = plans[0].run(32)
    next(first)
    with pytest.raises(errors.InputError, match="and later: expected to be the only program"):
        list(plans[1].run(32))
    assert len(list(first)) == 3


def test_nor_once_the_first_of_its_dates_is_finished(images, source, tmp_path):
    out = tmp_path / "out"
    assert len(list(series.Plan.of(images, source, dates(images)[:1], out).run(32))) == 1
    with locks.hold(out / "2001-06-09 and later"):
        with pytest.raises(errors.InputError, match="and later: expected to be the only program"):
            fused(again(images), source, out)


def test_a_run_that_was_killed_when_all_was_done_leaves_no_locks(images, source, tmp_path):
    out = tmp_path / "out"
    fused(images, source, out)
    for name in (".2001-06-25.tif.lock", ".2001-06-09 and later.lock"):
        (out / name).touch()
    assert fused(again(images), source, out) == []
    assert not [k for k in out.iterdir() if k.name.startswith(".")]


def test_a_changed_header_is_another_image(tmp_path):
    (tmp_path / "images").mkdir()
    images = scenes.make(tmp_path / "images")
    folder = tmp_path / "images"
    pixels = rasters.read(str(folder / "coarse_20010711.tif"))
    rasters.write(folder / "c2.bil", pixels, scenes.GRID, driver="ENVI", interleave="BIL")
    table = {d: f"coarse_{d.replace('-', '')}.tif" for d in scenes.DATES}
    table["2001-07-11"] = "c2.bil"
    coarse = dataclasses.replace(
        images.dataset.coarse,
        files=(),
        table={datetime.date.fromisoformat(k): v for k, v in table.items()},
    )
    images = catalog.Catalog(dataclasses.replace(images.dataset, coarse=coarse))
    source = series.Source(scenes.run(tmp_path / "run", images))
    assert len(fused(images, source, tmp_path / "out")) == 1
    header = folder / "c2.hdr"
    header.write_text(header.read_text().replace("description = {", "description = { "))
    rasters.files_behind.cache_clear()
    with pytest.raises(errors.InputError, match="--overwrite"):
        fused(again(images), source, tmp_path / "out")


def test_windows_that_do_not_fit_in_memory_are_refused_before_work_begins(
    images, source, tmp_path, monkeypatch
):
    free = type("Free", (), {"available": 2**16, "free": 0})
    monkeypatch.setattr("psutil.virtual_memory", lambda: free)
    monkeypatch.setattr("psutil.swap_memory", lambda: free)
    with pytest.raises(errors.InputError, match="--window=640: expected at least"):
        list(series.Plan.of(images, source, dates(images), tmp_path / "out").run(640))
    assert not (tmp_path / "out").exists()
