"""Rasters that a user names one by one, without a description: they become one.

    described = describe(NamedRasters("F1.tif", "C1.tif", ("C2.tif",), "F3.tif", "C3.tif"))

Each raster holds all bands of one date. What they do not state themselves — dates in their names,
scales, band names — is asked for by the flag that would say it.
"""

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_prep import dataset, dates, errors, grids, names, rasters
from data_prep.dataset import Date


@dataclasses.dataclass(frozen=True)
class StatedEncoding:
    """How the rasters of one side state reflectance; what is not given, the files must say.

    Attributes:
        bands: Band numbers from 1 in order; () takes the bands by name, or all as they lie.
        scale: Reflectance per digital number.
        offset: Reflectance at 0.
        fill: Digital number that means "no data".
        valid_range: Least and greatest digital number of a usable pixel.
        crs: The system of rasters that state none, such as "EPSG:32613".
    """

    bands: tuple[int, ...] = ()
    scale: float | None = None
    offset: float | None = None
    fill: float | None = None
    valid_range: tuple[float, float] | None = None
    crs: str = ""


@dataclasses.dataclass(frozen=True)
class NamedRasters:
    """What to fuse from.

    Attributes:
        f1: Fine image of t1.
        c1: Coarse image of t1.
        c2: Coarse images of the dates to be fused.
        f3: Fine image of t3, "" where there is none.
        c3: Coarse image of t3, "" where there is none.
        t1: Date of `f1` and `c1`; None reads it from the file names, as for the others.
        t2: Dates of `c2`.
        t3: Date of `f3` and `c3`.
        bands: Band names in order; () takes `usual`, the rasters' own names, or numbers.
        usual: Band names that the model knows, where there is one.
        fine: StatedEncoding of the fine images.
        coarse: StatedEncoding of the coarse images.
        ratio: Coarse pixel size over fine pixel size; None computes it from the grids.
    """

    f1: str
    c1: str
    c2: tuple[str, ...]
    f3: str = ""
    c3: str = ""
    t1: Date | None = None
    t2: tuple[Date, ...] = ()
    t3: Date | None = None
    bands: tuple[str, ...] = ()
    usual: tuple[str, ...] = ()
    fine: StatedEncoding = StatedEncoding()
    coarse: StatedEncoding = StatedEncoding()
    ratio: float | None = None


def describe(given: NamedRasters) -> dataset.Dataset:
    """The description of these rasters: t1 and t3 teach, the dates of `c2` are to be fused.

    Raises:
        InputError: A raster is missing or does not state what it must; the sentence names the
            flag that would.
    """
    _check_complete(given)
    dated = _dates(given)
    bands = _bands(given)
    ends = [date for date in (dated["1"][0], *dated["3"]) if date]
    raw: dict[str, Any] = {
        "name": "rasters",
        "bands": list(bands),
        "supervision": "pair",
        "fine": _side("fine", given, dated, bands),
        "coarse": _side("coarse", given, dated, bands),
        "dates": {
            "train": [date.isoformat() for date in ends],
            "test": [date.isoformat() for date in dated["2"]],
        },
    }
    if given.ratio is not None:
        raw["coarse"]["ratio"] = given.ratio
    described = dataset.parse(raw, Path("the rasters' flags"), Path.cwd())
    return dataclasses.replace(described, scene=Path(given.f1).stem)


@contextlib.contextmanager
def naming_flags() -> Iterator[None]:
    """Names the flags in sentences about keys of a description, which nobody wrote.

    Raises:
        InputError: The one from within, with "--coarse_scale" for "coarse.scale".
    """
    try:
        yield
    except errors.InputError as error:
        sentence = str(error).replace("found no such key", "found nothing")
        # Which side's system is missing, the sentence says; the key is always the same.
        sentence = re.sub(r"\w+\.assume_crs states", "--fine_crs or --coarse_crs states", sentence)
        sentence = re.sub(r"\b(fine|coarse)\.(scale|offset)\b", r"--\1_\2", sentence)
        sentence = re.sub(r"\bcoarse\.ratio\b", "--ratio", sentence)
        raise errors.InputError(sentence) from None


def _check_complete(given: NamedRasters) -> None:
    for flag, value in (("f1", given.f1), ("c1", given.c1), ("c2", given.c2)):
        if not value:
            raise errors.InputError(
                f"--{flag}: expected a raster, found nothing; --f1, --c1 and --c2 go together, "
                f"and --f3 with --c3 where there is a later pair."
            )
    if bool(given.f3) != bool(given.c3):
        there, missing = ("f3", "c3") if given.f3 else ("c3", "f3")
        raise errors.InputError(
            f"--{missing}: expected a raster beside --{there}, found nothing; without both, "
            f"fusing goes from the earlier pair alone."
        )


def _files(given: NamedRasters, side: str) -> Iterator[tuple[str, str, str]]:
    """(flag, which date, file) of every raster of a side."""
    letter = side[0]
    for number in "123":
        files = getattr(given, f"{letter}{number}", ())
        for file in (files,) if isinstance(files, str) else files:
            if file:
                yield f"{letter}{number}", number, file


def _dates(given: NamedRasters) -> dict[str, list[Date]]:
    """Dates by "1", "2" and "3", those of "2" in the order of `c2`."""
    stated = {"1": [given.t1] if given.t1 else [], "2": list(given.t2)}
    stated["3"] = [given.t3] if given.t3 else []
    if given.t2 and len(given.t2) != len(given.c2):
        raise errors.InputError(
            f"--t2: expected a date for each of the {len(given.c2)} rasters of --c2, found "
            f"{len(given.t2)}."
        )
    found: dict[str, list[Date]] = {"1": [], "2": [], "3": []}
    for flag, number, file in (*_files(given, "fine"), *_files(given, "coarse")):
        if number == "2":
            known = stated["2"][len(found["2"])] if stated["2"] else None
            found["2"].append(known or _date_of(flag, file))
            continue
        date = stated[number][0] if stated[number] else _date_of(flag, file)
        if found[number] and found[number][0] != date:
            raise errors.InputError(
                f"{file}: expected the date of --f{number}, {found[number][0]}, found {date}; "
                f"--t{number} says which holds."
            )
        found[number] = [date]
    _check_order(found)
    return found


def _check_order(dated: dict[str, list[Date]]) -> None:
    t1, seen = dated["1"][0], set()
    for date in dated["2"]:
        if date in seen:
            raise errors.InputError(f"--c2: expected one raster a date, found two of {date}.")
        seen.add(date)
        if date <= t1:
            raise errors.InputError(f"--c2: expected dates after --f1's, {t1}, found {date}.")
    if dated["3"] and not (t1 < dated["3"][0] and dated["3"][0] not in seen):
        raise errors.InputError(
            f"--f3: expected a date after --f1's, {t1}, and other than --c2's, found "
            f"{dated['3'][0]}."
        )


def _date_of(flag: str, file: str) -> Date:
    """The date in a file's name.

    Raises:
        InputError: There is none, or there are several.
    """
    found = dates.in_text(Path(names.file_of(file)).name)
    if len(found) != 1:
        what = ", ".join(map(str, found)) or "none"
        raise errors.InputError(
            f"{file}: expected one date in the name, such as {dates.EXAMPLES}, found {what}; "
            f"--t{flag[1]} states it."
        )
    return found[0]


def _bands(given: NamedRasters) -> tuple[str, ...]:
    stated = rasters.info(given.f1)
    if chosen := given.bands or given.usual:
        return chosen
    numbers = given.fine.bands or _image_bands(stated)
    own = [stated.band_names[k - 1] for k in numbers if 1 <= k <= stated.bands]
    if len(set(own)) == len(numbers) and all(re.fullmatch(r"\w+", k) for k in own):
        return tuple(own)
    return tuple(f"band{k}" for k in numbers)


def _image_bands(stated: rasters.Info) -> list[int]:
    """Numbers of all bands that are no mask; one is by what the raster states, not by GDAL's guess.

    Of the fourth of four bands of bytes GDAL says so by itself.
    """
    guessed = stated.dtype == "uint8" and stated.bands == 4
    masks = () if guessed else stated.alphas
    return [k for k in range(1, stated.bands + 1) if k not in masks]


def _places(
    file: str, flag: str, bands: Sequence[str], numbers: Sequence[int] = ()
) -> dict[str, int]:
    """The band number of each band: as given, by the raster's own names, or by their order."""
    stated = rasters.info(file)
    if numbers:
        side = "fine" if flag[0] == "f" else "coarse"
        if len(numbers) != len(bands) or not all(1 <= k <= stated.bands for k in numbers):
            raise errors.InputError(
                f"--{side}_bands: expected {len(bands)} numbers ({', '.join(bands)}) from 1 to "
                f"{stated.bands}, the bands of {file}, found {', '.join(map(str, numbers))}."
            )
        return dict(zip(bands, numbers, strict=True))
    own = [name.lower() for name in stated.band_names]
    if all(own.count(band.lower()) == 1 for band in bands):
        return {band: own.index(band.lower()) + 1 for band in bands}
    numbers = _image_bands(stated)
    if len(numbers) != len(bands):
        raise errors.InputError(
            f"--{flag}: expected {len(bands)} bands ({', '.join(bands)}) in {file}, found "
            f"{len(numbers)}; --fine_bands and --coarse_bands give the numbers of those that both "
            f"sides have, such as 2,3,4."
        )
    return dict(zip(bands, numbers, strict=True))


def _side(
    side: str, given: NamedRasters, dated: dict[str, list[Date]], bands: Sequence[str]
) -> dict[str, Any]:
    """A side of the description."""
    coding: StatedEncoding = getattr(given, side)
    table, places = {}, []
    later = iter(dated["2"])
    for flag, number, file in _files(given, side):
        date = next(later) if number == "2" else dated[number][0]
        table[date.isoformat()] = names.absolute(file, Path.cwd())
        places.append((file, _places(file, flag, bands, coding.bands)))
        if coding.scale is None and rasters.info(file).scale is None:
            raise errors.InputError(
                f"{file}: expected a raster that states its scale, found none; "
                f"--{side}_scale gives reflectance per digital number, such as 0.0001."
            )
    for file, place in places:
        if place != places[0][1]:
            raise errors.InputError(
                f"{file}: expected its bands in the order of {places[0][0]}, found "
                f"{', '.join(rasters.info(file).band_names)}."
            )
    raw: dict[str, Any] = {"table": table, "bands": places[0][1]}
    for key in ("scale", "offset"):
        if getattr(coding, key) is not None:
            raw[key] = getattr(coding, key)
    if coding.fill is not None:
        raw["fill"] = [coding.fill]
    if coding.valid_range is not None:
        raw["valid_range"] = list(coding.valid_range)
    if coding.crs:
        raw["assume_crs"] = _crs(side, coding.crs)
    return raw


def _crs(side: str, crs: str) -> str:
    try:
        return grids.crs_wkt(crs)
    except errors.InputError:
        raise errors.InputError(
            f"--{side}_crs: expected a system such as EPSG:32613, found '{crs}'."
        ) from None
