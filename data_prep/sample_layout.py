"""The sample's dates, names and description: CSIRO's CIA download, traps included.

`description` writes the TOML file that reads a sample. `configs/sample.toml` is what it writes
for the default sample, and a test keeps the two alike.
"""

import datetime
from collections.abc import Sequence

Date = datetime.date

DATES = tuple(Date(2001, 10, 8) + datetime.timedelta(days=16 * k) for k in range(14))
"""Overpasses of Landsat-7 in the season, 2001-10-08 to 2002-05-04; CIA holds nine of them."""

SINUSOIDAL_DIR = "MODIS_sinusoidal"


def chosen(count: int) -> tuple[Date, ...]:
    """`count` overpasses in a row; 8 reach from the wheat's harvest to the maize's."""
    first = min(3, len(DATES) - count)
    return DATES[first : first + count]


def tested(dates: Sequence[Date]) -> tuple[Date, ...]:
    """Every third date between the first and the last is to be predicted."""
    return tuple(date for k, date in enumerate(dates) if k % 3 == 2 and k < len(dates) - 1)


def folder(date: Date) -> str:
    """CIA's folder of a date, 2001_281_08oct."""
    return f"{date:%Y_%j_%d}{_MONTHS[date.month - 1]}"


_MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()


def fine_file(date: Date) -> str:
    """The Landsat file, whose own date is a day before its folder's."""
    day = date - datetime.timedelta(days=1)
    # One of CIA's files is named L72: so is one here.
    start = "L72" if date == Date(2002, 3, 1) else "L71"
    return (
        f"CIA/Landsat/{folder(date)}/{start}093084_084{day:%Y%m%d}_HRF_modtran_surf_ref_agd66.bil"
    )


def fine_mask_file(date: Date) -> str:
    """The Landsat image's mask."""
    return fine_file(date).removesuffix("_surf_ref_agd66.bil") + "_cfmask.img"


def coarse_file(date: Date) -> str:
    """The MODIS file on Landsat's grid."""
    return f"CIA/MODIS/{folder(date)}/MOD09GA_A{date:%Y%j}.sur_refl.int"


def coarse_mask_file(date: Date) -> str:
    """Its mask."""
    return f"CIA/MODIS/{folder(date)}/MOD09GA_A{date:%Y%j}.cfmask.img"


def sinusoidal_file(date: Date, tile: str, layer: str) -> str:
    """A MODIS file on its own grid; `layer` is "sur_refl" or "state"."""
    return f"{SINUSOIDAL_DIR}/MOD09GA.A{date:%Y%j}.{tile}.{layer}.tif"


def truth_file(date: Date) -> str:
    """Surface reflectance without clouds and noise."""
    return f"truth/{date.isoformat()}.tif"


_DESCRIPTION = """\
# A simulated irrigation district, made by python -m data_prep.make_sample: Landsat-like images
# and MODIS-like ones on {count} dates, laid out as CSIRO's CIA download. All that was put into
# them (shifts, clouds, noise, events) is stated in the sample's truth.json.

name = "{name}"
scene = "sample"
root = "."                           # the sample's folder; --data_dir replaces it
bands = ["blue", "green", "red", "nir", "swir1", "swir2"]
supervision = "triplet"              # the middle fine image teaches

[fine]                               # 25 m
# The date is the folder's: the one in the file's name is a day early. {{mon}} is oct, nov, …
files = "CIA/Landsat/{{year}}_{{doy}}_{{day}}{{mon}}/L7*_surf_ref_agd66.bil"
scale = 0.0001                       # reflectance = digital number × scale
valid_range = [0, 10000]             # below: no data; above: saturated
pixel_size = 25
reject = ["shadow", "snow", "cloud", "fill"]  # rules, below, whose pixels are not used

[[fine.quality]]                     # a mask beside each image
files = "CIA/Landsat/{{year}}_{{doy}}_{{day}}{{mon}}/L7*_cfmask.img"
[fine.quality.rules]                 # cfmask's class numbers; 0 is clear, 1 is water
shadow = {{ values = 2 }}
snow = {{ values = 3 }}
cloud = {{ values = 4 }}
fill = {{ values = 255 }}

{coarse}
[dates]
# Every third date is predicted from its neighbours in time: in training nothing of it is seen.
train = [
{train}
]
test = [{test}]

[triplets]
rule = "consecutive"                 # t1, t2, t3 are neighbours in the list of training dates

[tiles]
size = 96                            # height and width of a tile in the shards, fine pixels
min_valid = 0.05                     # a tile with fewer pixels valid in all images is skipped

[registration]
{mode:<37}# {why}
"""

_RESAMPLED = """\
[coarse]                             # brought onto the fine grid, a few fine pixels off
files = "CIA/MODIS/{year}_{doy}_{day}{mon}/MOD09GA_A*.sur_refl.int"
scale = 0.0001
valid_range = [0, 10000]
pixel_size = 463.3127                # the sensor's own pixel; it says how much coarser it is
psf_fwhm = 1.4                       # width of its point spread function, in its pixels
reject = ["shadow", "cloud", "fill"]

[[coarse.quality]]
files = "CIA/MODIS/{year}_{doy}_{day}{mon}/MOD09GA_A*.cfmask.img"
[coarse.quality.rules]
shadow = { values = 2 }
cloud = { values = 4 }
fill = { values = 255 }
"""

_SINUSOIDAL = """\
[coarse]                             # MODIS' own sinusoidal grid, well placed
files = "MODIS_sinusoidal/MOD09GA.A{year}{doy}.{tile}.sur_refl.tif"
scale = 0.0001
fill = -28672
valid_range = [-100, 16000]
resampling = "cubic"                 # how it gets onto the fine grid
psf_fwhm = 1.4                       # width of its point spread function, in its pixels
reject = ["cloud", "shadow"]

[[coarse.quality]]                   # MOD09GA's state_1km
files = "MODIS_sinusoidal/MOD09GA.A{year}{doy}.{tile}.state.tif"
[coarse.quality.rules]
cloud = { bits = [0, 1], values = [1, 2] }
shadow = { bits = 2 }
"""


def description(dates: Sequence[Date], sinusoidal: bool = False) -> str:
    """The TOML text that describes a sample.

    Args:
        dates: The sample's.
        sinusoidal: Whether the coarse images are those on MODIS' own grid, else the resampled.
    """
    test = tested(dates)
    train = [f'"{date}"' for date in dates if date not in test]
    lines = [", ".join(train[k : k + 6]) for k in range(0, len(train), 6)]
    return _DESCRIPTION.format(
        count=len(dates),
        name="sample_sinusoidal" if sinusoidal else "sample",
        coarse=_SINUSOIDAL if sinusoidal else _RESAMPLED,
        train="\n".join(f"  {line}," for line in lines),
        test=", ".join(f'"{date}"' for date in test),
        mode=f'mode = "{"off" if sinusoidal else "apply"}"',
        why="the two lie well" if sinusoidal else "find the shift and undo it",
    )
