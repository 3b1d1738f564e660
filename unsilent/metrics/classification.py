"""How well a classifier names sounds: accuracy among the likeliest, average precision and area under the curve. Paper table 5."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from unsilent.errors import ParameterError
from unsilent.metrics.statistics import as_rows

Measure = Callable[[np.ndarray, np.ndarray], float]


def hits(
    logits: Float[np.ndarray | Tensor, "samples labels"], truth: Bool[np.ndarray, "sounds classes"], k: int
) -> Bool[np.ndarray, "samples"]:
    """Which rows have a true label among their `k` likeliest; of labels that are as likely, the first counts as the likelier.

    Args:
        logits: or probabilities, one row a sound.
        truth: which labels are true; several may be.
        k: 1 or more; more than there are labels finds all.

    Raises:
        ParameterError: if there are no rows, they do not fit `truth`, some are not finite, or `k` is below 1.
    """
    scores = _scores(logits, truth)
    if k < 1:
        raise ParameterError(f"accuracy among the {k} likeliest was asked for; ask for 1 or more.")
    likeliest = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(truth, likeliest, axis=1).any(1)


def mean_average_precision(logits: Float[np.ndarray | Tensor, "samples labels"], truth: Bool[np.ndarray, "sounds classes"]) -> float:
    """Mean over labels of the precision averaged over recall, sounds ranked by the probability of the label.

    Args:
        logits: one row a sound. What is ranked are probabilities: unlike logits, they compare between sounds.
        truth: which labels are true; several may be.

    Returns:
        0 to 1, higher is better. Labels that no sound has, or all have, do not count.

    Raises:
        ParameterError: as of `hits`, or if no label tells sounds apart.

    Source:
        Paper table 5 "mAP"; scikit-learn's `average_precision_score`: sum over thresholds of the step in recall times the precision there.
    """
    return _mean_over_labels(logits, truth, _average_precision)


def mean_area_under_curve(logits: Float[np.ndarray | Tensor, "samples labels"], truth: Bool[np.ndarray, "sounds classes"]) -> float:
    """Mean over labels of the chance that a sound with the label is given a higher probability of it than one without.

    Arguments, errors and which labels count as of `mean_average_precision`.

    Returns:
        0 to 1, 0.5 by chance; equal probabilities count half.

    Source:
        Paper table 5 "mAUC"; scikit-learn's `roc_auc_score`.
    """
    return _mean_over_labels(logits, truth, _area_under_curve)


def tells_apart(truth: Bool[np.ndarray, "sounds classes"]) -> bool:
    """Whether some label is true of some sounds and not of others, as means over labels need it."""
    return bool((truth.any(0) & ~truth.all(0)).any())


def _mean_over_labels(logits: np.ndarray | Tensor, truth: np.ndarray, measure: Measure) -> float:
    scores = _scores(logits, truth).astype(np.float64)
    exponentials = np.exp(scores - scores.max(1, keepdims=True))
    probabilities = exponentials / exponentials.sum(1, keepdims=True)
    if not tells_apart(truth):
        raise ParameterError("no label is true of some sounds and not of others; give sounds of two labels or more.")
    telling = np.flatnonzero(truth.any(0) & ~truth.all(0))
    return float(np.mean([measure(probabilities[:, label], truth[:, label]) for label in telling]))


def _average_precision(scores: Float[np.ndarray, "samples"], truth: Bool[np.ndarray, "samples"]) -> float:
    order = np.argsort(-scores, kind="stable")
    last_of_ties = np.append(np.diff(scores[order]) != 0, True)
    found = np.cumsum(truth[order])[last_of_ties]
    precision = found / (np.flatnonzero(last_of_ties) + 1)
    return float((np.diff(found, prepend=0) * precision).sum() / truth.sum())


def _area_under_curve(scores: Float[np.ndarray, "samples"], truth: Bool[np.ndarray, "samples"]) -> float:
    without = np.sort(scores[~truth])
    below, upto = (np.searchsorted(without, scores[truth], side=side) for side in ("left", "right"))
    return float((below + upto).mean() / (2 * len(without)))


def _scores(logits: np.ndarray | Tensor, truth: np.ndarray) -> np.ndarray:
    scores = as_rows(logits, "logits", at_least=1)
    if scores.shape != truth.shape:
        raise ParameterError(f"logits of shape {list(scores.shape)} and truth of shape {list(truth.shape)} do not fit each other.")
    return scores
