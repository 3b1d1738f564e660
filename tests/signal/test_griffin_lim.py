"""Griffin-Lim: convergence, pitch, level, length, and independence of batch items."""

import pytest
import torch

from unsilent.clip import Clip
from unsilent.errors import ParameterError
from unsilent.signal.griffin_lim import griffin_lim, vocode
from unsilent.signal.mel import log_mel01, stft

CLIP = Clip()
FRAMES = 86  # about one second


def tones(*hz: float) -> torch.Tensor:
    time = torch.arange(FRAMES * CLIP.hop) / CLIP.sample_rate
    return torch.stack([0.5 * torch.sin(2 * torch.pi * one * time) for one in hz])


def noise(batch: int = 1) -> torch.Tensor:
    return 0.1 * torch.randn(batch, FRAMES * CLIP.hop, generator=torch.Generator().manual_seed(0))


def magnitude(waveform: torch.Tensor) -> torch.Tensor:
    return stft(waveform, CLIP).abs()[..., :FRAMES]


def loudest_hz(waveform: torch.Tensor) -> torch.Tensor:
    return torch.fft.rfft(waveform).abs().argmax(-1) * CLIP.sample_rate / waveform.shape[-1]


@pytest.mark.parametrize("momentum", [0.0, 0.99])
def test_error_decreases_with_iterations(momentum):
    wanted = magnitude(noise() + tones(440.0))
    errors = [
        ((magnitude(griffin_lim(wanted, CLIP, iterations, momentum)) - wanted).norm() / wanted.norm()).item()
        for iterations in (1, 4, 16, 64)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.5 * errors[0]


def test_momentum_converges_faster():
    wanted = magnitude(noise())
    plain, fast = ((magnitude(griffin_lim(wanted, CLIP, 32, momentum)) - wanted).norm() for momentum in (0.0, 0.99))
    assert fast < plain


def test_griffin_lim_preserves_pitch_and_level_of_tones():
    waveform = tones(300.0, 1000.0, 5000.0)
    again = griffin_lim(magnitude(waveform), CLIP)
    bin_hz = CLIP.sample_rate / CLIP.n_fft
    torch.testing.assert_close(loudest_hz(again), loudest_hz(waveform), atol=bin_hz, rtol=0)
    torch.testing.assert_close(again.norm(dim=-1), waveform.norm(dim=-1), atol=0, rtol=0.15)


def test_vocode_preserves_pitch_and_mel():
    waveform = tones(440.0, 2000.0) + 0.1 * noise()
    again = vocode(log_mel01(waveform), CLIP)
    assert (loudest_hz(again) / loudest_hz(waveform) - 1).abs().max() < 0.05  # a mel band is 2 to 5 % wide
    assert (log_mel01(again) - log_mel01(waveform)).abs().mean() < 0.05  # 5 dB


@pytest.mark.parametrize("frames", [3, 4, 53, 848])
def test_length_is_frames_times_hop(frames):
    assert griffin_lim(torch.ones(2, 513, frames), CLIP, iterations=1).shape == (2, frames * CLIP.hop)


def test_result_is_determined_by_the_seed():
    wanted = magnitude(noise())
    first, again, other = (griffin_lim(wanted, CLIP, 4, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)


def test_batch_items_are_independent():
    wanted = magnitude(noise(3))
    torch.testing.assert_close(griffin_lim(wanted, CLIP, 4)[1:2], griffin_lim(wanted[1:2], CLIP, 4))


def test_silence_gives_silence():
    assert vocode(torch.zeros(1, 80, 20), CLIP).abs().max() == 0


@pytest.mark.parametrize(
    ("bins", "frames", "iterations", "message"),
    [
        (400, 20, 1, "400 frequency bins do not fit an FFT of 1024 samples, which has 513"),
        (513, 2, 1, "2 frames are too few for Griffin-Lim, which needs 3"),
        (513, 20, 0, "iterations is 0, but must be 1 or more"),
    ],
)
def test_invalid_sizes_are_refused(bins, frames, iterations, message):
    with pytest.raises(ParameterError, match=message):
        griffin_lim(torch.ones(1, bins, frames), CLIP, iterations)
