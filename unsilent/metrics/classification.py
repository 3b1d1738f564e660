"""Multi-label classification: top-k accuracy, mean average precision and area under the ROC curve. Paper table 5."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from unsilent.errors import ParameterError
from unsilent.metrics.statistics import as_rows

Measure = Callable[[np.ndarray, np.ndarray], float]


def hits(
    logits: Float[np.ndarray | Tensor, "samples labels"], targets: Bool[np.ndarray, "sounds classes"], k: int
) -> Bool[np.ndarray, "samples"]:
    """Whether each row has a true label among its top `k`; of equal scores, the first label ranks higher.

    Args:
        logits: logits or probabilities, one row per sound.
        targets: multi-hot labels.
        k: 1 or more; a number above that of labels includes all labels.

    Raises:
        ParameterError: if there are no rows, the shapes differ, some values are not finite, or `k` is below 1.
    """
    scores = _scores(logits, targets)
    if k < 1:
        raise ParameterError(f"k is {k}, but must be 1 or more.")
    top = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(targets, top, axis=1).any(1)


def mean_average_precision(logits: Float[np.ndarray | Tensor, "samples labels"], targets: Bool[np.ndarray, "sounds classes"]) -> float:
    """Mean over labels of the average precision, with sounds ranked by the probability of the label.

    Args:
        logits: one row per sound. Sounds are ranked by softmax, because logits of different sounds are not comparable.
        targets: multi-hot labels.

    Returns:
        0 to 1, higher is better. Labels of no sound and of all sounds are left out.

    Raises:
        ParameterError: as in `hits`, or if no label varies between sounds.

    Source:
        Paper table 5 "mAP"; scikit-learn's `average_precision_score`: sum over thresholds of the step in recall times the precision there.
    """
    return _mean_over_labels(logits, targets, _average_precision)


def mean_area_under_curve(logits: Float[np.ndarray | Tensor, "samples labels"], targets: Bool[np.ndarray, "sounds classes"]) -> float:
    """Mean over labels of the area under the ROC curve: the probability that a sound with the label ranks above one without it.

    Arguments, errors and omitted labels are those of `mean_average_precision`.

    Returns:
        0 to 1; chance is 0.5. Equal probabilities count half.

    Source:
        Paper table 5 "mAUC"; scikit-learn's `roc_auc_score`.
    """
    return _mean_over_labels(logits, targets, _area_under_curve)


def varies(targets: Bool[np.ndarray, "sounds classes"]) -> bool:
    """Whether some label is true of some sounds and false of others."""
    return bool((targets.any(0) & ~targets.all(0)).any())


def _mean_over_labels(logits: np.ndarray | Tensor, targets: np.ndarray, measure: Measure) -> float:
    scores = _scores(logits, targets).astype(np.float64)
    exponentials = np.exp(scores - scores.max(1, keepdims=True))
    probabilities = exponentials / exponentials.sum(1, keepdims=True)
    if not varies(targets):
        raise ParameterError("no label is true of some sounds and false of others; give sounds of two labels or more.")
    varying = np.flatnonzero(targets.any(0) & ~targets.all(0))
    return float(np.mean([measure(probabilities[:, label], targets[:, label]) for label in varying]))


def _average_precision(scores: Float[np.ndarray, "samples"], targets: Bool[np.ndarray, "samples"]) -> float:
    order = np.argsort(-scores, kind="stable")
    last_of_ties = np.append(np.diff(scores[order]) != 0, True)
    found = np.cumsum(targets[order])[last_of_ties]
    precision = found / (np.flatnonzero(last_of_ties) + 1)
    return float((np.diff(found, prepend=0) * precision).sum() / targets.sum())


def _area_under_curve(scores: Float[np.ndarray, "samples"], targets: Bool[np.ndarray, "samples"]) -> float:
    negatives = np.sort(scores[~targets])
    below, up_to = (np.searchsorted(negatives, scores[targets], side=side) for side in ("left", "right"))
    return float((below + up_to).mean() / (2 * len(negatives)))


def _scores(logits: np.ndarray | Tensor, targets: np.ndarray) -> np.ndarray:
    scores = as_rows(logits, "logits", at_least=1)
    if scores.shape != targets.shape:
        raise ParameterError(f"logits of shape {list(scores.shape)} and targets of shape {list(targets.shape)} differ.")
    return scores
