"""Accuracy, average precision and area under the curve equal those of scikit-learn, also with ties and several labels."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import average_precision_score, roc_auc_score, top_k_accuracy_score

from unsilent.errors import ParameterError
from unsilent.metrics.classification import hits, mean_area_under_curve, mean_average_precision


@pytest.fixture(params=["plain", "ties"])
def logits(request):
    logits = np.random.default_rng(0).standard_normal((200, 7)) * 2
    return logits if request.param == "plain" else np.round(logits / 3)


def test_hits_equal_sklearns_top_k():
    logits, labels = np.random.default_rng(0).standard_normal((200, 7)), np.random.default_rng(1).integers(7, size=200)
    for k in (1, 2, 5):
        assert hits(logits, np.eye(7, dtype=bool)[labels], k).mean() == top_k_accuracy_score(labels, logits, k=k)


def test_hits_count_any_of_several_labels():
    targets = np.array([[True, False, True], [False, True, False]])
    assert hits(np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]), targets, 1).tolist() == [True, False]
    assert hits(np.zeros((2, 3)), targets, 1).tolist() == [True, False]  # of equal scores the first ranks higher
    assert hits(np.zeros((2, 3)), targets, 9).all()


@pytest.mark.parametrize("several", [False, True])
def test_means_over_labels_equal_sklearns(logits, several):
    rng = np.random.default_rng(1)
    targets = rng.random((200, 7)) < 0.2 if several else np.eye(7, dtype=bool)[rng.integers(7, size=200)]
    scores = softmax(logits, axis=1)
    assert mean_average_precision(logits, targets) == pytest.approx(average_precision_score(targets, scores, average="macro"), rel=1e-12)
    assert mean_area_under_curve(logits, targets) == pytest.approx(roc_auc_score(targets, scores, average="macro"), rel=1e-12)


def test_labels_without_variation_do_not_count(logits):
    targets = np.eye(7, dtype=bool)[np.random.default_rng(1).integers(7, size=200)]
    targets[:, 2], targets[:, 5] = False, True
    kept = [0, 1, 3, 4, 6]
    scores = softmax(logits, axis=1)[:, kept]
    assert mean_average_precision(logits, targets) == pytest.approx(average_precision_score(targets[:, kept], scores, average="macro"))
    assert mean_area_under_curve(logits, targets) == pytest.approx(roc_auc_score(targets[:, kept], scores, average="macro"))


def test_means_over_labels_of_perfect_and_random_scores():
    targets = np.eye(4, dtype=bool)[np.arange(40) % 4]
    assert mean_average_precision(targets * 5.0, targets) == mean_area_under_curve(targets * 5.0, targets) == 1
    assert mean_area_under_curve(np.zeros((40, 4)), targets) == 0.5
    assert mean_average_precision(np.zeros((40, 4)), targets) == 0.25


def test_wrong_arguments_are_refused():
    targets = np.eye(3, dtype=bool)
    with pytest.raises(ParameterError, match=r"logits of shape \[3, 4\] and targets of shape \[3, 3\] differ"):
        hits(np.zeros((3, 4)), targets, 1)
    with pytest.raises(ParameterError, match="k is 0, but must be 1 or more"):
        hits(np.zeros((3, 3)), targets, 0)
    with pytest.raises(ParameterError, match="no label is true of some sounds and false of others; give sounds of two labels"):
        mean_average_precision(np.zeros((3, 3)), np.ones((3, 3), dtype=bool))
