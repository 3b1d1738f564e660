"""Building blocks of the codebook's encoder and decoder: residual and attention blocks, downsampling and upsampling."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with 32 groups as in the paper; in narrow networks with groups of four channels."""
    return nn.GroupNorm(min(32, channels // 4), channels, eps=1e-6)


def swish(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Activation after every norm; in place when no gradients are recorded, to save memory."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions, each after GroupNorm and swish, plus a shortcut (1 x 1 where the width changes)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.norm1 = norm(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = norm(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.shortcut = nn.Identity() if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Float[Tensor, "batch dim height width"]) -> Float[Tensor, "batch dim_out height width"]:
        """Keep the resolution; change the width from `channels_in` to `channels_out`."""
        residual = self.conv1(swish(self.norm1(x)))
        return self.shortcut(x) + self.conv2(swish(self.norm2(residual)))


class AttentionBlock(nn.Module):
    """Single-head self-attention over all time-frequency positions, added to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Float[Tensor, "batch dim height width"]) -> Float[Tensor, "batch dim height width"]:
        """Keep shape."""
        normed = self.norm(x)
        # each [batch, height * width, dim]
        q, k, v = (layer(normed).flatten(2).transpose(1, 2) for layer in (self.q, self.k, self.v))
        attended = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(attended.transpose(1, 2).reshape(x.shape))


class Downsample(nn.Module):
    """Halve height and width by a strided convolution, padded at the bottom and right only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Float[Tensor, "batch dim height width"]) -> Float[Tensor, "batch dim half_height half_width"]:
        """Keep the channels."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double height and width by nearest-neighbour upsampling, then convolve."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "batch dim height width"]) -> Float[Tensor, "batch dim double_height double_width"]:
        """Keep the channels."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Stage(nn.Module):
    """One resolution of the encoder or decoder: residual blocks, optionally with attention after each, then resampling."""

    def __init__(self, channels_in: int, channels_out: int, n_blocks: int, attention: bool, resample: nn.Module | None) -> None:
        super().__init__()
        widths = [channels_in] + [channels_out] * n_blocks
        self.block = nn.ModuleList(ResidualBlock(widths[i], widths[i + 1]) for i in range(n_blocks))
        self.attn = nn.ModuleList(AttentionBlock(channels_out) for _ in range(n_blocks if attention else 0))
        self.resample = resample if resample is not None else nn.Identity()

    def forward(self, x: Float[Tensor, "batch dim height width"]) -> Float[Tensor, "batch dim_out height_out width_out"]:
        """Change the resolution by the factor of the resampling layer, if there is one."""
        for i, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[i](x)
        return self.resample(x)


class Middle(nn.Module):
    """The bottleneck: residual block, attention, residual block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels)
        self.attn_1 = AttentionBlock(channels)
        self.block_2 = ResidualBlock(channels, channels)

    def forward(self, x: Float[Tensor, "batch dim height width"]) -> Float[Tensor, "batch dim height width"]:
        """Keep shape."""
        return self.block_2(self.attn_1(self.block_1(x)))
