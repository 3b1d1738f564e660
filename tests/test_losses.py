"""Loss terms: zero where nothing is wrong, known values where the arithmetic is easy, gradients to the right side."""

import pytest
import torch

from unsilent.clip import Clip
from unsilent.losses import codebook_loss, mel_loss, next_code_loss, stft_loss
from unsilent.models.codebook import Reconstruction
from unsilent.models.quantizer import Quantized
from unsilent.signal.mel import log_mel01

NOISE = 0.2 * torch.randn(2, 8192, generator=torch.Generator().manual_seed(0))


def test_codebook_terms_are_the_papers_equation():
    mel = torch.zeros(1, 4, 4)
    quantized = Quantized(torch.zeros(1), torch.zeros(1, dtype=torch.long), torch.tensor(0.8), torch.tensor(0.3))
    losses = codebook_loss(mel, Reconstruction(torch.full((1, 4, 4), 0.5), quantized), beta=0.25)
    assert {name: round(value.item(), 6) for name, value in losses.items()} == {"reconstruction": 0.5, "codebook": 0.3, "commitment": 0.2}


def test_equal_sounds_are_at_distance_zero():
    assert all(value.item() == pytest.approx(0, abs=1e-6) for value in stft_loss(NOISE, NOISE).values())
    assert mel_loss(NOISE, log_mel01(NOISE), Clip()).item() == pytest.approx(0, abs=1e-6)


def test_half_the_level_is_half_converged_and_log_two_away():
    losses = stft_loss(NOISE / 2, NOISE)
    assert losses["spectral_convergence"].item() == pytest.approx(0.5, abs=1e-3)
    assert losses["log_magnitude"].item() == pytest.approx(0.6931, abs=5e-3)


def test_half_the_level_is_six_decibels_of_mel():
    assert mel_loss(NOISE / 2, log_mel01(NOISE), Clip()).item() == pytest.approx(0.0602, abs=1e-3)


def test_silence_has_a_finite_gradient():
    waveform = torch.zeros(1, 4096, requires_grad=True)
    sum(stft_loss(waveform, torch.zeros(1, 4096)).values()).backward()
    assert waveform.grad.isfinite().all()


def test_cross_entropy_of_a_uniform_guess_is_the_log_of_the_codes():
    loss = next_code_loss(torch.zeros(2, 7, 16), torch.randint(16, (2, 7), generator=torch.Generator().manual_seed(0)))
    assert loss.item() == pytest.approx(2.7726, abs=1e-4)
