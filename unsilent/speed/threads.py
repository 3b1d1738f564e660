"""torch's thread count, which is process-wide: every change of it goes through this file."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

SMALL_WEIGHTS = 20_000_000  # a network of fewer weights runs faster on one thread, because its operations are too short to share


@contextmanager
def limit_threads(n: int) -> Iterator[None]:
    """Compute with `n` threads (at least 1); the count from before is put back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, n))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_thread(applies: bool = True) -> AbstractContextManager[None]:
    """Compute with one thread, because sums split over several are rounded differently.

    Args:
        applies: if false, nothing changes.
    """
    return limit_threads(1) if applies else nullcontext()


def all_but_one_thread() -> AbstractContextManager[None]:
    """Leave one thread to a reader in the background: more threads than processors would wait for one another."""
    return limit_threads(torch.get_num_threads() - 1)
