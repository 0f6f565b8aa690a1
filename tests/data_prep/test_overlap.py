import numpy as np

from data_prep import catalog, dataset, overlap, rasters, triplets
from tests.data_prep import tiny


def images(folder, holes):
    """The tiny set with the named files empty where told."""
    described = tiny.make(folder)
    for name, place in holes.items():
        path = next(folder.glob(f"{name}.tif"))
        pixels = rasters.read(str(path))
        pixels[place] = -1
        rasters.write(path, pixels, rasters.info(str(path)).grid)
    rasters.close_all()
    return catalog.Catalog(dataset.load(described))


def test_images_without_a_valid_pixel_are_named(tmp_path):
    whole = np.s_[:]
    found = images(tmp_path, {f"C_{tiny.DATES[1]}": whole, f"F_{tiny.DATES[2]}": whole})
    triplet = triplets.Triplet(*found.fine_dates)
    c2, f3 = f"C2 (C_{tiny.DATES[1]}.tif)", f"F3 (F_{tiny.DATES[2]}.tif)"
    assert overlap.describe(found, triplet, overlap.FUSING) == f"{c2} and {f3} have no valid pixel"
    one_sided = triplets.Triplet(*found.fine_dates[:2], None)
    assert overlap.describe(found, one_sided, overlap.FUSING) == f"{c2} has no valid pixel"


def test_images_that_share_no_valid_pixel_are_told_with_their_shares(tmp_path):
    holes = {f"F_{tiny.DATES[0]}": np.s_[:48], f"C_{tiny.DATES[1]}": np.s_[5:]}
    found = images(tmp_path, holes)
    told = overlap.describe(found, triplets.Triplet(*found.fine_dates), overlap.FUSING)
    assert told.startswith(f"valid are 50 % of F1 (F_{tiny.DATES[0]}.tif), 100 % of C1")
    assert "0 % of F1, C1, C2 together" in told and told.endswith("% of F3, C3, C2 together")
