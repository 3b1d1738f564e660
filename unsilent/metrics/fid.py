"""Fréchet distance of features: how far the crowd of generated sounds is from the crowd of real ones."""

import numpy as np
from jaxtyping import Float
from torch import Tensor

from unsilent.metrics.statistics import Moments, as_rows, refuse_different_widths


def fid(real: Float[np.ndarray | Tensor, "real dim"], generated: Float[np.ndarray | Tensor, "generated width"]) -> float:
    """Fréchet distance of two sets of features, each taken for a Gaussian.

    Args:
        real: 2 or more rows, in any order.
        generated: 2 or more rows of the same width; the sets need not be of one size. Numbers of sets of different sizes do not compare,
            since few rows make the distance larger.

    Returns:
        0 or more, lower is better.

    Raises:
        ParameterError: if the widths differ, a set has less than 2 rows, or holds NaN or infinity.

    Source:
        Heusel et al. 2017; released evaluate.py with Melception's 2048 features. Agrees with the matrix root that it takes, see
        `frechet_distance`.
    """
    real, generated = as_rows(real, "real features", at_least=2), as_rows(generated, "generated features", at_least=2)
    refuse_different_widths("real", real.shape[1], "generated", generated.shape[1])
    return frechet_distance(Moments.of(real), Moments.of(generated))


def frechet_distance(real: Moments, generated: Moments) -> float:
    """The distance from moments alone, for features that were never in memory together.

    Raises:
        ParameterError: if the widths differ, or one is of less than 2 rows.

    Source:
        |mean - mean'|² + trace(C + C' - 2 (C C')^½). The trace of the root is the sum of the singular values of C^½ C'^½, which is real
        whatever the rank, so nothing has to be added to a singular covariance as the released code does when its root fails.
    """
    refuse_different_widths("real", len(real.mean), "generated", len(generated.mean))
    ours, theirs = real.covariance, generated.covariance
    root = np.linalg.svd(_half(ours).T @ _half(theirs), compute_uv=False).sum()
    distance = np.square(real.mean - generated.mean).sum() + np.trace(ours) + np.trace(theirs) - 2 * root
    return max(0.0, float(distance))  # equal sets may come out at minus a rounding error


def _half(covariance: Float[np.ndarray, "dim dim"]) -> Float[np.ndarray, "dim dim"]:
    """A factor H with H Hᵀ = covariance; any will do, as the singular values of a product do not change when a factor is turned."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(values.clip(min=0))
