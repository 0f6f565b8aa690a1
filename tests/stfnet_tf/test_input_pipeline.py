import numpy as np
import pytest
import tensorflow as tf

from data_prep import errors, records
from stfnet_tf import input_pipeline
from tests.data_prep import decoding
from tests.stfnet_tf import shards as toy

PATCH, CROPS, BATCH = 16, 5, 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("shards")
    toy.write(path, {"train": (7, 1), "val": (5, 2)})
    return path


@pytest.fixture(scope="module")
def train(folder):
    return input_pipeline.Shards.load(folder, "train")


def batches(shards, count, **changes):
    options = {"batch_size": BATCH, "patch_size": PATCH, "crops": CROPS, "seed": 3} | changes
    dataset = input_pipeline.training(shards, **options)
    return [{k: v.numpy() for k, v in batch.items()} for batch in dataset.take(count)]


@pytest.fixture(scope="module")
def first(train):
    return batches(train, 24)


def tiles(folder, info, split):
    return [
        decoding.decode(serialized.numpy(), info)
        for shard in info.splits[split].shards
        for serialized in tf.data.TFRecordDataset(str(folder / shard.file))
    ]


def symmetries(image):
    """NumPy's own rotations and mirrors."""
    for mirrored in (image, image[:, ::-1]):
        yield from (np.rot90(mirrored, k) for k in range(4))


def test_batches_have_the_documented_shapes_and_values(first):
    batch = first[0]
    assert set(batch) == {*records.IMAGES, *(f"valid_{k}" for k in records.IMAGES)}
    for k in records.IMAGES:
        assert batch[k].shape == (BATCH, PATCH, PATCH, 2) and batch[k].dtype == np.float32
        valid = batch[f"valid_{k}"]
        assert valid.shape == (BATCH, PATCH, PATCH, 1) and set(np.unique(valid)) <= {0.0, 1.0}
        assert np.all(batch[k][np.broadcast_to(valid == 0, batch[k].shape)] == 0)


def test_every_patch_is_one_window_of_one_tile_turned_alike_in_all_images(folder, train, first):
    """Found again by brute force in the decoded records, reflectance and masks included."""
    info = train.info
    windows = {}
    for tile in tiles(folder, info, "train"):
        values = np.concatenate(
            [
                np.where(tile.valid[k][..., None], info.encoding(k).reflectance(v), 0)
                for k, v in tile.images.items()
            ]
            + [tile.valid[k][..., None] for k in tile.images],
            axis=-1,
        )
        height, width = (max(PATCH, n) for n in values.shape[:2])
        padded = np.zeros((height, width, values.shape[2]), np.float32)
        padded[: values.shape[0], : values.shape[1]] = values
        for row in range(height - PATCH + 1):
            for col in range(width - PATCH + 1):
                window = padded[row : row + PATCH, col : col + PATCH]
                for k, turned in enumerate(symmetries(window)):
                    windows[np.ascontiguousarray(turned).round(4).tobytes()] = k
    names = [*records.IMAGES, *(f"valid_{k}" for k in records.IMAGES)]
    found = set()
    for batch in first[:6]:
        joined = np.concatenate([batch[k] for k in names], axis=-1).round(4)
        found |= {windows[np.ascontiguousarray(patch).tobytes()] for patch in joined}
    assert found == set(range(8))


@pytest.mark.parametrize("step", [1, 4, 17, 20])
def test_starting_at_a_step_gives_the_batches_of_an_uninterrupted_run(train, first, step):
    for late, early in zip(batches(train, 3, step=step), first[step:], strict=False):
        for k in early:
            np.testing.assert_array_equal(late[k], early[k])


def test_seed_decides_everything(train, first):
    again, other = batches(train, 2), batches(train, 2, seed=4)
    assert all(np.array_equal(again[1][k], first[1][k]) for k in first[1])
    assert not np.array_equal(other[0]["f1"], first[0]["f1"])


def test_an_epoch_visits_every_tile_once(train):
    order = input_pipeline._tile_order(train, 3, 0, 0, 1).take(14).as_numpy_iterator()
    visits, _, record = zip(*order, strict=True)
    assert visits == tuple(range(14))
    assert sorted(record[:7]) == sorted(record[7:]) == list(range(7))
    assert record[:7] != record[7:]


def test_a_batch_mixes_tiles(first):
    """Crops of a tile share its mean level; neighbours in a batch come from different tiles."""
    level = first[0]["c1"].max((1, 2, 3))
    assert len(np.unique(level.round(6))) >= 5


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_that_share_a_file_deal_out_the_same_global_batch(train, first, workers):
    shares = [
        batches(train, 4, batch_size=BATCH // workers, worker=k, workers=workers, step=2)
        for k in range(workers)
    ]
    for step in range(4):
        together = np.concatenate([share[step]["f3"] for share in shares])
        whole = first[2 + step]["f3"]
        assert sorted(p.tobytes() for p in together) == sorted(p.tobytes() for p in whole)


def test_replicas_of_one_worker_take_the_batch_in_turn(train, first):
    parts = batches(train, 4, batch_size=BATCH // 2, replicas=2, step=3)
    for k in ("f1", "valid_c2"):
        joined = np.concatenate([part[k] for part in parts])
        np.testing.assert_array_equal(joined, np.concatenate([b[k] for b in first[3:5]]))


def test_workers_read_files_of_their_own_where_there_are_enough(folder):
    shards = input_pipeline.Shards.load(folder, "val")
    files = [set(shards.places(worker, 2)[0]) for worker in range(2)]
    assert files == [{0}, {1}]
    assert not shards.by_file(3)


def test_validation_is_every_tile_once_filled_up_with_invalid_pixels(folder):
    shards = input_pipeline.Shards.load(folder, "val")
    found = list(input_pipeline.validation(shards, batch_size=2).as_numpy_iterator())
    assert [b["f2"].shape for b in found] == [(2, 32, 32, 2)] * 3
    assert input_pipeline.validation_steps(shards, 2) == 3
    for k in records.IMAGES:
        count = sum(tile.valid[k].sum() for tile in tiles(folder, shards.info, "val"))
        assert sum(b[f"valid_{k}"].sum() for b in found) == count


def test_validation_by_several_workers_covers_the_same_tiles(folder):
    shards = input_pipeline.Shards.load(folder, "val")
    parts = [
        list(input_pipeline.validation(shards, batch_size=1, worker=k, workers=2)) for k in range(2)
    ]
    assert len(parts[0]) == len(parts[1]) == 3
    total = sum(float(tf.reduce_sum(b["f1"])) for part in parts for b in part)
    whole = sum(
        float(tf.reduce_sum(b["f1"])) for b in input_pipeline.validation(shards, batch_size=5)
    )
    assert total == pytest.approx(whole, rel=1e-6)


def test_absent_f2_is_zero_and_nowhere_valid(tmp_path):
    info = toy.write(tmp_path, {"train": (2, 1)})
    kept = [
        records.Tile(
            {k: v for k, v in tile.images.items() if k != "f2"},
            {k: v for k, v in tile.valid.items() if k != "f2"},
            *(tile.dates, tile.origin, tile.scene),
        )
        for tile in tiles(tmp_path, info, "train")
    ]
    shard = info.splits["train"].shards[0]
    with tf.io.TFRecordWriter(str(tmp_path / shard.file)) as writer:
        for tile in kept:
            writer.write(records.encode(tile))
    shards = input_pipeline.Shards(tmp_path, info, "train")
    batch = batches(shards, 1)[0]
    assert not batch["f2"].any() and not batch["valid_f2"].any() and batch["valid_f3"].any()


def test_a_file_of_another_size_is_named(tmp_path):
    toy.write(tmp_path, {"train": (4, 2)})
    path = tmp_path / "train-00001-of-00002.tfrecord"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(
        errors.InputError, match=r"train-00001-of-00002.tfrecord: expected \d+ bytes"
    ):
        input_pipeline.Shards.load(tmp_path, "train")


def test_a_damaged_record_is_named(tmp_path, monkeypatch):
    toy.write(tmp_path, {"train": (6, 2)})
    path = tmp_path / "train-00001-of-00002.tfrecord"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        errors.InputError, match=r"train-00001-of-00002.tfrecord, record 1: damaged \(corrupted"
    ):
        input_pipeline.Shards.load(tmp_path, "train")
    # A set too large to be read at once: whoever comes to the record notices it.
    monkeypatch.setattr(input_pipeline, "_READ_AT_ONCE", 0)
    shards = input_pipeline.Shards.load(tmp_path, "train")
    with pytest.raises(tf.errors.DataLossError):
        batches(shards, 8)
    with pytest.raises(
        errors.InputError, match=r"train-00001-of-00002.tfrecord, record 1: damaged"
    ):
        shards.name_damage()


def test_an_empty_split_is_refused(folder):
    with pytest.raises(errors.InputError, match="expected tiles in the split 'test', found none"):
        input_pipeline.Shards.load(folder, "test")


def test_examples_are_named_by_dates_and_place(train):
    (name, batch), *rest = input_pipeline.examples(train, 3)
    assert len(rest) == 2
    assert name.startswith("2001-01-01 to 2001-03-01, 2001-02-01, row ")
    assert batch["f2"].shape[0] == 1


def test_a_whole_shard_of_another_set_is_refused(tmp_path):
    toy.write(tmp_path / "one", {"train": (6, 2)})
    toy.write(tmp_path / "two", {"train": (6, 2)})
    names = sorted(k.name for k in (tmp_path / "one").glob("*.tfrecord"))
    sizes = [(tmp_path / "one" / k).stat().st_size for k in names]
    assert sizes[0] == sizes[1]
    (tmp_path / "one" / names[0]).write_bytes((tmp_path / "two" / names[1]).read_bytes())
    with pytest.raises(errors.InputError, match=f"{names[0]}: expected the shard that"):
        input_pipeline.Shards.load(tmp_path / "one", "train")
