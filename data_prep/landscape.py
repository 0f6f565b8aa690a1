"""A simulated land of irrigated fields, woodland, river and town, in strips of rows.

    land = Landscape(height=480, width=480, seed=1)
    strip = land.strip(0, 256)
    strip.label                      # land cover, (256, 480)
    strip.reflectance(day=64.0)      # surface reflectance on that day, (256, 480, 6)

Everything is a function of place and seed, so a strip is the same however the land is cut, and
memory depends on the strip alone. Nothing here knows sensors, files or dates; `crops` says what
grows, `observation` what a sensor sees of it.
"""

import dataclasses

import numpy as np
from scipy import ndimage, sparse, spatial

from data_prep import crops

FLOOD_PEAK, FLOOD_RISE, FLOOD_FALL = 101.0, 4.0, 16.0
"""Day of the highest water, days from dry to there, and time constant of the recession, days."""
FLOOD_END = 140.0
"""From this day on the flood plain has drained."""

_FARM = 74.0  # distance between farms, pixels of 25 m
_RIVER_SPACING = 1200
_TOWN_SPACING = 1100
_REGION = 640  # size in which the land's parts repeat on a larger scene
_SPLINE_DEVIATION = 0.479  # of a cubic B-spline on white noise of unit variance, in two dimensions


class Noise:
    """Smooth random relief of unit variance: cubic B-splines on a lattice of white noise.

    Args:
        shape: Height and width.
        spacing: Distance of the lattice's nodes in pixels: the size of bumps.
        rng: Source of the lattice.
    """

    def __init__(self, shape: tuple[int, int], spacing: float, rng: np.random.Generator):
        self.spacing = spacing
        nodes = [int(np.ceil(k / spacing)) + 6 for k in shape]
        self.lattice = rng.standard_normal(nodes, np.float32) / np.float32(_SPLINE_DEVIATION)
        self.columns = self._weights(0, shape[1], nodes[1]).T.tocsc()

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Relief of some rows, which may begin and end one beyond, (stop − start, W) float32."""
        first = int(start / self.spacing + 1)
        last = min(int(np.ceil(stop / self.spacing)) + 5, len(self.lattice))
        weights = self._weights(start, stop, len(self.lattice))[:, first:last]
        return np.asarray((weights @ self.lattice[first:last]) @ self.columns, np.float32)

    def _weights(self, start: int, stop: int, nodes: int) -> sparse.csr_matrix:
        position = np.arange(start, stop) / self.spacing + 1
        node = position.astype(int)
        t = position - node
        weights = [
            (1 - t) ** 3 / 6,
            (3 * t**3 - 6 * t**2 + 4) / 6,
            (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
            t**3 / 6,
        ]
        count = stop - start
        row = np.tile(np.arange(count), 4)
        col = np.concatenate([node + k for k in range(4)])
        values = np.concatenate(weights).astype(np.float32)
        return sparse.csr_matrix((values, (row, col)), shape=(count, nodes))


def uniform(key: np.ndarray, salt: int) -> np.ndarray:
    """A number in 0–1 that is a fixed function of an integer key (SplitMix64), [n]."""
    x = key.astype(np.uint64) + np.uint64(salt * 0x9E3779B97F4A7C15 % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) / 2**53


def normal(key: np.ndarray, salt: int) -> np.ndarray:
    """A bounded, nearly normal number of zero mean and unit variance from an integer key, [n]."""
    return np.sum([uniform(key, 4 * salt + k) - 0.5 for k in range(4)], axis=0) * np.sqrt(3.0)


def flood_level(day: float) -> float:
    """Height of the flood, from 0 (the river is in its bed) to 1 (its highest)."""
    if day < FLOOD_PEAK - FLOOD_RISE or day >= FLOOD_END:
        return 0.0
    if day < FLOOD_PEAK:
        return (day - FLOOD_PEAK + FLOOD_RISE) / FLOOD_RISE
    return float(np.exp(-(day - FLOOD_PEAK) / FLOOD_FALL))


@dataclasses.dataclass(frozen=True)
class Strip:
    """Some rows of the land.

    Attributes:
        label: Land cover, index into `crops.CLASSES`, (H, W) uint8.
        field: A number for each field, (H, W) int32; 0 outside fields.
        traits: What sets a pixel apart from others of its class, each (H, W) float32.
        seed: The land's.
    """

    label: np.ndarray
    field: np.ndarray
    traits: dict[str, np.ndarray]
    seed: int

    def flooded(self, day: float) -> np.ndarray:
        """Share of each pixel under the flood, 0–1, (H, W)."""
        depth = flood_level(day) - self.traits["height"]
        return np.where(self.label == crops.TOWN, 0, np.clip(depth / 0.06, 0, 1))

    def cover(self, day: float) -> np.ndarray:
        """Shares of `crops.MATERIALS`, which sum to 1, without the flood, (H, W, materials)."""
        out = np.zeros((*self.label.shape, len(crops.MATERIALS)), np.float32)
        for label in np.unique(self.label):
            there = self.label == label
            traits = {k: v[there] for k, v in self.traits.items()}
            out[there] = self._cover(int(label), day, traits)
        out /= np.maximum(out.sum(-1, keepdims=True), 1)  # where leaves hang over straw
        bare = np.clip(1 - out.sum(-1), 0, 1)
        clay = self.traits["clay"]
        out[..., crops.MATERIALS.index("clay")] += bare * clay
        out[..., crops.MATERIALS.index("loam")] += bare * (1 - clay)
        return out

    def _cover(self, label: int, day: float, traits: dict[str, np.ndarray]) -> np.ndarray:
        days = day - traits["lag"]
        # What has stood under water does not come back in that season.
        if day > FLOOD_PEAK:
            drowned = np.clip((0.92 - traits["height"]) / 0.2, 0, 1)
            traits = {**traits, "vigour": traits["vigour"] * (1 - 0.45 * drowned)}
        if label in crops.CROPS:
            return crops.crop_cover(crops.CROPS[label], days, traits)
        if label in (crops.EVERGREEN, crops.RIPARIAN):
            return crops.woodland_cover(days, traits["density"], label == crops.EVERGREEN)
        simple = {
            crops.LUCERNE: crops.lucerne_cover,
            crops.FALLOW: crops.fallow_cover,
            crops.PASTURE: crops.pasture_cover,
        }
        if label in simple:
            return simple[label](days, traits)
        return _still_cover(label, days, traits)

    def reflectance(self, day: float) -> np.ndarray:
        """Surface reflectance, (H, W, 6) float32.

        Args:
            day: Day of the season (`crops.day_of`).
        """
        cover = self.cover(day)
        soils = [crops.MATERIALS.index(k) for k in ("clay", "loam")]
        soil = cover[..., soils] @ crops.ENDMEMBERS[soils]
        cover[..., soils] = 0
        wet = self._wetness(day)[..., None]
        relief = self.traits["relief"][..., None]
        out = cover @ crops.ENDMEMBERS + soil * (1 - crops.WET_LOSS * wet)
        out *= 1 + relief
        water = self.flooded(day)[..., None].astype(np.float32)
        if water.any():
            silt = crops.ENDMEMBERS[crops.MATERIALS.index("silt")]
            # Tree crowns stand out of the water.
            crowns = 0.75 * cover[..., [crops.MATERIALS.index(k) for k in ("gum", "willow")]].sum(
                -1, keepdims=True
            )
            water = water * (1 - crowns)
            out = out * (1 - water) + silt * (1 + 1.5 * relief) * water
        return out.astype(np.float32)

    def _wetness(self, day: float) -> np.ndarray:
        """How wet the soil is, 0–1: fields are irrigated by turns, a flood leaves mud."""
        fields, inverse = np.unique(self.field, return_inverse=True)
        turn = uniform(fields.astype(np.int64), 900 + int(day) // 9 + 7919 * self.seed)
        watered = np.where((turn > 0.9) & (fields > 0), 0.4 * uniform(fields, 77) + 0.2, 0.08)
        wet = watered[inverse.reshape(self.field.shape)]
        if day > FLOOD_PEAK:
            mud = np.clip((0.95 - self.traits["height"]) / 0.1, 0, 1)
            wet = np.maximum(wet, mud * np.exp(-(day - FLOOD_PEAK) / 45))
        return np.clip(wet * (1 + 3 * self.traits["relief"]), 0, 1).astype(np.float32)


def _still_cover(label: int, days: np.ndarray, traits: dict[str, np.ndarray]) -> np.ndarray:
    """Water, town and road, as `crops.crop_cover`."""
    cover = np.zeros((len(days), len(crops.MATERIALS)), np.float32)
    part = crops.MATERIALS.index
    density = traits["density"]
    if label == crops.WATER:
        silty = np.clip(0.35 + 0.25 * np.sin(2 * np.pi * (days - 90) / 200), 0, 1)
        cover[:, part("silt")] = silty
        cover[:, part("water")] = 1 - silty
    elif label == crops.TOWN:
        green = np.clip(0.5 * density, 0.03, 0.45)
        cover[:, part("gum")] = 0.6 * green
        cover[:, part("leaf")] = 0.4 * green * (1 - 0.25 * np.sin(np.pi * (days - 40) / 160))
        cover[:, part("roof")] = 0.85 * (1 - green)
    else:
        cover[:, part("gravel")] = 0.4
        cover[:, part("straw")] = 0.15
        cover[:, part("leaf")] = 0.12
    return cover


class Landscape:
    """The land's plan.

    Args:
        height: Rows of 25 m pixels.
        width: Columns.
        seed: Decides everything.
    """

    def __init__(self, height: int, width: int, seed: int):
        self.height, self.width, self.seed = height, width, seed
        shape = (height, width)
        rng = np.random.default_rng([seed, 1])
        spacings = {
            "warp_row": 52,
            "warp_col": 52,
            "wood": 95,
            "bank": 24,
            "clay": 110,
            "patch": 14,
            "blotch": 5.5,
            "grain": 1.6,
        }
        self._noise = {k: Noise(shape, spacing, rng) for k, spacing in spacings.items()}
        self._farms, self._farm_traits = self._make_farms(rng)
        self._rivers = self._make_rivers(rng)
        self._towns = self._make_towns(rng)

    def _make_farms(self, rng: np.random.Generator) -> tuple[spatial.cKDTree, dict]:
        rows, cols = (np.arange(-1, k / _FARM + 1) for k in (self.height, self.width))
        grid = np.stack(np.meshgrid(rows, cols, indexing="ij"), -1).reshape(-1, 2)
        seeds = (grid + 0.5 + rng.uniform(-0.36, 0.36, grid.shape)) * _FARM
        count = len(seeds)
        # Most farms follow the survey's lines, some the river's or the contour's.
        survey = np.deg2rad(rng.choice([-7.0, 3.0, 83.0], count))
        angle = np.where(rng.random(count) < 0.72, survey, rng.uniform(0, np.pi, count))
        traits = {
            "angle": angle,
            "wide": rng.uniform(13, 27, count),
            "long": rng.uniform(15, 36, count),
            "phase": rng.uniform(0, 6.28, count),
        }
        # Rain-fed farms lie together, where no canal leads.
        away = np.hypot(*(np.mod(seeds, _REGION) - [60, 110]).T) / 190
        traits["dry"] = away + 0.2 * rng.standard_normal(count) < 1
        scale = np.where(traits["dry"], 1.7, 1.0)
        traits["wide"], traits["long"] = scale * traits["wide"], scale * traits["long"]
        return spatial.cKDTree(seeds), traits

    def _make_rivers(self, rng: np.random.Generator) -> list[tuple[float, float, float]]:
        count = max(1, round(self.height / _RIVER_SPACING))
        return [
            (
                self.height * (k + 0.6 + rng.uniform(-0.05, 0.05)) / count,
                rng.uniform(-0.28, -0.1),
                rng.uniform(0, 6.28),
            )
            for k in range(count)
        ]

    def _make_towns(self, rng: np.random.Generator) -> np.ndarray:
        counts = [max(1, round(k / _TOWN_SPACING)) for k in (self.height, self.width)]
        cells = np.stack(np.meshgrid(*map(np.arange, counts), indexing="ij"), -1).reshape(-1, 2)
        inside = np.array([0.27, 0.34]) + rng.uniform(-0.04, 0.04, cells.shape)
        place = (cells + inside) / counts * [self.height, self.width]
        return np.column_stack([place, rng.uniform(15, 22, len(place))])

    def strip(self, start: int, stop: int) -> Strip:
        """Rows `start` to `stop` of the land."""
        noise, rows, cols = self._rows(start, stop)
        farm, edge = self._farm_of(rows, cols)
        field, border = self._field_of(rows, cols, farm)
        river = self._river_distance(start, stop)
        label = self._crop_of(field, self._farm_traits["dry"][farm])
        label = self._place_parts(label, rows, cols, noise, river, (edge, border))
        in_field = (label >= crops.RICE) | ((label == crops.PASTURE) & (river > 20))
        field = np.where(in_field, field, 0)
        traits = self._traits(field, noise, river)
        traits["density"] = _density(label, rows, cols, noise)
        return Strip(label, field, traits, self.seed)

    def _rows(self, start: int, stop: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """Noise, row and column numbers of some rows, each (stop − start, W) float32."""
        rows, cols = np.meshgrid(
            np.arange(start, stop, dtype=np.float32),
            np.arange(self.width, dtype=np.float32),
            indexing="ij",
        )
        return {k: v.rows(start, stop) for k, v in self._noise.items()}, rows, cols

    def _farm_of(self, rows: np.ndarray, cols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Number of the nearest farm, and distance to the line half-way to the next, pixels."""
        points = np.stack([rows, cols], -1).reshape(-1, 2)
        distance, nearest = self._farms.query(points, k=2)
        seeds = self._farms.data[nearest]
        between = np.hypot(*(seeds[:, 1] - seeds[:, 0]).T)
        edge = (distance[:, 1] ** 2 - distance[:, 0] ** 2) / (2 * between)
        return nearest[:, 0].reshape(rows.shape), edge.reshape(rows.shape).astype(np.float32)

    def _field_of(
        self, rows: np.ndarray, cols: np.ndarray, farm: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Number of the field, above 0, and distance to its border, pixels.

        A farm is cut into columns across its axis, and each column into fields of its own length.
        """
        traits = {k: v[farm] for k, v in self._farm_traits.items()}
        down, right = np.moveaxis(np.stack([rows, cols], -1) - self._farms.data[farm], -1, 0)
        cosine, sine = np.cos(traits["angle"]), np.sin(traits["angle"])
        across, along = right * cosine + down * sine, down * cosine - right * sine
        u = across / traits["wide"] + 0.16 * np.sin(across / 11 + traits["phase"])
        column = np.floor(u).astype(np.int64)
        key = farm.astype(np.int64) * 4096 + (column + 32) * 64
        length = traits["long"] * (0.6 + 0.9 * uniform(key, 11 + 31 * self.seed))
        v = along / length + uniform(key, 12 + 31 * self.seed)
        row = np.floor(v).astype(np.int64)
        near = [np.minimum(k - np.floor(k), np.ceil(k) - k) for k in (u, v)]
        border = np.minimum(near[0] * traits["wide"], near[1] * length)
        return (key + row + 33).astype(np.int32), border.astype(np.float32)

    def _river_distance(self, start: int, stop: int) -> np.ndarray:
        """Distance to the nearest river's middle, pixels."""
        noise, rows, cols = self._rows(start - 1, stop + 1)  # one more for the slope below
        r, c = rows + 34 * noise["warp_row"], cols + 34 * noise["warp_col"]
        distance = np.full(rows.shape, np.inf, np.float32)
        for middle, slope, phase in self._rivers:
            course = middle + slope * (c - self.width / 2) + 22 * np.sin(c / 48 + phase)
            distance = np.minimum(distance, np.abs(r - course))
        # The warp squeezes and stretches: divide by its slope to get back to pixels.
        by_row, by_col = np.gradient(distance)
        return (distance / np.clip(np.hypot(by_row, by_col), 0.4, 3.0))[1:-1]

    def _crop_of(self, field: np.ndarray, dry: np.ndarray) -> np.ndarray:
        """What grows in each field, (H, W) uint8; `dry` marks rain-fed land."""
        fields, inverse = np.unique(field, return_inverse=True)
        inverse = inverse.reshape(field.shape)
        draw = uniform(fields, 21 + 31 * self.seed)
        shares = {k: v.share for k, v in crops.CROPS.items()} | crops.OTHER_SHARES
        bounds = np.cumsum(list(shares.values()))
        watered = np.array(list(shares))[np.searchsorted(bounds / bounds[-1], draw)]
        rain_fed = np.where(draw < 0.72, crops.PASTURE, crops.WHEAT)
        return np.where(dry, rain_fed[inverse], watered[inverse]).astype(np.uint8)

    def _place_parts(
        self,
        label: np.ndarray,
        rows: np.ndarray,
        cols: np.ndarray,
        noise: dict[str, np.ndarray],
        river: np.ndarray,
        lines: tuple[np.ndarray, np.ndarray],
    ) -> np.ndarray:
        """Puts roads, woodland, towns and the river over the fields."""
        edge, border = lines
        shelter = (edge < 2.4) & (noise["patch"] > 1.1)
        label = np.where((border < 0.5) & (noise["bank"] > 0), crops.ROAD, label)
        label = np.where((edge < 0.7) & (noise["clay"] > -0.9), crops.ROAD, label)
        label = np.where(shelter & (edge >= 0.7), crops.EVERGREEN, label)
        ragged = 26 * noise["warp_col"] + 12 * noise["bank"] + 5 * noise["patch"]
        away = np.hypot(rows % _REGION - 505, 0.8 * (cols % _REGION) - 420) / 120
        wood = 0.6 * noise["wood"] + 2.2 * np.exp(-(away**2)) + 0.03 * ragged
        label = np.where(wood > 1.5, crops.EVERGREEN, label)
        label = np.where(river < 15 + 6 * noise["bank"], crops.PASTURE, label)
        label = np.where(river < 5 + 4.5 * noise["patch"], crops.RIPARIAN, label)
        for row, col, radius in self._towns:
            reach = np.maximum(np.abs(rows - row + 0.1 * cols - 0.1 * col), np.abs(cols - col))
            inside = reach < radius + 0.35 * ragged
            label = np.where(inside & (river > 4), crops.TOWN, label)
        canal = np.abs(cols + 0.22 * rows - 0.83 * self.width - 9 * np.sin(rows / 70))
        label = np.where((canal < 0.9) & (label != crops.EVERGREEN), crops.WATER, label)
        return np.where(river < 2.3 + 0.5 * noise["bank"], crops.WATER, label).astype(np.uint8)

    def _traits(
        self, field: np.ndarray, noise: dict[str, np.ndarray], river: np.ndarray
    ) -> dict[str, np.ndarray]:
        fields, inverse = np.unique(field, return_inverse=True)
        inverse = inverse.reshape(field.shape)
        salt = 31 * self.seed
        traits: dict[str, np.ndarray] = {
            name: normal(fields, 40 + k + salt).astype(np.float32)[inverse]
            for k, name in enumerate(("early", "late", "cut"))
        }
        for k, name in enumerate(("plough", "burn")):
            traits[name] = uniform(fields, 60 + k + salt).astype(np.float32)[inverse]
        within = 0.07 * noise["patch"] + 0.06 * noise["blotch"] + 0.035 * noise["grain"]
        fieldwise = 0.96 + 0.085 * normal(fields, 50 + salt)
        traits["vigour"] = (fieldwise[inverse] + within).astype(np.float32)
        traits["lag"] = (1.8 * noise["patch"] + 1.2 * noise["blotch"]).astype(np.float32)
        tone = 0.12 * normal(fields, 51 + salt)
        traits["clay"] = np.clip(
            0.5 + 0.28 * noise["clay"] + 0.08 * noise["blotch"] + tone[inverse], 0, 1
        ).astype(np.float32)
        traits["relief"] = (0.022 * noise["grain"] + 0.025 * noise["blotch"]).astype(np.float32)
        height = river / 24 + 0.2 * noise["bank"] + 0.1 * noise["patch"]
        traits["height"] = np.maximum(height, 0.02).astype(np.float32)
        return traits


def _density(
    label: np.ndarray, rows: np.ndarray, cols: np.ndarray, noise: dict[str, np.ndarray]
) -> np.ndarray:
    """Crown cover of woodland, and greenness of town blocks between the streets, 0–1."""
    crowns = 0.72 + 0.10 * noise["patch"] + 0.09 * noise["blotch"] + 0.07 * noise["grain"]
    street = (np.mod(rows + 0.12 * cols, 6) < 1) | (np.mod(cols - 0.12 * rows, 5) < 1)
    gardens = np.where(street, 0.1, 0.45 + 0.25 * noise["blotch"] + 0.2 * noise["grain"])
    return np.clip(np.where(label == crops.TOWN, gardens, crowns), 0, 1).astype(np.float32)


def optics(reflectance: np.ndarray, sigma: float) -> np.ndarray:
    """Blurs by the instrument's Gaussian point spread function of `sigma` pixels, (H, W, B)."""
    return ndimage.gaussian_filter(reflectance, (sigma, sigma, 0), mode="reflect", truncate=4.0)
