"""Which bands a picture shows as red, green and blue: the same in every picture."""

from collections.abc import Sequence

# By name; the first complete choice wins.
CHOICES = (("nir", "red", "green"), ("red", "green", "blue"))


def shown(bands: Sequence[str]) -> tuple[int, ...]:
    """Places of three of the bands, or of one where there are no three.

    NIR, red and green where the names say so, else red, green and blue, else the last three bands
    (the longer waves, in most orders), else the first band, in grey.

    Args:
        bands: Their names, in any case.
    """
    places = {name.lower(): b for b, name in enumerate(bands)}
    for choice in CHOICES:
        if all(name in places for name in choice):
            return tuple(places[name] for name in choice)
    return tuple(reversed(range(len(bands))))[:3] if len(bands) >= 3 else (0,)
