"""A data set's description: a TOML file, checked when it is read.

    dataset = load("configs/cia.toml", data_dir="/data")

Where a key is wrong, the error names the file, the key, what is allowed and what was found. A
side of the pair (`[fine]`, `[coarse]`) may name a sensor; the sensor's preset, a small TOML file
in `data_prep/sensors`, then gives all that the side leaves unsaid. What a key means is said at the
attribute of its name in the dataclasses below.
"""

import dataclasses
import datetime
import difflib
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep import errors

SENSORS = Path(__file__).parent / "sensors"
SIDES = ("fine", "coarse")
SUPERVISION = ("triplet", "pair")
RESAMPLING = ("nearest", "bilinear", "cubic", "average")
EXTENTS = ("first", "intersection", "union")
COREGISTER = ("off", "report", "apply")
RESIDUAL_CLOUDS = ("keep", "reject")
RULES = ("consecutive", "all")
SPLITS_BY = ("dates", "blocks")
QUANTITY = "reflectance"

Date = datetime.date
DateTriplet = tuple[Date, Date, Date | None]


@dataclasses.dataclass(frozen=True)
class Rule:
    """Which pixels of a quality layer a named rule rejects.

    Attributes:
        bits: First and last bit that state the class (0 is the lowest), None for the whole value.
        values: The values of those bits that mean "bad".
        keep: Instead of `values`: all values but these mean "bad".
    """

    bits: tuple[int, int] | None = None
    values: tuple[int, ...] = (1,)
    keep: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Quality:
    """A quality layer: a band or file of its own whose values state what is wrong with a pixel.

    Attributes:
        band: As in a side's `bands`: a band number, a part of the file name, or a sub-dataset.
        files: Patterns as in a side's `files`, where the layer lies in files of its own.
        optional: Whether dates without this layer are taken as good throughout.
        rules: The rules by name; those that a side's `reject` names are applied.
    """

    band: int | str = 1
    files: tuple[str, ...] = ()
    optional: bool = False
    rules: Mapping[str, Rule] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Stack:
    """One file whose bands are dates: band k belongs to `first` + (k - 1) · `every_days`."""

    first: Date
    every_days: int


@dataclasses.dataclass(frozen=True)
class Side:
    """The fine or the coarse images.

    Attributes:
        name: "fine" or "coarse".
        sensor: The preset's name, "" where none was named.
        files: Patterns below the root. Named parts: `{year} {month} {day} {doy} {mon}` (three
            letters), `{band}` (a file a band), `{tile}` (neighbouring tiles, joined); `*` and `?`
            as in a shell, `**/` for any folders, linked ones too. All else is literal: brackets are
            no class of characters.
        table: Instead of `files`: one file a date, written out.
        bands: Where each of the data set's bands lies: an int is a band number of the file, a
            string is a file's `{band}` part or, where the pattern has none, a sub-dataset.
        stack: Set where one file holds all dates.
        period_days: Days that a composite stands for from its date on; 1 for a daily image.
        scale: Reflectance per digital number; None takes the file's own statement.
        offset: Reflectance at 0.
        fill: Digital numbers that mean "no data".
        valid_range: Least and greatest digital number of a usable pixel.
        quality: Quality layers.
        reject: Names of the quality rules to be applied.
        dilate: Pixels of the quality layer by which rejected areas grow.
        resampling: How pixels get onto the fine grid where they do not lie there already.
        assume_crs: The system of files that state none.
        pixel_size: Size of the sensor's own pixel in metres, where images were resampled since.
        psf_fwhm: Full width at half maximum of the sensor's point spread function, in its pixels.
        ratio: Own pixel size over the fine one; None computes it from the grids.
        residual_clouds: Of coarse images of two bands or more: "reject" leaves out what is far
            brighter in every band than on the dates with both images before and after, as clouds
            are that no quality layer names; "keep" takes it for what it is, as by default where
            there is a quality layer.
    """

    name: str
    sensor: str = ""
    files: tuple[str, ...] = ()
    table: Mapping[Date, str] = dataclasses.field(default_factory=dict)
    bands: tuple[int | str, ...] = ()
    stack: Stack | None = None
    period_days: int = 1
    scale: float | None = None
    offset: float | None = None
    fill: tuple[float, ...] = ()
    valid_range: tuple[float, float] | None = None
    quality: tuple[Quality, ...] = ()
    reject: tuple[str, ...] = ()
    dilate: int = 0
    resampling: str = "bilinear"
    assume_crs: str = ""
    pixel_size: float | None = None
    psf_fwhm: float = 1.0
    ratio: float | None = None
    residual_clouds: str = "keep"

    @property
    def split_by_band(self) -> bool:
        """Whether each band lies in a file of its own."""
        return any("{band}" in pattern for pattern in self.files)

    @property
    def reading(self) -> dict[str, Any]:
        """How files are read, the sensor's preset included: all but which files there are."""
        stated = dataclasses.asdict(self)
        del stated["files"], stated["table"]
        return stated


@dataclasses.dataclass(frozen=True)
class Dates:
    """Which dates, or which triplets written out, serve what.

    Each is a tuple of dates, or of triplets; a triplet's t3 is None where no later image is. A date
    of `train` that a triplet of `validation` or `test` predicts does not teach.
    """

    train: tuple[Date, ...] | tuple[DateTriplet, ...] = ()
    validation: tuple[Date, ...] | tuple[DateTriplet, ...] = ()
    test: tuple[Date, ...] | tuple[DateTriplet, ...] = ()


def predicted(entries: Sequence[Date] | Sequence[DateTriplet]) -> set[Date]:
    """Dates whose F2 a split of `Dates` predicts: those it lists, or its triplets' t2."""
    return {entry[1] if isinstance(entry, tuple) else entry for entry in entries}


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set's description, checked.

    Attributes:
        name: Short name, part of file names.
        scene: The place's name, kept in every record.
        path: The TOML file.
        root: The folder below which all files lie.
        bands: Band names in the records' order.
        supervision: "triplet" where F2 teaches, "pair" where only the outer pairs are known.
        fine: The fine images.
        coarse: The coarse images.
        quantity: What the images state, for tables and figures, such as an index's name.
        dates: Dates or triplets of the splits.
        rule: Which triplets to form from `dates`: "consecutive" or "all".
        max_gap_days: Longest t3 − t1 of a triplet; None sets no bound.
        min_clear: Around a date to be predicted stand the nearest ones whose images show at least
            this share of what the clearest ones show.
        fill: From how many more pairs of dates pixels are filled that those around a date to be
            fused do not show.
        split_by: "dates", or "blocks" of the scene: all splits then have `dates.train`, or all
            dates, and `shares` says how many blocks each has.
        block_size: Height and width of a spatial block, fine pixels.
        shares: Shares for validation and test, of the blocks, or of the dates (the last ones)
            where `dates` names none.
        like: A raster that gives the target grid; "" takes the first fine image's.
        extent: Of which fine images the target grid is the extent.
        tile_size: Height and width of a tile.
        min_valid: Least share of pixels valid in every image of a tile that is kept.
        coregister: What to do about a shift between coarse and fine.
        max_shift: Largest shift looked for, in fine pixels; None looks within one and a half
            coarse pixels.
        description: The TOML as it was read.
    """

    name: str
    scene: str
    path: Path
    root: Path
    bands: tuple[str, ...]
    supervision: str
    fine: Side
    coarse: Side
    dates: Dates
    quantity: str = QUANTITY
    rule: str = "consecutive"
    max_gap_days: int | None = None
    min_clear: float = 0.5
    fill: int = 2
    split_by: str = "dates"
    block_size: int = 512
    shares: tuple[float, float] = (0.0, 0.0)
    like: str = ""
    extent: str = "first"
    tile_size: int = 256
    min_valid: float = 0.05
    coregister: str = "off"
    max_shift: float | None = None
    description: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    def side(self, name: str) -> Side:
        """`fine` or `coarse` by name."""
        return {"fine": self.fine, "coarse": self.coarse}[name]

    def correcting(self, coregister: str | None, residual_clouds: str | None) -> "Dataset":
        """The description with other corrections of its coarse images, where not None.

        Raises:
            InputError: Residual clouds cannot be told in a single band.
        """
        coarse = self.coarse
        if residual_clouds:
            _check_screening(residual_clouds, self.bands, "--")
            coarse = dataclasses.replace(coarse, residual_clouds=residual_clouds)
        mode = coregister or self.coregister
        return dataclasses.replace(self, coregister=mode, coarse=coarse)


class _Table:
    """A TOML table whose keys are taken one by one; `end` refuses those that are left."""

    def __init__(self, values: Mapping[str, Any], where: str):
        if not isinstance(values, Mapping):
            raise errors.InputError(f"{where}: expected a table, found {values!r}.")
        self.values = dict(values)
        self.where = where
        self.known: list[str] = []

    def fail(self, key: str, expected: str, found: Any) -> errors.InputError:
        return errors.InputError(f"{self.where}{key}: expected {expected}, found {found!r}.")

    def take(self, key: str, default: Any, expected: str, check: Callable[[Any], Any]) -> Any:
        """Removes a key and returns `check(value)`, which raises ValueError on a bad value."""
        self.known.append(key)
        if key not in self.values:
            if default is ...:
                raise errors.InputError(
                    f"{self.where}{key}: expected {expected}, found no such key."
                )
            return default
        value = self.values.pop(key)
        try:
            return check(value)
        except (ValueError, TypeError, KeyError):
            raise self.fail(key, expected, value) from None

    def text(self, key: str, default: Any = ...) -> str:
        return self.take(key, default, "a string", _text)

    def one_of(self, key: str, allowed: tuple[str, ...], default: Any = ...) -> str:
        def check(value):
            if value not in allowed:
                raise ValueError
            return value

        return self.take(key, default, f"one of {', '.join(allowed)}", check)

    def number(self, key: str, default: Any, low: float, high: float, whole: bool = False) -> Any:
        def check(value):
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                raise ValueError
            if not low <= value <= high:
                raise ValueError
            return value

        kind = "a whole number" if whole else "a number"
        bounds = f" from {low:g} to {high:g}" if high < float("inf") else f" of at least {low:g}"
        return self.take(key, default, kind + (bounds if low > float("-inf") else ""), check)

    def table(self, key: str) -> "_Table":
        self.known.append(key)
        return _Table(self.values.pop(key, {}), f"{self.where}{key}.")

    def end(self) -> None:
        for key in self.values:
            near = difflib.get_close_matches(key, self.known, 1)
            hint = f" (did you mean '{near[0]}'?)" if near else ""
            raise errors.InputError(
                f"{self.where}{key}: expected one of {', '.join(self.known)}, found '{key}'{hint}."
            )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(_text(k) for k in ([value] if isinstance(value, str) else value))


_PATTERNS = "a pattern or a list of patterns of paths below the root"


def _patterns(value: Any) -> tuple[str, ...]:
    patterns = _texts(value)
    if any(not k or k.endswith("/") or Path(k).is_absolute() for k in patterns):
        raise ValueError
    return patterns


def _numbers(value: Any) -> tuple[float, ...]:
    values = value if isinstance(value, list) else [value]
    if any(isinstance(k, bool) or not isinstance(k, (int, float)) for k in values):
        raise ValueError
    return tuple(values)


def _range(value: Any) -> tuple[float, float]:
    low, high = _numbers(value)
    if not low < high:
        raise ValueError
    return low, high


def _date(value: Any) -> Date:
    if isinstance(value, datetime.datetime) or not isinstance(value, (datetime.date, str)):
        raise ValueError
    return value if isinstance(value, datetime.date) else Date.fromisoformat(value)


def expand(text: str) -> str:
    """Replaces `${NAME}` and `${NAME:-default}` by environment variables.

    A variable that the text begins with names a folder; a relative one is relative to the working
    directory.

    Raises:
        InputError: A variable without default is not set.
    """

    def value(match: re.Match[str]) -> str:
        name, default = match["name"], match["default"]
        found = os.environ.get(name)
        if found and match.start() == 0:
            # What a user's shell names is meant from where the user stands.
            return str(Path(found).resolve())
        found = found or default
        if found is None:
            raise errors.InputError(
                f"root: expected the environment variable {name} to name a folder "
                f"('{text}'), found it unset; set it, or give --data_dir."
            )
        return found

    return re.sub(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}", value, text)


def sensors() -> list[str]:
    """Names of the sensor presets."""
    return sorted(path.stem for path in SENSORS.glob("*.toml"))


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise errors.InputError(f"{path}: expected a TOML file, found no such file.") from None
    except OSError as error:
        raise errors.InputError(
            f"{path}: expected a TOML file, found: {errors.reason(error)}."
        ) from None
    except (ValueError, RecursionError) as error:
        raise errors.InputError(f"{path}: expected TOML, found: {errors.reason(error)}.") from None


def load(path: str | Path, data_dir: str | Path | None = None) -> Dataset:
    """Reads and checks a description.

    Args:
        path: The TOML file.
        data_dir: Replaces the description's `root`.

    Raises:
        InputError: The file, a key or a value is not what is expected.
    """
    path = Path(path)
    return parse(_read_toml(path), path, data_dir)


def parse(raw: Mapping[str, Any], path: Path, data_dir: str | Path | None = None) -> Dataset:
    """Checks a description that was read, or put together, already.

    Args:
        raw: What the TOML says.
        path: Its name, for messages; the root is relative to its folder.
        data_dir: Replaces the description's `root`.

    Raises:
        InputError: A key or a value is not what is expected.
    """
    top = _Table(raw, f"{path}: ")
    name = top.take("name", ..., "letters, digits, - and _", _name)
    bands = top.take("bands", ..., "a list of different band names", _band_names)
    # The description's root is looked at only where it is needed: it may name a variable that a
    # user of --data_dir never set.
    stated_root = top.text("root", ".")
    try:
        root = Path(data_dir) if data_dir else (path.parent / expand(stated_root))
    except errors.InputError as error:
        raise errors.InputError(f"{path}: {error}") from None
    if not root.is_dir():
        flag = "--data_dir" if data_dir else f"{path}: root"
        raise errors.InputError(f"{flag}: expected a folder, found none at {root}.")
    supervision = top.one_of("supervision", SUPERVISION, "triplet")
    sides = {k: _side(top, k, bands, path) for k in SIDES}
    dates = _dates(top.table("dates"))
    dataset = Dataset(
        name=name,
        scene=top.text("scene", name),
        path=path,
        root=root,
        bands=bands,
        supervision=supervision,
        fine=sides["fine"],
        coarse=sides["coarse"],
        dates=dates,
        quantity=top.text("quantity", QUANTITY),
        description=_plain(raw),
        **_options(top),
    )
    top.end()
    _check_table_dates(dataset)
    _check_blocks(dataset)
    return dataset


def _name(value: Any) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", value):
        raise ValueError
    return value


def _band_names(value: Any) -> tuple[str, ...]:
    names = _texts(value)
    if not names or len(set(names)) < len(names):
        raise ValueError
    return names


def _plain(value: Any) -> Any:
    """TOML values as JSON knows them: dates become ISO strings."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(k) for k in value]
    return value.isoformat() if isinstance(value, (datetime.date, datetime.time)) else value


def _options(top: _Table) -> dict[str, Any]:
    infinity = float("inf")
    triplets, split = top.table("triplets"), top.table("split")
    grid, tiles, registration = top.table("grid"), top.table("tiles"), top.table("registration")
    options = {
        "rule": triplets.one_of("rule", RULES, "consecutive"),
        "max_gap_days": triplets.number("max_gap_days", None, 2, infinity, whole=True),
        "min_clear": triplets.number("min_clear", 0.5, 0.0, 1.0),
        "fill": triplets.number("fill", 2, 0, 8, whole=True),
        "split_by": split.one_of("by", SPLITS_BY, "dates"),
        "block_size": split.number("block_size", 512, 32, infinity, whole=True),
        "shares": (
            split.number("validation", 0.0, 0.0, 0.5),
            split.number("test", 0.0, 0.0, 0.5),
        ),
        "like": grid.text("like", ""),
        "extent": grid.one_of("extent", EXTENTS, "first"),
        "tile_size": tiles.number("size", 256, 16, 4096, whole=True),
        "min_valid": tiles.number("min_valid", 0.05, 0.0, 1.0),
        "coregister": registration.one_of("mode", COREGISTER, "off"),
        "max_shift": registration.number("max_shift", None, 1, infinity),
    }
    for table in (triplets, split, grid, tiles, registration):
        table.end()
    return options


def _side(top: _Table, name: str, bands: tuple[str, ...], path: Path) -> Side:
    given = top.table(name)
    sensor = given.text("sensor", "")
    table = _Table(_preset(sensor, given, path) | given.values, given.where)
    table.known.append("sensor")
    files = table.take("files", (), _PATTERNS, _patterns)
    dated = table.take("table", {}, "file names by ISO date, one a date", _date_table)
    if bool(files) == bool(dated):
        found = "both" if files else "neither"
        raise errors.InputError(
            f"{table.where}files: expected either 'files' or a '{name}.table', found {found}."
        )
    scale = table.number("scale", None, 1e-12, float("inf"))
    screening = _screening(table, bands) if name == "coarse" else {}
    side = Side(
        name=name,
        sensor=sensor,
        files=files,
        table=dated,
        bands=_side_bands(table, bands),
        stack=_stack(table),
        period_days=table.number("period_days", 1, 1, 366, whole=True),
        # Some products state the divisor (10000), others the factor (0.0001).
        scale=1 / scale if scale and scale > 1 else scale,
        offset=table.number("offset", None, float("-inf"), float("inf")),
        fill=table.take("fill", (), "a number or a list of numbers", _numbers),
        valid_range=table.take("valid_range", None, "[least, greatest]", _range),
        quality=_quality(table),
        reject=table.take("reject", (), "a list of rule names", _texts),
        dilate=table.number("dilate", 0, 0, 1000, whole=True),
        resampling=table.one_of("resampling", RESAMPLING, "bilinear"),
        assume_crs=table.text("assume_crs", ""),
        pixel_size=table.number("pixel_size", None, 1e-3, float("inf")),
        psf_fwhm=table.number("psf_fwhm", 1.0, 0.05, 10.0),
        ratio=table.number("ratio", None, 1.0, 1000.0),
        **screening,
    )
    table.end()
    _check_rules(side, table.where)
    _check_band_parts(side, bands, table.where)
    if side.stack:
        side = dataclasses.replace(side, period_days=side.stack.every_days)
        if len(bands) != 1:
            raise errors.InputError(
                f"{table.where}stack: expected a data set of one band (the file's bands are "
                f"dates), found {len(bands)} bands."
            )
        if any(not layer.files for layer in side.quality):
            raise errors.InputError(
                f"{table.where}quality: expected 'files' of each layer beside a stack (the file's "
                f"bands are dates), found none."
            )
    return side


def _screening(table: _Table, bands: tuple[str, ...]) -> dict[str, str]:
    """What only a coarse side may say."""
    unmasked = "quality" not in table.values and len(bands) > 1
    mode = table.one_of("residual_clouds", RESIDUAL_CLOUDS, "reject" if unmasked else "keep")
    _check_screening(mode, bands, table.where)
    return {"residual_clouds": mode}


def _check_screening(mode: str, bands: tuple[str, ...], where: str) -> None:
    if mode == "reject" and len(bands) == 1:
        raise errors.InputError(
            f"{where}residual_clouds: expected 'keep' for a single band, because a cloud is told "
            f"by being brighter in all bands, found 'reject'."
        )


def _preset(sensor: str, given: _Table, path: Path) -> dict[str, Any]:
    if not sensor:
        return {}
    places = [path.parent / f"{sensor}.toml", SENSORS / f"{sensor}.toml"]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise errors.InputError(
            f"{given.where}sensor: expected one of {', '.join(sensors())} or a TOML file beside "
            f"{path.name}, found '{sensor}'."
        )
    preset = _read_toml(file)
    # Text for people: what the product is and where it is described.
    for key in ("title", "reference"):
        preset.pop(key, None)
    # A side that says where its own files lie has no use for the archive's naming.
    if "table" in given.values:
        preset.pop("files", None)
    return preset


def _side_bands(table: _Table, bands: tuple[str, ...]) -> tuple[int | str, ...]:
    numbered = {band: k + 1 for k, band in enumerate(bands)}
    given = table.take("bands", numbered, "a table: band name = number or string", dict)
    for band in bands:
        if band not in given:
            raise errors.InputError(
                f"{table.where}bands: expected an entry for band '{band}', found "
                f"{', '.join(given) or 'none'}."
            )
    for band, place in given.items():
        if isinstance(place, bool) or not isinstance(place, (int, str)) or place in (0, ""):
            raise table.fail(f"bands.{band}", "a band number from 1 or a string", place)
    return tuple(given[band] for band in bands)


def _stack(table: _Table) -> Stack | None:
    if "stack" not in table.values:
        table.known.append("stack")
        return None
    stack = table.table("stack")
    made = Stack(
        first=stack.take("first", ..., "an ISO date", _date),
        every_days=stack.number("every_days", ..., 1, 366, whole=True),
    )
    stack.end()
    return made


def _date_table(value: Any) -> dict[Date, str]:
    table = {_date(date): _text(file) for date, file in value.items()}
    if len(table) < len(value):  # one date, written in two ways
        raise ValueError
    return table


def _quality(table: _Table) -> tuple[Quality, ...]:
    layers = table.take("quality", [], "a list of tables, [[….quality]]", list)
    made = []
    for k, layer in enumerate(layers):
        entry = _Table(layer, f"{table.where}quality[{k}].")
        band = entry.take("band", 1, "a band number or a string", _place)
        files = entry.take("files", (), _PATTERNS, _patterns)
        optional = entry.take("optional", False, "true or false", _flag)
        rules = entry.take("rules", {}, "a table of rules", dict)
        entry.end()
        made.append(
            Quality(band, files, optional, {n: _rule(r, n, entry) for n, r in rules.items()})
        )
    return tuple(made)


def _place(value: Any) -> int | str:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _rule(raw: Any, name: str, parent: _Table) -> Rule:
    entry = _Table(raw, f"{parent.where}rules.{name}.")
    bits = entry.take("bits", None, "a bit or [first, last] bit from 0 to 31", _bits)
    whole = tuple[int, ...]
    values: whole = entry.take("values", (1,), "a number or a list of numbers", _numbers)  # type: ignore[assignment]
    keep: whole | None = entry.take("keep", None, "a number or a list of numbers", _numbers)  # type: ignore[assignment]
    entry.end()
    if {"values", "keep"} <= set(raw):
        raise errors.InputError(
            f"{entry.where[:-1]}: expected either 'values', which are bad, or 'keep', which are "
            f"not, found both."
        )
    return Rule(bits, values, keep)


def _bits(value: Any) -> tuple[int, int]:
    first, last = value if isinstance(value, list) else (value, value)
    if not 0 <= first <= last <= 31:
        raise ValueError
    return first, last


def _check_rules(side: Side, where: str) -> None:
    known = [name for layer in side.quality for name in layer.rules]
    for name in side.reject:
        if name not in known:
            raise errors.InputError(
                f"{where}reject: expected some of {', '.join(known) or 'no rules'}, found '{name}'."
            )


def _check_band_parts(side: Side, bands: tuple[str, ...], where: str) -> None:
    """Files are told apart by a part of their names; a number says where in a file a band lies."""
    if not side.split_by_band:
        return
    places = {f"bands.{name}": place for name, place in zip(bands, side.bands, strict=True)}
    for k, layer in enumerate(side.quality):
        if not layer.files:
            places[f"quality[{k}].band"] = layer.band
    for key, place in places.items():
        if not isinstance(place, str):
            raise errors.InputError(
                f'{where}{key}: expected the part of a file\'s name, such as "B4", that stands at '
                f"{{band}} in '{side.files[0]}', found the number {place}."
            )


def _dates(table: _Table) -> Dates:
    dates = Dates(
        *(
            table.take(
                split, (), "ISO dates, or lists of three ISO dates (t1, t2, t3)", _some_dates
            )
            for split in ("train", "validation", "test")
        )
    )
    table.end()
    singles: list[set] = [
        set(k) for k in (dates.train, dates.validation, dates.test) if not _written(k)
    ]
    for k, first in enumerate(singles):
        for second in singles[k + 1 :]:
            if shared := sorted(first & second):
                raise errors.InputError(
                    f"{table.where[:-1]}: expected a date in one split, found {shared[0]} in two."
                )
    return dates


def _written(dates: tuple) -> bool:
    """Whether a split lists triplets rather than dates."""
    return bool(dates) and isinstance(dates[0], tuple)


def _some_dates(value: Any) -> tuple:
    if value and isinstance(value[0], list):
        return tuple(_written_triplet(k) for k in value)
    return tuple(sorted(_date(k) for k in value))


def _written_triplet(value: list) -> DateTriplet:
    if len(value) == 2:  # one-sided: no later fine image
        value = [*value, None]
    t1, t2, t3 = value
    made = (_date(t1), _date(t2), _date(t3) if t3 is not None else None)
    if not made[0] < made[1] or (made[2] is not None and not made[1] < made[2]):
        raise ValueError
    return made


def _check_table_dates(dataset: Dataset) -> None:
    """A date that a split names must be in both tables, but for F2 of a test date."""
    for side in (dataset.fine, dataset.coarse):
        if not side.table or side.stack or side.period_days > 1:
            continue
        for split in ("train", "validation", "test"):
            for entry in getattr(dataset.dates, split):
                for date in entry if isinstance(entry, tuple) else (entry,):
                    hidden = side.name == "fine" and split == "test"
                    if date and date not in side.table and not hidden:
                        raise errors.InputError(
                            f"{dataset.path}: dates.{split}: expected a date of {side.name}.table, "
                            f"found {date}."
                        )


def _check_blocks(dataset: Dataset) -> None:
    """Where blocks are split, there are no dates to be kept for validation or test."""
    for split in ("validation", "test"):
        dates = getattr(dataset.dates, split)
        if dates and dataset.split_by == "blocks":
            raise errors.InputError(
                f'{dataset.path}: dates.{split}: expected none with split.by = "blocks", where '
                f"every split has the same dates and split.{split} is its share of blocks; found "
                f"{len(dates)}."
            )
