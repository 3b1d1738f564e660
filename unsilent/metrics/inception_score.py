"""Inception score: whether a classifier is sure of each generated sound, and names many different ones."""

from itertools import pairwise

import numpy as np
from jaxtyping import Float
from torch import Tensor

from unsilent.errors import ParameterError
from unsilent.metrics.statistics import Score, as_rows, log_softmax


def inception_score(logits: Float[np.ndarray | Tensor, "generated labels"], splits: int = 10, seed: int = 2020) -> Score:
    """Exponential of the mean divergence between what is said of each sound and of all together.

    Args:
        logits: of generated sounds, one row each. The published numbers leave out the classifier's last bias.
        splits: parts that the shuffled rows are cut into, 1 or more; each gives a score of its own.
        seed: of the shuffle.

    Returns:
        Mean and standard deviation over the parts, from 1 to the number of labels; higher is better.

    Raises:
        ParameterError: if there are fewer rows than parts, no parts, or logits that are NaN or infinite.

    Source:
        Salimans et al. 2016; released evaluate.py, which follows torch-fidelity in the shuffle and the parts.
    """
    if splits < 1:
        raise ParameterError(f"an inception score over {splits} parts was asked for; ask for 1 or more.")
    certain = log_softmax(as_rows(logits, "generated logits", at_least=splits))
    certain = certain[np.random.RandomState(seed).permutation(len(certain))]  # the old generator: published numbers used it
    edges = [part * len(certain) // splits for part in range(splits + 1)]
    return Score.over([_score(certain[start:stop]) for start, stop in pairwise(edges)])


def _score(certain: Float[np.ndarray, "samples labels"]) -> float:
    """Of one part, from logarithms of probabilities; the average is taken as logarithms too, so that a label of no chance is no 0/0."""
    overall = np.logaddexp.reduce(certain, axis=0) - np.log(len(certain))
    return float(np.exp((np.exp(certain) * (certain - overall)).sum(1).mean()))
