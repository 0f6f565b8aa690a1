import contextlib
import datetime
import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from data_prep import (
    catalog,
    dataset,
    errors,
    locks,
    preparation,
    rasters,
    records,
    shards,
    triplets,
)
from data_prep.grids import Window
from tests.data_prep import decoding, tiny

DAYS = tuple(
    (datetime.date(2001, 1, 1) + datetime.timedelta(days=9 * k)).isoformat() for k in range(5)
)


@pytest.fixture
def described(tmp_path):
    return tiny.make(tmp_path / "rasters", 96, 80, dates=DAYS)


def prepared(path, folder, **options):
    options = {"workers": 1, "shard_bytes": 60_000} | options
    return preparation.prepare(dataset.load(path), folder, **options)


def contents(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*.tfrecord"))
    }


def read(folder, info):
    return [
        decoding.decode(record.numpy(), info)
        for split in info.splits.values()
        for shard in split.shards
        for record in tf.data.TFRecordDataset(str(folder / shard.file))
    ]


def test_records_read_back_are_the_source_pixels(described, tmp_path):
    info = prepared(described, tmp_path / "out")
    images = catalog.Catalog(dataset.load(described))
    tiles = read(tmp_path / "out", info)
    assert len(tiles) == info.splits["train"].records == 3 * 3 * 3
    seen = {}
    for tile in tiles:
        for name, image in tile.images.items():
            date = tile.dates[int(name[1]) - 1]
            source = tiny.land(96, 80, seed=DAYS.index(date))
            window = Window(*tile.origin, *image.shape[:2])
            if name.startswith("f"):
                assert (image == source[window.slices]).all()
            else:
                day = datetime.date.fromisoformat(date)
                assert (image == images.read("coarse", day, window).dn).all()
            assert tile.valid[name].all()
        seen.setdefault(tile.dates, np.zeros((96, 80), int))[window.slices] += 1
    assert len(seen) == 3 and all((count == 1).all() for count in seen.values())


def test_shards_are_named_counted_and_summed(described, tmp_path):
    info = prepared(described, tmp_path / "out")
    found = info.splits["train"].shards
    assert len(found) > 1
    assert [k.file for k in found] == [
        f"train-{k:05d}-of-{len(found):05d}.tfrecord" for k in range(len(found))
    ]
    for shard in found:
        data = (tmp_path / "out" / shard.file).read_bytes()
        assert len(data) == shard.bytes
        assert hashlib.sha256(data).hexdigest() == shard.sha256
    assert records.DatasetInfo.load(tmp_path / "out") == info
    assert info.ratio == pytest.approx(8)
    assert info.tile_size == 32


def test_statistics_over_valid_pixels_of_the_training_split(described, tmp_path):
    info = prepared(described, tmp_path / "out")
    # Three triplets of five dates: the dates count 1, 2, 3, 2, 1 times.
    times = np.array([1, 2, 3, 2, 1])
    pixels = np.concatenate(
        [tiny.land(96, 80, seed=k).reshape(-1, 2) for k in range(5) for _ in range(times[k])]
    )
    found = info.statistics["fine"]
    np.testing.assert_allclose(found["mean"], pixels.mean(0) * 1e-4, rtol=1e-9)
    np.testing.assert_allclose(found["std"], pixels.std(0) * 1e-4, rtol=1e-6)
    np.testing.assert_allclose(found["min"], pixels.min(0) * 1e-4)
    np.testing.assert_allclose(found["max"], pixels.max(0) * 1e-4)
    assert found["count"] == len(pixels)


def test_framing_is_tensorflows(tmp_path):
    path = str(tmp_path / "x.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(b"some record")
    assert b"".join(shards._framed(b"some record")) == Path(path).read_bytes()


def test_same_bytes_from_one_process_from_four_and_from_dask(described, tmp_path, monkeypatch):
    one = prepared(described, tmp_path / "one")
    assert len(contents(tmp_path / "one")) > 4
    # Small sets are written without a pool: let this one have its pool.
    monkeypatch.setattr(preparation, "_SMALL_BYTES", 0)
    four = prepared(described, tmp_path / "four", workers=4)
    assert contents(tmp_path / "four") == contents(tmp_path / "one")
    assert four == one
    pytest.importorskip("distributed", reason="the extra 'distributed' is not installed")
    prepared(described, tmp_path / "dask", executor="dask", workers=2)
    assert contents(tmp_path / "dask") == contents(tmp_path / "one")


def test_a_second_run_writes_nothing(described, tmp_path):
    prepared(described, tmp_path / "out")
    before = {k: k.stat().st_mtime_ns for k in (tmp_path / "out").glob("*.tfrecord")}
    prepared(described, tmp_path / "out")
    assert {k: k.stat().st_mtime_ns for k in (tmp_path / "out").glob("*.tfrecord")} == before


def test_missing_and_damaged_shards_are_written_again(described, tmp_path):
    info = prepared(described, tmp_path / "out")
    whole = contents(tmp_path / "out")
    names = [k.file for k in info.splits["train"].shards]
    (tmp_path / "out" / names[0]).unlink()
    damaged = tmp_path / "out" / names[1]
    damaged.write_bytes(damaged.read_bytes()[:-5] + b"xxxxx")
    assert prepared(described, tmp_path / "out") == info
    assert contents(tmp_path / "out") == whole


def test_changed_options_or_rasters_make_new_shards(described, tmp_path):
    first = prepared(described, tmp_path / "out")
    whole = contents(tmp_path / "out")
    prepared(described, tmp_path / "out", shard_bytes=10_000_000)
    assert len(contents(tmp_path / "out")) == 1
    rasters.write(
        described.parent / f"F_{DAYS[0]}.tif", tiny.land(96, 80, seed=9), tiny.grid(96, 80)
    )
    rasters.close_all()
    second = prepared(described, tmp_path / "out")
    assert contents(tmp_path / "out") != whole
    assert second.statistics != first.statistics


def test_a_changed_grid_makes_new_shards(described, tmp_path):
    described.write_text(described.read_text() + '[grid]\nlike = "grid.tif"\n')
    for moved, folder in ((0, "out"), (1, "out"), (1, "fresh")):
        grid = tiny.grid(64, 64).moved(moved, 0)
        rasters.write(described.parent / "grid.tif", np.zeros((64, 64, 1), np.uint8), grid)
        for cache in (rasters.info, rasters.files_behind):
            cache.cache_clear()
        rasters.close_all()
        shards._resident.clear()  # as in another process
        prepared(described, tmp_path / folder)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_a_changed_sensor_makes_new_shards(described, tmp_path):
    sensor = described.parent / "mine.toml"
    sensor.write_text("valid_range = [0, 10000]\n")
    text = described.read_text()
    described.write_text(text.replace("valid_range = [0, 10000]", 'sensor = "mine"', 1))
    prepared(described, tmp_path / "out")
    sensor.write_text("valid_range = [0, 3000]\n")
    prepared(described, tmp_path / "out")
    prepared(described, tmp_path / "fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_killed_in_the_middle_and_run_again(tmp_path):
    made = tiny.make(tmp_path / "large", 512, 512, dates=DAYS)
    command = [sys.executable, "-m", "data_prep.write_tfrecords", f"--dataset={made}"]
    command += ["--shard_mb=1", "--workers=1"]
    folder = tmp_path / "killed"
    process = subprocess.Popen([*command, f"--output_dir={folder}"], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    apart = folder / shards.PROGRESS
    while len(list(apart.glob("*.tfrecord"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / records.INFO_FILE).exists()
    with pytest.raises(errors.InputError, match="finished"):
        records.DatasetInfo.load(folder)
    left = contents(apart)
    again = subprocess.run([*command, f"--output_dir={folder}"], capture_output=True, text=True)
    assert again.returncode == 0
    kept = int(re.search(r"of which (\d+) are there already", again.stderr)[1])
    # The last one may have been killed before it was noted as finished; then it is written again.
    assert kept in (len(left) - 1, len(left))
    whole = preparation.prepare(
        dataset.load(made), tmp_path / "whole", workers=1, shard_bytes=2**20
    )
    assert 0 < len(left) < len(contents(tmp_path / "whole"))
    assert contents(folder) == contents(tmp_path / "whole")
    assert not contents(apart) and not list(apart.glob("*.tmp"))
    # All but the command that is recorded.
    resumed = records.DatasetInfo.load(folder)
    assert resumed.splits == whole.splits and resumed.statistics == whole.statistics


def test_an_earlier_result_stays_until_there_is_a_whole_new_one(described, tmp_path):
    prepared(described, tmp_path / "out")

    def final():
        return {k.name: k.read_bytes() for k in (tmp_path / "out").iterdir() if k.is_file()}

    before = final()
    file = described.parent / f"F_{DAYS[-1]}.tif"
    file.write_bytes(file.read_bytes()[:-2000])
    rasters.close_all()
    with pytest.raises(errors.InputError, match=file.name):
        prepared(described, tmp_path / "out")
    assert final() == before
    assert len(before) > 4


def test_one_program_at_a_time(described, tmp_path):
    with locks.hold(tmp_path / "out" / records.INFO_FILE):
        with pytest.raises(errors.InputError, match="expected to be the only program"):
            prepared(described, tmp_path / "out")
    assert not contents(tmp_path / "out")


def test_a_description_that_was_damaged_is_not_believed(described, tmp_path):
    prepared(described, tmp_path / "out")
    path = tmp_path / "out" / records.INFO_FILE
    path.write_text(path.read_text().replace('"tile_size": 32', '"tile_size": 64'))
    with pytest.raises(errors.InputError, match=r"dataset_info\.json.*checksum"):
        records.DatasetInfo.load(tmp_path / "out")


def test_skipped_tiles_are_counted(described, tmp_path):
    mask = tiny.land(96, 80, seed=2)
    mask[:32, :50] = -1
    rasters.write(described.parent / f"F_{DAYS[2]}.tif", mask, tiny.grid(96, 80))
    described.write_text(described.read_text().replace("size = 32", "size = 32\nmin_valid = 0.5"))
    info = prepared(described, tmp_path / "out")
    # Of the upper three tiles (32, 32 and 16 columns wide) the first is empty and the second has
    # 14 of its 32 columns, in all three triplets.
    assert info.splits["train"].skipped == 6
    assert info.splits["train"].records == 21
    for tile in read(tmp_path / "out", info):
        assert np.logical_and.reduce(list(tile.valid.values())).mean() >= 0.5


def test_nothing_valid_anywhere(described, tmp_path):
    for date in DAYS:
        rasters.write(
            described.parent / f"F_{date}.tif",
            np.full((96, 80, 2), -1, np.int16),
            tiny.grid(96, 80),
        )
    with pytest.raises(errors.InputError, match="found none among 27"):
        prepared(described, tmp_path / "out")
    assert not (tmp_path / "out" / records.INFO_FILE).exists()


def test_pair_sets_have_no_f2_in_training(described, tmp_path):
    listed = ", ".join(f'"{d}"' for d in DAYS)
    described.write_text(
        described.read_text()
        .replace(f"train = [{listed}]", f'train = ["{DAYS[0]}", "{DAYS[2]}"]\ntest = ["{DAYS[1]}"]')
        .replace('name = "tiny"', 'name = "tiny"\nsupervision = "pair"')
    )
    info = prepared(described, tmp_path / "out")
    assert info.supervision == "pair"
    for tile in read(tmp_path / "out", info):
        assert tile.dates == DAYS[:3]
    with_f2 = {
        split: {
            "f2" in decoding.decode(record.numpy(), info).images
            for shard in info.splits[split].shards
            for record in tf.data.TFRecordDataset(str(tmp_path / "out" / shard.file))
        }
        for split in ("train", "test")
    }
    assert with_f2 == {"train": {False}, "test": {True}}


def test_spatial_blocks_share_no_tile(described, tmp_path):
    described.write_text(
        described.read_text()
        + '[split]\nby = "blocks"\nblock_size = 32\nvalidation = 0.25\ntest = 0.25\n'
    )
    info = prepared(described, tmp_path / "out")
    places = {split: set() for split in info.splits}
    for split, described_split in info.splits.items():
        for shard in described_split.shards:
            for record in tf.data.TFRecordDataset(str(tmp_path / "out" / shard.file)):
                places[split].add(decoding.decode(record.numpy(), info).origin)
    assert all(places.values())
    assert sum(map(len, places.values())) == len(set.union(*places.values())) == 9


def test_many_blocks_are_shared_out_in_seconds(described):
    described.write_text(
        described.read_text()
        + '[split]\nby = "blocks"\nblock_size = 32\nvalidation = 0.1\ntest = 0.1\n'
    )
    images = catalog.Catalog(dataset.load(described))
    images.grid = tiny.grid(4096, 4096)
    formed = triplets.of(images)
    begun = time.process_time()
    size = {"tile_size": 32, "min_valid": 0.0, "shard_bytes": 2**27}
    jobs = shards.plan(images.dataset, images, formed, **size, run="")
    assert time.process_time() - begun < 5
    assert sum(len(job.items) for job in jobs) == len(formed["train"]) * 128**2


@pytest.mark.parametrize(
    ("shares", "name"),
    [
        ("validation = 0.1\ntest = 0.3", "validation"),
        ("validation = 0.5\ntest = 0.45", "train"),
    ],
)
def test_a_share_too_small_for_a_block_is_refused(described, tmp_path, shares, name):
    split = f'[split]\nby = "blocks"\nblock_size = 48\n{shares}\n'
    described.write_text(described.read_text() + split)
    with pytest.raises(errors.InputError, match=f"{name} share .* found 2 × 2 blocks of 64"):
        prepared(described, tmp_path / "out")


def test_a_single_pair_is_written_without_a_later_one(described, tmp_path):
    listed = ", ".join(f'"{d}"' for d in DAYS)
    text = described.read_text().replace(
        f"train = [{listed}]", f'train = ["{DAYS[3]}"]\ntest = ["{DAYS[4]}"]'
    )
    described.write_text('supervision = "pair"\n' + text)
    info = prepared(described, tmp_path / "out")
    expected = (DAYS[3], DAYS[4], "")
    assert info.splits["train"].triplets == info.splits["test"].triplets == (expected,)
    tiles = read(tmp_path / "out", info)
    assert {tile.dates for tile in tiles} == {expected}
    assert {tuple(sorted(tile.images)) for tile in tiles} == {
        ("c1", "c2", "f1"), ("c1", "c2", "f1", "f2")
    }  # fmt: skip
    loaded = records.DatasetInfo.load(tmp_path / "out")
    assert loaded == info


def test_a_single_date_forms_nothing(described, tmp_path):
    listed = ", ".join(f'"{d}"' for d in DAYS)
    text = described.read_text().replace(f"train = [{listed}]", f'train = ["{DAYS[3]}"]')
    described.write_text(text)
    with pytest.raises(errors.InputError, match=r"triplet.*t2 after t1.*found fine images"):
        prepared(described, tmp_path / "out")


def test_shards_are_hardly_larger_than_the_pixels(tmp_path):
    path = tiny.make(tmp_path / "rasters", 256, 256, dates=DAYS[:3])
    info = preparation.prepare(dataset.load(path), tmp_path / "out", workers=1)
    raw = 256 * 256 * 2 * 2 * 6
    assert sum(k.bytes for k in info.splits["train"].shards) <= 1.1 * raw


# --- the program's ends ---


def run(*flags, **options):
    return subprocess.run(
        [sys.executable, "-m", "data_prep.write_tfrecords", *flags],
        capture_output=True,
        text=True,
        **options,
    )


def assert_one_sentence(done, *words):
    assert done.returncode == errors.EXIT_BAD_INPUT
    assert "Traceback" not in done.stderr
    (message,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    for word in words:
        assert word in message


def test_truncated_raster_leaves_nothing_half_written(described, tmp_path):
    file = described.parent / f"C_{DAYS[2]}.tif"
    image = tiny.land(96, 80, seed=2)
    rasters.write(
        described.parent / f"F_{DAYS[2]}.tif", image, tiny.grid(96, 80), options=("COMPRESS=NONE",)
    )
    file = described.parent / f"F_{DAYS[2]}.tif"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    done = run(f"--dataset={described}", f"--output_dir={tmp_path / 'out'}")
    assert_one_sentence(done, file.name)
    assert not list((tmp_path / "out").glob("*.tfrecord"))
    assert not list((tmp_path / "out").glob(".*.tmp"))
    assert not (tmp_path / "out" / records.INFO_FILE).exists()


@contextlib.contextmanager
def small_disk(folder, size="300k"):
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a disk that fills up: mounting a small tmpfs is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_full_disk(described, tmp_path):
    with small_disk(tmp_path / "full") as full:
        done = run(f"--dataset={described}", f"--output_dir={full / 'out'}")
        assert_one_sentence(done, "train-00000-of-00001.tfrecord", "No space left")
        assert not list((full / "out").glob("*.tfrecord"))
        assert not list((full / "out").glob(".*.tmp"))
        assert not (full / "out" / records.INFO_FILE).exists()


def test_full_disk_while_a_raster_is_written(tmp_path):
    with small_disk(tmp_path / "full") as full:
        rng = np.random.default_rng(0)
        image = rng.integers(0, 30000, (400, 400, 3)).astype(np.int16)
        with pytest.raises(errors.InputError, match=r"x\.tif: could not be written"):
            rasters.write(full / "x.tif", image, tiny.grid(400, 400))
        assert not list(full.iterdir())


def test_wrong_flags_and_folders(described, tmp_path):
    assert_one_sentence(run(f"--dataset={described}"), "--output_dir")
    assert_one_sentence(run("--dataset=none.toml", f"--output_dir={tmp_path}"), "none.toml")
    (tmp_path / "file").write_text("")
    done = run(f"--dataset={described}", f"--output_dir={tmp_path / 'file' / 'out'}")
    assert_one_sentence(done, "--output_dir", "file")
    done = run(
        f"--dataset={described}",
        f"--output_dir={tmp_path / 'o'}",
        "--executor=dask",
        "--dask_scheduler=tcp://127.0.0.1:9",
    )
    assert_one_sentence(done, "dask")


def test_tiles_that_no_record_or_no_memory_can_hold_are_refused(described, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(shards, "LARGEST_RECORD", 20_000)
        with pytest.raises(errors.InputError, match="--tile_size=32: expected tiles of at most"):
            prepared(described, tmp_path / "out")
    free = type("Free", (), {"available": 2**10, "free": 0})
    monkeypatch.setattr("psutil.virtual_memory", lambda: free)
    monkeypatch.setattr("psutil.swap_memory", lambda: free)
    with pytest.raises(errors.InputError, match="--tile_size=32, 1 workers: expected at least"):
        prepared(described, tmp_path / "out")
    assert not (tmp_path / "out").exists()
