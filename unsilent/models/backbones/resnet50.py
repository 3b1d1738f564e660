"""ResNet-50: the image network of half of the paper's models."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from unsilent.errors import ParameterError

# One row per stage: blocks, stride of the first block, inner channels of a block. A block has four times as many outputs.
_STAGES = ((3, 1, 64), (4, 2, 128), (6, 2, 256), (3, 2, 512))
_STEM = 64  # channels
_EXPANSION = 4
# Names of convolutions and their BatchNorms, in the network, in a block and in a block's shortcut.
_FOLDED = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"), ("0", "1"))


class Bottleneck(nn.Module):
    """Bottleneck residual block: reduce, 3 x 3 convolution, expand; the shortcut is projected if shapes differ."""

    def __init__(self, inputs: int, inner: int, stride: int) -> None:
        super().__init__()
        outputs = inner * _EXPANSION
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        else:
            self.downsample = nn.Identity()

    def forward(self, x: Float[Tensor, "batch inputs height width"]) -> Float[Tensor, "batch outputs new_height new_width"]:
        """Divide height and width by the stride, rounded up."""
        inner = F.relu(self.bn1(self.conv1(x)), inplace=True)
        inner = F.relu(self.bn2(self.conv2(inner)), inplace=True)
        return F.relu(self.bn3(self.conv3(inner)) + self.downsample(x), inplace=True)


class ResNet50(nn.Module):
    """Image to feature vector; 23.5 M parameters, without the ImageNet classifier.

    Source:
        arXiv 1512.03385, with the stride of a block in its 3 x 3 convolution and the parameter names of torchvision's resnet50. The
        released extractor uses its IMAGENET1K_V1 weights, also without `fc`.
    """

    dim = 2048  # width of one feature vector

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, _STEM, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM)
        inputs = _STEM
        for number, (blocks, stride, inner) in enumerate(_STAGES, start=1):
            stage = []
            for index in range(blocks):
                stage.append(Bottleneck(inputs, inner, stride if index == 0 else 1))
                inputs = inner * _EXPANSION
            self.add_module(f"layer{number}", nn.Sequential(*stage))

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim"]:
        """Non-negative features of RGB images, standardised with ImageNet's statistics, 224 x 224 in the paper."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(images)), inplace=True), 3, 2, 1)
        return self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean(dim=(2, 3))

    def fuse(self) -> None:
        """Fold BatchNorm into the convolutions, for inference; changes state-dict names.

        Raises:
            ParameterError: in training mode, where the norms depend on the batch.
        """
        if self.training:
            raise ParameterError("a ResNet in training mode cannot be fused; call eval() first.")
        for parent in self.modules():
            children = dict(parent.named_children())
            for conv, norm in _FOLDED:
                if isinstance(children.get(norm), nn.BatchNorm2d):
                    parent.add_module(conv, fuse_conv_bn_eval(children[conv], children[norm]))
                    parent.add_module(norm, nn.Identity())
