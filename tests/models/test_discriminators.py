"""The discriminators: sizes, what they see, and the authors' numbers, also of the losses that they and the distance give a codebook."""

import pytest
import torch

from unsilent.errors import ParameterError
from unsilent.models.discriminators import (
    MelGANDiscriminator,
    MelGANDiscriminatorConfig,
    PatchDiscriminator,
    PatchDiscriminatorConfig,
)


def patches(**fields) -> PatchDiscriminator:
    torch.manual_seed(0)
    return PatchDiscriminator(PatchDiscriminatorConfig(**{"width": 4} | fields)).eval()


def listener(**fields) -> MelGANDiscriminator:
    torch.manual_seed(0)
    return MelGANDiscriminator(MelGANDiscriminatorConfig(**{"width": 4, "strides": 2} | fields)).eval()


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


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
