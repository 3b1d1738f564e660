"""Kernel Inception Distance: compares distributions like FID, but assumes no Gaussian and is unbiased for small sets."""

import numpy as np
from jaxtyping import Float
from torch import Tensor

from unsilent.errors import ParameterError
from unsilent.metrics.statistics import Score, as_rows, refuse_different_widths


def kid(
    real: Float[np.ndarray | Tensor, "real dim"],
    generated: Float[np.ndarray | Tensor, "generated width"],
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 2020,
) -> Score:
    """Squared maximum mean discrepancy with a cubic kernel, over random subsets.

    Args:
        real: 2 or more rows.
        generated: 2 or more rows of the same width.
        subsets: 1 or more; more reduce the variance of the mean.
        subset_size: rows drawn from each set without replacement, 2 or more; at most the size of the smaller set.
        seed: seed of the draws.

    Returns:
        Mean and standard deviation over the subsets; lower is better, near 0 (also slightly below) for sets of one distribution.

    Raises:
        ParameterError: if widths differ, `subsets` is below 1, a set or subset has fewer than 2 rows, or a set has NaN or infinity.

    Source:
        Bińkowski et al. 2018; released evaluate.py, which follows torch-fidelity: k(x, y) = (x·y / dim + 1)³, without pairs of a row
        with itself, and its order of draws. Differs: float64, because float32 cancels in the small difference of large sums.
    """
    real, generated = as_rows(real, "real features", at_least=2), as_rows(generated, "generated features", at_least=2)
    refuse_different_widths("real", real.shape[1], "generated", generated.shape[1])
    if subsets < 1 or subset_size < 2:
        raise ParameterError(f"{subsets} subsets of {subset_size} rows are too few; give 1 subset or more of 2 rows or more.")
    size = min(subset_size, len(real), len(generated))
    draw = np.random.RandomState(seed)  # the generator of the published numbers
    distances = []
    for _ in range(subsets):
        generated_rows = generated[draw.choice(len(generated), size, replace=False)].astype(np.float64)
        real_rows = real[draw.choice(len(real), size, replace=False)].astype(np.float64)
        distances.append(_discrepancy(real_rows, generated_rows))
    return Score.over(distances)


def _discrepancy(one: Float[np.ndarray, "samples dim"], other: Float[np.ndarray, "samples dim"]) -> float:
    size = len(one)
    within = sum(kernel.sum() - np.trace(kernel) for kernel in (_kernel(one, one), _kernel(other, other)))
    return float(within / (size * (size - 1)) - 2 * _kernel(one, other).mean())


def _kernel(rows: Float[np.ndarray, "samples dim"], columns: Float[np.ndarray, "samples dim"]) -> Float[np.ndarray, "samples samples"]:
    return (rows @ columns.T / rows.shape[1] + 1) ** 3
