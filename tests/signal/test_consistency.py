"""Consistency refinement: equal to torch's own transforms, and nearer to the mel with every iteration."""

import pytest
import torch

from unsilent.clip import Clip
from unsilent.signal.consistency import ConsistencyRefiner
from unsilent.signal.mel import FLOOR_DB, RANGE_DB, log_mel01, mel_filters, stft
from unsilent.train.losses import mel_loss

FRAMES = 24


def mel_of_noise(clip: Clip) -> torch.Tensor:
    """Of noise with rising level and a silent part, with the frame at the very end."""
    torch.manual_seed(0)
    waveform = torch.randn(2, FRAMES * clip.hop) * torch.linspace(0.001, 0.3, FRAMES * clip.hop)
    waveform[:, 8 * clip.hop : 12 * clip.hop] = 0
    mel01 = log_mel01(waveform, clip)
    return torch.cat([mel01, mel01[..., -1:]], dim=-1)


def invert_with_torch(spectrum: torch.Tensor, mel01: torch.Tensor, clip: Clip) -> torch.Tensor:
    """The equation of `ConsistencyRefiner.invert` with `torch.istft`, bins first."""
    filters = mel_filters(clip)
    coverage = filters.sum(0)[:, None]
    wanted = torch.where(mel01 > 0, 10 ** ((mel01 * RANGE_DB + FLOOR_DB) / 20), 1e-5)
    gains = filters.T @ (wanted / (filters @ spectrum.abs()).clamp(min=1e-8)) / coverage.clamp(min=1e-12)
    gains = torch.where(coverage > 0, gains, 1.0).clamp(max=1e3)
    window = torch.hann_window(clip.n_fft)
    return torch.istft(spectrum * gains, clip.n_fft, clip.hop, window=window, length=(spectrum.shape[-1] - 1) * clip.hop)


@pytest.mark.parametrize("clip", [Clip(), Clip(hop=300), Clip(n_fft=512, hop=128, mels=32, highest_hz=11025)])
def test_invert_and_refine_equal_torch_istft(clip):
    mel01 = mel_of_noise(clip)
    bins = clip.n_fft // 2 + 1
    spectrum = torch.polar(torch.rand(2, bins, FRAMES + 1), 6.28 * torch.rand(2, bins, FRAMES + 1))
    refiner = ConsistencyRefiner(mel01, clip)
    waveform = expected = invert_with_torch(spectrum, mel01, clip)
    torch.testing.assert_close(refiner.invert(spectrum.transpose(1, 2)), expected, atol=1e-5, rtol=1e-5)
    previous = None
    for _ in range(3):
        current = stft(expected, clip)
        expected = invert_with_torch(current if previous is None else current + 0.9 * (current - previous), mel01, clip)
        previous = current
    torch.testing.assert_close(refiner.refine(waveform, 3), expected, atol=1e-4, rtol=1e-4)


def test_refine_reduces_the_mel_loss_with_every_iteration():
    clip = Clip()
    mel01 = mel_of_noise(clip)
    start = 0.05 * torch.randn(2, FRAMES * clip.hop)
    losses = [mel_loss(ConsistencyRefiner(mel01, clip).refine(start, n), mel01[..., :-1], clip).item() for n in (0, 1, 4, 16)]
    assert losses == sorted(losses, reverse=True)
    assert losses[3] < losses[0] / 5


def test_refine_is_independent_of_other_items_in_the_batch():
    clip = Clip()
    mel01 = mel_of_noise(clip)
    start = 0.05 * torch.randn(2, FRAMES * clip.hop)
    alone = ConsistencyRefiner(mel01[1:], clip).refine(start[1:], 2)
    assert torch.equal(ConsistencyRefiner(mel01, clip).refine(start, 2)[1:], alone)


def test_invert_has_finite_gradients_at_zero_magnitude():
    clip = Clip()
    mel01 = mel_of_noise(clip)
    spectrum = torch.zeros(2, FRAMES + 1, clip.n_fft // 2 + 1, dtype=torch.complex64, requires_grad=True)
    ConsistencyRefiner(mel01, clip).invert(spectrum).square().sum().backward()
    assert spectrum.grad.isfinite().all()
