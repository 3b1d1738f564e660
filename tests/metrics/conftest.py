"""Features and logits with the numbers that the released implementation gives for them."""

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def published() -> dict[str, np.ndarray]:
    """300 real rows and 600 generated ones, two for each real clip; the numbers were computed with subsets of 100 rows for KID."""
    with np.load(Path(__file__).parents[1] / "fixtures" / "metrics.npz") as file:
        return dict(file)
