"""One look for all long work: a bar with the time left, on a terminal only."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yields the items; on a terminal, a bar on stderr shows how many are done.

    Args:
        items: What to work on.
        description: What is being done.
        total: How many there are, where `items` cannot tell.
    """
    if not sys.stderr.isatty():
        yield from items
        return
    from rich import console, progress

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=console.Console(stderr=True)) as bar:
        yield from bar.track(items, total=total, description=description)
