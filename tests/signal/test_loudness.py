"""Loudness: the test tone of the standard, pyloudnorm, gains, short and long sounds, silence, peaks and the limiter."""

from math import inf

import numpy as np
import pyloudnorm
import pytest

from unsilent.errors import ParameterError
from unsilent.signal.loudness import level, level_true_peak, limit_peaks, loudness_lufs, normalise_loudness, true_peak

RATE = 22050


def tone(seconds: float, amplitude: float = 0.1, hz: float = 997.0, rate: int = RATE) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.mark.parametrize("rate", [16000, 22050, 48000])
def test_full_scale_tone_measures_minus_three_lufs(rate):
    """BS.1770: a 997 Hz sine at full scale in one channel measures -3.01 LUFS."""
    assert loudness_lufs(tone(3, 1.0, rate=rate), rate) == pytest.approx(-3.01, abs=0.1)


@pytest.mark.parametrize("rate", [8000, 22050, 44100])
@pytest.mark.parametrize("seconds", [0.4, 0.731, 5.03])
def test_loudness_equals_pyloudnorm(rate, seconds):
    """Noise with low frequencies, an offset and a pause, so that both filters and both gates act."""
    rng = np.random.default_rng(0)
    noise = 0.2 + 0.1 * rng.standard_normal(round(seconds * rate)) + 1e-3 * np.cumsum(rng.standard_normal(round(seconds * rate)))
    noise[len(noise) // 2 :] *= 0.03
    expected = pyloudnorm.Meter(rate).integrated_loudness(noise)
    assert loudness_lufs(noise, rate) == pytest.approx(expected, abs=1e-3)


def test_gain_of_ten_decibels_raises_loudness_by_ten():
    quiet, loud = (loudness_lufs(tone(2, amplitude), RATE) for amplitude in (0.1, 0.1 * 10**0.5))
    assert loud - quiet == pytest.approx(10, abs=1e-3)


def test_pauses_are_gated_out():
    speech_with_pauses = np.concatenate([tone(2), np.zeros(4 * RATE, np.float32), tone(2)])
    assert loudness_lufs(speech_with_pauses, RATE) == pytest.approx(loudness_lufs(tone(4), RATE), abs=0.5)


def test_sounds_shorter_than_a_block_are_padded_with_silence():
    """Half a block holds half the energy: -3 dB."""
    full, half = (loudness_lufs(tone(seconds), RATE) for seconds in (0.4, 0.2))
    assert full - half == pytest.approx(3.01, abs=0.2)
    assert loudness_lufs(tone(0.4), RATE) == pytest.approx(loudness_lufs(tone(2), RATE), abs=0.2)


@pytest.mark.parametrize("n_samples", [0, 1, 100, RATE, 3 * RATE])
def test_silence_measures_minus_infinity_and_is_unchanged(n_samples):
    silence = np.zeros(n_samples, np.float32)
    assert loudness_lufs(silence, RATE) == -inf
    assert np.array_equal(normalise_loudness(silence, RATE), silence)


def test_sounds_below_the_absolute_gate_measure_minus_infinity():
    assert loudness_lufs(tone(1, 1e-5), RATE) == -inf


@pytest.mark.parametrize("amplitude", [0.01, 0.1, 1.0, 3.0])
@pytest.mark.parametrize("seconds", [0.05, 1.5])
def test_normalise_reaches_the_target(amplitude, seconds):
    sound = normalise_loudness(tone(seconds, amplitude), RATE, target_lufs=-20.0)
    assert loudness_lufs(sound, RATE) == pytest.approx(-20, abs=0.01)
    assert sound.dtype == np.float32


def test_peak_limit_takes_precedence_over_the_target():
    clicks = tone(2, 0.01)
    clicks[::4000] = 0.5
    sound = normalise_loudness(clicks, RATE, target_lufs=0.0)
    assert np.abs(sound).max() == pytest.approx(10 ** (-1 / 20), rel=1e-6)
    np.testing.assert_allclose(sound / clicks.max() * 0.5, clicks * (sound.max() / 0.5), rtol=1e-5)  # one gain for all


def test_nan_samples_are_refused():
    broken = tone(1)
    broken[3:5] = np.nan
    with pytest.raises(ParameterError, match="2 of 22050 samples are NaN or infinite"):
        loudness_lufs(broken, RATE)


def test_long_sounds_are_the_mean_of_their_chunks():
    """Three minutes are two chunks: steady noise has the level of any part; a silent chunk is left out."""
    noise = 0.05 * np.random.default_rng(0).standard_normal(180 * 8000).astype(np.float32)
    assert loudness_lufs(noise, 8000) == pytest.approx(loudness_lufs(noise[: 20 * 8000], 8000), abs=0.1)
    silent_end = np.where(np.arange(len(noise)) < 120 * 8000, noise, 0)
    assert loudness_lufs(silent_end, 8000) == pytest.approx(loudness_lufs(noise, 8000), abs=0.1)


def clicks(strength):
    """Two short clicks per second over soft noise."""
    rng = np.random.default_rng(0)
    waveform = 0.01 * rng.standard_normal(5 * 22050)
    for start in range(2000, len(waveform) - 500, 11025):
        waveform[start : start + 500] += strength * rng.standard_normal(500) * np.exp(-np.arange(500) / 60)
    return waveform.astype(np.float32)


def test_level_limits_peaks_to_reach_the_target():
    knocks = clicks(0.3)
    assert loudness_lufs(normalise_loudness(knocks, 22050), 22050) < -25
    levelled = level(knocks, 22050)
    assert loudness_lufs(levelled, 22050) == pytest.approx(-23, abs=0.5)
    assert np.abs(levelled).max() <= 10 ** (-1 / 20)
    assert levelled.dtype == np.float32
    # a smooth positive gain: at most 0.4 dB, a twentieth, from sample to sample
    audible = np.abs(knocks) > 0.005
    gain = levelled[audible] / knocks[audible]
    assert gain.min() > 0
    adjacent = np.diff(np.flatnonzero(audible)) == 1
    assert np.abs(np.diff(20 * np.log10(gain)))[adjacent].max() < 0.4


def test_level_is_a_plain_gain_where_peaks_allow_it():
    noise = 0.01 * np.random.default_rng(0).standard_normal(22050).astype(np.float32)
    assert np.array_equal(level(noise, 22050), normalise_loudness(noise, 22050))
    assert not level(np.zeros(22050, np.float32), 22050).any()


def test_level_reduces_peaks_by_at_most_twelve_decibels():
    """A single click stays below its target instead of being flattened."""
    click = np.zeros(10 * 22050, np.float32)
    click[1000] = 0.5
    assert np.count_nonzero(level(click, 22050)) == 1
    assert np.abs(level(click, 22050)).max() <= 10 ** (-1 / 20)
    loud = clicks(30.0)
    limited, scaled = (np.abs(function(loud, RATE))[10_000:11_000].max() for function in (level, normalise_loudness))
    assert limited < 10 ** (13 / 20) * scaled


def test_limiter_is_independent_of_chunk_borders():
    """At 1 kHz a chunk is 120 000 samples; silence in front moves the border to another place of the sound."""
    waveform = np.random.default_rng(0).standard_normal(150_000).astype(np.float32)
    limited, shifted = limit_peaks(waveform, 1000, 0.8), limit_peaks(np.pad(waveform, (10_000, 0)), 1000, 0.8)
    np.testing.assert_allclose(shifted[10_000:], limited, atol=1e-6)
    assert np.abs(limited).max() <= 0.8
    assert (limited * waveform >= 0).all()


def test_the_true_peak_lies_between_samples():
    times = np.arange(RATE) / RATE
    sine = (0.5 * np.hanning(RATE) * np.sin(2 * np.pi * RATE / 4 * times + np.pi / 4)).astype(np.float32)
    assert np.abs(sine).max() == pytest.approx(0.5 * 0.5**0.5, rel=1e-3)
    assert true_peak(sine) == pytest.approx(0.5, rel=0.01)
    assert true_peak(np.zeros(5, np.float32)) == 0
    assert true_peak(np.array([0.25], np.float32)) == pytest.approx(0.25, rel=0.01)


@pytest.mark.parametrize(("target", "limit"), [(-23.0, -1.0), (-16.0, -2.0), (-30.0, -9.0)])
def test_level_true_peak_meets_both(target, limit):
    rng = np.random.default_rng(0)
    sound = (rng.standard_normal(6 * RATE) * (0.1 + 0.2 * (np.arange(6 * RATE) % (RATE // 2) < 500))).astype(np.float32)
    made = level_true_peak(sound, RATE, target, limit)
    assert 20 * np.log10(true_peak(made)) <= limit + 0.01
    assert pyloudnorm.Meter(RATE).integrated_loudness(made) == pytest.approx(target, abs=0.4)
