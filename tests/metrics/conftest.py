"""Features and logits with the metrics of the released implementation."""

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def published() -> dict[str, np.ndarray]:
    """300 real rows and 600 generated ones, two per real clip; KID of the released code is over subsets of 100 rows."""
    with np.load(Path(__file__).parents[1] / "fixtures" / "metrics.npz") as file:
        return dict(file)
