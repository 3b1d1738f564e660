"""Fixtures for audio with known clicks and for a full disk; videos are made in the `conftest.py` above."""

from collections.abc import Callable

import numpy as np
import pytest


@pytest.fixture
def clicks() -> Callable[..., np.ndarray]:
    """`clicks(n_samples, *positions)`: silence with one loud sample at each position."""

    def build(n_samples: int, *positions: int) -> np.ndarray:
        waveform = np.zeros(n_samples, dtype=np.float32)
        waveform[list(positions)] = 0.9
        return waveform

    return build


@pytest.fixture
def small_files_only():
    """Limit file sizes to 16 kB, as if the disk were full."""
    resource = pytest.importorskip("resource", reason="limits on file sizes exist on Unix only")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
