"""Moments add up over batches; unusable rows are refused."""

import numpy as np
import pytest
import torch

from unsilent.errors import ParameterError
from unsilent.metrics import statistics
from unsilent.metrics.statistics import Moments, Score, as_rows, log_softmax


@pytest.fixture
def rows():
    return np.random.default_rng(0).standard_normal((500, 6)) * np.arange(1, 7) + 3


def test_moments_equal_numpys(rows):
    moments = Moments.of(rows)
    np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-13)
    np.testing.assert_allclose(moments.covariance, np.cov(rows, rowvar=False), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("cuts", [(1,), (499,), (100, 101, 350)])
def test_moments_of_batches_add_up(rows, cuts):
    at_once, summed = Moments.of(rows), sum_of(np.split(rows, cuts))
    assert summed.count == at_once.count
    np.testing.assert_allclose(summed.mean, at_once.mean, rtol=1e-13)
    np.testing.assert_allclose(summed.scatter, at_once.scatter, rtol=1e-12, atol=1e-11)


def sum_of(parts):
    total = Moments.of(parts[0])
    for part in parts[1:]:
        total = total + Moments.of(part)
    return total


def test_moments_of_large_sets_are_computed_in_blocks(rows, monkeypatch):
    at_once = Moments.of(rows)
    monkeypatch.setattr(statistics, "_BLOCK", 64)
    np.testing.assert_allclose(Moments.of(rows).scatter, at_once.scatter, rtol=1e-12, atol=1e-11)


def test_moments_are_exact_for_a_small_deviation_from_a_large_mean(rows):
    """Sums of squares minus squares of sums would cancel for a variance of 1 around 1e8."""
    far = sum_of(np.split(rows + 1e8, 4))
    np.testing.assert_allclose(far.covariance, np.cov(rows, rowvar=False), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_as_rows_takes_tensors_of_any_float_dtype(dtype):
    values = torch.tensor([[0.5, -2.0], [1.0, 4.0]], dtype=dtype, requires_grad=True)
    np.testing.assert_array_equal(as_rows(values, "features", at_least=1), [[0.5, -2.0], [1.0, 4.0]])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros(3), "the real features have 1 dimensions; give 2"),
        (np.zeros((2, 3, 4)), "the real features have 3 dimensions; give 2"),
        (np.zeros((1, 3)), "the real features have 1 rows; this metric takes 2 or more"),
        (
            np.array([[0.0, np.nan], [np.inf, 0.0], [0.0, 0.0]]),
            "2 of 3 rows of the real features hold NaN or infinity; leave those clips out",
        ),
    ],
)
def test_as_rows_refuses_unusable_rows(values, message):
    with pytest.raises(ParameterError, match=message):
        as_rows(values, "real features", at_least=2)


def test_log_softmax_is_finite():
    logits = np.array([[1000.0, 0.0, -1000.0], [0.0, 0.0, 0.0]], dtype=np.float32)
    np.testing.assert_allclose(log_softmax(logits), [[0, -1000, -2000], [-np.log(3)] * 3], atol=1e-15)


def test_score_is_mean_and_deviation():
    assert Score.over([1.0, 3.0]) == Score(value=2.0, std=1.0)
