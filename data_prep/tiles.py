"""Cutting a scene into windows, and giving a window its halo."""

from data_prep.grids import Window


def windows(height: int, width: int, size: int) -> list[Window]:
    """Windows that cover a scene once, row by row; those at the far borders may be smaller.

    Args:
        height: Rows of the scene.
        width: Columns of the scene.
        size: Height and width of a whole window.
    """
    return [
        Window(row, col, min(size, height - row), min(size, width - col))
        for row in range(0, height, size)
        for col in range(0, width, size)
    ]


def expand(window: Window, halo: int, height: int, width: int) -> Window:
    """The window with `halo` pixels more on every side, clipped to the scene."""
    row, col = max(window.row - halo, 0), max(window.col - halo, 0)
    return Window(
        row,
        col,
        min(window.row + window.height + halo, height) - row,
        min(window.col + window.width + halo, width) - col,
    )
