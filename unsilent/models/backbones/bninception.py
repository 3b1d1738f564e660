"""BN-Inception, and two of them side by side: one looks at a picture, one at the optical flow that leads to it."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from unsilent.errors import ParameterError

# One row per inception block, channels of its branches: 1x1; reduction and output of the 3x3; reduction and both outputs of the double
# 3x3; projection after the pooling. A block without 1x1 and projection halves height and width.
_BLOCKS = {
    "3a": (64, 64, 64, 64, 96, 32),
    "3b": (64, 64, 96, 64, 96, 64),
    "3c": (0, 128, 160, 64, 96, 0),
    "4a": (224, 64, 96, 96, 128, 128),
    "4b": (192, 96, 128, 96, 128, 128),
    "4c": (160, 128, 160, 128, 160, 128),
    "4d": (96, 128, 192, 160, 192, 128),
    "4e": (0, 128, 192, 192, 256, 0),
    "5a": (352, 192, 320, 160, 224, 128),
    "5b": (352, 192, 320, 192, 224, 128),
}
_MAX_POOLED = ("3c", "4e", "5b")  # the others take the mean of each 3 x 3, zeros beyond the border included
_STEM_CONV = "conv1_7x7_s2"
_STEM = (64, 64, 192)  # channels of its three convolutions


class BNInception(nn.Module):
    """Pictures to one vector each; 10.3 M parameters, without the ImageNet classifier.

    Args:
        channels: of a picture: 3 for colours, 2 for the two directions of optical flow.

    Source:
        arXiv 1502.03167 as published for temporal segment networks (arXiv 1608.00859), whose parameter names these are. Differs: no
        classifier.
    """

    dim = 1024  # numbers in one feature vector

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        first, reduced, inputs = _STEM
        self._add(_STEM_CONV, channels, first, kernel=7, stride=2)
        self._add("conv2_3x3_reduce", first, reduced)
        self._add("conv2_3x3", reduced, inputs, kernel=3)
        for block, (single, reduce, out, double_reduce, double, projected) in _BLOCKS.items():
            name, stride = f"inception_{block}", 1 if single else 2
            if single:
                self._add(f"{name}_1x1", inputs, single)
            self._add(f"{name}_3x3_reduce", inputs, reduce)
            self._add(f"{name}_3x3", reduce, out, kernel=3, stride=stride)
            self._add(f"{name}_double_3x3_reduce", inputs, double_reduce)
            self._add(f"{name}_double_3x3_1", double_reduce, double, kernel=3)
            self._add(f"{name}_double_3x3_2", double, double, kernel=3, stride=stride)
            if projected:
                self._add(f"{name}_pool_proj", inputs, projected)
            inputs = single + out + double + (projected or inputs)

    def _add(self, name: str, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        """A convolution and the norm after it, under the published names, which have no hierarchy."""
        self.add_module(name, nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2))
        self.add_module(f"{name}_bn", nn.BatchNorm2d(outputs))

    def _run(self, x: Tensor, *names: str) -> Tensor:
        for name in names:
            x = F.relu(self.get_submodule(f"{name}_bn")(self.get_submodule(name)(x)), inplace=True)
        return x

    def _block(self, x: Float[Tensor, "batch inputs height width"], block: str) -> Float[Tensor, "batch outputs new_height new_width"]:
        name = f"inception_{block}"
        keeps_size = _BLOCKS[block][0] > 0
        if block in _MAX_POOLED:
            pooled = F.max_pool2d(x, 3, 1, 1) if keeps_size else F.max_pool2d(x, 3, 2, ceil_mode=True)
        else:
            pooled = F.avg_pool2d(x, 3, 1, 1)
        branches = [
            self._run(x, f"{name}_3x3_reduce", f"{name}_3x3"),
            self._run(x, f"{name}_double_3x3_reduce", f"{name}_double_3x3_1", f"{name}_double_3x3_2"),
            self._run(pooled, f"{name}_pool_proj") if keeps_size else pooled,
        ]
        if keeps_size:
            branches.insert(0, self._run(x, f"{name}_1x1"))
        return torch.cat(branches, dim=1)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch dim"]:
        """Features of pictures meant for 224 x 224, in grey levels: BGR less (104, 117, 128), or flow less 128; 1024 numbers from 0 up."""
        x = F.max_pool2d(self._run(images, _STEM_CONV), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self._run(x, "conv2_3x3_reduce", "conv2_3x3"), 3, 2, ceil_mode=True)
        for block in _BLOCKS:
            x = self._block(x, block)
        return x.mean(dim=(2, 3))

    def fuse(self) -> None:
        """Fold all batch norms into their convolutions, for inference: same features, fewer operations; names in the state dict change.

        Raises:
            ParameterError: in training mode, where the norms follow each batch and cannot be folded.
        """
        if self.training:
            raise ParameterError("a BN-Inception in training mode cannot be fused; call eval() first.")
        for name, module in list(self.named_children()):
            if isinstance(module, nn.BatchNorm2d):
                conv = name.removesuffix("_bn")
                self.add_module(conv, fuse_conv_bn_eval(self.get_submodule(conv), module))
                self.add_module(name, nn.Identity())


class TwoStream(nn.Module):
    """What a picture shows and how it moves: 1024 numbers each, from two networks that share nothing.

    Source:
        Features of the paper's BN-Inception models: both networks have the ImageNet weights, see `flow_weights`.
    """

    dim = 2 * BNInception.dim

    def __init__(self) -> None:
        super().__init__()
        self.rgb = BNInception(3)
        self.flow = BNInception(2)

    def forward(self, images: Float[Tensor, "batch 5 height width"]) -> Float[Tensor, "batch dim"]:
        """Features of blue, green, red and the flow to the right and down, normalised as `BNInception` wants them."""
        return torch.cat([self.rgb(images[:, :3]), self.flow(images[:, 3:])], dim=1)

    def fuse(self) -> None:
        """Fold all batch norms into their convolutions, as in `BNInception`."""
        self.rgb.fuse()
        self.flow.fuse()


def flow_weights(rgb: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights for flow from those for pictures: the first convolution's mean over colours, for either direction; all else the same.

    Args:
        rgb: state dict of a `BNInception` of 3 channels.

    Source:
        Temporal segment networks' initialisation of flow networks, arXiv 1608.00859 section 3.2 "cross-modality pre-training"; the
        released features come from networks in this state, never trained on flow.
    """
    name = f"{_STEM_CONV}.weight"
    return rgb | {name: rgb[name].mean(dim=1, keepdim=True).repeat(1, 2, 1, 1)}
