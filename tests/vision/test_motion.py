"""Motion: normalised curves, synthetic motion."""

import numpy as np
import pytest

from unsilent.vision.motion import normalise, synthetic_motion

FRAMES = 212


def test_an_extreme_level_does_not_change_other_frames():
    """One extreme level among ordinary events."""
    levels = np.tile(np.linspace(0, 2, 50), 4)[:, None].repeat(2, axis=1)
    cut = levels.copy()
    cut[100] = 6.0
    others = np.arange(len(levels)) != 100
    np.testing.assert_allclose(normalise(cut)[others], normalise(levels)[others], atol=0.05)
    assert normalise(cut)[100].tolist() == [2, 2]


@pytest.fixture
def strength():
    """Onset strength, in dB, of fifteen claps."""
    events = np.random.default_rng(1).choice(FRAMES - 20, 15, replace=False) + 10
    rises = np.full(FRAMES, 0.3)
    rises[events] = np.random.default_rng(2).uniform(4, 15, 15)
    return rises


def test_synthetic_motion_correlates_with_onsets(strength):
    """On average, most at a lag of at most one frame; different for each seed."""
    curves = [normalise(synthetic_motion(strength, np.random.default_rng(seed))) for seed in range(100)]
    moving = np.stack([curve for curve in curves if curve.any()])
    assert 0.55 < len(moving) / 100 < 0.85
    assert (moving.min(), moving.max()) == (0.0, 2.0)
    correlation = {
        lag: np.mean([[np.corrcoef(np.roll(strength, lag), curve[:, k])[0, 1] for k in (0, 1)] for curve in moving]) for lag in range(-6, 7)
    }
    assert max(correlation, key=correlation.get) in (-1, 0)
    assert 0.25 < max(correlation.values()) < 0.7
    assert abs(correlation[-6]) < 0.1 > abs(correlation[6])
    assert not np.array_equal(moving[0], moving[1])


def test_synthetic_motion_is_determined_by_the_generator(strength):
    first, again = (synthetic_motion(strength, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(first, again)


@pytest.mark.parametrize("n", [1, 4, 44])
def test_synthetic_motion_of_any_length_is_finite(n):
    for seed in range(8):
        levels = synthetic_motion(np.zeros(n), np.random.default_rng(seed))
        assert levels.shape == (n, 2)
        assert np.isfinite(normalise(levels)).all()
