"""Onsets: clicks are found where they are, what stays the same has none, and the level does not matter."""

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
    """Noise that bursts out and dies away within a tenth of a second."""
    waveform = waveform.copy()
    fading = level * np.random.default_rng(1).standard_normal(2205) * np.exp(-np.arange(2205) / 400)
    for second in seconds:
        start = round(second * CLIP.sample_rate)
        waveform[start : start + 2205] += fading
    return waveform


def mel01(waveform: np.ndarray) -> torch.Tensor:
    return log_mel01(torch.from_numpy(waveform)[None].float(), CLIP)[0]


@pytest.mark.parametrize("level", [0.05, 0.5])
def test_hits_in_noise_are_found(level):
    seconds = [0.4, 0.9, 1.05, 2.0, 3.33, 4.5]
    found = find_onsets(mel01(add_hits(noise(), seconds, level)), CLIP)
    assert found.shape == (6,)
    np.testing.assert_allclose(found, seconds, atol=1.5 * FRAME)


def test_clicks_in_silence_are_found():
    clicks = np.zeros(SAMPLES)
    clicks[[11025, 30000, 50123]] = 0.8
    found = find_onsets(mel01(clicks), CLIP)
    np.testing.assert_allclose(found, np.array([11025, 30000, 50123]) / CLIP.sample_rate, atol=1.5 * FRAME)


def test_a_soft_hit_beside_loud_ones_is_found():
    found = find_onsets(mel01(add_hits(add_hits(noise(), [1.0, 3.0]), [2.0], level=0.05)), CLIP)
    np.testing.assert_allclose(found, [1.0, 2.0, 3.0], atol=1.5 * FRAME)


@pytest.mark.parametrize("seed", range(4))
def test_steady_noise_has_none(seed):
    assert len(find_onsets(mel01(noise(0.1, seed)), CLIP)) == 0


@pytest.mark.parametrize("waveform", [np.zeros(SAMPLES), tone(), tone(3000) + noise(0.001)], ids=["silence", "tone", "tone in noise"])
def test_what_stays_the_same_has_none(waveform):
    assert len(find_onsets(mel01(waveform), CLIP)) == 0


def test_a_tone_that_begins_is_one_onset_and_gliding_is_none():
    times = np.arange(SAMPLES) / CLIP.sample_rate
    glide = np.sin(2 * np.pi * (800 * times + 40 * times**2)) * (times > 1)
    found = find_onsets(mel01(0.3 * glide + noise(0.0003)), CLIP)
    np.testing.assert_allclose(found, [1.0], atol=2.5 * FRAME)


@pytest.mark.parametrize("gain", [0.1, 4.0])
def test_the_level_does_not_matter(gain):
    waveform = add_hits(noise(), [0.4, 0.9, 2.0, 3.3], level=0.2)
    one, other = mel01(waveform), mel01(gain * waveform)
    torch.testing.assert_close(onset_strength(one, CLIP), onset_strength(other, CLIP), rtol=0, atol=0.05)
    np.testing.assert_array_equal(find_onsets(one, CLIP), find_onsets(other, CLIP))


def test_onsets_keep_apart():
    found = find_onsets(mel01(add_hits(noise(), [1.0, 1.02, 1.04, 2.0, 2.03])), CLIP)
    assert np.diff(found).min() >= GAP_SECONDS - FRAME
    assert len(found) in (2, 3)


@pytest.mark.parametrize("frames", [1, 2, 3, 40])
def test_short_sounds_are_welcome(frames):
    mel = torch.rand(80, frames, generator=torch.Generator().manual_seed(0))
    assert onset_strength(mel, CLIP).shape == (frames,)
    assert np.all(find_onsets(mel, CLIP) < frames * FRAME)
