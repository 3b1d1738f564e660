"""Makes a loaded model fast on this machine."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

SMALL_PARAMETERS = 20_000_000  # weights below this are read from memory faster than threads agree on who reads what


@contextmanager
def stepping_threads(module: nn.Module) -> Iterator[None]:
    """Use one CPU thread for a network that is called for one position at a time, if it is small.

    A step of such a network is hundreds of tiny operations. Two threads gain little on each, and wait for one another after each: on a
    machine that is busy otherwise the waiting takes many times longer than the work.

    Args:
        module: what is about to be called; the number of threads is put back afterwards.
    """
    before = torch.get_num_threads()
    is_small = sum(parameter.numel() for parameter in module.parameters()) < SMALL_PARAMETERS
    torch.set_num_threads(1 if is_small else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
