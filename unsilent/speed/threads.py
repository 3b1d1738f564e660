"""torch's thread count, which is process-wide: every change of it goes through this file."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from unsilent.models.configs import AnySamplerConfig

# Lock of all loading and computing, because torch's thread count, malloc's settings and a sampler's KV cache are shared by the process. A
# Python thread keeps the count of its first use of torch, so it must not start inside `one_thread` of another thread.
EXCLUSIVE = threading.RLock()
SMALL_WEIGHTS = 20_000_000  # a network of fewer weights runs faster on one thread, because its operations are too short to share


@contextmanager
def limit_threads(n: int) -> Iterator[None]:
    """Compute with `n` threads (at least 1), then restore the count. The caller or its parent thread must hold `EXCLUSIVE`."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, n))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def one_thread(applies: bool = True) -> Iterator[None]:
    """Hold `EXCLUSIVE` and compute with one thread, because sums split over several are rounded differently.

    Args:
        applies: if false, the thread count stays.
    """
    with EXCLUSIVE, limit_threads(1 if applies else torch.get_num_threads()):
        yield


def count_threads() -> int:
    """Count torch's threads, once no computation has changed their number."""
    with EXCLUSIVE:
        return torch.get_num_threads()


def codec_threads(config: AnySamplerConfig) -> int:
    """Threads for the decoder and vocoder of a model: 1 for a small one, else torch's current count.

    Small convolutions gain little from a second thread. With one, bytes do not depend on the thread count, and no thread spins while it
    waits for another that a busy machine has suspended.
    """
    return 1 if config.transformer.n_weights < SMALL_WEIGHTS else count_threads()
