"""Which (t1, t2, t3) to form, and for which split, without leakage.

Splitting by dates, no test date is in any training or validation triplet, and no validation date
in any training triplet; test and validation dates are those of their split's list, or the t2 of
its written triplets. A list of training dates goes without them; a written triplet with one of
them is refused. Around a test date stand the nearest other dates, whatever their split: at
prediction time both neighbours are known. Dates of which clouds leave little are passed over.

In `pair` mode a triplet's own F2 never teaches, so the dates to be predicted are the very t2 of
training, by their coarse image alone, and no test or validation date is a training triplet's t1 or
t3. The training dates themselves may be both: in a series, F2 of one triplet is F3 of the one
before it.
"""

import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np

from data_prep import errors, records
from data_prep.catalog import Catalog
from data_prep.dataset import Dataset, Date, predicted

_KEYS = {"train": "dates.train", "val": "dates.validation", "test": "dates.test"}


@dataclasses.dataclass(frozen=True, order=True)
class Triplet:
    """Dates t1 < t2 < t3; t3 is None where there is no later fine image (one-sided).

    Attributes:
        fill: Triplets of the same t2, whose images fill pixels that neither F1 nor F3 shows.
    """

    t1: Date
    t2: Date
    t3: Date | None
    fill: tuple["Triplet", ...] = ()

    @property
    def dates(self) -> tuple[Date, ...]:
        """The dates that are set."""
        return (self.t1, self.t2) if self.t3 is None else (self.t1, self.t2, self.t3)

    @property
    def all_dates(self) -> set[Date]:
        """The dates that are set, of `fill` as well."""
        return {date for triplet in (self, *self.fill) for date in triplet.dates}

    @property
    def iso(self) -> tuple[str, ...]:
        """The set dates as ISO strings."""
        return tuple(date.isoformat() for date in self.dates)

    @property
    def stated(self) -> tuple[str, str, str]:
        """As records state it: three ISO strings, the last empty where t3 is None."""
        return (self.t1.isoformat(), self.t2.isoformat(), self.t3.isoformat() if self.t3 else "")

    def __str__(self):
        return " ".join((*self.iso, *(["–"] if self.t3 is None else [])))


# Share of the scene that is worth another pair of dates, and with a fit another model.
_WORTH_FILLING = 0.01
# The share of the scene that the images of a date show.
Clear = Callable[[Date], float]


def of(images: Catalog) -> dict[str, list[Triplet]]:
    """The triplets of every split of a data set; see `form`."""
    return form(images.dataset, images.fine_dates, images.coarse_dates, images.clear_share)


def form(
    dataset: Dataset, fine: Collection[Date], coarse: Collection[Date], clear: Clear
) -> dict[str, list[Triplet]]:
    """Forms the triplets of every split.

    Args:
        dataset: The description.
        fine: Dates with a fine image.
        coarse: Dates with a coarse image.
        clear: The share of the scene that a date's images show.

    Returns:
        For each of "train", "val", "test" the triplets in order of their dates. A t2 of "test",
        and any t2 in `pair` mode, may be without a fine image.

    Raises:
        InputError: A date that the description names has no images.
    """
    given = {
        "train": dataset.dates.train,
        "val": dataset.dates.validation,
        "test": dataset.dates.test,
    }
    paired = sorted(set(fine) & set(coarse))
    if not any(given.values()):
        given = _shared_out(dataset, paired)
    _check_present(dataset, given, set(fine), set(coarse))
    written = {k: [Triplet(*t) for t in v if isinstance(t, tuple)] for k, v in given.items()}
    dates = {k: [d for d in v if not isinstance(d, tuple)] for k, v in given.items()}
    if dataset.split_by == "blocks":
        # The same triplets in every split: places are kept apart, not times.
        every = written["train"] + _chained(dates["train"], dataset)
        return {split: list(every) for split in records.SPLITS}
    tested, validated = predicted(given["test"]), predicted(given["val"])
    held = tested | validated
    known = sorted({*_flat(given["train"])} - held)
    made = {
        "train": written["train"] + _chained([d for d in dates["train"] if d not in held], dataset),
        "val": written["val"]
        + around(dates["val"], sorted({*known, *dates["val"]}), dataset, clear),
        "test": written["test"] + around(dates["test"], paired, dataset, clear),
    }
    _check_apart(dataset, "val", made["val"], tested, "test")
    _check_apart(dataset, "train", made["train"], tested, "test")
    _check_apart(dataset, "train", made["train"], validated, "validation")
    if dataset.supervision == "pair":
        unseen = written["val"] + written["test"]
        unseen += around([*dates["val"], *dates["test"]], known, dataset, clear)
        # Written triplets of one series have each other's F2 as their F1 and F3.
        every = made["train"] + [t for t in unseen if held.isdisjoint((t.t1, t.t3))]
        # A single pair teaches only what the coarse change alone can, so it stands back.
        made["train"] = [t for t in every if t.t3 is not None] or every
    return {split: sorted(set(made[split]), key=lambda t: t.iso) for split in records.SPLITS}


def _shared_out(dataset: Dataset, dates: list[Date]) -> dict:
    """Where no dates are named: the last ones test, those before validate, the others teach."""
    by_date = dataset.split_by == "dates"
    validation, test = (round(share * len(dates) * by_date) for share in dataset.shares)
    last = len(dates) - test
    return {
        "train": tuple(dates[: last - validation]),
        "val": tuple(dates[last - validation : last]),
        "test": tuple(dates[last:]),
    }


def _flat(entries: Sequence) -> list[Date]:
    dates = []
    for entry in entries:
        dates += [d for d in entry if d] if isinstance(entry, tuple) else [entry]
    return dates


def _within(first: Date, last: Date, dataset: Dataset) -> bool:
    return dataset.max_gap_days is None or (last - first).days <= dataset.max_gap_days


def _chained(dates: Sequence[Date], dataset: Dataset) -> list[Triplet]:
    """Triplets of one sorted list of dates, by the description's rule."""
    if dataset.rule == "all":
        groups = itertools.combinations(dates, 3)
    else:
        groups = zip(dates, dates[1:], dates[2:], strict=False)  # type: ignore[assignment]
    return [Triplet(*k) for k in groups if _within(k[0], k[2], dataset)]


def around(
    middles: Sequence[Date], known: Sequence[Date], dataset: Dataset, clear: Clear
) -> list[Triplet]:
    """For every t2 the nearest known dates before and after; one-sided where there is no later.

    A date that shows less than `min_clear` of what the clearest one on its side of t2 shows is
    passed over: with most of F1 hidden, most pixels would have to do without it, and little would
    be left to learn from.

    Args:
        middles: The t2.
        known: Dates with both images, in order.
        dataset: The description, for `max_gap_days` and `min_clear`.
        clear: The share of the scene that a date's images show; asked only where there is a
            choice.

    Returns:
        A triplet for every t2 that has a known date before it.
    """
    made = []
    for t2 in middles:
        before = [d for d in reversed(known) if d < t2]
        after = [d for d in known if d > t2]
        if not before:
            continue
        two_sided = after and _within(before[0], after[0], dataset)
        last = after[0] if two_sided else t2
        if not _within(before[0], last, dataset):
            continue
        t1 = _nearest([d for d in before if _within(d, last, dataset)], dataset, clear)
        later = [d for d in after if _within(t1, d, dataset)] if two_sided else []
        made.append(Triplet(t1, t2, _nearest(later, dataset, clear) if later else None))
    return made


def _nearest(dates: Sequence[Date], dataset: Dataset, clear: Clear) -> Date:
    """The first of some dates, the nearest first, that shows enough."""
    # No date can show more than the whole scene.
    if len(dates) == 1 or not dataset.min_clear or clear(dates[0]) >= dataset.min_clear:
        return dates[0]
    least = dataset.min_clear * max(map(clear, dates))
    return next(d for d in dates if clear(d) >= least)


def known_dates(images: Catalog, formed: Mapping[str, Sequence[Triplet]]) -> list[Date]:
    """Dates with both images, in order, without those that a test triplet predicts."""
    hidden = {triplet.t2 for triplet in formed["test"]}
    return [d for d in images.fine_dates if d not in hidden and images.has("coarse", d)]


def passed_over(
    images: Catalog, chosen: Collection[Triplet], known: Sequence[Date]
) -> dict[Date, float]:
    """Known dates nearer to a t2 than its t1 or t3, which show too little.

    Args:
        images: The data set.
        chosen: Triplets; those that the description writes out pass over nothing.
        known: Dates with both images.

    Returns:
        For each such date the share of the scene that it shows.
    """
    nearer = {
        date
        for t in chosen
        if not _is_written(images.dataset, t)
        for date in known
        if t.t1 < date < (t.t3 or t.t2) and date != t.t2
    }
    return {date: images.clear_share(date) for date in sorted(nearer)}


def filled(images: Catalog, triplet: Triplet, known: Sequence[Date]) -> Triplet:
    """A triplet with further ones that fill what neither F1 nor F3 shows.

    They are those of the next dates before t1 and after t3 that are not far less clear, as far as
    they show a hundredth of the scene that the ones before them do not.

    Args:
        images: The data set.
        triplet: Dates; a triplet that the description writes out stays what it is.
        known: Dates with both images, in order.

    Returns:
        The triplet, with at most as many in `fill` as the description allows.
    """
    dataset = images.dataset
    before = [d for d in reversed(known) if d < triplet.t1]
    after = [d for d in known if triplet.t3 and d > triplet.t3]
    if not dataset.fill or _is_written(dataset, triplet) or not (before or after):
        return triplet
    own, given = _shown(images, triplet), images.clear_mask(triplet.t2, ["coarse"])
    if own is None or given is None:
        return triplet  # who uses them is told
    hidden = given & ~own[0]
    earlier = _clear_enough(images, before, triplet.t1)
    later = _clear_enough(images, after, triplet.t3)
    fill: list[Triplet] = []
    last = triplet
    while len(fill) < dataset.fill and hidden.mean() >= _WORTH_FILLING:
        t1, t3 = next(earlier, last.t1), next(later, last.t3)
        following = Triplet(t1, triplet.t2, t3)
        if following == last or not _within(t1, t3 or triplet.t2, dataset):
            break
        last = following
        shown = _shown(images, last)
        assert shown is not None  # `_clear_enough` has looked at them
        either, both = shown
        if min((hidden & either).mean(), both.mean()) >= _WORTH_FILLING:
            fill.append(last)
            hidden &= ~either
    return dataclasses.replace(triplet, fill=tuple(fill))


def _is_written(dataset: Dataset, triplet: Triplet) -> bool:
    return (triplet.t1, triplet.t2, triplet.t3) in dataset.dates.test


def _clear_enough(images: Catalog, dates: Sequence[Date], than: Date | None) -> Iterator[Date]:
    """Those of some dates whose images can be read and are not far less clear than another's."""
    for date in dates:
        least = images.dataset.min_clear * images.clear_share(than or date)
        if images.clear_mask(date) is not None and images.clear_share(date) >= least:
            yield date


def _shown(images: Catalog, triplet: Triplet) -> tuple[np.ndarray, np.ndarray] | None:
    """Of the pixels that `Catalog.clear_mask` looks at, those that t1 or t3 and that both show."""
    outer = [date for date in (triplet.t1, triplet.t3) if date]
    shown = [mask for date in outer if (mask := images.clear_mask(date)) is not None]
    if len(shown) < len(outer):
        return None
    return np.logical_or.reduce(shown), np.logical_and.reduce(shown)


def _check_present(dataset: Dataset, given: dict, fine: set[Date], coarse: set[Date]) -> None:
    for split, entries in given.items():
        for entry in entries:
            outer = [entry[0], *entry[2:]] if isinstance(entry, tuple) else [entry]
            middle = [entry[1]] if isinstance(entry, tuple) else []
            needs_f2 = split != "test" and dataset.supervision == "triplet"
            for date in [*outer, *middle]:
                if date is None:
                    continue
                if date not in coarse:
                    raise _absent(dataset, split, date, "coarse", coarse)
                # A test date is predicted: its fine image may be unknown.
                hidden = split == "test" and (date in middle or not isinstance(entry, tuple))
                if date not in fine and not hidden and (date not in middle or needs_f2):
                    raise _absent(dataset, split, date, "fine", fine)


def _absent(
    dataset: Dataset, split: str, date: Date, side: str, there: set[Date]
) -> errors.InputError:
    found = ", ".join(d.isoformat() for d in sorted(there)[:40]) or "none"
    return errors.InputError(
        f"{dataset.path}: {_KEYS[split]}: expected a {side} image of {date} under "
        f"{dataset.root}, found images of {found}."
    )


def _check_apart(
    dataset: Dataset, split: str, formed: Sequence[Triplet], held: set[Date], name: str
) -> None:
    """No date that scores may teach; a written-out list may break this by mistake."""
    for triplet in formed:
        # In `pair` mode a training triplet's own F2 stays out of its records.
        own = split == "train" and dataset.supervision == "pair"
        seen = set(triplet.dates) - ({triplet.t2} if own else set())
        if shared := held & seen:
            raise errors.InputError(
                f"{dataset.path}: {_KEYS[split]}: expected no triplet with the {name} date "
                f"{min(shared)}, found {triplet}."
            )
