"""MKL: relevance, the divergence of class probabilities between the real and the generated sound of a clip."""

import numpy as np
from jaxtyping import Float
from torch import Tensor

from unsilent.errors import ParameterError
from unsilent.metrics.statistics import as_rows, log_softmax, refuse_different_widths

_EPSILON = 1e-6  # added to generated probabilities before the logarithm, as in the published numbers


def mkl(real_logits: Float[np.ndarray | Tensor, "real labels"], generated_logits: Float[np.ndarray | Tensor, "generated width"]) -> float:
    """Mean Kullback-Leibler divergence of the class probabilities of generated sounds from those of the real sounds.

    Args:
        real_logits: one row per clip.
        generated_logits: the same number of adjacent rows for each clip, in the order of the real rows.

    Returns:
        Nats, lower is better; about 0 for equal rows (-1e-6 per probable label).

    Raises:
        ParameterError: if the rows do not pair, the widths differ, there are no rows, or some are NaN or infinite.

    Source:
        Paper section 3.4 "Relevance"; released evaluate.py: mean over samples of Σ p_real (log p_real - log(p_generated + 1e-6)).
    """
    real, generated = as_rows(real_logits, "real logits", at_least=1), as_rows(generated_logits, "generated logits", at_least=1)
    samples, remainder = divmod(len(generated), len(real))
    if remainder or not samples:
        raise ParameterError(
            f"{len(generated)} generated rows do not pair with {len(real)} real ones; give the same number of samples for each real clip."
        )
    return float(divergences(np.repeat(real, samples, axis=0), generated).mean())


def divergences(
    real_logits: Float[np.ndarray, "samples labels"], generated_logits: Float[np.ndarray, "samples width"]
) -> Float[np.ndarray, "samples"]:
    """Divergence of each generated row from the real row of the same index; `mkl` is their mean.

    Raises:
        ParameterError: if the widths differ.
    """
    refuse_different_widths("real", real_logits.shape[1], "generated", generated_logits.shape[1])
    log_real = log_softmax(real_logits)
    log_generated = np.log(np.exp(log_softmax(generated_logits)) + _EPSILON)
    return (np.exp(log_real) * (log_real - log_generated)).sum(1)
