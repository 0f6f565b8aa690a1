import pytest

from data_prep import false_colours


@pytest.mark.parametrize(
    ("bands", "shown"),
    [
        (("blue", "green", "red", "NIR"), (3, 2, 1)),
        (("Blue", "Green", "Red"), (2, 1, 0)),
        (("b1", "b2", "b3", "b4"), (3, 2, 1)),
        (("red", "nir"), (0,)),
        (("ndvi",), (0,)),
    ],
)
def test_which_bands_are_shown(bands, shown):
    assert false_colours.shown(bands) == shown
