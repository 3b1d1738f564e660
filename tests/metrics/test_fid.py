"""Fréchet distance: known for Gaussians, that of scipy's matrix root, and that of the released code."""

import numpy as np
import pytest
import scipy.linalg
import torch

from unsilent import metrics
from unsilent.errors import ParameterError
from unsilent.metrics.fid import frechet_distance
from unsilent.metrics.statistics import Moments


def gaussian(mean, covariance):
    """Moments as if of many rows."""
    return Moments(1001, np.array(mean, dtype=float), np.array(covariance, dtype=float) * 1000)


def rows(seed, count=200, dim=8):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, dim)) @ rng.standard_normal((dim, dim)) + rng.standard_normal(dim)


def test_same_as_the_released_code(published):
    assert metrics.fid(published["real_features"], published["generated_features"]) == pytest.approx(float(published["fid"]), rel=1e-6)


def test_known_distances_of_gaussians():
    """Along axes the distance is the squared distance of the means plus that of the deviations."""
    assert frechet_distance(gaussian([0, 0], np.diag([4, 9])), gaussian([1, 2], np.diag([1, 25]))) == pytest.approx(5 + 1 + 4)
    # Turned together, both stay as far apart; a quarter turn of one alone swaps its deviations.
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    turned = [gaussian([0, 0], turn @ np.diag(values) @ turn.T) for values in ([4, 9], [1, 25])]
    assert frechet_distance(*turned) == pytest.approx(1 + 4)
    assert frechet_distance(gaussian([0, 0], np.diag([4, 9])), gaussian([0, 0], np.diag([9, 4]))) == pytest.approx(2)


@pytest.mark.parametrize("count", [200, 20, 4])
def test_same_as_with_scipys_matrix_root(count):
    """Also with fewer rows than columns, where the covariance is singular and scipy's root is a little noisy."""
    real, generated = rows(0, count), rows(1, count + 3)
    ours, theirs = np.cov(real, rowvar=False), np.cov(generated, rowvar=False)
    root = scipy.linalg.sqrtm(ours @ theirs)
    expected = np.square(real.mean(0) - generated.mean(0)).sum() + np.trace(ours + theirs) - 2 * np.trace(root).real
    assert metrics.fid(real, generated) == pytest.approx(expected, rel=1e-9 if count > 8 else 1e-5)


@pytest.mark.parametrize("count", [200, 4])
def test_no_distance_to_itself_in_any_order(count):
    real = rows(0, count)
    assert metrics.fid(real, real[::-1].copy()) == pytest.approx(0, abs=1e-9)
    assert metrics.fid(real, real) >= 0


def test_a_shift_costs_its_square():
    assert metrics.fid(rows(0), rows(0) + 2) == pytest.approx(8 * 4)


def test_both_ways_alike_and_whatever_the_order_and_type():
    real, generated = rows(0), rows(1, 150)
    distance = metrics.fid(real, generated)
    shuffled = np.random.default_rng(2).permutation(generated)
    assert metrics.fid(generated, real) == pytest.approx(distance, rel=1e-9)
    assert metrics.fid(real, shuffled) == pytest.approx(distance, rel=1e-9)
    assert metrics.fid(real.astype(np.float32), torch.from_numpy(generated).float()) == pytest.approx(distance, rel=1e-5)


def test_batches_give_the_same():
    real, generated = rows(0), rows(1)
    summed = Moments.of(generated[:30]) + Moments.of(generated[30:])
    assert frechet_distance(Moments.of(real), summed) == pytest.approx(metrics.fid(real, generated), rel=1e-9)


def test_unfit_rows_are_refused():
    with pytest.raises(ParameterError, match="real rows have 8 columns, generated ones 7; take both from the same layer"):
        metrics.fid(rows(0), rows(1)[:, :7])
    with pytest.raises(ParameterError, match="generated features have 1 rows; this metric takes 2 or more"):
        metrics.fid(rows(0), rows(1)[:1])
    with pytest.raises(ParameterError, match="1 of 200 rows of the real features hold NaN"):
        metrics.fid(np.where(np.arange(200)[:, None] == 5, np.nan, rows(0)), rows(1))
    with pytest.raises(ParameterError, match="real rows have 8 columns, generated ones 7"):
        frechet_distance(Moments.of(rows(0)), Moments.of(rows(0)[:, :7]))
