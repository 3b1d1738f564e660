"""Relevance: 0 where the same is said, known for known probabilities, paired clip by clip; that of the released code."""

import numpy as np
import pytest
import torch

from unsilent import metrics
from unsilent.errors import ParameterError


def logits(seed, count=30, labels=6):
    return np.random.default_rng(seed).standard_normal((count, labels)) * 3


def test_same_as_the_released_code(published):
    """Two samples of each clip behind one another; the samples in two rounds of all clips would give 3.3 instead of 0.345."""
    assert metrics.mkl(published["real_logits"], published["generated_logits"]) == pytest.approx(float(published["mkl"]), rel=1e-6)


def test_same_said_is_zero_up_to_the_epsilon():
    assert metrics.mkl(logits(0), logits(0)) == pytest.approx(0, abs=1e-5)
    assert metrics.mkl(logits(0), logits(0) + 5) == pytest.approx(0, abs=1e-5)  # a constant says nothing


def test_known_probabilities():
    real, generated = np.log([[0.5, 0.5], [0.9, 0.1]]), np.log([[0.25, 0.75], [0.9, 0.1]])
    expected = (0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75) + 0) / 2
    assert metrics.mkl(real, generated) == pytest.approx(expected, abs=1e-5)


def test_the_real_side_weighs():
    """It is KL(real, generated): a generated sound that misses what is real costs up to log 1e6, one that adds to it costs little."""
    sure, unsure = np.array([[100.0, 0.0]]), np.array([[0.0, 0.0]])
    assert metrics.mkl(sure, unsure) == pytest.approx(np.log(2), abs=1e-5)
    assert metrics.mkl(unsure, sure) == pytest.approx(-np.log(2) + 0.5 * np.log(1e6), abs=1e-4)
    assert metrics.mkl(sure, -sure) == pytest.approx(np.log(1e6), abs=1e-4)


def test_several_samples_count_alike():
    real, first, second = logits(0), logits(1), logits(2)
    both = np.stack([first, second], axis=1).reshape(-1, real.shape[1])
    assert metrics.mkl(real, both) == pytest.approx((metrics.mkl(real, first) + metrics.mkl(real, second)) / 2)


def test_the_order_of_pairs_does_not_matter_but_the_pairing_does():
    real, generated = logits(0), logits(0) + logits(1) / 3
    order = np.random.default_rng(2).permutation(len(real))
    relevance = metrics.mkl(real, generated)
    assert metrics.mkl(real[order], generated[order]) == pytest.approx(relevance, rel=1e-12)
    assert metrics.mkl(real, generated[order]) > relevance + 1


def test_does_not_depend_on_the_type():
    real, generated = logits(0).astype(np.float32), logits(1).astype(np.float32)
    assert metrics.mkl(real, torch.from_numpy(generated)) == pytest.approx(
        metrics.mkl(real.astype(np.float64), generated.astype(np.float64))
    )


def test_unfit_logits_are_refused():
    with pytest.raises(ParameterError, match="real rows have 6 columns, generated ones 5"):
        metrics.mkl(logits(0), logits(1)[:, :5])
    with pytest.raises(ParameterError, match="45 generated rows do not pair with 30 real ones; give equally many samples"):
        metrics.mkl(logits(0), logits(1, 45))
    with pytest.raises(ParameterError, match="10 generated rows do not pair with 30 real ones"):
        metrics.mkl(logits(0), logits(1, 10))
    with pytest.raises(ParameterError, match="real logits have 0 rows"):
        metrics.mkl(logits(0)[:0], logits(1))
    with pytest.raises(ParameterError, match="30 of 30 rows of the generated logits hold NaN or infinity"):
        metrics.mkl(logits(0), logits(1) + np.inf)
