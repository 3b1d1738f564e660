"""Relevance: whether a classifier says of a generated sound what it says of the real sound of the same clip."""

import numpy as np
from jaxtyping import Float
from torch import Tensor

from unsilent.errors import ParameterError
from unsilent.metrics.statistics import as_rows, log_softmax, refuse_different_widths

_EPSILON = 1e-6  # added to generated probabilities before their logarithm, as the published numbers have it


def mkl(real_logits: Float[np.ndarray | Tensor, "real labels"], generated_logits: Float[np.ndarray | Tensor, "generated width"]) -> float:
    """Mean Kullback-Leibler divergence of the labels of generated sounds from those of their real ones.

    Args:
        real_logits: one row a clip.
        generated_logits: as many rows for each clip, the samples of one clip behind one another, in the order of the real rows.

    Returns:
        Nats, lower is better; 0 for equal rows, less one millionth for each likely label.

    Raises:
        ParameterError: if the rows do not pair, the widths differ, there are none, or some are NaN or infinite.

    Source:
        Paper section 3.4 "Relevance"; released evaluate.py: mean over samples of Σ p_real (log p_real - log(p_generated + 1e-6)).
    """
    real, generated = as_rows(real_logits, "real logits", at_least=1), as_rows(generated_logits, "generated logits", at_least=1)
    samples, left = divmod(len(generated), len(real))
    if left or not samples:
        raise ParameterError(
            f"{len(generated)} generated rows do not pair with {len(real)} real ones; give equally many samples of each real clip."
        )
    return float(divergences(np.repeat(real, samples, axis=0), generated).mean())


def divergences(
    real_logits: Float[np.ndarray, "samples labels"], generated_logits: Float[np.ndarray, "samples width"]
) -> Float[np.ndarray, "samples"]:
    """What `mkl` is the mean of: one number for each generated row and the real row at its place.

    Raises:
        ParameterError: if the widths differ.
    """
    refuse_different_widths("real", real_logits.shape[1], "generated", generated_logits.shape[1])
    expected = log_softmax(real_logits)
    found = np.log(np.exp(log_softmax(generated_logits)) + _EPSILON)
    return (np.exp(expected) * (expected - found)).sum(1)
