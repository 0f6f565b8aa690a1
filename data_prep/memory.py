"""Asks for more memory than there is before work begins, not after hours of it."""

import psutil

from data_prep import errors


def require(needed: float, what: str, remedy: str) -> None:
    """Refuses work that certainly does not fit.

    Args:
        needed: Bytes that the work takes at least.
        what: What takes them, for the sentence.
        remedy: What takes less.

    Raises:
        InputError: That much memory is not free.
    """
    free = psutil.virtual_memory().available + psutil.swap_memory().free
    if needed > free:
        raise errors.InputError(
            f"{what}: expected at least {needed / 2**30:.1f} GiB of free memory for it, found "
            f"{free / 2**30:.1f}; {remedy}."
        )
