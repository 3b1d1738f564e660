"""Inception score: confidence of the classifier's predictions, and their variety."""

from itertools import pairwise

import numpy as np
from jaxtyping import Float
from torch import Tensor

from unsilent.errors import ParameterError
from unsilent.metrics.statistics import Score, as_rows, log_softmax


def inception_score(logits: Float[np.ndarray | Tensor, "generated labels"], splits: int = 10, seed: int = 2020) -> Score:
    """Exponential of the mean KL divergence between the class probabilities of each sound and their average.

    Args:
        logits: one row per generated sound. The published numbers are of logits without the output layer's bias.
        splits: number of parts of the shuffled rows, 1 or more; each part has a score.
        seed: seed of the shuffle.

    Returns:
        Mean and standard deviation over the parts, from 1 to the number of labels; higher is better.

    Raises:
        ParameterError: if `splits` is below 1, there are fewer rows than parts, or logits are NaN or infinite.

    Source:
        Salimans et al. 2016; released evaluate.py, which follows torch-fidelity in the shuffle and the parts.
    """
    if splits < 1:
        raise ParameterError(f"splits is {splits}, but must be 1 or more.")
    log_probabilities = log_softmax(as_rows(logits, "generated logits", at_least=splits))
    n = len(log_probabilities)
    log_probabilities = log_probabilities[np.random.RandomState(seed).permutation(n)]  # the generator of the published numbers
    edges = [part * n // splits for part in range(splits + 1)]
    return Score.over([_score(log_probabilities[start:stop]) for start, stop in pairwise(edges)])


def _score(log_probabilities: Float[np.ndarray, "samples labels"]) -> float:
    """Score of one part. The average is computed in logarithms, because a label of probability 0 would give 0/0."""
    average = np.logaddexp.reduce(log_probabilities, axis=0) - np.log(len(log_probabilities))
    return float(np.exp((np.exp(log_probabilities) * (log_probabilities - average)).sum(1).mean()))
