"""Discriminators: shapes, receptive fields, sample rates, validation."""

import pytest
import torch

from unsilent.errors import ParameterError
from unsilent.models.discriminators import (
    MelGANDiscriminator,
    MelGANDiscriminatorConfig,
    PatchDiscriminator,
    PatchDiscriminatorConfig,
)


def patch_discriminator(**fields) -> PatchDiscriminator:
    torch.manual_seed(0)
    return PatchDiscriminator(PatchDiscriminatorConfig(**{"width": 4} | fields)).eval()


def waveform_discriminator(**fields) -> MelGANDiscriminator:
    torch.manual_seed(0)
    return MelGANDiscriminator(MelGANDiscriminatorConfig(**{"width": 4, "strides": 2} | fields)).eval()


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_clip_has_8_x_104_patch_discriminator():
    assert patch_discriminator()(noise(2, 80, 848)).shape == (2, 8, 104)


@pytest.mark.parametrize(("halvings", "reach"), [(3, 70), (2, 34), (1, 16)])
def test_patch_size_is_the_receptive_field(halvings, reach):
    """70 x 70 in the paper; found by gradients, in evaluation mode because BatchNorm mixes all positions in training."""
    mel = noise(1, 160, 160).requires_grad_()
    scores = patch_discriminator(halvings=halvings)(mel)
    scores[0, scores.shape[1] // 2, scores.shape[2] // 2].backward()
    for axis in (1, 2):
        reached = mel.grad[0].abs().sum(axis - 1).nonzero().flatten()
        assert reached.max() - reached.min() + 1 == reach


def test_patch_discriminator_batch_items_are_independent():
    discriminator, mels = patch_discriminator(), noise(3, 32, 48)
    torch.testing.assert_close(discriminator(mels)[1:2], discriminator(mels[1:2]))


def test_patch_discriminator_refuses_mels_smaller_than_one_patch():
    assert patch_discriminator()(noise(1, 24, 24)).shape == (1, 1, 1)
    with pytest.raises(ParameterError, match="a mel of 24 bands and 23 frames is too small for the discriminator; give 24 or more of each"):
        patch_discriminator()(noise(1, 24, 23))


def test_each_scale_has_half_the_sample_rate_of_the_one_before():
    results = waveform_discriminator()(noise(2, 1024))
    assert [[tuple(one.shape) for one in maps] for maps in results] == [
        [(2, 4, n), (2, 16, n // 4), (2, 64, n // 16), (2, 128, n // 16), (2, 1, n // 16)] for n in (1024, 512, 256)
    ]


def test_waveform_discriminator_batch_items_are_independent():
    discriminator, sounds = waveform_discriminator(), noise(3, 512)
    for whole, alone in zip(discriminator(sounds), discriminator(sounds[1:2]), strict=True):
        for one, other in zip(whole, alone, strict=True):
            torch.testing.assert_close(one[1:2], other)


def test_downsampling_keeps_constants_at_the_ends():
    """Average pooling does not count its padding."""
    assert torch.equal(waveform_discriminator().halve(torch.ones(1, 1, 16)), torch.ones(1, 1, 8))


def test_every_scale_has_gradients_for_all_samples():
    sound = noise(1, 256).requires_grad_()
    for maps in waveform_discriminator()(sound):
        (slope,) = torch.autograd.grad(maps[-1].sum(), sound, retain_graph=True)
        assert (slope != 0).all()


def test_waveform_discriminator_refuses_too_few_samples():
    assert waveform_discriminator()(noise(1, 32))[-1][-1].shape == (1, 1, 1)
    with pytest.raises(ParameterError, match="31 samples are too few for the discriminator, which needs 32 or more"):
        waveform_discriminator()(noise(1, 31))


def test_width_must_be_a_multiple_of_the_group_size():
    with pytest.raises(ParameterError, match="width is 6, but must be a multiple of 4"):
        MelGANDiscriminatorConfig(width=6)
