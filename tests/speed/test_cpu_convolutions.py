"""The same layers in fewer passes: exact in exact arithmetic, and no further from float32 than torch's modules under autocast."""

import copy

import pytest
import torch
from torch import nn

from unsilent.clip import Clip
from unsilent.models.backbones.efficientnet_lite import EfficientNetLite0
from unsilent.models.codebook import Codebook
from unsilent.models.configs import CodebookConfig, MelGANConfig
from unsilent.models.layers import ResidualBlock, Upsample
from unsilent.models.melgan import MelGAN
from unsilent.speed import cpu_convolutions
from unsilent.speed.cpu_convolutions import FusedTransposed, FusedUpsample, Int8ResidualBlock, prepare_convolutions

CPU = torch.device("cpu")

pytestmark = pytest.mark.skipif(not cpu_convolutions.can_fuse(CPU), reason="oneDNN of this CPU has no bfloat16")
in_int8 = pytest.mark.skipif(not cpu_convolutions.can_quantise(CPU), reason="no AVX-512 VNNI, or no C compiler")


def uneven(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for weight in module.parameters():
        nn.init.normal_(weight, std=0.2)
    return module.eval().requires_grad_(False)


@pytest.mark.parametrize("shape", [(1, 8, 5, 7), (2, 8, 1, 1), (2, 8, 4, 3)])
def test_upsampling_and_smoothing_is_one_convolution(shape):
    layer, x = uneven(Upsample(8)), torch.randn(shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(FusedUpsample(layer, torch.float32)(x), layer(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("ratio", [2, 3, 5, 8])
@pytest.mark.parametrize("samples", [1, 9])
def test_a_transposed_convolution_is_a_convolution(ratio, samples):
    vocoder = uneven(MelGAN(MelGANConfig(mels=5, width=4, ratios=(ratio,))))
    vocoder.remove_weight_norm()
    rectifier, layer = vocoder.layers[2:4]
    x = torch.randn(2, 8, samples, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(
            FusedTransposed(layer, torch.float32)(x.unsqueeze(2)).squeeze(2), layer(rectifier(x)), atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("size", [(64, 64), (63, 64), (70, 45)])
@torch.inference_mode()
def test_features_are_the_same(size):
    """Strided convolutions pad even and odd sizes differently, in float32 as in whole pictures."""
    torch.manual_seed(0)
    network, pictures = EfficientNetLite0().eval(), torch.rand(3, 3, *size) * 2 - 1
    network.fuse()
    fast = copy.deepcopy(network)
    cpu_convolutions.fuse(fast, torch.float32)
    torch.testing.assert_close(fast(pictures), network(pictures), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(fast(pictures)[1:2], fast(pictures[1:2]), atol=0, rtol=0)


def networks() -> dict:
    vocoder = uneven(MelGAN(MelGANConfig(mels=16, width=8, ratios=(4, 3, 2))))
    vocoder.remove_weight_norm()
    clip = Clip(mels=16, frames=48, downsampling=4, n_fft=256, hop=64, feature_fps=20)
    codebook = uneven(Codebook(CodebookConfig(clip=clip, n_codes=16, dim=8, channels=16, multipliers=(1, 1, 2), n_blocks=1)))
    generator = torch.Generator().manual_seed(1)
    return {
        "vocoder": (vocoder, lambda network: network, torch.rand(2, 16, 40, generator=generator)),
        "decoder": (codebook, lambda network: network.decode_codes, torch.randint(16, (2, 4, 12), generator=generator)),
        "encoder": (codebook, lambda network: network.latents, torch.rand(2, 16, 48, generator=generator)),
    }


@pytest.mark.parametrize("name", ["vocoder", "decoder", "encoder"])
@torch.inference_mode()
def test_whole_networks_are_the_same(name):
    network, call, given = networks()[name]
    fast = copy.deepcopy(network)
    cpu_convolutions.fuse(fast, torch.float32)
    expected = call(network)(given)
    torch.testing.assert_close(call(fast)(given), expected, atol=1e-4 * float(expected.abs().max()), rtol=1e-3)


@pytest.mark.parametrize("name", ["vocoder", "decoder", "encoder"])
@torch.inference_mode()
def test_rounding_is_that_of_autocast(name):
    network, call, given = networks()[name]
    fast = copy.deepcopy(network)
    prepare_convolutions(fast, "bfloat16", CPU)
    exact = call(network)(given)
    with torch.autocast("cpu", torch.bfloat16):
        errors = [float((call(one)(given).float() - exact).norm() / exact.norm()) for one in (network, fast)]
    assert 0 < errors[1] < 1.2 * errors[0]


@torch.inference_mode()
def test_one_of_a_batch_is_as_alone():
    for network, call, given in networks().values():
        prepare_convolutions(network, "bfloat16", CPU)
        torch.testing.assert_close(call(network)(given)[1:], call(network)(given[1:]), atol=0, rtol=0)


def test_nothing_is_left_as_float32():
    """Neither the kernels that were replaced nor those that the fused forms hold."""
    for network, _, _ in networks().values():
        prepare_convolutions(network, "bfloat16", CPU)
        tensors = [*network.parameters(), *network.buffers()]
        assert all(tensor.dtype == torch.bfloat16 for tensor in tensors if tensor.ndim > 2)


@in_int8
class TestWholeNumbers:
    """Residual blocks of the decoder whose convolutions multiply whole numbers."""

    @pytest.mark.parametrize(("channels", "size"), [((16, 16), (9, 40)), ((64, 32), (5, 53)), ((128, 128), (80, 160))])
    @torch.inference_mode()
    def test_what_a_block_adds_is_the_same_to_a_step(self, channels, size):
        """Weights and inputs of a convolution are each off by about one in a hundred, their largest being several deviations away."""
        block, x = uneven(ResidualBlock(*channels)), torch.randn(1, channels[0], *size, generator=torch.Generator().manual_seed(1))
        whole, expected = Int8ResidualBlock(block, torch.float32), block(x) - block.shortcut(x)
        assert 0 < (whole(x) - block.shortcut(x) - expected).norm() < 0.03 * expected.norm()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @torch.inference_mode()
    def test_the_decoder_is_the_same_to_a_few(self, dtype):
        network, call, given = networks()["decoder"]
        fast = copy.deepcopy(network)
        cpu_convolutions.fuse(fast, dtype, whole=True)
        exact = call(network)(given)
        assert 0 < (call(fast)(given).float() - exact).norm() < 0.04 * exact.norm()

    @torch.inference_mode()
    def test_the_encoder_is_left_alone(self):
        """Whose smallest change may choose another code."""
        network, call, given = networks()["encoder"]
        fast = copy.deepcopy(network)
        prepare_convolutions(network, "bfloat16", CPU)
        prepare_convolutions(fast, "int8", CPU)
        torch.testing.assert_close(call(fast)(given), call(network)(given), atol=0, rtol=0)

    @torch.inference_mode()
    def test_neither_neighbours_nor_threads_change_a_bit(self):
        network, call, given = networks()["decoder"]
        prepare_convolutions(network, "int8", CPU)
        expected, before = call(network)(given), torch.get_num_threads()
        torch.testing.assert_close(call(network)(given[1:]), expected[1:], atol=0, rtol=0)
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found = call(network)(given)
            torch.set_num_threads(before)
            torch.testing.assert_close(found, expected, atol=0, rtol=0)

    def test_odd_widths_stay_in_torch(self):
        clip = Clip(mels=16, frames=48, downsampling=4, n_fft=256, hop=64, feature_fps=20)
        codebook = Codebook(CodebookConfig(clip=clip, n_codes=16, dim=8, channels=8, multipliers=(1, 2, 4), n_blocks=1)).eval()
        cpu_convolutions.fuse(codebook, torch.bfloat16, whole=True)
        assert {type(block) for block in codebook.decoder.up[0].block} == {ResidualBlock}
        assert any(isinstance(block, Int8ResidualBlock) for block in codebook.decoder.modules())
