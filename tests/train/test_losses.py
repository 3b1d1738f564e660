"""Losses: zero for equal inputs, known values for simple inputs, gradients."""

import pytest
import torch

from unsilent.clip import Clip
from unsilent.models.codebook import Reconstruction
from unsilent.models.quantizer import Quantized
from unsilent.signal.mel import log_mel01
from unsilent.train.losses import (
    adaptive_weight,
    codebook_loss,
    hinge_discriminator_loss,
    hinge_generator_loss,
    mel_loss,
    melgan_discriminator_loss,
    melgan_generator_loss,
    next_code_loss,
    stft_loss,
    vqgan_loss,
)

NOISE = 0.2 * torch.randn(2, 8192, generator=torch.Generator().manual_seed(0))


MEL = torch.zeros(1, 4, 4)
RESULT = Reconstruction(
    torch.full((1, 4, 4), 0.5),
    Quantized(torch.zeros(1), torch.zeros(1, dtype=torch.long), torch.tensor(0.8), torch.tensor(0.4), torch.zeros(1)),
)


def rounded(losses: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: round(value.item(), 6) for name, value in losses.items()}


def test_codebook_loss_is_equation_2():
    assert rounded(codebook_loss(MEL, RESULT, beta=0.25)) == {"reconstruction": 0.5, "codebook": 0.4, "commitment": 0.2}


def test_beta_on_codebook_weighs_the_codebook_loss():
    losses = codebook_loss(MEL, RESULT, beta=0.25, beta_on_codebook=True)
    assert rounded(losses) == {"reconstruction": 0.5, "codebook": 0.1, "commitment": 0.8}


def test_vqgan_loss_adds_perceptual_and_adversarial_losses():
    inputs = {"distance": torch.tensor([1.0]), "fake": torch.full((1, 2, 2), -3.0)}
    losses = vqgan_loss(MEL, RESULT, **inputs, adversarial_weight=0.8, perceptual_weight=0.5)
    assert rounded(losses) == {"reconstruction": 0.5, "codebook": 0.4, "commitment": 0.2, "perceptual": 0.5, "adversarial": 2.4}
    released = vqgan_loss(MEL, RESULT, **inputs, adversarial_weight=torch.tensor(0.0), beta_on_codebook=True)
    assert rounded(released) == {"reconstruction": 0.5, "codebook": 0.1, "commitment": 0.8, "perceptual": 1.0, "adversarial": 0.0}


def test_adaptive_weight_makes_gradients_equal():
    generator = torch.Generator().manual_seed(0)
    nll_grad, g_grad = torch.randn(4, 3, generator=generator).requires_grad_(), 50 * torch.randn(4, 3, generator=generator)
    weight = adaptive_weight(nll_grad, g_grad)
    assert (weight * g_grad).norm().item() == pytest.approx(nll_grad.norm().item(), rel=1e-4)
    assert not weight.requires_grad
    assert adaptive_weight(nll_grad, g_grad, minimum=1.0, maximum=1.0).item() == 1.0
    assert adaptive_weight(nll_grad, torch.zeros(4, 3), maximum=7.0).item() == 7.0


def test_hinge_losses():
    confident = torch.full((2, 3), 1.5)
    assert hinge_discriminator_loss(confident, -confident).item() == 0
    assert hinge_discriminator_loss(torch.zeros(2, 3), torch.zeros(2, 3)).item() == 1
    assert hinge_discriminator_loss(-confident, confident).item() == 2.5
    assert hinge_generator_loss(confident).item() == -1.5


def maps(levels: list[float], scores: list[float]) -> list[list[torch.Tensor]]:
    """Feature maps and logits of a discriminator with a scale for each score and four strided convolutions."""
    return [[torch.full((1, 2, 8), level) for level in levels] + [torch.full((1, 1, 4), score)] for score in scores]


def test_melgan_losses_sum_over_scales():
    real, fake = maps([0.0] * 6, [1.0, 0.5, 2.0]), maps([0.0] * 6, [-1.0, 0.0, 1.0])
    assert melgan_discriminator_loss(real, fake).item() == pytest.approx(0 + 0.5 + 1 + 2)
    assert melgan_generator_loss(real, fake)["adversarial"].item() == pytest.approx(1 + 0 - 1)


def test_feature_matching_leaves_out_the_logits():
    """The released factors for three scales of seven maps: 10 * 4 / 5 / 3 for each map."""
    real, fake = maps([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [9.0] * 3), maps([1.0, 2.5, 3.0, 4.0, 5.0, 4.5], [0.0] * 3)
    assert melgan_generator_loss(real, fake)["feature_matching"].item() == pytest.approx(10 * 4 / 5 / 3 * 3 * (0.5 + 1.5))


def test_feature_matching_has_gradients_for_the_fake_only():
    real, fake = torch.ones(1, 2, 8).requires_grad_(), torch.zeros(1, 2, 8).requires_grad_()
    sum(melgan_generator_loss([[real] * 3 + [real]], [[fake] * 3 + [fake]]).values()).backward()
    assert real.grad is None
    assert fake.grad.abs().sum() > 0


def test_spectral_losses_of_equal_sounds_are_zero():
    assert all(value.item() == pytest.approx(0, abs=1e-6) for value in stft_loss(NOISE, NOISE).values())
    assert mel_loss(NOISE, log_mel01(NOISE), Clip()).item() == pytest.approx(0, abs=1e-6)


def test_stft_loss_of_half_the_level():
    losses = stft_loss(NOISE / 2, NOISE)
    assert losses["spectral_convergence"].item() == pytest.approx(0.5, abs=1e-3)
    assert losses["log_magnitude"].item() == pytest.approx(0.6931, abs=5e-3)


def test_mel_loss_of_half_the_level_is_six_decibels():
    assert mel_loss(NOISE / 2, log_mel01(NOISE), Clip()).item() == pytest.approx(0.0602, abs=1e-3)


def test_stft_loss_of_silence_has_finite_gradients():
    waveform = torch.zeros(1, 4096, requires_grad=True)
    sum(stft_loss(waveform, torch.zeros(1, 4096)).values()).backward()
    assert waveform.grad.isfinite().all()


def test_next_code_loss_of_uniform_logits_is_the_log_of_the_codes():
    loss = next_code_loss(torch.zeros(2, 7, 16), torch.randint(16, (2, 7), generator=torch.Generator().manual_seed(0)))
    assert loss.item() == pytest.approx(2.7726, abs=1e-4)
