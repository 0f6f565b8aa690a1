import numpy as np
import pytest

from data_prep import tiles
from data_prep.grids import Window


@pytest.mark.parametrize(("height", "width", "size"), [(7, 5, 3), (8, 8, 4), (3, 9, 16)])
def test_windows_cover_every_pixel_once(height, width, size):
    seen = np.zeros((height, width), int)
    for window in tiles.windows(height, width, size):
        assert max(window.shape) <= size
        seen[window.slices] += 1
    assert (seen == 1).all()


def test_windows_go_row_by_row():
    assert tiles.windows(5, 4, 3) == [
        Window(0, 0, 3, 3),
        Window(0, 3, 3, 1),
        Window(3, 0, 2, 3),
        Window(3, 3, 2, 1),
    ]


def test_expand_is_clipped_to_the_scene():
    assert tiles.expand(Window(4, 4, 2, 2), 3, 20, 20) == Window(1, 1, 8, 8)
    assert tiles.expand(Window(0, 18, 2, 2), 3, 20, 20) == Window(0, 15, 5, 5)
