"""Joins: silence, steps, phase, gaps, and the measures that they are judged by."""

import numpy as np
import pytest

from unsilent.signal import joins
from unsilent.signal.joins import extrapolate, jumps, loudest_power, splice, usual_jumps

RATE = 22050


def noise(seconds, level=0.1, seed=0):
    return (level * np.random.default_rng(seed).standard_normal(round(seconds * RATE))).astype(np.float32)


def tone(seconds, hz=220.0, phase=0.0, level=0.2):
    return (level * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE + phase)).astype(np.float32)


def spliced(old, new, start, stop):
    out = old.copy()
    out[start:stop], _ = splice(old, new, start, stop, RATE)
    return out


@pytest.mark.parametrize("seed", range(5))
def test_joins_of_noise_keep_its_power(seed):
    """Frames at joins are neither louder nor quieter than those inside."""
    out = spliced(noise(4, seed=seed), noise(1.5, seed=seed + 100), RATE, round(2.5 * RATE))
    power = np.square(out).reshape(-1, 441).mean(1)
    for edge in (RATE, round(2.5 * RATE)):
        near = power[edge // 441 - 10 : edge // 441 + 10]
        assert 0.5 * 0.01 < near.min() < near.max() < 1.6 * 0.01


@pytest.mark.parametrize("phase", [0.0, 1.0, 3.0, 5.0])
def test_joins_of_a_tone_are_in_phase(phase):
    """A place is found where both are in phase, so the tone neither clicks nor dips."""
    out = spliced(tone(3), tone(1, phase=phase), RATE, 2 * RATE)
    assert np.abs(np.diff(out)).max() < 1.3 * np.abs(np.diff(tone(1))).max()
    power = np.square(out[: len(out) // 441 * 441]).reshape(-1, 441).mean(1)
    assert power.min() > 0.5 * power.mean()


def test_a_louder_sound_joins_at_the_level_of_the_old_one():
    """Up to 6 dB; behind the joins it is as loud as it was."""
    out = spliced(noise(4), noise(2, level=0.19, seed=1), RATE, 3 * RATE)
    assert np.square(out[: RATE + 3000]).mean() < 1.5 * 0.01
    assert np.square(out[2 * RATE - 5000 : 2 * RATE + 5000]).mean() == pytest.approx(0.19**2, rel=0.1)


def test_a_gap_is_bridged_from_the_sound_before_it():
    old = tone(3)
    old[RATE : 2 * RATE] = 0
    out = spliced(old, tone(1, phase=2.0), RATE, 2 * RATE)
    assert np.abs(np.diff(out)).max() < 1.3 * np.abs(np.diff(tone(1))).max()


def test_a_sound_without_a_side_is_faded_there():
    out, _ = splice(noise(1), noise(1, seed=1), 0, RATE, RATE)
    assert out[0] == out[-1] == 0
    assert np.array_equal(out[300:-300], noise(1, seed=1)[300:-300])


def test_very_short_stretches_have_room_for_both_joins():
    out, _ = splice(noise(1), noise(0.05, seed=1), 5000, 5000 + round(0.05 * RATE), RATE)
    assert np.isfinite(out).all()
    assert len(out) == round(0.05 * RATE)


def test_jumps_tell_a_step_from_a_steady_sound():
    steady, step = noise(3), np.concatenate([noise(1.5), noise(1.5, level=0.5, seed=1)])
    limits = usual_jumps(steady, RATE, loudest_power(steady, RATE))
    found = jumps(step, RATE, loudest_power(step, RATE))
    assert found.energy.max() > 3 * limits[0]
    assert found.flux.max() > 2 * limits[1]
    assert np.argmax(found.energy) * 110 == pytest.approx(1.5 * RATE, abs=900)


@pytest.mark.parametrize(("start", "stop"), [(3, 6), (0, 3)], ids=["start", "stop"])
@pytest.mark.parametrize("level", [0.2, 10.0], ids=["quiet", "loud"])
def test_joins_that_no_fade_makes_quiet_enough_are_softened(start, stop, level, monkeypatch):
    """Between steady noise and noise 14 dB quieter or 20 dB louder, at either edge."""
    old, new = noise(6, level=0.02), noise(3, level=0.02 * level, seed=1)
    assert splice(old, new, start * RATE, stop * RATE, RATE)[1] <= 1
    monkeypatch.setattr(joins, "_ROUNDS", 0)
    assert splice(old, new, start * RATE, stop * RATE, RATE)[1] > 1


def test_extrapolation_continues_a_tone():
    known, after = tone(0.15)[: round(0.1 * RATE)], tone(0.15)[round(0.1 * RATE) :]
    assert np.abs(extrapolate(known, 100) - after[:100]).max() < 0.05
