"""Rounds of agreement: the same as through torch's own transforms, and nearer to the mel with each."""

import pytest
import torch

from unsilent.clip import Clip
from unsilent.signal.consistency import Agreement
from unsilent.signal.mel import FLOOR_DB, RANGE_DB, log_mel01, mel_filters, stft
from unsilent.train.losses import mel_loss

FRAMES = 24


def mel_of_noise(clip: Clip) -> torch.Tensor:
    """Of noise that grows louder, silent in between, with the frame at the very end."""
    torch.manual_seed(0)
    waveform = torch.randn(2, FRAMES * clip.hop) * torch.linspace(0.001, 0.3, FRAMES * clip.hop)
    waveform[:, 8 * clip.hop : 12 * clip.hop] = 0
    mel01 = log_mel01(waveform, clip)
    return torch.cat([mel01, mel01[..., -1:]], dim=-1)


def through_torch(spectrum: torch.Tensor, mel01: torch.Tensor, clip: Clip) -> torch.Tensor:
    """One inversion as it is written in a book, bins first."""
    filters = mel_filters(clip)
    hearing = filters.sum(0)[:, None]
    wanted = torch.where(mel01 > 0, 10 ** ((mel01 * RANGE_DB + FLOOR_DB) / 20), 1e-5)
    gains = filters.T @ (wanted / (filters @ spectrum.abs()).clamp(min=1e-8)) / hearing.clamp(min=1e-12)
    gains = torch.where(hearing > 0, gains, 1.0).clamp(max=1e3)
    window = torch.hann_window(clip.n_fft)
    return torch.istft(spectrum * gains, clip.n_fft, clip.hop, window=window, length=(spectrum.shape[-1] - 1) * clip.hop)


@pytest.mark.parametrize("clip", [Clip(), Clip(hop=300), Clip(n_fft=512, hop=128, mels=32, highest_hz=11025)])
def test_equals_torchs_transforms(clip):
    mel01 = mel_of_noise(clip)
    bins = clip.n_fft // 2 + 1
    spectrum = torch.polar(torch.rand(2, bins, FRAMES + 1), 6.28 * torch.rand(2, bins, FRAMES + 1))
    agreement = Agreement(mel01, clip)
    waveform = expected = through_torch(spectrum, mel01, clip)
    torch.testing.assert_close(agreement.sound(spectrum.transpose(1, 2)), expected, atol=1e-5, rtol=1e-5)
    before = None
    for _ in range(3):
        apart = stft(expected, clip)
        expected = through_torch(apart if before is None else apart + 0.9 * (apart - before), mel01, clip)
        before = apart
    torch.testing.assert_close(agreement.settle(waveform, 3), expected, atol=1e-4, rtol=1e-4)


def test_rounds_come_nearer_to_the_mel():
    clip = Clip()
    mel01 = mel_of_noise(clip)
    start = 0.05 * torch.randn(2, FRAMES * clip.hop)
    misses = [mel_loss(Agreement(mel01, clip).settle(start, n), mel01[..., :-1], clip).item() for n in (0, 1, 4, 16)]
    assert misses == sorted(misses, reverse=True)
    assert misses[3] < misses[0] / 5


def test_it_can_be_learnt_through_where_nothing_sounds():
    clip = Clip()
    mel01 = mel_of_noise(clip)
    spectrum = torch.zeros(2, FRAMES + 1, clip.n_fft // 2 + 1, dtype=torch.complex64, requires_grad=True)
    Agreement(mel01, clip).sound(spectrum).square().sum().backward()
    assert spectrum.grad.isfinite().all()
