"""Panning: the mean of both channels is the mono sound, energy and peaks stay."""

import numpy as np
import pytest

from unsilent.signal.panning import pan


def test_the_mean_is_the_mono_sound_and_energy_stays():
    rng = np.random.default_rng(0)
    sound = rng.standard_normal(22050).astype(np.float32)
    left, right = pan(sound, np.linspace(-0.5, 0.5, 11), 10, 22050)
    mean = (left + right) / 2
    gain = float(mean @ sound / (sound @ sound))
    assert np.allclose(mean, gain * sound, atol=1e-5)
    assert float(left @ left + right @ right) == pytest.approx(float(sound @ sound), rel=0.01)
    assert max(np.abs(left).max(), np.abs(right).max()) <= np.abs(sound).max()


def test_left_is_louder_where_it_moves_left():
    left, right = pan(np.ones(1000, np.float32), np.array([-1.0]), 10, 1000)
    assert np.allclose(left / right, 3)
    left, right = pan(np.ones(1000, np.float32), np.zeros(3), 10, 1000)
    assert np.array_equal(left, right)
    assert not pan(np.zeros(10, np.float32), np.zeros(1), 10, 1000).any()
