"""Visual features of frames: preprocessing, and embedding by an image network."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from unsilent.errors import ParameterError
from unsilent.vision import flow


@dataclass(frozen=True)
class Backbone:
    """Preprocessing and output of an image network.

    Frames are resized to `short_side`, cropped to the central `size` x `size`, scaled to [0, 1] and standardised. With `pairs`,
    `flow.two_stream_input` of each frame and the next is resized to `size` x `size` instead.

    Attributes:
        dim: width of one feature.
        size: height and width of the network's input, in pixels.
        short_side: shorter side before the crop, in pixels; None for pairs, which take frames of any size.
        mean, std: of each channel, for pixels in [0, 1].
        pairs: whether inputs are pairs of consecutive frames `[2, height, width, 3]`, see `network_inputs`.
        scaled_by_decoder: whether the decoder scales larger frames to `short_side`, which is faster. Its area filter differs from the
            resizing of the released ResNet-50 extractor by 0.6 to 0.9 of 255 levels on average.
    """

    dim: int
    size: int
    short_side: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pairs: bool = False
    scaled_by_decoder: bool = True

    @property
    def decoded_side(self) -> int | None:
        """Shorter side of decoded frames, in pixels; None for the video's size."""
        return self.short_side if self.scaled_by_decoder else None


BACKBONES = {
    # the published weights were trained with (pixel - 127) / 128; 0.5 is the closest standardisation that keeps [-1, 1]
    "efficientnet-lite0": Backbone(dim=1280, size=224, short_side=256, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    "resnet50": Backbone(
        dim=2048, size=224, short_side=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), scaled_by_decoder=False
    ),
    # blue, green, red and two flow channels in 0..255, centred but not scaled
    "bninception": Backbone(
        dim=2048,
        size=224,
        short_side=None,
        mean=tuple(level / 255 for level in (104, 117, 128, 128, 128)),
        std=(1 / 255,) * 5,
        pairs=True,
    ),
}


def find_backbone(name: str) -> Backbone:
    """The preprocessing of an image network.

    Raises:
        ParameterError: for an unknown name; the message lists the known ones.
    """
    if name not in BACKBONES:
        raise ParameterError(f"there is no backbone {name!r}; known are {', '.join(sorted(BACKBONES))}.")
    return BACKBONES[name]


def needed_frames(rows: Sequence[int], backbone: Backbone) -> list[int]:
    """Sorted numbers of the frames from which the features `rows` are computed; for pairs, including the next frames."""
    return sorted({row + further for row in rows for further in range(1 + backbone.pairs)})


def network_inputs(
    frames: Iterable[tuple[int, UInt8[np.ndarray, "height width 3"]]], rows: Sequence[int], backbone: Backbone
) -> Iterator[tuple[int, UInt8[np.ndarray, "*pair height width 3"]]]:
    """Inputs of `extract` for the features `rows`, from a stream of their `needed_frames`.

    Args:
        frames: number and RGB of each frame, in order; some may be missing.
        rows: numbers of the features. For pairs, feature `i` is computed from the frames `i` and `i + 1`, so a video has one feature less
            than frames.
        backbone: the network's preprocessing.

    Yields:
        Number of the feature, and the frame or pair. Incomplete pairs are left out; if no pair is complete, the last frame is paired with
        itself.
    """
    if not backbone.pairs:
        yield from frames
        return
    wanted, last, is_empty = set(rows), None, True
    for number, frame in frames:
        if last is not None and last[0] in wanted and last[0] == number - 1:
            yield last[0], np.stack([last[1], frame])
            is_empty = False
        last = number, frame.copy()  # the decoder may reuse its buffer
    if last is not None and is_empty:
        yield last[0], np.stack([last[1], last[1]])


def _resize_and_crop(frame: UInt8[np.ndarray, "*pair height width 3"], backbone: Backbone) -> UInt8[Tensor, "channels size size"]:
    if frame.ndim != 3 + backbone.pairs:
        wanted = "pairs of frames [2, height, width, 3]" if backbone.pairs else "single frames [height, width, 3]"
        raise ParameterError(f"this backbone takes {wanted}, but was given {list(frame.shape)}; see features.network_inputs.")
    if backbone.pairs:
        return _resize(flow.two_stream_input(frame), (backbone.size, backbone.size))
    height, width, _ = frame.shape
    resized = tuple(backbone.short_side * side // min(height, width) for side in (height, width))
    image = _resize(frame, resized)
    top, left = (round((side - backbone.size) / 2) for side in resized)
    # a copy, because the caller may reuse its buffer, and because a view would keep the full frame in memory
    return image[:, top : top + backbone.size, left : left + backbone.size].clone()


def _resize(frame: UInt8[np.ndarray, "height width channels"], size: tuple[int, int]) -> UInt8[Tensor, "channels new_height new_width"]:
    image = torch.from_numpy(np.require(frame, requirements=["C", "W"])).permute(2, 0, 1)[None]
    return F.interpolate(image, size=size, mode="bilinear", antialias=True)[0]


def _standardise(
    images: UInt8[Tensor, "video_frames channels size size"], backbone: Backbone
) -> Float[Tensor, "video_frames channels size size"]:
    """`(pixel / 255 - mean) / std`, in channels-last layout, in which CPU convolutions are twice as fast."""
    mean, std = (torch.tensor(values, device=images.device).view(-1, 1, 1) for values in (backbone.mean, backbone.std))
    return (images.to(memory_format=torch.channels_last) * (1 / (255 * std))).sub_(mean / std)


@torch.no_grad()
def extract(
    frames: Iterable[UInt8[np.ndarray, "*pair height width 3"]],
    module: nn.Module,
    backbone: Backbone,
    batch: int = 4,
    on_batch: Callable[[int], None] | None = None,
) -> Float[Tensor, "video_frames dim"]:
    """Embed a stream of frames; at most a few batches are in memory.

    Args:
        frames: uint8 RGB `[height, width, 3]`, or pairs `[2, height, width, 3]` from `network_inputs`. A thread reads and preprocesses
            them while earlier ones are embedded.
        module: the network, in evaluation mode, on any device.
        backbone: its preprocessing, from `find_backbone`.
        batch: frames per forward pass; affects speed, not results.
        on_batch: called after each batch with the number of frames embedded so far.

    Returns:
        float32 features on the CPU, in the order of the frames.

    Raises:
        ParameterError: if there are no frames, single frames are given instead of pairs or the reverse, the batch is below 1, or the
            network is in training mode.

    Source:
        torchvision's Resize, CenterCrop, ToTensor, Normalize, as in the released ResNet-50 extractor; antialiased bilinear, rounded to
        integer levels after resizing, as in Pillow. Pairs: RegNet's extract_feature.py.
    """
    if batch < 1:
        raise ParameterError(f"batch is {batch}, but must be 1 or more.")
    if module.training:
        raise ParameterError("the backbone is in training mode, where features depend on the batch; call eval().")
    weights = next(module.parameters())
    preprocessed = (_resize_and_crop(frame, backbone) for frame in frames)
    parts: list[Float[Tensor, "batch dim"]] = []
    with closing(_prefetch(preprocessed, 2 * batch)) as ready:
        while waiting := list(islice(ready, batch)):
            images = _standardise(torch.stack(waiting).to(weights.device), backbone)
            parts.append(module(images.to(weights.dtype)).float().cpu())
            if on_batch:
                on_batch(sum(map(len, parts)))
    if not parts:
        raise ParameterError("0 frames were given; give 1 or more.")
    return torch.cat(parts)


def _prefetch(items: Iterator[UInt8[Tensor, "channels size size"]], n: int) -> Iterator[UInt8[Tensor, "channels size size"]]:
    """The items, computed by a thread up to `n` ahead."""
    thread = ThreadPoolExecutor(1, "read")
    try:
        waiting = deque(thread.submit(next, items, None) for _ in range(n))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(thread.submit(next, items, None))
            yield item
    finally:
        thread.shutdown(cancel_futures=True)
