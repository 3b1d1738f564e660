"""Inception score: 1 for uniform predictions, the number of labels for confident and varied ones; equality with the released code."""

import numpy as np
import pytest
import torch

from unsilent import metrics
from unsilent.errors import ParameterError


def test_inception_score_equals_the_released_code(published):
    score = metrics.inception_score(published["generated_logits"])
    assert score.value == pytest.approx(float(published["inception_score"]), rel=1e-6)
    assert score.std == pytest.approx(float(published["inception_score_std"]), rel=1e-6)


def test_uniform_predictions_score_one():
    score = metrics.inception_score(np.zeros((50, 7)))
    assert (score.value, score.std) == (pytest.approx(1), pytest.approx(0))


def test_one_label_for_all_sounds_scores_one():
    assert metrics.inception_score(np.tile([[50.0, 0.0, 0.0]], (40, 1))).value == pytest.approx(1)


@pytest.mark.parametrize("height", [60.0, 1000.0])
def test_confident_predictions_of_all_labels_score_their_number(height):
    """Also where probabilities underflow."""
    score = metrics.inception_score(np.tile(np.eye(7) * height, (20, 1)), splits=1)
    assert score.value == pytest.approx(7)
    assert score.std == 0


def test_labels_of_probability_zero_do_not_divide_by_zero():
    assert metrics.inception_score(np.tile(np.eye(7)[:3] * 1e6, (10, 1)), splits=1).value == pytest.approx(3)


def test_parts_cover_all_rows_once():
    """Each row predicts a label of its own, so a part scores its number of rows, and the mean over 10 parts of 23 rows is 2.3."""
    score = metrics.inception_score(np.eye(23) * 1000)
    assert score.value == pytest.approx(2.3)
    assert score.std == pytest.approx(np.sqrt(0.3 * 0.7))  # three parts of three rows and seven of two


def test_inception_score_depends_on_the_shuffle_but_not_the_dtype():
    logits = np.random.default_rng(0).standard_normal((100, 5)).astype(np.float32) * 2
    score = metrics.inception_score(logits)
    assert metrics.inception_score(torch.from_numpy(logits).double()) == score
    assert metrics.inception_score(logits, seed=1) != score


def test_inception_score_refuses_unusable_logits():
    with pytest.raises(ParameterError, match="generated logits have 9 rows; this metric takes 10 or more"):
        metrics.inception_score(np.zeros((9, 3)))
    with pytest.raises(ParameterError, match="1 of 10 rows of the generated logits hold NaN or infinity"):
        metrics.inception_score(np.diag([np.inf, *[0.0] * 9]))
    with pytest.raises(ParameterError, match="splits is 0, but must be 1 or more"):
        metrics.inception_score(np.zeros((9, 3)), splits=0)
