"""Convolutional networks as few calls into oneDNN, for inference on a CPU: the same layers, several of them in one pass.

Torch's modules under autocast round inputs and kernels at every call, bring them into an order that oneDNN multiplies fast and back, and go
through memory once for every operation in between. Here kernels are kept as they are multiplied, the channels of a place lie side by side
from the first layer to the last, and what follows a convolution is done inside it. Sums are in float32, as there, or exact where the
codebook's decoder multiplies whole numbers.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unsilent.choices import Precision
from unsilent.models.backbones.efficientnet_lite import ConvNorm, EfficientNetLite0
from unsilent.models.codebook import Codebook
from unsilent.models.layers import ResidualBlock, Upsample
from unsilent.models.melgan import SLOPE, MelGAN, Residual
from unsilent.speed import cpu_groupnorm, cpu_transformer
from unsilent.speed.choice import convolution_dtype
from unsilent.speed.memory import trim_memory

NO_ACTIVATION, LEAKY_RELU, RELU6 = ("none", []), ("leaky_relu", [SLOPE]), ("hardtanh", [0.0, 6.0])  # what follows a convolution
LEVELS = 127  # whole numbers on each side of zero, for weights
# Which taps of three, along one axis, see the same value when each is repeated: output 2i - 1 and 2i see values i - 1 and i.
_SHARED_TAPS = (((1, 1, 0), (0, 0, 1)), ((1, 0, 0), (0, 1, 1)))


def can_fuse(device: torch.device) -> bool:
    """Whether there is a oneDNN here that computes in bfloat16."""
    return device.type == "cpu" and torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def can_quantise(device: torch.device) -> bool:
    """Whether there is a oneDNN here that multiplies whole numbers fast, and what makes them."""
    is_there = device.type == "cpu" and torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qconv2d_pointwise")
    return is_there and cpu_transformer.has_vnni() and cpu_groupnorm.is_available()


def prepare_convolutions(network: nn.Module, precision: Precision, device: torch.device) -> None:
    """Make a codebook or vocoder ready for inference under autocast to what convolutions compute in; float32 leaves it as it is.

    Kernels of convolutions are held as they are multiplied, and fused on a CPU; as int8 those of the codebook's decoder are whole numbers.

    Args:
        network: in evaluation mode with float32 weights, the norms of a MelGAN folded.
        precision: of the model.
        device: that it will be on.
    """
    dtype, whole = convolution_dtype(precision), precision == "int8" and can_quantise(device)
    if whole or (dtype is torch.bfloat16 and can_fuse(device)):
        fuse(network, dtype, whole)
    if dtype is torch.bfloat16:
        for weight in network.parameters():
            if weight.ndim > 2:
                weight.data = weight.data.bfloat16()  # autocast would round it at every call
    trim_memory()


def fuse(network: nn.Module, dtype: torch.dtype, whole: bool = False) -> None:
    """Put the fast form of their layers into networks that have one, which are then for inference on a CPU only; leave others alone.

    Args:
        network: in evaluation mode with float32 weights, the norms of a MelGAN or an EfficientNet folded.
        dtype: to compute in; float32 gives the same to cpu_groupnorm.
        whole: whether the residual blocks of a codebook's decoder multiply whole numbers.
    """
    if isinstance(network, MelGAN):
        network.layers = FusedMelGAN(network, dtype)
    elif isinstance(network, Codebook):
        if whole:
            quantise = Int8ResidualBlock
            _replace(network.decoder, ResidualBlock, lambda block: quantise(block, dtype) if quantise.fits(block) else block)
        _replace(network, Upsample, lambda layer: FusedUpsample(layer, dtype))
        _replace(network, nn.Conv2d, lambda layer: Convolution(layer.weight, layer.bias, dtype, layer.stride, layer.padding))
    elif isinstance(network, EfficientNetLite0):
        _replace(network, ConvNorm, lambda layer: FusedConvNorm(layer, dtype))


def _replace(network: nn.Module, kind: type[nn.Module], make: Callable[[nn.Module], nn.Module]) -> None:
    for parent in list(network.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, kind):
                setattr(parent, name, make(layer))


class Convolution(nn.Module):
    """A convolution of pictures, or of sequences as pictures of height 1.

    Args:
        weight: `[outputs, inputs, height, width]`.
        bias: `[outputs]`.
        dtype: to compute in.
        stride, padding, dilation: of height and width.
        groups: of channels that do not see each other.
        then: what is done with each result, as oneDNN knows it.
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
        then: tuple[str, list[float]] = NO_ACTIVATION,
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach().to(dtype).contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", bias.detach().to(dtype))
        self._places, self._then = (padding, stride, dilation, groups), (*then, "")

    def forward(
        self, x: Float[Tensor, "batch inputs height width"], onto: Float[Tensor, "batch outputs new_height new_width"] | None = None
    ) -> Float[Tensor, "batch outputs new_height new_width"]:
        """Results, added to `onto`, whose memory they take, where it is given."""
        x = x.to(self.weight.dtype)
        if onto is None:
            return torch.ops.mkldnn._convolution_pointwise(x, self.weight, self.bias, *self._places, *self._then)
        add = ("add", 1.0, None, [], None)
        return torch.ops.mkldnn._convolution_pointwise_.binary(onto, x, self.weight, self.bias, *self._places, *add)


class FusedUpsample(nn.Module):
    """`Upsample` on the small picture: the four pixels that one becomes see only two by two of it, by sums of the nine weights.

    4 products of 9 are left; the sums are made in double precision, once.
    """

    def __init__(self, layer: Upsample, dtype: torch.dtype) -> None:
        super().__init__()
        seen = torch.tensor(_SHARED_TAPS, dtype=torch.float64)
        kernels = torch.einsum("mat,nbu,oitu->mnoiab", seen, seen, layer.conv.weight.detach().double()).flatten(0, 2)
        self.conv = Convolution(kernels.float(), layer.conv.bias.repeat(4), dtype, padding=(1, 1))

    def forward(self, x: Float[Tensor, "batch dim height width"]) -> Float[Tensor, "batch dim double_height double_width"]:
        """As `Upsample`."""
        _, dim, height, width = x.shape
        four = self.conv(x).unflatten(1, (2, 2, dim))  # pixels above and below, left and right of each corner
        out = torch.empty(len(x), dim, 2 * height, 2 * width, dtype=four.dtype, memory_format=torch.channels_last)
        for below in (0, 1):
            for right in (0, 1):
                corner = four[:, below, right, :, 1 - below : height + 1 - below, 1 - right : width + 1 - right]
                out[:, :, 1 - below :: 2, 1 - right :: 2] = corner
        return out


class Int8ResidualBlock(nn.Module):
    """`ResidualBlock`, its wide convolutions in whole numbers, which are neither parameters nor buffers and cannot be copied."""

    def __init__(self, block: ResidualBlock, dtype: torch.dtype) -> None:
        super().__init__()
        self.first, self.second = _Int8Convolution(block.norm1, block.conv1, dtype), _Int8Convolution(block.norm2, block.conv2, dtype)
        self.shortcut = block.shortcut

    @staticmethod
    def fits(block: ResidualBlock) -> bool:
        """Whether a block has widths that can be rounded."""
        return all(cpu_groupnorm.fits(conv.in_channels) for conv in (block.conv1, block.conv2))

    def forward(self, x: Float[Tensor, "batch dim height width"]) -> Float[Tensor, "batch dim_out height width"]:
        """As `ResidualBlock`; each picture is rounded by its own largest number."""
        if len(x) > 1:
            return torch.cat([self(one) for one in x.split(1)])
        return self.second(self.first(x)).add_(self.shortcut(x))


class _Int8Convolution(nn.Module):
    """A group norm, swish, and a convolution in whole numbers.

    Weights are from -127 to 127 with a scale for each output, inputs from 0 to 255 with one step for all, results in `dtype`.
    """

    def __init__(self, norm: nn.GroupNorm, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.norm, self.dtype = norm, dtype
        self.register_buffer("bias", conv.bias.detach().float())
        weight = conv.weight.detach().float()
        scale = weight.abs().amax((1, 2, 3)).clamp(min=torch.finfo(torch.float32).tiny) / LEVELS
        self.register_buffer("scale", scale)
        self.register_buffer("middle", torch.zeros(len(scale), dtype=torch.int32))
        whole = (weight / scale[:, None, None, None]).round().to(torch.int8).contiguous(memory_format=torch.channels_last)
        self._places = ([1, 1], list(conv.padding), [1, 1], 1)
        # any step and zero will do here, but a zero of 0 would leave no room for others
        self._weight = torch.ops.onednn.qconv_prepack(whole, scale, 1.0, 1, *self._places)

    def forward(self, x: Float[Tensor, "1 dim height width"]) -> Float[Tensor, "1 dim_out height width"]:
        norm = self.norm
        given, step, zero = cpu_groupnorm.norm_swish_quantise(x.to(self.dtype), norm.num_groups, norm.weight, norm.bias, norm.eps)
        kernel = (self._weight, self.scale, self.middle, self.bias)
        return torch.ops.onednn.qconv2d_pointwise(given, step, zero, *kernel, *self._places, 1.0, 0, self.dtype, *NO_ACTIVATION, "")


class FusedConvNorm(nn.Module):
    """`ConvNorm` of a picture network, its rectifier inside.

    Where it strides, pictures are padded more on the right and bottom, which oneDNN does not do: its kernel has a row and a column of zeros
    in front instead, and pictures of odd size, which are padded evenly, have one more row in front of them.
    """

    def __init__(self, layer: ConvNorm, dtype: torch.dtype) -> None:
        super().__init__()
        conv = layer.conv
        self.strides, padding = conv.stride[0] > 1, (conv.kernel_size[0] // 2,) * 2
        weight = F.pad(conv.weight, (1, 0, 1, 0)) if self.strides else conv.weight
        then = RELU6 if isinstance(layer.active, nn.ReLU6) else NO_ACTIVATION
        self.conv = Convolution(weight, conv.bias, dtype, conv.stride, padding, groups=conv.groups, then=then)

    def forward(self, x: Float[Tensor, "batch inputs height width"]) -> Float[Tensor, "batch outputs new_height new_width"]:
        """As `ConvNorm`."""
        if self.strides and (x.shape[2] % 2 or x.shape[3] % 2):
            x = F.pad(x, (x.shape[3] % 2, 0, x.shape[2] % 2, 0))
        return self.conv(x)


class FusedMelGAN(nn.Module):
    """The layers of a MelGAN."""

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
        """As the layers, in float32."""
        x = mel01.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        return self.steps(x).squeeze(2).float().tanh()


def _padded(
    x: Float[Tensor, "batch dim 1 samples"], edge: int, leaky: bool = True, reflect: bool = True
) -> Float[Tensor, "batch dim 1 more"]:
    """Rectified, and longer on both sides by its reflection or by zeros."""
    samples = x.shape[3]
    out = torch.empty(*x.shape[:3], samples + 2 * edge, dtype=x.dtype, memory_format=torch.channels_last)
    if leaky:
        torch.ops.aten.leaky_relu.out(x, SLOPE, out=out[..., edge : edge + samples])
    else:
        out[..., edge : edge + samples] = x
    out[..., :edge] = out[..., edge + 1 : 2 * edge + 1].flip(3) if reflect else 0
    out[..., edge + samples :] = out[..., samples - 1 : samples - 1 + edge].flip(3) if reflect else 0
    return out


def _flat(layer: nn.Conv1d, dtype: torch.dtype, then: tuple[str, list[float]] = NO_ACTIVATION) -> Convolution:
    return Convolution(layer.weight[:, :, None], layer.bias, dtype, dilation=(1, layer.dilation[0]), then=then)


class _EdgeConvolution(nn.Module):
    """The first or last convolution of a MelGAN, with its reflection."""

    def __init__(self, layer: nn.Conv1d, dtype: torch.dtype, leaky: bool) -> None:
        super().__init__()
        self.conv, self.edge, self.leaky = _flat(layer, dtype), layer.kernel_size[0] // 2, leaky

    def forward(self, x: Float[Tensor, "batch dim 1 samples"]) -> Float[Tensor, "batch dim_out 1 samples"]:
        return self.conv(_padded(x, self.edge, self.leaky))


class _FusedResidual(nn.Module):
    """`Residual`, its sum done inside its last convolution."""

    def __init__(self, layer: Residual, dtype: torch.dtype) -> None:
        super().__init__()
        _, pad, wide, _, point = layer.body
        self.edge = pad.padding[0]
        self.wide, self.point, self.shortcut = _flat(wide, dtype, LEAKY_RELU), _flat(point, dtype), _flat(layer.shortcut, dtype)

    def forward(self, x: Float[Tensor, "batch dim 1 samples"]) -> Float[Tensor, "batch dim 1 samples"]:
        return self.point(self.wide(_padded(x, self.edge)), onto=self.shortcut(x))


class FusedTransposed(nn.Module):
    """A rectifier and a transposed convolution whose kernel is twice its stride.

    Each stretch of outputs, one stride long, sees only two inputs: a convolution of width two gives all of it side by side.
    """

    def __init__(self, layer: nn.ConvTranspose1d, dtype: torch.dtype) -> None:
        super().__init__()
        self.ratio, self.skipped = layer.stride[0], layer.padding[0]
        later, earlier = layer.weight.detach().split(self.ratio, dim=2)  # what an input adds to its own stretch, and to the next
        kernels = torch.stack([earlier, later], dim=-1).permute(2, 1, 0, 3).flatten(0, 1)
        self.conv = Convolution(kernels[:, :, None], layer.bias.repeat(self.ratio), dtype)

    def forward(self, x: Float[Tensor, "batch dim 1 samples"]) -> Float[Tensor, "batch dim_out 1 more"]:
        """As the layers."""
        stretches = self.conv(_padded(x, 1, reflect=False)).permute(0, 2, 3, 1)
        rows = stretches.reshape(len(x), 1, stretches.shape[2] * self.ratio, -1).permute(0, 3, 1, 2)
        return rows[..., self.skipped : self.skipped + x.shape[3] * self.ratio]
