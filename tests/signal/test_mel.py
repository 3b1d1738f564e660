"""Mel spectrograms: equal to librosa and to the authors' values; ranges, shapes, errors."""

from pathlib import Path

import librosa
import numpy as np
import pytest
import torch

from unsilent.clip import Clip
from unsilent.errors import ParameterError
from unsilent.signal.mel import from_mel01, log_mel01, magnitude_from_mel01, mel_filters, to_mel01

FIXTURE = Path(__file__).parents[1] / "fixtures/mel_of_tone.npz"
REFERENCE = Path(__file__).parents[3] / "shared/reference/expected/mel_a.npz"


def test_filters_equal_librosa():
    theirs = librosa.filters.mel(sr=22050, n_fft=1024, n_mels=80, fmin=125, fmax=7600)
    np.testing.assert_allclose(mel_filters(Clip()).numpy(), theirs, atol=1e-7)


def test_filters_have_the_published_sum_and_maximum():
    filters = mel_filters(Clip())
    assert filters.sum().item() == pytest.approx(3.714391, abs=1e-5)
    assert filters.max().item() == pytest.approx(0.028236, abs=1e-6)


def test_log_mel_equals_librosa_on_noise():
    waveform = np.random.default_rng(0).uniform(-1, 1, 22050).astype(np.float32)
    magnitude = np.abs(librosa.stft(waveform.astype(np.float64), n_fft=1024, hop_length=256, pad_mode="reflect"))
    bands = librosa.filters.mel(sr=22050, n_fft=1024, n_mels=80, fmin=125, fmax=7600) @ magnitude
    theirs = np.clip((20 * np.log10(np.maximum(1e-5, bands)) + 80) / 100, 0, 1)
    ours = log_mel01(torch.from_numpy(waveform)[None])[0].numpy()
    np.testing.assert_allclose(ours, theirs[:, : ours.shape[1]], atol=1e-5)


def test_log_mel_equals_the_authors_on_a_tone():
    """Values computed once with the authors' code."""
    arrays = np.load(FIXTURE)
    assert_mel(arrays["tone"].astype(np.float64), arrays["tone_mel"])


def test_log_mel_equals_the_authors_on_a_recording():
    if not REFERENCE.exists():
        pytest.skip("needs the authors' recording, which is not part of this repository")
    arrays = np.load(REFERENCE)
    assert_mel(arrays["waveform_i16"] / 32768, arrays["mel"])


def assert_mel(waveform, mel):
    ours = log_mel01(torch.from_numpy(waveform).float()[None])[0].numpy()
    frames = min(ours.shape[1], mel.shape[1])
    np.testing.assert_allclose(ours[:, :frames], mel[:, :frames], atol=1e-5)


def test_log_mel_has_one_frame_per_hop_and_is_in_range():
    mel01 = log_mel01(3 * torch.randn(2, Clip().n_samples, generator=torch.Generator().manual_seed(0)))
    assert mel01.shape == (2, 80, 848)
    assert mel01.min() >= 0
    assert mel01.max() <= 1


def test_too_short_waveform_is_refused():
    with pytest.raises(ParameterError, match="512 samples are too few"):
        log_mel01(torch.zeros(1, 512))


def test_from_mel01_inverts_to_mel01():
    mel = torch.linspace(-1, 1, 11)[None]
    torch.testing.assert_close(from_mel01(to_mel01(mel)), mel)


def test_magnitude_from_mel01_reproduces_the_mel():
    """Up to the clipping of negative magnitudes."""
    waveform = torch.randn(1, 22050, generator=torch.Generator().manual_seed(1)) * 0.1
    mel01 = log_mel01(waveform)
    bands = mel_filters(Clip()) @ magnitude_from_mel01(mel01)
    again = ((20 * torch.log10(bands.clamp(min=1e-4)) + 80) / 100).clamp(0, 1)
    assert (again - mel01).abs().mean() < 0.02


def test_magnitude_of_silence_is_zero():
    assert magnitude_from_mel01(torch.zeros(1, 80, 4)).max() == 0
