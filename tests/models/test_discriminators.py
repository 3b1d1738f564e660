"""The discriminators: sizes, what they see, and the authors' numbers, also of the losses that they and the distance give a codebook."""

import numpy as np
import pytest
import torch

from unsilent.errors import ParameterError
from unsilent.losses import hinge_discriminator_loss, hinge_generator_loss, vqgan_loss
from unsilent.models.codebook import Codebook, CodebookConfig
from unsilent.models.discriminators import (
    MelGANDiscriminator,
    MelGANDiscriminatorConfig,
    PatchDiscriminator,
    PatchDiscriminatorConfig,
    released_names,
)
from unsilent.models.melgan import MelGAN
from unsilent.models.melgan import released_names as released_vocoder_names
from unsilent.models.perceptual import Perceptual
from unsilent.models.perceptual import released_names as released_distance_names


def patches(**fields) -> PatchDiscriminator:
    torch.manual_seed(0)
    return PatchDiscriminator(PatchDiscriminatorConfig(**{"width": 4} | fields)).eval()


def listener(**fields) -> MelGANDiscriminator:
    torch.manual_seed(0)
    return MelGANDiscriminator(MelGANDiscriminatorConfig(**{"width": 4, "strides": 2} | fields)).eval()


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_full_size_of_patches_has_the_papers_parameters_and_names(reference):
    with torch.device("meta"):
        discriminator = PatchDiscriminator()
    assert sum(parameter.numel() for parameter in discriminator.parameters()) == 2_763_585
    shapes = {name: tuple(value.shape) for name, value in discriminator.state_dict().items()}
    assert shapes == reference.keys("keys_codebook_discriminator")


def test_full_size_of_waveforms_has_the_papers_parameters_and_names(reference):
    with torch.device("meta"):
        discriminator = MelGANDiscriminator()
    assert sum(parameter.numel() for parameter in discriminator.parameters()) == 16_924_086
    weights, names = discriminator.state_dict(), released_names(discriminator)
    assert {theirs: tuple(weights[ours].shape) for theirs, ours in names.items()} == reference.keys("keys_melgan_discriminator")
    assert len(names) == len(weights)


def test_a_clip_has_eight_by_104_patches():
    assert patches()(noise(2, 80, 848)).shape == (2, 8, 104)


@pytest.mark.parametrize(("halvings", "reach"), [(3, 70), (2, 34), (1, 16)])
def test_a_score_sees_its_patch_and_nothing_beyond(halvings, reach):
    """70 x 70 for the paper's, found by gradients. In training mode batch norm would let every score see everything."""
    mel = noise(1, 160, 160).requires_grad_()
    scores = patches(halvings=halvings)(mel)
    scores[0, scores.shape[1] // 2, scores.shape[2] // 2].backward()
    for axis in (1, 2):
        seen = mel.grad[0].abs().sum(axis - 1).nonzero().flatten()
        assert seen.max() - seen.min() + 1 == reach


def test_mels_of_a_batch_do_not_mix():
    discriminator, mels = patches(), noise(3, 32, 48)
    torch.testing.assert_close(discriminator(mels)[1:2], discriminator(mels[1:2]))


def test_the_smallest_mel_is_one_patch():
    assert patches()(noise(1, 24, 24)).shape == (1, 1, 1)
    with pytest.raises(ParameterError, match="a mel of 24 bands and 23 frames is too small for the discriminator, give 24 or more of each"):
        patches()(noise(1, 24, 23))


def test_each_scale_listens_at_half_the_rate_of_the_one_before():
    results = listener()(noise(2, 1024))
    assert [[tuple(one.shape) for one in maps] for maps in results] == [
        [(2, 4, n), (2, 16, n // 4), (2, 64, n // 16), (2, 128, n // 16), (2, 1, n // 16)] for n in (1024, 512, 256)
    ]


def test_sounds_of_a_batch_do_not_mix():
    discriminator, sounds = listener(), noise(3, 512)
    for whole, alone in zip(discriminator(sounds), discriminator(sounds[1:2]), strict=True):
        for one, other in zip(whole, alone, strict=True):
            torch.testing.assert_close(one[1:2], other)


def test_the_slower_scales_do_not_fade_at_the_ends():
    """The padding of the averaging is not counted: a constant stays what it is."""
    assert torch.equal(listener().halve(torch.ones(1, 1, 16)), torch.ones(1, 1, 8))


def test_every_scale_is_heard():
    sound = noise(1, 256).requires_grad_()
    for maps in listener()(sound):
        (slope,) = torch.autograd.grad(maps[-1].sum(), sound, retain_graph=True)
        assert (slope != 0).all()


def test_the_fewest_samples_are_enough():
    assert listener()(noise(1, 32))[-1][-1].shape == (1, 1, 1)
    with pytest.raises(ParameterError, match="31 samples are too few for the discriminator, which needs 32 or more"):
        listener()(noise(1, 31))


def test_filters_need_whole_groups():
    with pytest.raises(ParameterError, match="width: Input should be a multiple of 4"):
        MelGANDiscriminatorConfig(width=6)


def test_waveforms_equal_the_authors(reference):
    """The first 8192 samples of the filled vocoder, judged by the filled discriminator: scores measured 3e-7 apart, map means 6e-8."""
    vocoder, discriminator = MelGAN(), MelGANDiscriminator()
    reference.fill(vocoder, released_vocoder_names(vocoder))
    reference.fill(discriminator, released_names(discriminator))
    n_frames = 8192 // vocoder.hop + vocoder.context_frames
    with torch.inference_mode():
        results = discriminator(vocoder(reference.mel01()[..., :n_frames])[:, :8192])
    expected = reference.expected("melgan_a")
    np.testing.assert_allclose(torch.cat([maps[-1].flatten() for maps in results]), expected["disc_last"], atol=1e-5)
    np.testing.assert_allclose([one.double().mean().item() for maps in results for one in maps], expected["disc_feature_means"], atol=1e-5)


@pytest.mark.slow
def test_losses_of_a_codebook_equal_the_authors(reference):
    """All terms of one step, before and after the discriminator joins, with every network filled by the names of the loss's file."""
    codebook, distance, discriminator = Codebook(CodebookConfig()), Perceptual(), PatchDiscriminator()
    blocks = {"encoder": "downsample", "decoder": "upsample"}
    names = {
        ours.replace(".shortcut.", ".nin_shortcut.").replace(".resample.", f".{blocks.get(ours.split('.')[0])}."): ours
        for ours in codebook.state_dict()
    }
    reference.fill(codebook, names)
    reference.fill(distance, released_distance_names(distance), "perceptual_loss.")
    reference.fill(discriminator, prefix="discriminator.")
    mel = 2 * reference.mel01() - 1
    with torch.inference_mode():
        result = codebook(mel)
        apart, real, fake = distance(mel, result.mel), discriminator(mel), discriminator(result.mel)
    expected = reference.expected("codebook_loss_a")
    np.testing.assert_allclose(real[0], expected["disc_logits_real"], rtol=1e-4, atol=1e-5)
    for step, joined in ((0, 0.0), (40000, 1.0)):
        terms = vqgan_loss(mel, result, apart, fake, adversarial_weight=0.8 * joined, beta_on_codebook=True)
        found = {
            "gen": sum(terms.values()),
            "disc": joined * hinge_discriminator_loss(real, fake),
            "train_quant_loss": terms["codebook"] + terms["commitment"],
            "train_nll_loss": terms["reconstruction"] + terms["perceptual"],
            "train_p_loss": terms["perceptual"],
            "train_g_loss": hinge_generator_loss(fake),
            "train_logits_real": real.mean(),
            "train_logits_fake": fake.mean(),
        }
        for name, value in found.items():
            np.testing.assert_allclose(float(value), expected[f"{name}_{step}"], rtol=1e-4, err_msg=f"{name} at step {step}")
