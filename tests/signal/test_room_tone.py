"""Room tone: its level and spectrum in a gap, where it is added, and what it ignores."""

import numpy as np
import pytest

from unsilent.signal.joins import splice
from unsilent.signal.room_tone import RoomTone

RATE = 22050
GAP = slice(2 * RATE, 3 * RATE)


def noise(seconds, seed=0):
    """Noise whose power falls with frequency."""
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(round(seconds * RATE)))
    frequencies = np.fft.rfftfreq(round(seconds * RATE), 1 / RATE)
    return (0.1 * np.fft.irfft(spectrum / np.sqrt(1 + frequencies / 300), round(seconds * RATE))).astype(np.float32)


def floor_of(sound):
    """Level in dB of bands of two octaves that is exceeded 80 % of the time."""
    frames = np.lib.stride_tricks.sliding_window_view(sound, 1024)[::256] * np.hanning(1024)
    powers, frequencies = np.abs(np.fft.rfft(frames)) ** 2, np.fft.rfftfreq(1024, 1 / RATE)
    bands = [powers[:, (frequencies >= low) & (frequencies < 4 * low)].sum(1) for low in (100, 400, 1600)]
    return 10 * np.log10(np.quantile(bands, 0.2, axis=1) + 1e-12)


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_a_gap_in_noise_is_filled_to_its_floor(level):
    """Whatever the level of the new sound; at the edges, too, and evenly from a quiet side to a loud one."""
    old, new = noise(5), level * noise(1, seed=1)
    old[GAP] = 0
    made, _ = splice(old, new, GAP.start, GAP.stop, RATE, RoomTone.around(old, GAP.start, GAP.stop, RATE))
    for part in (made, made[: RATE // 4], made[-RATE // 4 :]):
        assert floor_of(part) == pytest.approx(floor_of(old[: GAP.start]), abs=3)
    without, _ = splice(old, new, GAP.start, GAP.stop, RATE)
    assert level == 1 or floor_of(without).max() < floor_of(old[: GAP.start]).max() - 4


def test_the_background_changes_from_one_side_to_the_other():
    old = noise(5)
    old[GAP.stop :] *= 0.1
    filled = RoomTone.around(old, GAP.start, GAP.stop, RATE).fill(np.zeros(RATE, np.float32))
    levels = [20 * np.log10(np.std(part)) for part in (filled[: RATE // 4], filled[-RATE // 4 :], old[: GAP.start], old[GAP.stop :])]
    assert levels[0] == pytest.approx(levels[2] - 0.5, abs=1.5)
    assert levels[3] < levels[1] < levels[3] + 12


def test_events_are_no_background():
    """Knocks on a quiet background; a side that is silent has the background of the other."""
    times = np.arange(3 * RATE) / RATE
    old = 0.01 * noise(3) + (0.3 * np.sin(2 * np.pi * 500 * times) * np.exp(-30 * (times % 0.5))).astype(np.float32)
    tone = RoomTone.around(old, 3 * RATE, 4 * RATE, RATE)
    assert np.array_equal(tone.before, tone.after)
    filled = tone.fill(np.zeros(RATE, np.float32))
    assert np.std(filled) == pytest.approx(np.std(0.01 * noise(3)), rel=0.4)
    assert np.array_equal(tone.fill(np.zeros(RATE, np.float32)), filled)


def test_without_sides_and_in_silence_nothing_is_added():
    sound = noise(0.05)
    for old in (np.zeros(3 * RATE, np.float32), sound):
        assert np.array_equal(RoomTone.around(old, 0, len(sound), RATE).fill(sound), sound)
