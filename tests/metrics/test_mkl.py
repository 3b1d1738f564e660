"""MKL: 0 for equal predictions, closed form for known probabilities, pairs by clip; equality with the released code."""

import numpy as np
import pytest
import torch

from unsilent import metrics
from unsilent.errors import ParameterError


def logits(seed, count=30, labels=6):
    return np.random.default_rng(seed).standard_normal((count, labels)) * 3


def test_mkl_equals_the_released_code(published):
    """The two samples of a clip are adjacent; pairing in two rounds over all clips would give 3.3 instead of 0.345."""
    assert metrics.mkl(published["real_logits"], published["generated_logits"]) == pytest.approx(float(published["mkl"]), rel=1e-6)


def test_mkl_of_equal_predictions_is_zero_up_to_epsilon():
    assert metrics.mkl(logits(0), logits(0)) == pytest.approx(0, abs=1e-5)
    assert metrics.mkl(logits(0), logits(0) + 5) == pytest.approx(0, abs=1e-5)  # softmax ignores a constant


def test_mkl_of_known_probabilities():
    real, generated = np.log([[0.5, 0.5], [0.9, 0.1]]), np.log([[0.25, 0.75], [0.9, 0.1]])
    expected = (0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75) + 0) / 2
    assert metrics.mkl(real, generated) == pytest.approx(expected, abs=1e-5)


def test_mkl_is_weighted_by_the_real_probabilities():
    """It is KL(real, generated): missing a real class costs up to log 1e6, adding a class costs little."""
    sure, unsure = np.array([[100.0, 0.0]]), np.array([[0.0, 0.0]])
    assert metrics.mkl(sure, unsure) == pytest.approx(np.log(2), abs=1e-5)
    assert metrics.mkl(unsure, sure) == pytest.approx(-np.log(2) + 0.5 * np.log(1e6), abs=1e-4)
    assert metrics.mkl(sure, -sure) == pytest.approx(np.log(1e6), abs=1e-4)


def test_mkl_averages_over_samples():
    real, first, second = logits(0), logits(1), logits(2)
    both = np.stack([first, second], axis=1).reshape(-1, real.shape[1])
    assert metrics.mkl(real, both) == pytest.approx((metrics.mkl(real, first) + metrics.mkl(real, second)) / 2)


def test_mkl_depends_on_the_pairs_but_not_their_order():
    real, generated = logits(0), logits(0) + logits(1) / 3
    order = np.random.default_rng(2).permutation(len(real))
    relevance = metrics.mkl(real, generated)
    assert metrics.mkl(real[order], generated[order]) == pytest.approx(relevance, rel=1e-12)
    assert metrics.mkl(real, generated[order]) > relevance + 1


def test_mkl_does_not_depend_on_the_dtype():
    real, generated = logits(0).astype(np.float32), logits(1).astype(np.float32)
    assert metrics.mkl(real, torch.from_numpy(generated)) == pytest.approx(
        metrics.mkl(real.astype(np.float64), generated.astype(np.float64))
    )


def test_mkl_refuses_unusable_logits():
    with pytest.raises(ParameterError, match="real rows have 6 columns, generated ones 5"):
        metrics.mkl(logits(0), logits(1)[:, :5])
    with pytest.raises(ParameterError, match="45 generated rows do not pair with 30 real ones; give the same number of samples"):
        metrics.mkl(logits(0), logits(1, 45))
    with pytest.raises(ParameterError, match="10 generated rows do not pair with 30 real ones"):
        metrics.mkl(logits(0), logits(1, 10))
    with pytest.raises(ParameterError, match="real logits have 0 rows"):
        metrics.mkl(logits(0)[:0], logits(1))
    with pytest.raises(ParameterError, match="30 of 30 rows of the generated logits hold NaN or infinity"):
        metrics.mkl(logits(0), logits(1) + np.inf)
