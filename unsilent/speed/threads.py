"""torch's thread count, which is process-wide; only this file changes it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from unsilent.models.configs import AnySamplerConfig

# Lock for all loading and computing, because the process shares torch's thread count, malloc's settings and a sampler's KV cache. A Python
# thread keeps the count of its first use of torch, so it must not start inside `one_thread` of another thread.
EXCLUSIVE = threading.RLock()
SMALL_WEIGHTS = 20_000_000  # a network with fewer weights runs faster on one thread, because its operations are short


@contextmanager
def limit_threads(n: int) -> Iterator[None]:
    """Set torch's thread count to `n` (at least 1) during the block. The caller or its parent thread must hold `EXCLUSIVE`."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, n))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def one_thread(applies: bool = True) -> Iterator[None]:
    """Hold `EXCLUSIVE` and compute with one thread, because sums split over several threads are rounded differently.

    Args:
        applies: if False, the thread count is unchanged.
    """
    with EXCLUSIVE, limit_threads(1 if applies else torch.get_num_threads()):
        yield


def count_threads() -> int:
    """The thread count of torch, read while no computation has changed it."""
    with EXCLUSIVE:
        return torch.get_num_threads()


def codec_threads(config: AnySamplerConfig) -> int:
    """Threads for the decoder and vocoder of a model: 1 for a small model, else torch's current count.

    Small convolutions gain little from a second thread. With one thread, results do not depend on the thread count, and no thread spins
    while a busy machine has suspended another one.
    """
    return 1 if config.transformer.n_weights < SMALL_WEIGHTS else count_threads()
