"""Timing in alternation, so that a ratio means something on a machine that is doing other things.

What is compared runs in turn, round after round; a ratio is taken within a round, where both saw
the same machine, and only then is the median taken over the rounds.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

Seconds = dict[str, list[float]]


def alternate(
    runs: Mapping[str, Callable[[], object]],
    rounds: int,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> Seconds:
    """Times each run once a round; every other round goes backwards.

    Args:
        runs: What to time, by name.
        rounds: How often, at least 1.
        warm_up: Rounds before that are not counted: compilation, caches.
        clock: Seconds; `time.process_time` counts those of this process' processors alone.

    Returns:
        Seconds of each round, by name.
    """
    if rounds < 1:
        raise ValueError(f"rounds: expected at least 1, got {rounds}")
    seconds: Seconds = {name: [] for name in runs}
    for number in range(warm_up + rounds):
        for name in list(runs) if number % 2 == 0 else reversed(list(runs)):
            start = clock()
            runs[name]()
            taken = clock() - start
            if number >= warm_up:
                seconds[name].append(taken)
    return seconds


def ratios(numerator: Sequence[float], denominator: Sequence[float]) -> tuple[float, ...]:
    """The quotient of each round."""
    return tuple(a / b for a, b in zip(numerator, denominator, strict=True))


def rates(work: float, seconds: Sequence[float]) -> tuple[float, ...]:
    """Work per second of each round."""
    return tuple(work / taken for taken in seconds)


def fastest(seconds: Seconds) -> str:
    """The name with the least median."""
    return min(seconds, key=lambda name: statistics.median(seconds[name]))
