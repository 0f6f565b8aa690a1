"""All that is known of a sample, as its `truth.json` states it."""

import datetime
from typing import Any

from data_prep import crops, landscape, observation, sample_layout, simulation, versions
from data_prep.simulation import Made, Sample, Scene


def state(sample: Sample, made: Made) -> dict[str, Any]:
    """What is known of a sample, ready for JSON.

    Args:
        sample: What was asked for.
        made: What was simulated.
    """
    return {
        "seed": sample.seed,
        "versions": versions.installed(("stfnet-tf", "numpy", "scipy")),
        "bands": list(crops.BANDS),
        "scale": simulation.DN_SCALE,
        "fine": _fine(sample),
        "coarse": _coarse(made),
        "shift_convention": (
            "shift = (rows, columns) in fine pixels by which the coarse image under CIA/MODIS must "
            "be moved, down and to the right, to match the fine one; the images under "
            f"{sample_layout.SINUSOIDAL_DIR} need no shift"
        ),
        "common_shift": list(simulation.SHIFT),
        "largest_jitter": simulation.MAX_JITTER,
        "classes": {"file": "truth/classes.tif", "names": list(crops.CLASSES)},
        "mask_classes": {"clear": 0, "water": 1, "shadow": 2, "snow": 3, "cloud": 4, "fill": 255},
        "events": _events(made.scenes),
        "dates": {
            scene.date.isoformat(): _stated(sample, scene, count)
            for scene, count in zip(made.scenes, made.counts, strict=True)
        },
    }


def _fine(sample: Sample) -> dict[str, Any]:
    return {
        "height": sample.size,
        "width": sample.size,
        "crs": simulation.CRS,
        "geotransform": list(simulation.fine_grid(sample.size).transform),
        "noise_std": list(simulation.FINE_NOISE),
        "psf": "Gaussian",
        "psf_sigma_fine_pixels": simulation.FINE_SIGMA,
    }


def _coarse(made: Made) -> dict[str, Any]:
    return {
        "pixel_size": simulation.SINUSOIDAL_PIXEL,
        "ratio": simulation.SINUSOIDAL_PIXEL / simulation.PIXEL,
        "crs": simulation.SINUSOIDAL,
        "tile": made.coarse.tile,
        "fill": simulation.COARSE_FILL,
        "psf": "Gaussian",
        "psf_fwhm_coarse_pixels": simulation.COARSE_PSF_FWHM,
        "psf_sigma_fine_pixels": simulation.coarse_sensor().sigma,
        "gain": list(simulation.COARSE_GAIN),
        "offset": list(simulation.COARSE_OFFSET),
        "noise_std": list(simulation.COARSE_NOISE),
        "resampling": "cubic spline, from the sinusoidal pixels onto the fine grid",
    }


def _stated(sample: Sample, scene: Scene, count: dict[int, int]) -> dict[str, Any]:
    pixels = sample.size**2
    atmospheres = {"fine": scene.fine, "coarse": scene.coarse}
    return {
        "day_of_season": scene.day,
        "role": "test" if scene.date in sample_layout.tested(sample.dates) else "train",
        "shift": list(scene.shift),
        "cloud_share": count.get(observation.CLOUD, 0) / pixels,
        "shadow_share": count.get(observation.SHADOW, 0) / pixels,
        "flood_level": landscape.flood_level(scene.day),
        "atmosphere": {
            k: {"gain": [float(v) for v in a.gain], "offset": [float(v) for v in a.offset]}
            for k, a in atmospheres.items()
        },
        "truth_image": sample_layout.truth_file(scene.date) if sample.truth_images else None,
    }


def _events(scenes: list[Scene]) -> list[dict[str, Any]]:
    """What happens on the land, with the days between which it does."""

    def date_of(day: float) -> str:
        return (crops.SEASON_START + datetime.timedelta(days=round(day))).isoformat()

    flood = {
        "what": "flood of the river plain",
        "begins": date_of(landscape.FLOOD_PEAK - landscape.FLOOD_RISE),
        "highest": date_of(landscape.FLOOD_PEAK),
        "ends": date_of(landscape.FLOOD_END),
        "seen_on": [s.date.isoformat() for s in scenes if landscape.flood_level(s.day) > 0],
    }
    calendar: list[dict[str, Any]] = [flood]
    for label, crop in crops.CROPS.items():
        mean, spread = crop.harvest
        if crop.ponding:
            calendar.append(
                {
                    "what": f"{crops.CLASSES[label]} put under water",
                    "mean": date_of(crop.ponding[0]),
                    "spread_days": crop.ponding[1],
                }
            )
        calendar.append(
            {
                "what": f"{crops.CLASSES[label]} harvested, field by field",
                "mean": date_of(mean),
                "spread_days": spread,
                "burnt_share": crop.burning,
            }
        )
    return calendar
