"""Finding a side's files: patterns with named date parts, tables, stacks, sub-datasets, tiles.

An archive's layout is stated in the description (`dataset.Side`); here it becomes, for every
date, the places of the bands and of the quality layers.
"""

import contextlib
import dataclasses
import datetime
import functools
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from data_prep import errors, names, rasters
from data_prep.dataset import Dataset, Date, Quality, Side, predicted

_PARTS = {
    "year": r"(?:19|20)\d{2}",
    "month": r"\d{1,2}",
    "day": r"\d{1,2}",
    "doy": r"\d{1,3}",
    "mon": r"[A-Za-z]{3}",
    "tile": r"[^/]+?",
}
# Run together with other digits, numbers are padded: 20160105, 2015287.
_PADDED = {"month": r"\d{2}", "day": r"\d{2}", "doy": r"\d{3}"}
_DIGITS = ("year", "month", "day", "doy")
_MONTHS = ("jan feb mar apr may jun jul aug sep oct nov dec").split()


@dataclasses.dataclass(frozen=True)
class Layer:
    """One band of one raster.

    Attributes:
        files: The file, or neighbouring tiles that are joined.
        subdataset: Name of the sub-dataset inside, "" where the file itself is the raster.
        band: Band number from 1.
    """

    files: tuple[str, ...]
    subdataset: str = ""
    band: int = 1

    @functools.cached_property
    def raster(self) -> rasters.Files:
        """What `rasters` is to open."""
        files = self.files
        if self.subdataset:
            files = tuple(rasters.subdataset(file, self.subdataset) for file in files)
        return files[0] if len(files) == 1 else files

    def __str__(self):
        return self.files[0] + (f" ({self.subdataset})" if self.subdataset else "")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One date's layers.

    Attributes:
        date: The date that the archive gives.
        bands: One layer a band, in the records' order.
        quality: One layer for each of the side's quality layers; None where an optional one is
            missing.
    """

    date: Date
    bands: tuple[Layer, ...]
    quality: tuple[Layer | None, ...] = ()


def find(dataset: Dataset, side: Side) -> dict[Date, Entry]:
    """Finds all images of one side, by date.

    Raises:
        InputError: A date does not parse, two files claim one place, a band's file is missing.
    """
    found: dict[Date, _Found] = {}
    if side.stack:
        bands = _find_stack(dataset, side)
    else:
        found = (
            _find_table(dataset, side)
            if side.table
            else _match(dataset, side.files, _band_parts(side))
        )
        bands = {
            date: tuple(_layer(side, files, place, date) for place in side.bands)
            for date, files in sorted(found.items())
        }
    masks = [_find_masks(dataset, side, layer) for layer in side.quality]
    entries = {}
    for date, layers in bands.items():
        quality = tuple(
            _quality_layer(dataset, side, layer, mask, found.get(date, {}), date)
            for layer, mask in zip(side.quality, masks, strict=True)
        )
        entries[date] = Entry(date, layers, quality)
    return entries


_Found = dict[str, tuple[str, ...]]
"""Files by their `{band}` part ("" where the pattern has none); several are tiles."""


def _band_parts(side: Side) -> list[str]:
    places = [*side.bands, *(layer.band for layer in side.quality if not layer.files)]
    return [place for place in places if isinstance(place, str)]


def _layer(side: Side, files: _Found, place: int | str, date: Date) -> Layer:
    if not side.split_by_band:
        joined = files[""]
        return Layer(joined, place, 1) if isinstance(place, str) else Layer(joined, "", place)
    if place not in files:
        example = next(iter(files.values()))[0]
        raise errors.InputError(
            f"{example}: expected beside it a file of band '{place}' for the {side.name} image "
            f"of {date}, found {', '.join(sorted(files))}."
        )
    return Layer(files[str(place)])


def _quality_layer(
    dataset: Dataset,
    side: Side,
    layer: Quality,
    masks: dict[Date, _Found] | None,
    files: _Found,
    date: Date,
) -> Layer | None:
    if masks is None:
        if layer.optional and side.split_by_band and layer.band not in files:
            return None
        return _layer(side, files, layer.band, date)
    if date not in masks:
        if layer.optional:
            return None
        raise errors.InputError(
            f"{dataset.path}: {side.name}.quality: expected a file {layer.files[0]} of {date} "
            f"below {dataset.root}, found none (optional = true takes such dates as good "
            f"throughout)."
        )
    joined = masks[date][""]
    band = layer.band
    return Layer(joined, band, 1) if isinstance(band, str) else Layer(joined, "", band)


def _find_masks(dataset: Dataset, side: Side, layer: Quality) -> dict[Date, _Found] | None:
    return _match(dataset, layer.files, []) if layer.files else None


def _find_table(dataset: Dataset, side: Side) -> dict[Date, _Found]:
    """The table's files; only a test date's fine image may be missing: it is to be predicted."""
    tested = predicted(dataset.dates.test) if side.name == "fine" else set()
    found: dict[Date, _Found] = {}
    for date, name in side.table.items():
        file = names.absolute(name, dataset.root)
        if rasters.exists(file):
            found[date] = {"": (file,)}
        elif date not in tested:
            raise errors.InputError(
                f"{file}: expected the {side.name} image of {date} that {dataset.path} names, "
                f"found no such file."
            )
    return found


def _find_stack(dataset: Dataset, side: Side) -> dict[Date, tuple[Layer, ...]]:
    stack = side.stack
    assert stack is not None
    named = list(side.table.values()) or list(side.files)
    path = names.absolute(named[0], dataset.root)
    count = rasters.info(path).bands
    dates = [stack.first + datetime.timedelta(stack.every_days * k) for k in range(count)]
    return {date: (Layer((path,), "", k + 1),) for k, date in enumerate(dates)}


def _match(dataset: Dataset, patterns: Iterable[str], parts: list[str]) -> dict[Date, _Found]:
    """Files below the root that fit a pattern, by date and `{band}` part."""
    found: dict[Date, dict[str, dict[str, str]]] = {}
    for pattern in patterns:
        expression = _expression(pattern, parts)
        for path, relative in _candidates(dataset.root, pattern):
            match = expression.fullmatch(relative)
            if not match:
                continue
            named = match.groupdict()
            date = _date(named, path)
            place = found.setdefault(date, {}).setdefault(named.get("band") or "", {})
            tile = named.get("tile") or ""
            if tile in place and not path.samefile(place[tile]):
                raise errors.InputError(
                    f"{path}: expected one file a date and band for the pattern '{pattern}', "
                    f"found {place[tile]} as well."
                )
            place.setdefault(tile, str(path))
    return {
        date: {band: tuple(tiles[k] for k in sorted(tiles)) for band, tiles in bands.items()}
        for date, bands in found.items()
    }


def _candidates(root: Path, pattern: str) -> Iterator[tuple[Path, str]]:
    """Paths that may fit, each with its name as seen from the root; `_compiled` decides."""
    loose = [
        part if part == "**" else re.sub(r"(\{\w+\}|\*)+", "*", part).replace("[", "[[]")
        for part in pattern.split("/")
    ]
    for path in sorted(set(_below(root, loose))):
        yield path, path.relative_to(root).as_posix()


def _below(folder: Path, parts: list[str]) -> Iterator[Path]:
    """Paths below a folder that fit the parts of a glob; `**` enters symbolic links as well."""
    at = parts.index("**") if "**" in parts else len(parts)
    places = folder.glob("/".join(parts[:at])) if at else [folder]
    if at == len(parts):
        yield from places
        return
    for place in places:
        for inner in _folders(place):
            yield from _below(inner, parts[at + 1 :])


def _folders(folder: Path, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Path]:
    """A folder and all below it; a link back to a folder that it lies in is not followed."""
    with contextlib.suppress(OSError):  # as glob does: what cannot be read has nothing to offer
        stat = folder.stat()
        own = (stat.st_dev, stat.st_ino)
        if own in above:
            return
        with os.scandir(folder) as entries:
            inner = [folder / entry.name for entry in entries if entry.is_dir()]
        yield folder
        for child in inner:
            yield from _folders(child, above | {own})


@functools.lru_cache(maxsize=256)
def _compiled(pattern: str, parts: tuple[str, ...]) -> re.Pattern[str]:
    seen: set[str] = set()
    out = []
    pieces = [k for k in re.split(r"(\{\w+\}|\*\*/|\*|\?)", pattern) if k]
    numeric = [k[1:-1] in _DIGITS for k in pieces]
    for place, piece in enumerate(pieces):
        packed = numeric[place] and any(
            numeric[max(place - 1, 0) : place] + numeric[place + 1 :][:1]
        )
        name = piece[1:-1] if piece.startswith("{") and piece.endswith("}") else ""
        if name and name in seen:
            out.append(f"(?P={name})")
        elif name == "band":
            out.append(f"(?P<band>{'|'.join(map(re.escape, sorted(parts, key=len)[::-1]))})")
        elif name in _PARTS:
            widths = {**_PARTS, **_PADDED} if packed else _PARTS
            out.append(f"(?P<{name}>{widths[name]})")
        elif name:
            raise errors.InputError(
                f"files: expected parts {', '.join('{' + k + '}' for k in [*_PARTS, 'band'])}, "
                f"found '{piece}' in '{pattern}'."
            )
        else:
            out.append({"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}.get(piece, re.escape(piece)))
        seen.add(name)
    return re.compile("".join(out))


def _expression(pattern: str, parts: list[str]) -> re.Pattern[str]:
    return _compiled(pattern, tuple(parts))


def _date(named: dict[str, str], path: Path) -> Date:
    """The date that a file's name or folder states; where it states it twice, both must agree."""
    stated = {k: named[k] for k in ("year", "month", "mon", "day", "doy") if named.get(k)}
    try:
        year = int(stated["year"])
        month = stated.get("month") or (
            str(_MONTHS.index(stated["mon"].lower()) + 1) if "mon" in stated else None
        )
        dates = set()
        if month:
            dates.add(Date(year, int(month), int(stated["day"])))
        if "doy" in stated:
            date = Date(year, 1, 1) + datetime.timedelta(int(stated["doy"]) - 1)
            if date.year != year:
                raise ValueError("day of year")
            dates.add(date)
        (date,) = dates
        return date
    except (ValueError, KeyError):
        parts = " ".join(f"{k}={v}" for k, v in stated.items())
        raise errors.InputError(
            f"{path}: expected a date in the file's name, found {parts or 'no date parts'}."
        ) from None
