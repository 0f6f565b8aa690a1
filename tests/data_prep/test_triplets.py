import dataclasses
import datetime
from pathlib import Path

import numpy as np
import pytest

from data_prep import catalog, dataset, errors, rasters, triplets
from tests.data_prep import tiny

DAYS = [datetime.date(2001, 1, 1) + datetime.timedelta(days=16 * k) for k in range(8)]


def described(train=(), validation=(), test=(), **options):
    side = dataset.Side("fine", files=("f",), bands=(1,), scale=1.0)
    return dataset.Dataset(
        name="x",
        scene="x",
        path=Path("x.toml"),
        root=Path(),
        bands=("red",),
        supervision=options.pop("supervision", "triplet"),
        fine=side,
        coarse=side,
        dates=dataset.Dates(tuple(train), tuple(validation), tuple(test)),
        **options,
    )


def formed(*args, fine=DAYS, coarse=DAYS, clear=lambda day: 1.0, **options):
    made = triplets.form(described(*args, **options), fine, coarse, clear)
    index = {day: k for k, day in enumerate(DAYS)}
    return {
        split: [tuple(index[d] for d in triplet.dates) for triplet in some]
        for split, some in made.items()
    }


def test_consecutive_without_leakage():
    made = formed(DAYS[:4], DAYS[4:5], DAYS[5:7])
    assert made["train"] == [(0, 1, 2), (1, 2, 3)]
    # Validation looks at no test date; a test date has its nearest neighbours of any split.
    assert made["val"] == [(3, 4)]
    assert made["test"] == [(4, 5, 6), (5, 6, 7)]


def test_consecutive_skips_dates_of_other_splits():
    made = formed([DAYS[k] for k in (0, 1, 3, 4, 5)], (), [DAYS[2]])
    assert made["train"] == [(0, 1, 3), (1, 3, 4), (3, 4, 5)]
    assert made["test"] == [(1, 2, 3)]


def test_all_within_a_gap():
    assert formed(DAYS[:4], rule="all")["train"] == [(0, 1, 2), (0, 1, 3), (0, 2, 3), (1, 2, 3)]
    assert formed(DAYS[:4], rule="all", max_gap_days=32)["train"] == [(0, 1, 2), (1, 2, 3)]


def test_cia_consecutive_gives_15_of_17():
    days = [datetime.date(2001, 1, 1) + datetime.timedelta(days=k) for k in range(17)]
    made = triplets.form(described(days), days, days, lambda day: 1.0)
    assert len(made["train"]) == 15


def test_pair_mode_learns_around_the_dates_to_be_predicted():
    made = formed([DAYS[0], DAYS[2]], (), [DAYS[1]], supervision="pair")
    assert made == {"train": [(0, 1, 2)], "val": [], "test": [(0, 1, 2)]}


def test_pair_mode_does_not_need_the_truth():
    known = [DAYS[0], DAYS[2]]
    made = formed(known, (), [DAYS[1]], supervision="pair", fine=known, coarse=DAYS[:3])
    assert made["train"] == made["test"] == [(0, 1, 2)]


def test_written_triplets_and_one_sided_ones():
    made = formed(
        [DAYS[0], DAYS[1], DAYS[2]], (), [(DAYS[0], DAYS[3], DAYS[5]), (DAYS[5], DAYS[6], None)]
    )
    assert made["test"] == [(0, 3, 5), (5, 6)]


@pytest.mark.parametrize(
    ("shares", "options", "expected"),
    [
        pytest.param({}, {}, (3, 4, 5), id="the nearest"),
        pytest.param({3: 0.5, 5: 0.5}, {}, (3, 4, 5), id="half of the scene is enough"),
        pytest.param({3: 0.4}, {}, (2, 4, 5), id="the nearest that shows enough"),
        pytest.param({3: 0.4, 2: 0.1}, {}, (1, 4, 5), id="not the clearest"),
        pytest.param({5: 0.4, 6: 0.7, 7: 0.7}, {}, (3, 4, 5), id="half of what the others show"),
        pytest.param({k: 0.2 for k in range(8)}, {}, (3, 4, 5), id="no better one"),
        pytest.param({k: 0.0 for k in range(8)}, {}, (3, 4, 5), id="nothing at all"),
        pytest.param({3: 0.4, 5: 0.4}, {"min_clear": 0.3}, (3, 4, 5), id="as described"),
        pytest.param({3: 0.0}, {"min_clear": 0.0}, (3, 4, 5), id="clouds do not count"),
        pytest.param({3: 0.4, 5: 0.4}, {"max_gap_days": 48}, (2, 4, 5), id="within the gap"),
        pytest.param({3: 0.4, 5: 0.4}, {"max_gap_days": 32}, (3, 4, 5), id="no other in the gap"),
    ],
)
def test_dates_that_show_little_are_passed_over(shares, options, expected):
    clear = {day: shares.get(k, 1.0) for k, day in enumerate(DAYS)}.__getitem__
    train = [day for day in DAYS if day != DAYS[4]]
    assert formed(train, (), [DAYS[4]], clear=clear, **options)["test"] == [expected]
    # A triplet that is written out is what it is.
    written = [tuple(DAYS[3:6])]
    assert formed(train, (), written, clear=clear, **options)["test"] == [(3, 4, 5)]


def test_what_shows_little_after_the_last_pair_is_passed_over():
    clear = {day: 0.2 + 0.8 * (k < 2) for k, day in enumerate(DAYS)}.__getitem__
    assert formed(DAYS[:3], (), [DAYS[3]], fine=DAYS[:4], clear=clear)["test"] == [(1, 3)]
    near = formed(DAYS[:3], (), [DAYS[3]], fine=DAYS[:4], clear=clear, max_gap_days=16)
    assert near["test"] == [(2, 3)]


def test_nothing_is_looked_at_without_a_choice():
    def clear(day):
        raise AssertionError(f"{day} was looked at")

    made = formed([DAYS[0], DAYS[2]], (), [DAYS[1]], fine=DAYS[:3], clear=clear)
    assert made["test"] == [(0, 1, 2)]


def test_one_sided_where_there_is_no_later_image():
    made = formed([DAYS[0]], (), [DAYS[1]], fine=DAYS[:2], coarse=DAYS[:2], supervision="pair")
    assert made == {"train": [(0, 1)], "val": [], "test": [(0, 1)]}


def test_a_single_pair_does_not_teach_beside_two():
    known = [DAYS[0], DAYS[2]]
    made = formed(known, (), [DAYS[1], DAYS[3]], supervision="pair", fine=known, coarse=DAYS[:4])
    assert made["train"] == [(0, 1, 2)] and made["test"] == [(0, 1, 2), (2, 3)]


def test_a_written_training_triplet_with_a_test_date_is_refused():
    train = [(DAYS[0], DAYS[1], DAYS[2])]
    with pytest.raises(errors.InputError, match=f"test date {DAYS[1]}"):
        formed(train, (), [(DAYS[0], DAYS[1], DAYS[3])])


def test_what_a_written_triplet_predicts_is_no_training_date():
    written = [(DAYS[1], DAYS[2], DAYS[3])]
    apart = [(0, 1, 3), (1, 3, 4)]
    assert formed(DAYS[:5], written) == {"train": apart, "val": [(1, 2, 3)], "test": []}
    assert formed(DAYS[:5], (), written) == {"train": apart, "val": [], "test": [(1, 2, 3)]}
    made = formed(DAYS[:5], (), written, supervision="pair")
    assert made["train"] == [(0, 1, 3), (1, 2, 3), (1, 3, 4)]


def test_a_written_training_triplet_with_a_validation_date_is_refused():
    train, validation = [tuple(DAYS[:3])], [(DAYS[0], DAYS[1], DAYS[3])]
    with pytest.raises(errors.InputError, match=f"train: .*validation date {DAYS[1]}"):
        formed(train, validation)
    assert formed(train, validation, supervision="pair")["train"] == [(0, 1, 2), (0, 1, 3)]
    with pytest.raises(errors.InputError, match=f"dates.validation: .*test date {DAYS[1]}"):
        formed((), train, validation, supervision="pair")


def test_pair_mode_never_learns_from_a_date_that_scores():
    series = [tuple(DAYS[1:4]), tuple(DAYS[2:5])]
    made = formed([DAYS[k] for k in (0, 4, 5)], (), series, supervision="pair")
    assert made == {"train": [(0, 4, 5)], "val": [], "test": [(1, 2, 3), (2, 3, 4)]}
    with pytest.raises(errors.InputError, match=f"train: .*test date {DAYS[2]}"):
        formed(series[1:], (), [DAYS[2]], supervision="pair")


def test_missing_images_are_named():
    with pytest.raises(errors.InputError, match=f"train: .*coarse image of {DAYS[1]}"):
        formed(DAYS[:3], coarse=[DAYS[0], DAYS[2]])
    with pytest.raises(errors.InputError, match=f"train: .*fine image of {DAYS[2]}"):
        formed(DAYS[:3], fine=DAYS[:2])


def test_without_dates_shares_in_the_order_of_time():
    assert len(formed()["train"]) == 6
    made = formed(shares=(0.125, 0.25))
    assert made["train"] == [(0, 1, 2), (1, 2, 3), (2, 3, 4)]
    assert made["val"] == [(4, 5)]
    assert made["test"] == [(5, 6, 7), (6, 7)]


def test_blocks_use_the_same_dates_in_every_split():
    made = formed(DAYS[:4], split_by="blocks")
    assert made["train"] == made["val"] == made["test"] == [(0, 1, 2), (1, 2, 3)]
    made = formed([(DAYS[0], DAYS[2], DAYS[5])], split_by="blocks")
    assert made["train"] == made["val"] == made["test"] == [(0, 2, 5)]


HIDDEN = {0: np.s_[:], 1: np.s_[:0], 2: np.s_[:40], 4: np.s_[20:44], 5: np.s_[30:34], 6: np.s_[:0]}


def gappy(folder, hidden=HIDDEN, more=""):
    """Dates of 96 rows, some of which the fine images do not show; the fourth is predicted."""
    names = [day.isoformat() for day in DAYS[:7]]
    path = tiny.make(folder, dates=tuple(names), more=f"[triplets]\n{more}")
    for k, rows in hidden.items():
        image = tiny.land(96, 80, seed=k)
        image[rows] = -1
        rasters.write(folder / f"F_{names[k]}.tif", image, tiny.grid(96, 80))
    listed = ", ".join(f'"{name}"' for name in names)
    known = ", ".join(f'"{name}"' for name in names[:3] + names[4:])
    text = path.read_text().replace(f"[{listed}]", f'[{known}]\ntest = ["{names[3]}"]')
    path.write_text(text)
    return catalog.Catalog(dataset.load(path))


@pytest.mark.parametrize(
    ("hidden", "more", "expected"),
    [
        # Rows 20 to 39 neither 2 nor 4 shows; 5 shows them but for 30 to 33, 1 and 6 show all.
        pytest.param({}, "", [(1, 3, 5)], id="the next dates"),
        pytest.param({1: np.s_[:]}, "", [(2, 3, 5), (2, 3, 6)], id="as far as they show anything"),
        pytest.param({1: np.s_[:]}, "fill = 1", [(2, 3, 5)], id="as many as described"),
        pytest.param({}, "fill = 0", [], id="none as described"),
        pytest.param({2: np.s_[:20]}, "", [], id="where nothing is hidden"),
        pytest.param({}, "max_gap_days = 40", [], id="not further than described"),
        pytest.param({1: np.s_[:90], 5: np.s_[:90]}, "", [(2, 3, 6)], id="hidden dates do not"),
        pytest.param({1: np.s_[20:40], 5: np.s_[20:40]}, "", [(1, 3, 6)], id="what shows no more"),
    ],
)
def test_gaps_are_filled_from_further_dates(tmp_path, hidden, more, expected):
    images = gappy(tmp_path, HIDDEN | hidden, more)
    made = triplets.of(images)
    (test,) = made["test"]
    known = triplets.known_dates(images, made)
    assert test == triplets.Triplet(*DAYS[2:5])
    filled = triplets.filled(images, test, known)
    assert filled == dataclasses.replace(test, fill=filled.fill)
    assert [k.dates for k in filled.fill] == [tuple(DAYS[n] for n in k) for k in expected]
    assert filled.all_dates == {DAYS[n] for k in [(2, 3, 4), *expected] for n in k}


def test_gaps_without_a_coarse_image_are_not_filled(tmp_path):
    images = gappy(tmp_path)
    coarse = tiny.blocks(tiny.land(96, 80), 8)
    coarse[2:5] = -1  # rows 16 to 39
    rasters.write(tmp_path / f"C_{DAYS[3]}.tif", coarse, tiny.grid(12, 10, size=240.0))
    rasters.close_all()
    made = triplets.of(images)
    (test,) = made["test"]
    known = triplets.known_dates(images, made)
    assert triplets.filled(images, test, known) == test


def test_an_image_that_cannot_be_read_fills_nothing(tmp_path):
    images = gappy(tmp_path)
    file = tmp_path / f"F_{DAYS[1]}.tif"
    file.write_bytes(file.read_bytes()[:200])
    rasters.close_all()
    made = triplets.of(images)
    (test,) = made["test"]
    known = triplets.known_dates(images, made)
    assert [k.t1 for k in triplets.filled(images, test, known).fill] == [DAYS[2]] * 2


def test_a_triplet_that_is_written_out_is_not_filled(tmp_path):
    images = gappy(tmp_path)
    written = tuple(DAYS[2:5])
    dates = dataclasses.replace(images.dataset.dates, test=(written,))
    images.dataset = dataclasses.replace(images.dataset, dates=dates)
    made = triplets.of(images)
    (test,) = made["test"]
    known = triplets.known_dates(images, made)
    assert triplets.filled(images, test, known) == test == triplets.Triplet(*written)


def test_dates_set_aside_by_shares_fill_nothing(tmp_path):
    path = tiny.make(tmp_path, dates=tuple(str(day) for day in DAYS), more="[split]\ntest = 0.25")
    text = path.read_text()
    named = text[text.index("[dates]") : text.index("[tiles]")]
    path.write_text(text.replace(named, ""))
    images = catalog.Catalog(dataset.load(path))
    made = triplets.of(images)
    assert [t.t2 for t in made["test"]] == DAYS[6:]
    assert triplets.known_dates(images, made) == DAYS[:6]
