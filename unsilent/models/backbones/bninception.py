"""BN-Inception, and a two-stream network of two of them: one for images, one for optical flow."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from unsilent.errors import ParameterError

# Channels of each Inception block's branches: 1x1; reduction and output of the 3x3; reduction and both outputs of the
# double 3x3; projection after pooling. Blocks without 1x1 and projection downsample by 2.
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
_MAX_POOLED = ("3c", "4e", "5b")  # blocks with max pooling; the others have average pooling of 3 x 3 that includes the zero padding
_STEM_CONV = "conv1_7x7_s2"
_STEM = (64, 64, 192)  # channels of the stem's three convolutions


class BNInception(nn.Module):
    """Image to feature vector; 10.3 M parameters, without the ImageNet classifier.

    Args:
        channels: 3 for images, 2 for optical flow (right, down).

    Source:
        arXiv 1502.03167 as published for temporal segment networks (arXiv 1608.00859), with the same parameter names. Differs: no
        classifier.
    """

    dim = 1024  # width of one feature vector

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
        """A convolution and its BatchNorm, under the published names, which are flat."""
        self.add_module(name, nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2))
        self.add_module(f"{name}_bn", nn.BatchNorm2d(outputs))

    def _run(self, x: Float[Tensor, "batch inputs height width"], *names: str) -> Float[Tensor, "batch outputs new_height new_width"]:
        """Named convolutions in sequence, each with BatchNorm and ReLU."""
        for name in names:
            x = F.relu(self.get_submodule(f"{name}_bn")(self.get_submodule(name)(x)), inplace=True)
        return x

    def block(self, x: Float[Tensor, "batch inputs height width"], block: str) -> Float[Tensor, "batch outputs new_height new_width"]:
        """One Inception block, from `3a` to `5b`."""
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
        """Non-negative features.

        Args:
            images: 224 x 224 in the paper; levels in 0..255 minus (104, 117, 128) for BGR, minus 128 for flow.
        """
        x = F.max_pool2d(self._run(images, _STEM_CONV), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self._run(x, "conv2_3x3_reduce", "conv2_3x3"), 3, 2, ceil_mode=True)
        for block in _BLOCKS:
            x = self.block(x, block)
        return x.mean(dim=(2, 3))

    def fuse(self) -> None:
        """Fold BatchNorm into the convolutions, for inference; changes state-dict names.

        Raises:
            ParameterError: in training mode, where the norms depend on the batch.
        """
        if self.training:
            raise ParameterError("a BN-Inception in training mode cannot be fused; call eval() first.")
        for name, module in list(self.named_children()):
            if isinstance(module, nn.BatchNorm2d):
                conv = name.removesuffix("_bn")
                self.add_module(conv, fuse_conv_bn_eval(self.get_submodule(conv), module))
                self.add_module(name, nn.Identity())


class TwoStream(nn.Module):
    """Two-stream network: features of an image and of its optical flow, 1024 each, from two separate networks.

    Source:
        Features of the paper's BN-Inception models; both networks have ImageNet weights, see `flow_weights`.
    """

    dim = 2 * BNInception.dim

    def __init__(self) -> None:
        super().__init__()
        self.rgb = BNInception(3)
        self.flow = BNInception(2)

    def forward(self, images: Float[Tensor, "batch 5 height width"]) -> Float[Tensor, "batch dim"]:
        """Features of blue, green, red, flow right and flow down, scaled as for `BNInception`."""
        return torch.cat([self.rgb(images[:, :3]), self.flow(images[:, 3:])], dim=1)

    def fuse(self) -> None:
        """See `BNInception.fuse`."""
        self.rgb.fuse()
        self.flow.fuse()


def flow_weights(rgb: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the flow network from those of the image network: the first convolution is averaged over colours, the rest is copied.

    Args:
        rgb: state dict of a `BNInception` of 3 channels.

    Source:
        Temporal segment networks, arXiv 1608.00859 section 3.2 "cross-modality pre-training". The released features come from this
        initialisation; the network was never trained on flow.
    """
    name = f"{_STEM_CONV}.weight"
    return rgb | {name: rgb[name].mean(dim=1, keepdim=True).repeat(1, 2, 1, 1)}
