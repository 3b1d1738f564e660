"""FID: Fréchet distance between the distributions of real and generated features."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from unsilent.metrics.statistics import Moments, as_rows, refuse_different_widths


def fid(real: Float[np.ndarray | Tensor, "real dim"], generated: Float[np.ndarray | Tensor, "generated width"]) -> float:
    """Fréchet distance of two sets of features, each modelled as a Gaussian.

    Args:
        real: 2 or more rows, in any order.
        generated: 2 or more rows of the same width. The distance is larger for few rows, so compare only sets of equal sizes.

    Returns:
        0 or more, lower is better.

    Raises:
        ParameterError: if the widths differ, a set has fewer than 2 rows, or holds NaN or infinity.

    Source:
        Heusel et al. 2017; released evaluate.py with Melception's 2048 features: |mean - mean'|² + trace(C + C' - 2 (C C')^½). Differs: the
        trace of the root is the sum of the singular values of Hᵀ H' with H Hᵀ = C and H' H'ᵀ = C', which is real for any rank. The released
        code adds a small diagonal to singular covariances if its matrix square root fails.
    """
    real, generated = as_rows(real, "real features", at_least=2), as_rows(generated, "generated features", at_least=2)
    refuse_different_widths("real", real.shape[1], "generated", generated.shape[1])
    one, other = _Gaussian.fit(real), _Gaussian.fit(generated)
    root = np.linalg.svd(one.factor.T @ other.factor, compute_uv=False).sum()
    traces = np.square(one.factor).sum() + np.square(other.factor).sum()
    distance = np.square(one.mean - other.mean).sum() + traces - 2 * root
    return max(0.0, float(distance))  # rounding may give a small negative distance for equal sets


class _Gaussian(NamedTuple):
    """A mean, and any factor H of the covariance H Hᵀ; rotations of H do not change the singular values."""

    mean: Float[np.ndarray, "dim"]
    factor: Float[np.ndarray, "dim rank"]

    @classmethod
    def fit(cls, rows: Float[np.ndarray, "samples dim"]) -> "_Gaussian":
        if len(rows) > rows.shape[1]:
            moments = Moments.of(rows)
            values, vectors = np.linalg.eigh(moments.covariance)
            return cls(moments.mean, vectors * np.sqrt(values.clip(min=0)))
        mean = rows.mean(0, dtype=np.float64)  # with few rows, the centred rows are a factor of lower rank, without an eigendecomposition
        return cls(mean, (rows - mean).T / np.sqrt(len(rows) - 1))
