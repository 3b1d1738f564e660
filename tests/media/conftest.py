"""Sounds that a test can find again, and a disk that is full; the videos are built in the `conftest.py` above."""

from collections.abc import Callable

import numpy as np
import pytest


@pytest.fixture
def clicks() -> Callable[..., np.ndarray]:
    """`clicks(n_samples, *positions)`: silence with a single loud sample at each position."""

    def build(n_samples: int, *positions: int) -> np.ndarray:
        waveform = np.zeros(n_samples, dtype=np.float32)
        waveform[list(positions)] = 0.9
        return waveform

    return build


@pytest.fixture
def small_files_only():
    """Writing more than 16 kB to a file fails, as on a full disk."""
    resource = pytest.importorskip("resource", reason="limits on file sizes exist on Unix only")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
