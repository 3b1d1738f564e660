"""EfficientNet-lite0: a small image classifier, fast on a CPU."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from unsilent.errors import ParameterError

# One row per stage: repeats, kernel, stride of the first block, expansion, output channels.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM = 32  # channels of the stem; stem and head are not scaled in the lite family
_HEAD = 1280
_CLASSES = 1000  # classes of ImageNet


class ConvNorm(nn.Module):
    """Convolution, BatchNorm and, if `active`, ReLU6.

    Strided convolutions have TensorFlow's "SAME" padding, larger at the right and bottom, as in the training of the weights.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, active: bool = True) -> None:
        super().__init__()
        padding = kernel // 2 if stride == 1 else 0
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3)
        self.active = nn.ReLU6(inplace=True) if active else nn.Identity()

    def forward(self, x: Float[Tensor, "batch inputs height width"]) -> Float[Tensor, "batch outputs new_height new_width"]:
        """Divide height and width by the stride, rounded up."""
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        if stride > 1:
            missing = [max(0, (-(-size // stride) - 1) * stride + kernel - size) for size in (x.shape[-1], x.shape[-2])]
            x = F.pad(x, [side for total in missing for side in (total // 2, total - total // 2)])
        return self.active(self.norm(self.conv(x)))

    def fuse(self) -> None:
        """Fold BatchNorm into the convolution."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv = fuse_conv_bn_eval(self.conv, self.norm)
            self.norm = nn.Identity()


class Block(nn.Module):
    """Inverted residual block: expand, depthwise convolution, project; with a skip connection if shapes match."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = ConvNorm(inputs, wide) if expansion > 1 else nn.Identity()
        self.depthwise = ConvNorm(wide, wide, kernel, stride, groups=wide)
        self.project = ConvNorm(wide, outputs, active=False)
        self.skips = stride == 1 and inputs == outputs

    def forward(self, x: Float[Tensor, "batch inputs height width"]) -> Float[Tensor, "batch outputs new_height new_width"]:
        """Divide height and width by the stride."""
        inner = self.project(self.depthwise(self.expand(x)))
        return inner.add_(x) if self.skips else inner


class EfficientNetLite0(nn.Module):
    """Image to feature vector; 4.7 M parameters, with the ImageNet classifier.

    Source:
        TensorFlow TPU repository, models/official/efficientnet/lite: EfficientNet-B0 (arXiv 1905.11946) without squeeze-and-excitation,
        with ReLU6, and with a fixed stem and head.
    """

    dim = _HEAD  # width of one feature vector

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, _STEM, kernel=3, stride=2)
        blocks, inputs = [], _STEM
        for repeats, kernel, stride, expansion, outputs in _STAGES:
            for index in range(repeats):
                blocks.append(Block(inputs, outputs, kernel, stride if index == 0 else 1, expansion))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = ConvNorm(inputs, _HEAD)
        self.classifier = nn.Linear(_HEAD, _CLASSES)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim"]:
        """Features in [0, 6], the spatial mean of the last layer, of RGB images in [-1, 1]; trained at 224 x 224.

        `classifier` maps them to logits of the 1000 ImageNet classes.
        """
        return self.head(self.blocks(self.stem(images))).mean(dim=(2, 3))

    def fuse(self) -> None:
        """Fold BatchNorm into the convolutions, for inference; changes state-dict names.

        Raises:
            ParameterError: in training mode, where the norms depend on the batch.
        """
        if self.training:
            raise ParameterError("an EfficientNet in training mode cannot be fused; call eval() first.")
        for module in self.modules():
            if isinstance(module, ConvNorm):
                module.fuse()
