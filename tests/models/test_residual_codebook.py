"""The residual codebook: shapes, levels, beam search, texture, windows of a long sound."""

import numpy as np
import pytest
import torch

from unsilent.checkpoints.store import save_checkpoint
from unsilent.clip import Clip
from unsilent.codec.codec import Codec
from unsilent.codec.stitching import decode_grid
from unsilent.errors import ParameterError
from unsilent.models.configs import ResidualCodebookConfig
from unsilent.models.residual_codebook import ResidualCodebook, ResidualQuantizer, column_features, patch_power, texture
from unsilent.signal.mel import log_mel01

SMALL = ResidualCodebookConfig(clip=Clip(levels=2), levels=3, n_codes=16, dim=8)


@pytest.fixture
def codebook():
    torch.manual_seed(0)
    return ResidualCodebook(SMALL).eval()


def mels(columns, batch=2):
    return torch.rand(batch, 80, 16 * columns, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_grid_is_levels_by_columns(codebook):
    grid = codebook.encode(mels(5))
    assert grid.shape == (2, 3, 5)
    assert codebook.rows == 3
    assert 0 <= grid.min() <= grid.max() < 16
    assert codebook.decode_codes(grid).shape == (2, 80, 80)


def test_fewer_levels_give_a_coarser_sum(codebook):
    grid = codebook.encode(mels(4), 2)
    assert grid.shape == (2, 2, 4)
    assert codebook.decode_codes(grid).shape == (2, 80, 64)
    expected = codebook.quantize.codes[0][grid[:, 0]] + codebook.quantize.codes[1][grid[:, 1]]
    torch.testing.assert_close(codebook.quantize.lookup(grid), expected.transpose(1, 2))


def test_each_level_quantises_the_residual_of_those_before():
    quantize = ResidualQuantizer(2, 2, 1, beam=1)
    quantize.codes.copy_(torch.tensor([[[-4.0], [4.0]], [[-1.0], [1.0]]]))
    latents = torch.tensor([[[-5.0, -3.0, 3.0, 5.0]]])
    assert quantize.nearest(latents).tolist() == [[[0, 0, 1, 1], [0, 1, 0, 1]]]
    torch.testing.assert_close(quantize.lookup(quantize.nearest(latents)), latents)


def test_beam_search_reduces_the_error():
    latents, errors = torch.randn(1, 8, 200, generator=torch.Generator().manual_seed(2)), []
    codes = torch.randn(4, 64, 8, generator=torch.Generator().manual_seed(3)) * torch.tensor([1.0, 0.6, 0.4, 0.2])[:, None, None]
    for beam in (1, 16):
        quantize = ResidualQuantizer(4, 64, 8, beam)
        quantize.codes.copy_(codes)
        errors.append((latents - quantize.lookup(quantize.nearest(latents))).square().mean())
    assert errors[1] < 0.8 * errors[0]


def test_a_click_inside_a_patch_is_described():
    """The mean power of a patch cannot tell in which of its frames a click is; the level of the groups of bands can."""
    quiet = torch.full((1, 80, 32), -0.5)
    clicks = [quiet.clone() for _ in range(2)]
    for frame, mel in zip((16, 18), clicks, strict=True):
        mel[:, :, frame] = 0.5
    power_only = SMALL.model_copy(update={"groups": 0})
    first, second = (column_features(mel, power_only) for mel in clicks)
    torch.testing.assert_close(first, second)
    first, second = (column_features(mel, SMALL)[0, 1, 320:400].unflatten(0, (5, 16)) for mel in clicks)
    assert first.argmax(1).tolist() == [0] * 5
    assert second.argmax(1).tolist() == [2] * 5


@pytest.mark.parametrize("groups", [0, 5])
def test_the_linear_map_and_its_inverse_keep_what_patches_share(groups):
    """With as many dimensions as features, an orthonormal map loses only differences within a patch and a group."""
    torch.manual_seed(0)
    config = SMALL.model_copy(update={"groups": groups, "dim": 330 + 16 * groups})
    codebook = ResidualCodebook(config)
    basis = torch.linalg.qr(torch.randn(config.dim, config.dim))[0]
    with torch.no_grad():
        codebook.encoder.linear.weight.copy_(basis)
        codebook.encoder.linear.bias.zero_()
        codebook.decoder.linear.weight.copy_(basis.T)
        codebook.decoder.linear.bias.zero_()
    by_frame = torch.rand(1, 1, 32).repeat_interleave(16, 1) if groups else torch.zeros(1, 16, 32)
    smooth = torch.rand(1, 80, 8).repeat_interleave(4, 2) + by_frame.repeat(1, 5, 1) - 1
    mel = smooth + 0.7 * texture(config.clip, 100, 32)[None]
    strength = codebook.decoder.parts(codebook.latents(mel))[1]
    assert 0.4 < strength.mean() < 0.9  # patches and groups take their part of the noise
    if groups:
        torch.testing.assert_close(codebook.decoder.parts(codebook.latents(smooth))[0], smooth, atol=1e-4, rtol=0)


def test_groups_divide_the_bands():
    with pytest.raises(ParameterError, match="80 mel bands are not a multiple of 7 groups"):
        ResidualCodebookConfig(groups=7)
    with pytest.raises(ParameterError, match="80 mel bands are not a multiple of 3 groups"):
        ResidualCodebookConfig(textures=3)


def test_texture_fluctuates_like_white_noise():
    drawn = texture(Clip(), 0, 848)
    assert drawn.shape == (80, 848)
    assert drawn.mean(1).abs().max() < 0.03
    noise = log_mel01(torch.randn(1, 848 * 256, generator=torch.Generator().manual_seed(9)) * 0.1)[0] * 2
    torch.testing.assert_close(drawn.std(1), noise.std(1), rtol=0.15, atol=0)


def test_texture_depends_on_the_place_only():
    state = torch.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16):
        assert texture(Clip(levels=3), 0, 5).dtype == torch.float32
    assert torch.equal(texture(Clip(), 100, 50), texture(Clip(), 0, 150)[:, 100:])
    assert torch.equal(torch.get_rng_state(), state)


def test_windows_of_a_long_sound_draw_the_same_texture(codebook):
    """Cross-fading two different textures would weaken both."""
    grid = codebook.encode(mels(20, 1))
    assert torch.equal(codebook.decode_codes(grid[:, :, 8:], 8), codebook.decode_codes(grid)[..., 128:])
    strength = codebook.decoder.parts(codebook.quantize.lookup(grid))[1]
    apart = codebook.decode_codes(grid, 8) - codebook.decode_codes(grid)
    torch.testing.assert_close(apart[0], strength[0] * (texture(SMALL.clip, 128, 320) - texture(SMALL.clip, 0, 320)))
    assert decode_grid(codebook, codebook.encode(mels(120, 1))[0]).shape == (80, 120 * 16)


def test_patch_power_is_the_mean_power():
    mel = mels(1)
    power = 10 ** (((mel + 1) / 2 * 100 - 80) / 10)
    expected = (10 * torch.log10(power.unflatten(2, (-1, 4)).mean(3)) + 80) / 50 - 1
    torch.testing.assert_close(patch_power(mel, 4), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 80, 24), (1, 64, 32), (1, 80, 0)])
def test_mels_that_do_not_fit_are_refused(codebook, shape):
    with pytest.raises(ParameterError, match="multiple of 16 frames"):
        codebook.latents(torch.zeros(shape))


def test_patches_must_divide_columns():
    with pytest.raises(ParameterError, match="patches of 3"):
        ResidualCodebookConfig(patch=3)


def test_codec_loads_a_codebook_without_a_sampler(codebook, tmp_path):
    save_checkpoint(tmp_path / "codebook", "residual_codebook", "everyday", SMALL, codebook.state_dict(), {})
    codec = Codec.load(str(tmp_path / "codebook"), "cpu", "float32")
    waveform = np.random.default_rng(0).normal(0, 0.1, 50_000).astype(np.float32)
    assert codec.encode(waveform).shape == (3, 13)
    assert codec.bitrate_kbps == pytest.approx(3 * 4 / (4096 / 22050) / 1000)
    assert codec.reconstruct(waveform).shape == waveform.shape
