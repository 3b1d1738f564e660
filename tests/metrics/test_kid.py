"""KID: unbiased, so near 0 for one distribution; grows with a shift; equality with the released code."""

import numpy as np
import pytest
import torch

from unsilent import metrics
from unsilent.errors import ParameterError


def rows(seed, count=400, shift=0.0):
    return np.random.default_rng(seed).standard_normal((count, 8)) + shift


def test_kid_equals_the_released_code(published):
    score = metrics.kid(published["real_features"], published["generated_features"], subset_size=100)
    assert score.value == pytest.approx(float(published["kid"]), rel=1e-5)
    assert score.std == pytest.approx(float(published["kid_std"]), rel=1e-5)


def test_kid_of_two_rows_by_hand():
    """Real 0 and 1, generated 2 and 3, with k(x, y) = (xy + 1)³, without pairs of a row with itself."""
    score = metrics.kid(np.array([[0.0], [1.0]]), np.array([[2.0], [3.0]]), subsets=3)
    assert score.value == pytest.approx(1 + 7**3 - 2 * (1 + 1 + 3**3 + 4**3) / 4)
    assert score.std == pytest.approx(0, abs=1e-9)  # every subset is the whole set


def test_kid_of_one_distribution_is_near_zero():
    scores = [metrics.kid(rows(seed), rows(seed + 100), subsets=1).value for seed in range(20)]
    error = np.std(scores) / np.sqrt(len(scores))
    assert abs(np.mean(scores)) < 3 * error
    assert min(scores) < 0


def test_kid_grows_with_a_shift():
    scores = [metrics.kid(rows(0), rows(1, shift=shift), subsets=5).value for shift in (0.0, 0.5, 1.0)]
    assert scores == sorted(scores)
    assert scores[1] > 0.1


def test_kid_of_uniform_distributions_has_a_closed_form():
    """E k over pairs is a polynomial in the moments; here of uniform distributions on [-1, 1] and [0, 1]."""
    rng = np.random.default_rng(0)
    real, generated = rng.uniform(-1, 1, (4000, 1)), rng.uniform(0, 1, (4000, 1))
    moments = np.array([[1, 0, 1 / 3, 0], [1, 1 / 2, 1 / 3, 1 / 4]])  # E x^0 … E x^3 of each distribution
    powers = np.array([1, 3, 3, 1])  # (xy + 1)³
    expected = (moments**2 @ powers).sum() - 2 * (moments[0] * moments[1]) @ powers
    assert metrics.kid(real, generated, subsets=20).value == pytest.approx(expected, rel=0.05)


def test_kid_depends_on_the_seed():
    real, generated = rows(0), rows(1)
    assert metrics.kid(real, generated, 3, 50) == metrics.kid(real, generated, 3, 50)
    assert metrics.kid(real, generated, 3, 50) != metrics.kid(real, generated, 3, 50, seed=1)


def test_kid_does_not_depend_on_the_dtype():
    real, generated = rows(0).astype(np.float32), rows(1, shift=0.5).astype(np.float32)
    narrow, wide = (
        metrics.kid(torch.from_numpy(real), generated, 3, 50),
        metrics.kid(real.astype(np.float64), generated.astype(np.float64), 3, 50),
    )
    assert narrow == wide


def test_kid_refuses_unusable_rows():
    with pytest.raises(ParameterError, match="real rows have 8 columns, generated ones 5"):
        metrics.kid(rows(0), rows(1)[:, :5])
    with pytest.raises(ParameterError, match="real features have 1 rows; this metric takes 2"):
        metrics.kid(rows(0)[:1], rows(1))
    with pytest.raises(ParameterError, match="generated features hold NaN"):
        metrics.kid(rows(0), rows(1) * np.nan)
    with pytest.raises(ParameterError, match="0 subsets of 1 rows are too few; give 1 subset or more of 2 rows or more"):
        metrics.kid(rows(0), rows(1), subsets=0, subset_size=1)
