"""Fused convolutional networks for inference on a CPU with few calls into oneDNN.

Under autocast, torch casts inputs and weights at every call, reorders them for oneDNN and back, and reads memory once for each operation.
Here weights are stored in the dtype and layout of the multiplication, and tensors are channels last. The activation or addition after a
convolution is fused into it. Accumulation is in float32 as in torch; for int8 it is exact in int32.

The oneDNN operators are private to torch. They are tried once; if they fail, plain torch computes, and one warning is logged.
"""

import logging
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unsilent.choices import Precision
from unsilent.models.backbones.efficientnet_lite import ConvNorm, EfficientNetLite0
from unsilent.models.codebook import Codebook
from unsilent.models.layers import ResidualBlock, Upsample
from unsilent.models.listener import Listener
from unsilent.models.melgan import SLOPE, MelGAN, Residual
from unsilent.speed import cpu_groupnorm, cpu_transformer
from unsilent.speed.choice import convolution_dtype
from unsilent.speed.memory import trim_memory

log = logging.getLogger(__name__)

NO_ACTIVATION, LEAKY_RELU, RELU6 = ("none", []), ("leaky_relu", [SLOPE]), ("hardtanh", [0.0, 6.0])  # oneDNN's names
LEVELS = 127  # int8 weights are from -127 to 127
# Taps of a kernel of size 3 that read the same input after nearest upsampling: outputs 2i - 1 and 2i read inputs i - 1 and i.
_SHARED_TAPS = (((1, 1, 0), (0, 0, 1)), ((1, 0, 0), (0, 1, 1)))


def can_fuse(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN computes fused convolutions in this dtype on this machine; bfloat16 needs AVX-512."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return operators_work(_try_bfloat16 if dtype is torch.bfloat16 else _try_float32)


def can_quantise(device: torch.device) -> bool:
    """Whether oneDNN multiplies int8 fast on this machine, and the C extension that quantises its inputs is available."""
    is_fast = cpu_transformer.has_vnni() and cpu_groupnorm.is_available()
    return device.type == "cpu" and torch.backends.mkldnn.is_available() and is_fast and operators_work(_try_int8)


@lru_cache
def operators_work(attempt: Callable[[], bool]) -> bool:
    """Result of a trial call; False, with one warning, if torch's private operators are missing or have changed."""
    try:
        return attempt()
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        why = str(error).split("\n")[0]
        log.warning(
            "the oneDNN operators of torch %s have changed, so convolutions use plain torch, which is slower: %s", torch.__version__, why
        )
        return False


def _try_bfloat16() -> bool:
    return torch.ops.mkldnn._is_mkldnn_bf16_supported() and _try_fused(torch.bfloat16)  # not logged: the processor lacks AVX-512


def _try_float32() -> bool:
    return _try_fused(torch.float32)


def _try_fused(dtype: torch.dtype) -> bool:
    x = torch.ones(1, 2, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)
    conv = Convolution(torch.ones(2, 2, 1, 1), torch.ones(2), dtype, activation=LEAKY_RELU)
    plain = Convolution(torch.ones(2, 2, 1, 1), torch.ones(2), dtype)
    if not (conv(x) == 3).all() or not (plain(x, onto=x.clone()) == 4).all():
        raise RuntimeError("a fused convolution gives wrong results")
    return True


def _try_int8() -> bool:
    with torch.random.fork_rng(devices=[]):  # keeps the state of the global generator; skip_init would import sympy
        norm, conv = nn.GroupNorm(4, 16), nn.Conv2d(16, 16, 1)
    nn.init.constant_(conv.weight, 0.5), nn.init.constant_(conv.bias, 0.25)
    x = torch.ones(1, 16, 4, 4).contiguous(memory_format=torch.channels_last)
    x[:, ::2] = -1
    with torch.inference_mode():
        if (_Int8Convolution(norm, conv, torch.float32)(x) - conv(F.silu(norm(x)))).abs().max() > 0.1:
            raise RuntimeError("an int8 convolution gives wrong results")
    return True


def prepare_convolutions(network: nn.Module, precision: Precision, device: torch.device) -> None:
    """Prepare a codebook or vocoder for inference under autocast to `convolution_dtype`.

    Weights are stored in that dtype, and layers are fused on a CPU. For int8, the residual blocks of the codebook's decoder are quantised.
    In float32, results are equal up to rounding.

    Args:
        network: in evaluation mode with float32 weights; weight norms of a MelGAN must be folded.
        precision: the model's precision.
        device: the device that will run it.
    """
    dtype, quantises = convolution_dtype(precision), precision == "int8" and can_quantise(device)
    if quantises or can_fuse(device, dtype):
        fuse(network, dtype, quantises)
    if dtype is torch.bfloat16:
        for weight in network.parameters():
            if weight.ndim > 2:
                weight.data = weight.data.bfloat16()  # otherwise autocast would cast it at every call
    trim_memory()


def fuse(network: nn.Module, dtype: torch.dtype, quantises: bool = False) -> None:
    """Replace layers with their fused forms, for inference on a CPU only. Networks of other classes are unchanged.

    Args:
        network: in evaluation mode with float32 weights; norms of a MelGAN or an EfficientNet must be folded.
        dtype: dtype of the computation; in float32, results are equal up to rounding.
        quantises: whether the residual blocks of a codebook's decoder are quantised to int8.
    """
    if isinstance(network, MelGAN):
        network.layers = FusedMelGAN(network, dtype)
    elif isinstance(network, Codebook):
        if quantises:
            quantise = Int8ResidualBlock
            _replace(network.decoder, ResidualBlock, lambda block: quantise(block, dtype) if quantise.fits(block) else block)
        _replace(network, Upsample, lambda layer: FusedUpsample(layer, dtype))
        _replace(network, nn.Conv2d, lambda layer: Convolution(layer.weight, layer.bias, dtype, layer.stride, layer.padding))
    elif isinstance(network, EfficientNetLite0):
        _replace(network, ConvNorm, lambda layer: FusedConvNorm(layer, dtype))
    elif isinstance(network, Listener):
        _replace(network.blocks, nn.Conv2d, lambda layer: Convolution(layer.weight, layer.bias, dtype, padding=layer.padding))


def _replace(network: nn.Module, kind: type[nn.Module], make: Callable[[nn.Module], nn.Module]) -> None:
    for parent in list(network.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, kind):
                setattr(parent, name, make(layer))


class Convolution(nn.Module):
    """A convolution of images, or of sequences as images of height 1.

    Args:
        weight: `[outputs, inputs, height, width]`.
        bias: `[outputs]`.
        dtype: dtype of the computation.
        stride, padding, dilation: for height and width.
        groups: as in `nn.Conv2d`.
        activation: activation that is fused into the convolution, with oneDNN's names.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        dtype: torch.dtype,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
        activation: tuple[str, list[float]] = NO_ACTIVATION,
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach().to(dtype).contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", bias.detach().to(dtype))
        self._geometry, self._activation = (padding, stride, dilation, groups), (*activation, "")

    def forward(
        self, x: Float[Tensor, "batch inputs height width"], onto: Float[Tensor, "batch outputs new_height new_width"] | None = None
    ) -> Float[Tensor, "batch outputs new_height new_width"]:
        """Compute the convolution; with `onto`, add it to that tensor in place."""
        x = x.to(self.weight.dtype)
        if onto is None:
            return torch.ops.mkldnn._convolution_pointwise(x, self.weight, self.bias, *self._geometry, *self._activation)
        add = ("add", 1.0, None, [], None)
        return torch.ops.mkldnn._convolution_pointwise_.binary(onto, x, self.weight, self.bias, *self._geometry, *add)


class FusedUpsample(nn.Module):
    """`Upsample` computed at the lower resolution: each of four output pixels is a 2 x 2 convolution with sums of the 3 x 3 weights.

    This needs 4 multiplications instead of 9. The sums are computed once, in double precision.
    """

    def __init__(self, layer: Upsample, dtype: torch.dtype) -> None:
        super().__init__()
        shared = torch.tensor(_SHARED_TAPS, dtype=torch.float64)
        kernels = torch.einsum("mat,nbu,oitu->mnoiab", shared, shared, layer.conv.weight.detach().double()).flatten(0, 2)
        self.conv = Convolution(kernels.float(), layer.conv.bias.repeat(4), dtype, padding=(1, 1))

    def forward(self, x: Float[Tensor, "batch dim height width"]) -> Float[Tensor, "batch dim double_height double_width"]:
        """Equal to `Upsample` up to rounding."""
        _, dim, height, width = x.shape
        four = self.conv(x).unflatten(1, (2, 2, dim))  # output pixels above or below, and left or right of, a corner of four inputs
        out = torch.empty(len(x), dim, 2 * height, 2 * width, dtype=four.dtype, memory_format=torch.channels_last)
        for below in (0, 1):
            for right in (0, 1):
                corner = four[:, below, right, :, 1 - below : height + 1 - below, 1 - right : width + 1 - right]
                out[:, :, 1 - below :: 2, 1 - right :: 2] = corner
        return out


class Int8ResidualBlock(nn.Module):
    """`ResidualBlock` with int8 weights in oneDNN's packed layout, which is not in the state dict and cannot be deep-copied."""

    def __init__(self, block: ResidualBlock, dtype: torch.dtype) -> None:
        super().__init__()
        self.first, self.second = _Int8Convolution(block.norm1, block.conv1, dtype), _Int8Convolution(block.norm2, block.conv2, dtype)
        self.shortcut = block.shortcut

    @staticmethod
    def fits(block: ResidualBlock) -> bool:
        """Whether the widths of a block can be quantised."""
        return all(cpu_groupnorm.fits(conv.in_channels) for conv in (block.conv1, block.conv2))

    def forward(self, x: Float[Tensor, "batch dim height width"]) -> Float[Tensor, "batch dim_out height width"]:
        """`ResidualBlock` with inputs quantised by the maximum of each image."""
        if len(x) > 1:
            return torch.cat([self(one) for one in x.split(1)])
        return self.second(self.first(x)).add_(self.shortcut(x))


class _Int8Convolution(nn.Module):
    """GroupNorm, swish and an int8 convolution: int8 weights with one scale per output channel, uint8 inputs, results in `dtype`."""

    def __init__(self, norm: nn.GroupNorm, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.norm, self.dtype = norm, dtype
        self.register_buffer("bias", conv.bias.detach().float())
        weight = conv.weight.detach().float()
        scale = weight.abs().amax((1, 2, 3)).clamp(min=torch.finfo(torch.float32).tiny) / LEVELS
        self.register_buffer("scale", scale)
        self.register_buffer("zero_points", torch.zeros(len(scale), dtype=torch.int32))  # zero points of the weights
        quantised = (weight / scale[:, None, None, None]).round().to(torch.int8).contiguous(memory_format=torch.channels_last)
        self._geometry = ([1, 1], list(conv.padding), [1, 1], 1)  # stride, padding, dilation, groups
        # packed for a zero point of 1: scale and zero point of inputs may differ later, but a layout for 0 has no space for a zero point
        self._weight = torch.ops.onednn.qconv_prepack(quantised, scale, 1.0, 1, *self._geometry)

    def forward(self, x: Float[Tensor, "1 dim height width"]) -> Float[Tensor, "1 dim_out height width"]:
        norm = self.norm
        quantised = cpu_groupnorm.norm_swish_quantise(x.to(self.dtype), norm.num_groups, norm.weight, norm.bias, norm.eps)
        kernel, output = (self._weight, self.scale, self.zero_points, self.bias), (1.0, 0, self.dtype)
        return torch.ops.onednn.qconv2d_pointwise(*quantised, *kernel, *self._geometry, *output, *NO_ACTIVATION, "")


class FusedConvNorm(nn.Module):
    """`ConvNorm` of an image network with its ReLU6 fused.

    Strided layers pad more on the right and bottom, which oneDNN does not support. So the kernel gets a row and a column of zeros in front.
    Images of odd size are padded evenly; their padding in front is one more.
    """

    def __init__(self, layer: ConvNorm, dtype: torch.dtype) -> None:
        super().__init__()
        conv = layer.conv
        self.strides, padding = conv.stride[0] > 1, (conv.kernel_size[0] // 2,) * 2
        weight = F.pad(conv.weight, (1, 0, 1, 0)) if self.strides else conv.weight
        activation = RELU6 if isinstance(layer.active, nn.ReLU6) else NO_ACTIVATION
        self.conv = Convolution(weight, conv.bias, dtype, conv.stride, padding, groups=conv.groups, activation=activation)

    def forward(self, x: Float[Tensor, "batch inputs height width"]) -> Float[Tensor, "batch outputs new_height new_width"]:
        """Equal to `ConvNorm` up to rounding."""
        if self.strides and (x.shape[2] % 2 or x.shape[3] % 2):
            x = F.pad(x, (x.shape[3] % 2, 0, x.shape[2] % 2, 0))
        return self.conv(x)


class FusedMelGAN(nn.Module):
    """The fused layers of a MelGAN."""

    def __init__(self, vocoder: MelGAN, dtype: torch.dtype) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        for layer in vocoder.layers:
            if isinstance(layer, nn.Conv1d):
                steps.append(_EdgeConvolution(layer, dtype, leaky=bool(steps)))
            elif isinstance(layer, nn.ConvTranspose1d):
                steps.append(FusedTransposed(layer, dtype))
            elif isinstance(layer, Residual):
                steps.append(_FusedResidual(layer, dtype))
        self.steps = nn.Sequential(*steps)

    def forward(self, mel01: Float[Tensor, "batch mels frames"]) -> Float[Tensor, "batch 1 samples"]:
        """Equal to the original layers up to rounding; the result is float32."""
        x = mel01.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        return self.steps(x).squeeze(2).float().tanh()


def _padded(
    x: Float[Tensor, "batch dim 1 samples"], edge: int, leaky: bool = True, reflect: bool = True
) -> Float[Tensor, "batch dim 1 more"]:
    """Leaky ReLU, then reflection or zero padding by `edge` on both sides."""
    samples = x.shape[3]
    out = torch.empty(*x.shape[:3], samples + 2 * edge, dtype=x.dtype, memory_format=torch.channels_last)
    if leaky:
        torch.ops.aten.leaky_relu.out(x, SLOPE, out=out[..., edge : edge + samples])
    else:
        out[..., edge : edge + samples] = x
    out[..., :edge] = out[..., edge + 1 : 2 * edge + 1].flip(3) if reflect else 0
    out[..., edge + samples :] = out[..., samples - 1 : samples - 1 + edge].flip(3) if reflect else 0
    return out


def _flat(layer: nn.Conv1d, dtype: torch.dtype, activation: tuple[str, list[float]] = NO_ACTIVATION) -> Convolution:
    return Convolution(layer.weight[:, :, None], layer.bias, dtype, dilation=(1, layer.dilation[0]), activation=activation)


class _EdgeConvolution(nn.Module):
    """The first or last convolution of a MelGAN, with its reflection padding."""

    def __init__(self, layer: nn.Conv1d, dtype: torch.dtype, leaky: bool) -> None:
        super().__init__()
        self.conv, self.edge, self.leaky = _flat(layer, dtype), layer.kernel_size[0] // 2, leaky

    def forward(self, x: Float[Tensor, "batch dim 1 samples"]) -> Float[Tensor, "batch dim_out 1 samples"]:
        return self.conv(_padded(x, self.edge, self.leaky))


class _FusedResidual(nn.Module):
    """`Residual` with the sum fused into its last convolution."""

    def __init__(self, layer: Residual, dtype: torch.dtype) -> None:
        super().__init__()
        _, pad, wide, _, point = layer.body
        self.edge = pad.padding[0]
        self.wide, self.point, self.shortcut = _flat(wide, dtype, LEAKY_RELU), _flat(point, dtype), _flat(layer.shortcut, dtype)

    def forward(self, x: Float[Tensor, "batch dim 1 samples"]) -> Float[Tensor, "batch dim 1 samples"]:
        return self.point(self.wide(_padded(x, self.edge)), onto=self.shortcut(x))


class FusedTransposed(nn.Module):
    """A leaky ReLU and a transposed convolution whose kernel is twice its stride.

    Each run of outputs, one stride long, depends on two inputs only. A convolution of kernel size 2 computes the run as channels.
    """

    def __init__(self, layer: nn.ConvTranspose1d, dtype: torch.dtype) -> None:
        super().__init__()
        self.ratio, self.skipped = layer.stride[0], layer.padding[0]
        later, earlier = layer.weight.detach().split(
            self.ratio, dim=2
        )  # weights of an input for its own run of outputs, and for the next run
        kernels = torch.stack([earlier, later], dim=-1).permute(2, 1, 0, 3).flatten(0, 1)
        self.conv = Convolution(kernels[:, :, None], layer.bias.repeat(self.ratio), dtype)

    def forward(self, x: Float[Tensor, "batch dim 1 samples"]) -> Float[Tensor, "batch dim_out 1 more"]:
        """Equal to the original layers up to rounding."""
        runs = self.conv(_padded(x, 1, reflect=False)).permute(0, 2, 3, 1)
        rows = runs.reshape(len(x), 1, runs.shape[2] * self.ratio, -1).permute(0, 3, 1, 2)
        return rows[..., self.skipped : self.skipped + x.shape[3] * self.ratio]
