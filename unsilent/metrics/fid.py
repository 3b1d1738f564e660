"""Fréchet distance of features: how far the crowd of generated sounds is from the crowd of real ones."""

from typing import NamedTuple

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
    return _distance(_Crowd.of_rows(real), _Crowd.of_rows(generated))


def frechet_distance(real: Moments, generated: Moments) -> float:
    """The distance from moments alone, for features that were never in memory together.

    Raises:
        ParameterError: if the widths differ, or one is of less than 2 rows.

    Source:
        |mean - mean'|² + trace(C + C' - 2 (C C')^½). The trace of the root is the sum of the singular values of Hᵀ H' with H Hᵀ = C and
        H' H'ᵀ = C', which is real whatever the rank, so nothing has to be added to a singular covariance as the released code does when its
        root fails.
    """
    refuse_different_widths("real", len(real.mean), "generated", len(generated.mean))
    return _distance(_Crowd.of_moments(real), _Crowd.of_moments(generated))


class _Crowd(NamedTuple):
    """A Gaussian: its mean, and a factor H of its covariance H Hᵀ; any will do, as singular values do not change when it is turned."""

    mean: Float[np.ndarray, "dim"]
    half: Float[np.ndarray, "dim rank"]

    @classmethod
    def of_moments(cls, moments: Moments) -> "_Crowd":
        values, vectors = np.linalg.eigh(moments.covariance)
        return cls(moments.mean, vectors * np.sqrt(values.clip(min=0)))

    @classmethod
    def of_rows(cls, rows: Float[np.ndarray, "samples dim"]) -> "_Crowd":
        if len(rows) > rows.shape[1]:
            return cls.of_moments(Moments.of(rows))
        mean = rows.mean(0, dtype=np.float64)  # few rows are themselves a thinner factor, which takes no eigenvectors
        return cls(mean, (rows - mean).T / np.sqrt(len(rows) - 1))


def _distance(real: _Crowd, generated: _Crowd) -> float:
    root = np.linalg.svd(real.half.T @ generated.half, compute_uv=False).sum()
    traces = np.square(real.half).sum() + np.square(generated.half).sum()
    distance = np.square(real.mean - generated.mean).sum() + traces - 2 * root
    return max(0.0, float(distance))  # equal sets may come out at minus a rounding error
