"""Fused layers against torch's: equal to rounding in float32, and no further from float32 than torch's under autocast in bfloat16."""

import copy

import pytest
import torch
from torch import nn

from unsilent.clip import Clip
from unsilent.models.backbones.efficientnet_lite import EfficientNetLite0
from unsilent.models.codebook import Codebook
from unsilent.models.configs import CodebookConfig, MelGANConfig
from unsilent.models.layers import ResidualBlock, Upsample
from unsilent.models.listener import Listener, ListenerConfig
from unsilent.models.melgan import MelGAN
from unsilent.speed import cpu_convolutions
from unsilent.speed.cpu_convolutions import FusedTransposed, FusedUpsample, Int8ResidualBlock, prepare_convolutions

CPU = torch.device("cpu")

in_bfloat16 = pytest.mark.skipif(not cpu_convolutions.can_fuse(CPU, torch.bfloat16), reason="oneDNN of this CPU has no bfloat16")
in_int8 = pytest.mark.skipif(not cpu_convolutions.can_quantise(CPU), reason="no AVX-512 VNNI, or no C compiler")


def uneven(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for weight in module.parameters():
        nn.init.normal_(weight, std=0.2)
    return module.eval().requires_grad_(False)


@pytest.mark.parametrize("shape", [(1, 8, 5, 7), (2, 8, 1, 1), (2, 8, 4, 3)])
def test_fused_upsample_equals_upsample(shape):
    layer, x = uneven(Upsample(8)), torch.randn(shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(FusedUpsample(layer, torch.float32)(x), layer(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("ratio", [2, 3, 5, 8])
@pytest.mark.parametrize("samples", [1, 9])
def test_fused_transposed_equals_leaky_relu_and_transposed_convolution(ratio, samples):
    vocoder = uneven(MelGAN(MelGANConfig(mels=5, width=4, ratios=(ratio,))))
    vocoder.remove_weight_norm()
    activation, layer = vocoder.layers[2:4]
    x = torch.randn(2, 8, samples, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(
            FusedTransposed(layer, torch.float32)(x.unsqueeze(2)).squeeze(2), layer(activation(x)), atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("size", [(64, 64), (63, 64), (70, 45)])
@torch.inference_mode()
def test_fused_efficientnet_equals_efficientnet(size):
    """Strided convolutions pad even and odd sizes differently, so both are tried; one image of a batch equals that image alone."""
    torch.manual_seed(0)
    network, images = EfficientNetLite0().eval(), torch.rand(3, 3, *size) * 2 - 1
    network.fuse()
    fast = copy.deepcopy(network)
    cpu_convolutions.fuse(fast, torch.float32)
    torch.testing.assert_close(fast(images), network(images), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(fast(images)[1:2], fast(images[1:2]), atol=0, rtol=0)


@torch.inference_mode()
def test_fused_listener_equals_listener():
    torch.manual_seed(0)
    network, mels = Listener(ListenerConfig(channels=(4, 6, 8, 8), labels=3)).eval(), torch.rand(2, 80, 230) * 0.5 + 0.3
    network.to_bands.copy_(torch.eye(96, 80))
    fast = copy.deepcopy(network)
    cpu_convolutions.fuse(fast, torch.float32)
    torch.testing.assert_close(fast(mels), network(mels), atol=1e-5, rtol=1e-4)


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
def test_fused_networks_equal_networks(name):
    network, call, given = networks()[name]
    fast = copy.deepcopy(network)
    cpu_convolutions.fuse(fast, torch.float32)
    expected = call(network)(given)
    torch.testing.assert_close(call(fast)(given), expected, atol=1e-4 * float(expected.abs().max()), rtol=1e-3)


@in_bfloat16
@pytest.mark.parametrize("name", ["vocoder", "decoder", "encoder"])
@torch.inference_mode()
def test_bfloat16_errors_are_those_of_autocast(name):
    network, call, given = networks()[name]
    fast = copy.deepcopy(network)
    prepare_convolutions(fast, "bfloat16", CPU)
    exact = call(network)(given)
    with torch.autocast("cpu", torch.bfloat16):
        errors = [float((call(one)(given).float() - exact).norm() / exact.norm()) for one in (network, fast)]
    assert 0 < errors[1] < 1.2 * errors[0]


@in_bfloat16
@torch.inference_mode()
def test_one_of_a_batch_equals_that_one_alone():
    for network, call, given in networks().values():
        prepare_convolutions(network, "bfloat16", CPU)
        torch.testing.assert_close(call(network)(given)[1:], call(network)(given[1:]), atol=0, rtol=0)


@in_bfloat16
def test_prepare_convolutions_leaves_no_float32_weights():
    """Neither in the modules that were replaced nor in the fused ones."""
    for network, _, _ in networks().values():
        prepare_convolutions(network, "bfloat16", CPU)
        tensors = [*network.parameters(), *network.buffers()]
        assert all(tensor.dtype == torch.bfloat16 for tensor in tensors if tensor.ndim > 2)


def _fail(*arguments):
    raise RuntimeError("unknown operator\nand more")


@pytest.mark.parametrize("breaks", ["operator", "result"])
def test_can_fuse_falls_back_to_plain_torch_where_operators_have_changed(monkeypatch, caplog, breaks):
    """They are private to torch; one line in the log, however often it is asked."""
    changed = _fail if breaks == "operator" else lambda x, *arguments: torch.zeros_like(x)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_convolution_pointwise", changed)
    cpu_convolutions.operators_work.cache_clear()
    try:
        network, call, given = networks()["vocoder"]
        plain = copy.deepcopy(network)
        for one in (network, networks()["decoder"][0]):
            prepare_convolutions(one, "bfloat16", CPU)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(call(network)(given), call(plain)(given))
    finally:
        cpu_convolutions.operators_work.cache_clear()
    why = "unknown operator" if breaks == "operator" else "a fused convolution gives wrong results"
    assert [record.getMessage().split(": ")[-1] for record in caplog.records] == [why]


def test_can_quantise_falls_back_where_operators_have_changed(monkeypatch, caplog):
    for module, name in ((cpu_convolutions.cpu_transformer, "has_vnni"), (cpu_convolutions.cpu_groupnorm, "is_available")):
        monkeypatch.setattr(module, name, lambda: True)
    monkeypatch.setattr(torch.ops.onednn, "qconv_prepack", _fail)
    cpu_convolutions.operators_work.cache_clear()
    try:
        assert not any(cpu_convolutions.can_quantise(CPU) for _ in range(3))
    finally:
        cpu_convolutions.operators_work.cache_clear()
    assert [record.getMessage().split(": ")[-1] for record in caplog.records] == ["unknown operator"]


@in_int8
class TestInt8:
    """Residual blocks of the decoder with int8 convolutions."""

    @pytest.mark.parametrize(("channels", "size"), [((16, 16), (9, 40)), ((64, 32), (5, 53)), ((128, 128), (80, 160))])
    @torch.inference_mode()
    def test_int8_block_differs_by_quantisation_only(self, channels, size):
        """Weights and inputs are each off by about 1 %, because their maxima are several standard deviations."""
        block, x = uneven(ResidualBlock(*channels)), torch.randn(1, channels[0], *size, generator=torch.Generator().manual_seed(1))
        quantised, expected = Int8ResidualBlock(block, torch.float32), block(x) - block.shortcut(x)
        assert 0 < (quantised(x) - block.shortcut(x) - expected).norm() < 0.03 * expected.norm()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @torch.inference_mode()
    def test_int8_decoder_differs_by_quantisation_only(self, dtype):
        network, call, given = networks()["decoder"]
        fast = copy.deepcopy(network)
        cpu_convolutions.fuse(fast, dtype, quantises=True)
        exact = call(network)(given)
        assert 0 < (call(fast)(given).float() - exact).norm() < 0.04 * exact.norm()

    @torch.inference_mode()
    def test_encoder_is_not_quantised(self):
        """Because a small change may choose another code."""
        network, call, given = networks()["encoder"]
        fast = copy.deepcopy(network)
        prepare_convolutions(network, "bfloat16", CPU)
        prepare_convolutions(fast, "int8", CPU)
        torch.testing.assert_close(call(fast)(given), call(network)(given), atol=0, rtol=0)

    @torch.inference_mode()
    def test_results_do_not_depend_on_batch_and_threads(self):
        network, call, given = networks()["decoder"]
        prepare_convolutions(network, "int8", CPU)
        expected, before = call(network)(given), torch.get_num_threads()
        torch.testing.assert_close(call(network)(given[1:]), expected[1:], atol=0, rtol=0)
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found = call(network)(given)
            torch.set_num_threads(before)
            torch.testing.assert_close(found, expected, atol=0, rtol=0)

    def test_widths_that_do_not_fit_stay_in_torch(self):
        clip = Clip(mels=16, frames=48, downsampling=4, n_fft=256, hop=64, feature_fps=20)
        codebook = Codebook(CodebookConfig(clip=clip, n_codes=16, dim=8, channels=8, multipliers=(1, 2, 4), n_blocks=1)).eval()
        cpu_convolutions.fuse(codebook, torch.bfloat16, quantises=True)
        assert {type(block) for block in codebook.decoder.up[0].block} == {ResidualBlock}
        assert any(isinstance(block, Int8ResidualBlock) for block in codebook.decoder.modules())
