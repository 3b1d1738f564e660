"""Onset detection: positions of hits and clicks, no onsets in steady sounds, invariance to gain."""

import numpy as np
import pytest
import torch

from unsilent.clip import Clip
from unsilent.signal.mel import log_mel01
from unsilent.signal.onsets import GAP_SECONDS, find_onsets, onset_strength

CLIP = Clip()
FRAME = CLIP.hop / CLIP.sample_rate  # seconds
SAMPLES = CLIP.n_samples // 2


def noise(level: float = 0.003, seed: int = 0) -> np.ndarray:
    return level * np.random.default_rng(seed).standard_normal(SAMPLES)


def tone(hz: float = 440.0) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * hz * np.arange(SAMPLES) / CLIP.sample_rate)


def add_hits(waveform: np.ndarray, seconds: list[float], level: float = 0.5) -> np.ndarray:
    """Noise bursts that decay within a tenth of a second."""
    waveform = waveform.copy()
    burst = level * np.random.default_rng(1).standard_normal(2205) * np.exp(-np.arange(2205) / 400)
    for second in seconds:
        start = round(second * CLIP.sample_rate)
        waveform[start : start + 2205] += burst
    return waveform


def mel01(waveform: np.ndarray) -> torch.Tensor:
    return log_mel01(torch.from_numpy(waveform)[None].float(), CLIP)[0]


@pytest.mark.parametrize("level", [0.05, 0.5])
def test_find_onsets_locates_hits_in_noise(level):
    seconds = [0.4, 0.9, 1.05, 2.0, 3.33, 4.5]
    found = find_onsets(mel01(add_hits(noise(), seconds, level)), CLIP)
    assert found.shape == (6,)
    np.testing.assert_allclose(found, seconds, atol=1.5 * FRAME)


def test_find_onsets_locates_clicks_in_silence():
    clicks = np.zeros(SAMPLES)
    clicks[[11025, 30000, 50123]] = 0.8
    found = find_onsets(mel01(clicks), CLIP)
    np.testing.assert_allclose(found, np.array([11025, 30000, 50123]) / CLIP.sample_rate, atol=1.5 * FRAME)


def test_find_onsets_locates_a_soft_hit_between_loud_ones():
    found = find_onsets(mel01(add_hits(add_hits(noise(), [1.0, 3.0]), [2.0], level=0.05)), CLIP)
    np.testing.assert_allclose(found, [1.0, 2.0, 3.0], atol=1.5 * FRAME)


@pytest.mark.parametrize("seed", range(4))
def test_steady_noise_has_no_onsets(seed):
    assert len(find_onsets(mel01(noise(0.1, seed)), CLIP)) == 0


@pytest.mark.parametrize("waveform", [np.zeros(SAMPLES), tone(), tone(3000) + noise(0.001)], ids=["silence", "tone", "tone in noise"])
def test_steady_sounds_have_no_onsets(waveform):
    assert len(find_onsets(mel01(waveform), CLIP)) == 0


def test_start_of_a_glide_is_the_only_onset():
    times = np.arange(SAMPLES) / CLIP.sample_rate
    glide = np.sin(2 * np.pi * (800 * times + 40 * times**2)) * (times > 1)
    found = find_onsets(mel01(0.3 * glide + noise(0.0003)), CLIP)
    np.testing.assert_allclose(found, [1.0], atol=2.5 * FRAME)


@pytest.mark.parametrize("gain", [0.1, 4.0])
def test_onsets_are_invariant_to_gain(gain):
    waveform = add_hits(noise(), [0.4, 0.9, 2.0, 3.3], level=0.2)
    one, other = mel01(waveform), mel01(gain * waveform)
    torch.testing.assert_close(onset_strength(one, CLIP), onset_strength(other, CLIP), rtol=0, atol=0.05)
    np.testing.assert_array_equal(find_onsets(one, CLIP), find_onsets(other, CLIP))


def test_onsets_are_at_least_one_gap_apart():
    found = find_onsets(mel01(add_hits(noise(), [1.0, 1.02, 1.04, 2.0, 2.03])), CLIP)
    assert np.diff(found).min() >= GAP_SECONDS - FRAME
    assert len(found) in (2, 3)


@pytest.mark.parametrize("frames", [1, 2, 3, 40])
def test_short_sounds_are_accepted(frames):
    mel = torch.rand(80, frames, generator=torch.Generator().manual_seed(0))
    assert onset_strength(mel, CLIP).shape == (frames,)
    assert np.all(find_onsets(mel, CLIP) < frames * FRAME)
