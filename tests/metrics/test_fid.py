"""FID: closed form for Gaussians, equality with scipy's matrix root and with the released code."""

import numpy as np
import pytest
import scipy.linalg
import torch

from unsilent import metrics
from unsilent.errors import ParameterError


def gaussian(mean, covariance):
    """Rows with exactly that mean and covariance."""
    noise = np.random.default_rng(0).standard_normal((100, len(mean)))
    noise -= noise.mean(0)
    whitened = noise @ np.linalg.inv(np.linalg.cholesky(np.cov(noise, rowvar=False))).T
    return whitened @ np.linalg.cholesky(np.array(covariance, dtype=float)).T + mean


def rows(seed, count=200, dim=8):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, dim)) @ rng.standard_normal((dim, dim)) + rng.standard_normal(dim)


def test_fid_equals_the_released_code(published):
    assert metrics.fid(published["real_features"], published["generated_features"]) == pytest.approx(float(published["fid"]), rel=1e-6)


def test_fid_of_gaussians_has_a_closed_form():
    """With axis-aligned covariances it is the squared distance of the means plus that of the deviations."""
    assert metrics.fid(gaussian([0, 0], np.diag([4, 9])), gaussian([1, 2], np.diag([1, 25]))) == pytest.approx(5 + 1 + 4)
    # a rotation of both changes nothing; a quarter turn of one swaps its deviations
    rotation = np.array([[0.6, -0.8], [0.8, 0.6]])
    rotated = [gaussian([0, 0], rotation @ np.diag(values) @ rotation.T) for values in ([4, 9], [1, 25])]
    assert metrics.fid(*rotated) == pytest.approx(1 + 4)
    assert metrics.fid(gaussian([0, 0], np.diag([4, 9])), gaussian([0, 0], np.diag([9, 4]))) == pytest.approx(2)


@pytest.mark.parametrize("count", [200, 20, 4])
def test_fid_equals_scipys_matrix_root(count):
    """Also with fewer rows than columns, where the covariance is singular and scipy's root is less exact."""
    real, generated = rows(0, count), rows(1, count + 3)
    ours, theirs = np.cov(real, rowvar=False), np.cov(generated, rowvar=False)
    root = scipy.linalg.sqrtm(ours @ theirs)
    expected = np.square(real.mean(0) - generated.mean(0)).sum() + np.trace(ours + theirs) - 2 * np.trace(root).real
    assert metrics.fid(real, generated) == pytest.approx(expected, rel=1e-9 if count > 8 else 1e-5)


@pytest.mark.parametrize("count", [200, 4])
def test_fid_of_equal_sets_is_zero_in_any_order(count):
    real = rows(0, count)
    assert metrics.fid(real, real[::-1].copy()) == pytest.approx(0, abs=1e-9)
    assert metrics.fid(real, real) >= 0


def test_fid_of_a_shift_is_its_square():
    assert metrics.fid(rows(0), rows(0) + 2) == pytest.approx(8 * 4)


def test_fid_is_symmetric_and_independent_of_order_and_dtype():
    real, generated = rows(0), rows(1, 150)
    distance = metrics.fid(real, generated)
    shuffled = np.random.default_rng(2).permutation(generated)
    assert metrics.fid(generated, real) == pytest.approx(distance, rel=1e-9)
    assert metrics.fid(real, shuffled) == pytest.approx(distance, rel=1e-9)
    assert metrics.fid(real.astype(np.float32), torch.from_numpy(generated).float()) == pytest.approx(distance, rel=1e-5)


def test_fid_refuses_unusable_rows():
    with pytest.raises(ParameterError, match="real rows have 8 columns, generated ones 7; take both from the same layer"):
        metrics.fid(rows(0), rows(1)[:, :7])
    with pytest.raises(ParameterError, match="generated features have 1 rows; this metric takes 2 or more"):
        metrics.fid(rows(0), rows(1)[:1])
    with pytest.raises(ParameterError, match="1 of 200 rows of the real features hold NaN"):
        metrics.fid(np.where(np.arange(200)[:, None] == 5, np.nan, rows(0)), rows(1))
