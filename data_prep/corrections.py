"""What a description wants done to its coarse images before they are read: moved, then screened."""

from collections.abc import Collection
from concurrent.futures import Executor

from data_prep import registration, residual_clouds
from data_prep.catalog import Catalog
from data_prep.dataset import Date


def corrected(
    images: Catalog, executor: Executor | None = None, dates: Collection[Date] | None = None
) -> Catalog:
    """The catalog as its description's `coregister` and `residual_clouds` want it.

    Args:
        images: The images as they are.
        executor: Where the work is done; here and now where None.
        dates: Those whose images will be read; all where None.

    Raises:
        InputError: A raster that cannot be read, or a process that was killed.
    """
    return residual_clouds.screened(registration.registered(images, executor), executor, dates)
