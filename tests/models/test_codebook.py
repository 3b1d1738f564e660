"""The codebook: shapes, parameter count, the quantiser's gradients and precision."""

import pytest
import torch

from unsilent.clip import Clip
from unsilent.errors import ParameterError
from unsilent.models.codebook import Codebook
from unsilent.models.configs import CodebookConfig
from unsilent.models.quantizer import Quantizer


@pytest.fixture
def codebook():
    torch.manual_seed(0)
    clip = Clip(mels=16, frames=32, downsampling=4)
    return Codebook(CodebookConfig(clip=clip, n_codes=16, dim=8, channels=8, multipliers=(1, 1, 2), n_blocks=1)).eval()


def test_default_has_the_papers_number_of_parameters():
    with torch.device("meta"):
        codebook = Codebook(CodebookConfig())
    assert sum(p.numel() for p in codebook.parameters()) == 72_137_089
    assert sum(p.numel() for p in codebook.decoder.parameters()) == 42_447_489


def test_encode_and_decode_shapes(codebook):
    mel = torch.rand(2, 16, 32) * 2 - 1
    grid = codebook.encode(mel)
    assert grid.shape == (2, 4, 8)
    assert codebook.decode_codes(grid).shape == mel.shape
    assert codebook.latents(mel).shape == (2, 8, 4, 8)


def test_decode_codes_equals_forward_after_encode(codebook):
    mel = torch.rand(1, 16, 32) * 2 - 1
    torch.testing.assert_close(codebook(mel).mel, codebook.decode_codes(codebook.encode(mel)))


def test_batch_items_are_independent(codebook):
    mel = torch.rand(3, 16, 32) * 2 - 1
    assert torch.equal(codebook.encode(mel)[1:2], codebook.encode(mel[1:2]))


def test_wrong_mel_sizes_are_refused(codebook):
    with pytest.raises(ParameterError, match="16 bands and 30 frames was given; the codebook takes 16 bands and a positive multiple of 4"):
        codebook.encode(torch.zeros(1, 16, 30))


def test_multipliers_that_do_not_match_the_clip_are_refused():
    with pytest.raises(ParameterError, match="3 multipliers downsample by 4, the clip by 16"):
        CodebookConfig(multipliers=(1, 2, 4))


def test_nearest_minimises_the_distance():
    quantizer = Quantizer(32, 6)
    latents = torch.randn(2, 6, 3, 4, generator=torch.Generator().manual_seed(1))
    distances = torch.cdist(latents.movedim(1, -1).reshape(-1, 6), quantizer.embedding.weight)
    assert torch.equal(quantizer.nearest(latents).flatten(), distances.argmin(1))


def test_quantiser_passes_gradients_straight_through():
    quantizer = Quantizer(8, 4)
    latents = torch.randn(1, 4, 2, 2, requires_grad=True)
    quantizer(latents).latents.sum().backward()
    assert torch.equal(latents.grad, torch.ones_like(latents))


def test_each_loss_has_gradients_for_one_side_only():
    quantizer = Quantizer(8, 4)
    latents = torch.randn(1, 4, 2, 2, requires_grad=True)
    quantizer(latents).commitment.backward()
    assert latents.grad.abs().sum() > 0
    assert quantizer.embedding.weight.grad is None
    latents.grad = None
    quantizer(latents).codebook.backward()
    assert latents.grad is None
    assert quantizer.embedding.weight.grad.abs().sum() > 0


def test_replace_sets_the_given_codes_only():
    quantizer = Quantizer(8, 4)
    vectors = torch.randn(2, 4)
    before = quantizer.embedding.weight[0].clone()
    quantizer.replace(torch.tensor([3, 5]), vectors)
    assert torch.equal(quantizer.embedding.weight[[3, 5]], vectors)
    assert torch.equal(quantizer.embedding.weight[0], before)


def test_nearest_is_the_same_under_bfloat16_autocast():
    torch.manual_seed(0)
    quantizer = Quantizer(1024, 64)
    latents = torch.randn(4, 64, 5, 53) / 1024
    expected = quantizer.nearest(latents)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer.nearest(latents), expected)
