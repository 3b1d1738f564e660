"""Inception score: 1 where nothing is said, as many as labels where all are said surely; that of the released code."""

import numpy as np
import pytest
import torch

from unsilent import metrics
from unsilent.errors import ParameterError


def test_same_as_the_released_code(published):
    score = metrics.inception_score(published["generated_logits"])
    assert score.value == pytest.approx(float(published["inception_score"]), rel=1e-6)
    assert score.std == pytest.approx(float(published["inception_score_std"]), rel=1e-6)


def test_nothing_said_scores_one():
    score = metrics.inception_score(np.zeros((50, 7)))
    assert (score.value, score.std) == (pytest.approx(1), pytest.approx(0))


def test_one_label_for_all_scores_one():
    assert metrics.inception_score(np.tile([[50.0, 0.0, 0.0]], (40, 1))).value == pytest.approx(1)


@pytest.mark.parametrize("height", [60.0, 1000.0])
def test_all_labels_said_surely_score_their_number(height):
    """Also where probabilities are too small for a float."""
    score = metrics.inception_score(np.tile(np.eye(7) * height, (20, 1)), splits=1)
    assert score.value == pytest.approx(7)
    assert score.std == 0


def test_a_label_that_is_never_said_is_no_division_by_zero():
    assert metrics.inception_score(np.tile(np.eye(7)[:3] * 1e6, (10, 1)), splits=1).value == pytest.approx(3)


def test_parts_cover_all_rows_once():
    """Each of 23 labels is said surely once, so the score of a part is its number of rows, and the mean over 10 parts is 23 / 10."""
    score = metrics.inception_score(np.eye(23) * 1000)
    assert score.value == pytest.approx(2.3)
    assert score.std == pytest.approx(np.sqrt(0.3 * 0.7))  # three parts of three rows and seven of two


def test_does_not_depend_on_the_type_but_on_the_shuffle():
    logits = np.random.default_rng(0).standard_normal((100, 5)).astype(np.float32) * 2
    score = metrics.inception_score(logits)
    assert metrics.inception_score(torch.from_numpy(logits).double()) == score
    assert metrics.inception_score(logits, seed=1) != score


def test_unfit_logits_are_refused():
    with pytest.raises(ParameterError, match="generated logits have 9 rows; this metric takes 10 or more"):
        metrics.inception_score(np.zeros((9, 3)))
    with pytest.raises(ParameterError, match="1 of 10 rows of the generated logits hold NaN or infinity"):
        metrics.inception_score(np.diag([np.inf, *[0.0] * 9]))
    with pytest.raises(ParameterError, match="over 0 parts was asked for; ask for 1 or more"):
        metrics.inception_score(np.zeros((9, 3)), splits=0)
