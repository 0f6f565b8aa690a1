"""What grows and lies in a pixel of the simulated land, and how that reflects, by day.

A pixel is a mixture of materials (leaves, straw, soil, water, …) whose shares follow the crop's
calendar: ponding, green-up and senescence as a double logistic, harvest, stubble, burning. The
calendar is that of irrigated farmland in the south of New South Wales; days count from 1 October.
"""

import dataclasses
import datetime

import numpy as np

SEASON_START = datetime.date(2001, 10, 1)
BANDS = ("blue", "green", "red", "nir", "swir1", "swir2")

# Surface reflectance of closed covers. Leaves are bright in the near infrared and dark in red;
# water is darkest in the short-wave infrared; dry matter and soil rise towards it.
SPECTRA = {
    "leaf": (0.028, 0.072, 0.032, 0.470, 0.215, 0.100),
    "rice_leaf": (0.026, 0.066, 0.028, 0.420, 0.165, 0.070),
    "gum": (0.030, 0.050, 0.045, 0.225, 0.150, 0.078),
    "willow": (0.030, 0.062, 0.042, 0.330, 0.195, 0.095),
    "straw": (0.085, 0.130, 0.180, 0.300, 0.370, 0.270),
    "clay": (0.062, 0.090, 0.120, 0.175, 0.250, 0.215),
    "loam": (0.070, 0.115, 0.185, 0.270, 0.370, 0.310),
    "ash": (0.042, 0.055, 0.068, 0.090, 0.140, 0.140),
    "water": (0.045, 0.055, 0.042, 0.024, 0.012, 0.008),
    "silt": (0.075, 0.105, 0.118, 0.085, 0.026, 0.014),
    "roof": (0.130, 0.155, 0.180, 0.225, 0.265, 0.250),
    "gravel": (0.130, 0.170, 0.220, 0.275, 0.340, 0.310),
}
MATERIALS = tuple(SPECTRA)
ENDMEMBERS = np.array(list(SPECTRA.values()), np.float32)
"""Reflectance of each material, [materials, bands]."""
# Share of reflectance that a soaked soil loses, by band.
WET_LOSS = np.array((0.35, 0.38, 0.40, 0.42, 0.52, 0.58), np.float32)

CLASSES = (
    "water",
    "evergreen woodland",
    "riparian woodland",
    "pasture",
    "town",
    "road",
    "rice",
    "maize",
    "soybean",
    "wheat",
    "lucerne",
    "fallow",
)
WATER, EVERGREEN, RIPARIAN, PASTURE, TOWN, ROAD, RICE, MAIZE, SOYBEAN, WHEAT, LUCERNE, FALLOW = (
    range(len(CLASSES))
)


@dataclasses.dataclass(frozen=True)
class Crop:
    """A crop's calendar: means and spreads (standard deviation over fields) in days.

    Attributes:
        share: Of the irrigated fields.
        leaf: Its leaves' material.
        cover: Share of the ground that its closed canopy covers.
        green_up: Day of half green-up.
        rise: Time constant of green-up.
        senescence: Day of half senescence.
        fall: Time constant of senescence.
        harvest: Day of harvest.
        ponding: Day on which the field is put under water, None for a field that is not.
        burning: Share of fields whose stubble is burnt.
    """

    share: float
    leaf: str
    cover: float
    green_up: tuple[float, float]
    rise: float
    senescence: tuple[float, float]
    fall: float
    harvest: tuple[float, float]
    ponding: tuple[float, float] | None = None
    burning: float = 0.0


CROPS = {
    RICE: Crop(
        0.30, "rice_leaf", 0.93, (84, 8), 8, (170, 7), 7, (197, 8), ponding=(20, 9), burning=0.3
    ),
    MAIZE: Crop(0.15, "leaf", 0.88, (68, 11), 8, (150, 9), 8, (171, 10)),
    SOYBEAN: Crop(0.14, "leaf", 0.93, (102, 10), 8, (174, 8), 6, (203, 9)),
    WHEAT: Crop(0.17, "leaf", 0.85, (-70, 9), 10, (33, 8), 7, (58, 9), burning=0.25),
}
# The rest of the fields, in shares of all.
OTHER_SHARES = {LUCERNE: 0.04, FALLOW: 0.10, PASTURE: 0.08}

_DRAINED_BEFORE_HARVEST = 30  # days


def day_of(date: datetime.date) -> float:
    """Days from the season's start to a date."""
    return float((date - SEASON_START).days)


def _logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -30, 30)))


def crop_cover(crop: Crop, day: np.ndarray, traits: dict[str, np.ndarray]) -> np.ndarray:
    """Shares of materials in pixels of one crop.

    Args:
        crop: The calendar.
        day: Day of the season less the pixel's lag, [n].
        traits: Of the pixel's field and place, each [n]: standard normal `early`, `late` and
            `cut` (offsets of green-up, senescence and harvest in spreads), `vigour` (about 1),
            and uniform `plough` and `burn`.

    Returns:
        Shares of `MATERIALS`, [n, materials]; what is missing to 1 is soil.
    """
    cover = np.zeros((len(day), len(MATERIALS)), np.float32)
    up = crop.green_up[0] + crop.green_up[1] * traits["early"]
    down = crop.senescence[0] + crop.senescence[1] * traits["late"]
    harvest = np.maximum(crop.harvest[0] + crop.harvest[1] * traits["cut"], down + 10)
    closed = np.clip(crop.cover * traits["vigour"], 0, 0.98)
    grown = _logistic((day - up) / crop.rise)
    alive = _logistic((down - day) / crop.fall)
    standing = day < harvest
    green = np.where(standing, closed * grown * alive, 0.03)
    dead = closed * grown * (1 - alive) * 0.85
    after = np.maximum(day - harvest, 0)
    ploughed = after > 12 + 90 * traits["plough"]
    stubble = np.where(ploughed, 0.08, 0.62 * np.exp(-after / 80))
    burnt = (traits["burn"] < crop.burning) & (after > 8 + 30 * traits["plough"])
    cover[:, MATERIALS.index(crop.leaf)] = green
    cover[:, MATERIALS.index("straw")] = np.where(standing, dead, np.where(burnt, 0.1, stubble))
    fresh = np.exp(-np.maximum(after - 8 - 30 * traits["plough"], 0) / 25)
    cover[:, MATERIALS.index("ash")] = np.where(burnt & ~ploughed, 0.7 * fresh, 0)
    if crop.ponding:
        start = crop.ponding[0] + crop.ponding[1] * traits["early"]
        ponded = (day > start) & (day < harvest - _DRAINED_BEFORE_HARVEST)
        open_water = np.where(ponded, 0.94 * (1 - cover.sum(-1)), 0)
        turbid = 0.25 + 0.5 * traits["plough"]
        cover[:, MATERIALS.index("water")] = open_water * (1 - turbid)
        cover[:, MATERIALS.index("silt")] = open_water * turbid
    return cover


def lucerne_cover(day: np.ndarray, traits: dict[str, np.ndarray]) -> np.ndarray:
    """Lucerne is cut every five weeks or so and grows back; as `crop_cover`."""
    cover = np.zeros((len(day), len(MATERIALS)), np.float32)
    period = 36 + 3 * traits["late"]
    since = np.mod(day + period * traits["plough"], period)
    green = np.clip(traits["vigour"], 0, 1.1) * (0.42 + 0.5 * _logistic((since - 11) / 3.5))
    cover[:, MATERIALS.index("leaf")] = np.clip(green, 0, 0.95)
    cover[:, MATERIALS.index("straw")] = 0.1
    return cover


def pasture_cover(day: np.ndarray, traits: dict[str, np.ndarray]) -> np.ndarray:
    """Grass that rain alone keeps: green in spring, dry in summer, green again in autumn."""
    cover = np.zeros((len(day), len(MATERIALS)), np.float32)
    spring = _logistic((38 + 8 * traits["late"] - day) / 10)
    autumn = _logistic((day - 188 - 8 * traits["early"]) / 8)
    green = np.clip(0.09 + (0.42 * spring + 0.30 * autumn) * traits["vigour"], 0, 0.8)
    cover[:, MATERIALS.index("leaf")] = green
    grazed = 0.75 * np.exp(-np.maximum(day - 60, 0) / 260)
    cover[:, MATERIALS.index("straw")] = (0.95 - green) * grazed * np.clip(traits["vigour"], 0, 1.2)
    return cover


def fallow_cover(day: np.ndarray, traits: dict[str, np.ndarray]) -> np.ndarray:
    """Bare ground with weeds that a pass of the plough removes now and then."""
    cover = np.zeros((len(day), len(MATERIALS)), np.float32)
    since = np.mod(day + 80 * traits["plough"], 80)
    cover[:, MATERIALS.index("leaf")] = 0.02 + 0.16 * traits["burn"] * since / 80
    cover[:, MATERIALS.index("straw")] = 0.08
    return cover


def woodland_cover(day: np.ndarray, density: np.ndarray, evergreen: bool) -> np.ndarray:
    """Trees over dry grass: gum trees all year, willows that turn in autumn.

    Args:
        day: Day of the season, [n].
        density: Crown cover, 0–1, [n].
        evergreen: Whether gum trees; else willows and river red gums along the water.
    """
    cover = np.zeros((len(day), len(MATERIALS)), np.float32)
    flush = 0.04 * np.sin(2 * np.pi * (day - 20) / 365)
    if evergreen:
        cover[:, MATERIALS.index("gum")] = density * (0.92 + flush)
    else:
        leafless = 0.55 * _logistic((day - 208) / 8)
        half = 0.5 * density * (0.95 + flush)
        cover[:, MATERIALS.index("willow")] = half * (1 - leafless)
        cover[:, MATERIALS.index("gum")] = half
    grass = np.clip(1 - cover.sum(-1), 0, 1)
    cover[:, MATERIALS.index("straw")] = 0.55 * grass
    cover[:, MATERIALS.index("leaf")] = 0.12 * grass * _logistic((45 - day) / 10)
    return cover
