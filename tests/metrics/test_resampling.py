"""Intervals: their width is that of theory, they resample clips rather than samples, and depend on the seed."""

import numpy as np
import pytest

from unsilent.metrics.resampling import interval_of_mean, interval_of_sets


def normal(count, seed=0):
    return np.random.default_rng(seed).standard_normal(count)


def test_interval_of_mean_is_two_standard_errors_wide():
    values = normal(400)
    low, high = interval_of_mean(values, np.ones(400, dtype=int), seed=0)
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.1)
    assert low < values.mean() < high


def test_interval_of_mean_draws_the_samples_of_a_clip_together():
    """Ten equal samples of a clip have the interval of one."""
    values = normal(100)
    alone = interval_of_mean(values, np.ones(100, dtype=int), seed=1)
    assert interval_of_mean(values * 10, np.full(100, 10), seed=1) == pytest.approx(alone)


def test_interval_of_sets_equals_that_of_a_mean():
    values = normal(400)
    rows = [np.array([row]) for row in range(400)]
    low, high = interval_of_sets(lambda drawn: float(values[drawn].mean()), 7.0, (rows,), seed=0)
    assert (low + high) / 2 == pytest.approx(7)
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.3)


def test_interval_of_sets_draws_whole_clips_and_independent_sets():
    drawn = []
    clips = [np.array([0, 1]), np.array([2]), np.array([3, 4, 5]), np.array([6])]
    interval_of_sets(lambda one, other: float(drawn.append((set(one), set(other))) or 0), 0.0, (clips, clips), seed=0)
    for one, _ in drawn:
        assert sum(set(clip) <= one for clip in clips) == 2
        assert sum(bool(set(clip) & one) for clip in clips) == 2
    assert any(one != other for one, other in drawn)


def test_interval_of_mean_depends_on_the_seed():
    values, ones = normal(30), np.ones(30, dtype=int)
    assert interval_of_mean(values, ones, seed=3) == interval_of_mean(values, ones, seed=3)
    assert interval_of_mean(values, ones, seed=3) != interval_of_mean(values, ones, seed=4)
