"""Frames to visual features: what a picture network says about each frame, and which of those rows a model is given."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from unsilent.errors import ParameterError


@dataclass(frozen=True)
class Backbone:
    """What a picture network expects of its pictures and what it gives.

    Frames are resized to a short side of `short_side` pixels, cut to the central `size` x `size`, scaled to [0, 1] and normalised.
    """

    dim: int  # numbers in one feature
    size: int  # pixels, height and width of what the network sees
    short_side: int  # pixels, before the cut
    mean: tuple[float, float, float]  # of red, green and blue in [0, 1], subtracted
    std: tuple[float, float, float]  # divided by after that


BACKBONES = {
    # The published weights were trained with (pixel - 127) / 128; half and half is the closest to it that keeps [-1, 1].
    "efficientnet-lite0": Backbone(dim=1280, size=224, short_side=256, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
}


def find_backbone(name: str) -> Backbone:
    """The row of a picture network.

    Raises:
        ParameterError: if there is no such row, naming those that exist.
    """
    if name not in BACKBONES:
        raise ParameterError(f"there is no backbone {name!r}; known are {', '.join(sorted(BACKBONES))}.")
    return BACKBONES[name]


def preprocess(frames: UInt8[np.ndarray, "video_frames height width 3"], backbone: Backbone) -> Float[Tensor, "video_frames 3 size size"]:
    """Turn RGB frames of any size into the normalised squares that a network reads.

    Args:
        frames: red, green, blue in 0..255; smaller ones are enlarged.
        backbone: the network's expectations.

    Source:
        torchvision's Resize, CenterCrop, ToTensor, Normalize, as the released ResNet-50 extractor uses them; antialiased bilinear, rounded
        to whole grey levels after resizing as Pillow does.
    """
    return _normalise(torch.stack([_square(frame, backbone) for frame in frames]), backbone)


def _square(frame: UInt8[np.ndarray, "height width 3"], backbone: Backbone) -> UInt8[Tensor, "3 size size"]:
    height, width, _ = frame.shape
    resized = [backbone.short_side * side // min(height, width) for side in (height, width)]
    image = torch.from_numpy(np.require(frame, requirements=["C", "W"])).permute(2, 0, 1)[None]
    image = F.interpolate(image, size=resized, mode="bilinear", antialias=True)
    top, left = (round((side - backbone.size) / 2) for side in resized)
    return image[0, :, top : top + backbone.size, left : left + backbone.size].clone()  # the caller may reuse its frame, and we let it go


def _normalise(squares: UInt8[Tensor, "video_frames 3 size size"], backbone: Backbone) -> Float[Tensor, "video_frames 3 size size"]:
    mean, std = (torch.tensor(values, device=squares.device).view(3, 1, 1) for values in (backbone.mean, backbone.std))
    # One multiplication and one addition a pixel, in the layout that convolutions on a CPU are twice as fast with.
    return (squares.to(memory_format=torch.channels_last) * (1 / (255 * std))).sub_(mean / std)


@torch.no_grad()
def extract(
    frames: Iterable[np.ndarray],
    module: nn.Module,
    backbone: Backbone,
    batch: int = 16,
    on_batch: Callable[[int], None] | None = None,
) -> Float[Tensor, "video_frames dim"]:
    """Look at a stream of frames and keep one feature each; never more than `batch` frames in memory, whatever their size.

    Args:
        frames: uint8 RGB `[height, width, 3]` each, for example from `media.video.read_frames`.
        module: the network itself, in evaluation mode, on any device.
        backbone: what the network expects, from `find_backbone`.
        batch: frames looked at together; changes speed, not results.
        on_batch: called after each batch with the number of frames done so far.

    Returns:
        float32 on the CPU, in the order of the frames.

    Raises:
        ParameterError: if there are no frames, the batch is below 1, or the network is in training mode.
    """
    if batch < 1:
        raise ParameterError(f"a batch of {batch} frames was asked for; it must be 1 or more.")
    if module.training:
        raise ParameterError("features need the backbone in evaluation mode, where a frame's result depends on no other; call eval().")
    weights = next(module.parameters())
    squares = (_square(frame, backbone) for frame in frames)
    parts: list[Tensor] = []
    while waiting := list(islice(squares, batch)):
        images = _normalise(torch.stack(waiting).to(weights.device), backbone)
        parts.append(module(images.to(weights.dtype)).float().cpu())
        if on_batch:
            on_batch(sum(map(len, parts)))
    if not parts:
        raise ParameterError("0 frames were given; features need 1 or more.")
    return torch.cat(parts)


def pick(features: Float[Tensor, "video_frames dim"], n_wanted: int) -> Float[Tensor, "features dim"]:
    """Keep `n_wanted` rows spread evenly over the clip; see `pick_rows`."""
    return features[pick_rows(n_wanted, len(features))]


def pick_rows(n_wanted: int, n_total: int) -> list[int]:
    """Which rows a model with few features is given.

    Args:
        n_wanted: from 1 to `n_total`.
        n_total: features of the whole clip.

    Returns:
        Increasing indices: evenly spaced from the first row, all shifted towards the middle; 5 of 212 gives 35, 77, 119, 162, 204.

    Raises:
        ParameterError: if there are fewer rows than wanted, or none is wanted.

    Source:
        Released ResampleFrames. Differs: whole-number arithmetic, where its floating point truncates a few spacings one row early (38 of
        212, but none of the published 1, 5, 53 and 212).
    """
    if not 1 <= n_wanted <= n_total:
        raise ParameterError(f"{n_wanted} features were asked of {n_total}; ask for 1 to {n_total}, or tile a short video first.")
    return [index * n_total // n_wanted + n_total // (n_wanted + 1) for index in range(n_wanted)]


def tile(features: Float[Tensor, "video_frames dim"], n_wanted: int) -> Float[Tensor, "features dim"]:
    """Repeat a short video's features from its start, or cut a long one's, to `n_wanted` rows; see `tile_rows`."""
    return features[tile_rows(len(features), n_wanted)]


def tile_rows(n_available: int, n_wanted: int) -> list[int]:
    """Rows 0 to `n_available - 1`, again from the start when they run out, `n_wanted` in all.

    Raises:
        ParameterError: if there is nothing to repeat, or less than one row is wanted.

    Source:
        The released demo's rule for videos shorter than a clip.
    """
    if n_available < 1 or n_wanted < 1:
        raise ParameterError(f"{n_wanted} features were asked of {n_available}; both must be 1 or more.")
    return [index % n_available for index in range(n_wanted)]
