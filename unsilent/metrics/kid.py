"""Kernel distance of features: as FID it compares crowds, but it needs no Gaussian and has no bias for small sets."""

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
        subsets: 1 or more; more make the mean steadier.
        subset_size: rows drawn from each set without repeats, 2 or more; no more than the smaller set has.
        seed: of the draws.

    Returns:
        Mean and standard deviation over the subsets; lower is better, around 0 (also just below) for sets of one distribution.

    Raises:
        ParameterError: if the widths differ, a set or a subset has less than 2 rows, there are no subsets, or a set holds NaN or infinity.

    Source:
        Bińkowski et al. 2018; released evaluate.py, which follows torch-fidelity: k(x, y) = (x·y / dim + 1)³, pairs of a row with itself
        left out within a set, and its order of draws. Differs: float64, where float32 loses the small difference of large numbers.
    """
    real, generated = as_rows(real, "real features", at_least=2), as_rows(generated, "generated features", at_least=2)
    refuse_different_widths("real", real.shape[1], "generated", generated.shape[1])
    if subsets < 1 or subset_size < 2:
        raise ParameterError(f"{subsets} subsets of {subset_size} rows were asked for; ask for 1 or more of 2 or more.")
    size = min(subset_size, len(real), len(generated))
    draw = np.random.RandomState(seed)  # the old generator, since published numbers were drawn with it
    distances = []
    for _ in range(subsets):
        theirs = generated[draw.choice(len(generated), size, replace=False)].astype(np.float64)
        ours = real[draw.choice(len(real), size, replace=False)].astype(np.float64)
        distances.append(_discrepancy(ours, theirs))
    return Score.over(distances)


def _discrepancy(ours: Float[np.ndarray, "samples dim"], theirs: Float[np.ndarray, "samples dim"]) -> float:
    size = len(ours)
    within = sum(kernel.sum() - np.trace(kernel) for kernel in (_kernel(ours, ours), _kernel(theirs, theirs)))
    return float(within / (size * (size - 1)) - 2 * _kernel(ours, theirs).mean())


def _kernel(rows: Float[np.ndarray, "samples dim"], columns: Float[np.ndarray, "samples dim"]) -> Float[np.ndarray, "samples samples"]:
    return (rows @ columns.T / rows.shape[1] + 1) ** 3
