"""Frames to visual features: what a picture network says about each frame, and which of those rows a model is given."""

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

from unsilent.clip import Clip
from unsilent.errors import ParameterError
from unsilent.vision import flow

RELEASED_SECONDS = 10  # of video behind each feature file of the authors'


@dataclass(frozen=True)
class Backbone:
    """What a picture network expects of its pictures and what it gives.

    Frames are resized to a short side of `short_side` pixels, cut to the central `size` x `size`, scaled to [0, 1] and normalised. A
    network that looks at `pairs` is shown what `flow.look` makes of each picture and the next, pressed into `size` x `size`.
    """

    dim: int  # numbers in one feature
    size: int  # pixels, height and width of what the network sees
    short_side: int | None  # pixels, before the cut; None for pairs, which want pictures as large as they come
    mean: tuple[float, ...]  # of each channel in [0, 1], subtracted
    std: tuple[float, ...]  # divided by after that
    pairs: bool = False  # frames are pairs [2, height, width, 3] of pictures that follow each other, see `views`


BACKBONES = {
    # The published weights were trained with (pixel - 127) / 128; half and half is the closest to it that keeps [-1, 1].
    "efficientnet-lite0": Backbone(dim=1280, size=224, short_side=256, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    "resnet50": Backbone(dim=2048, size=224, short_side=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    # Grey levels of blue, green, red and two of flow, less their middle, not scaled.
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
    """The row of a picture network.

    Raises:
        ParameterError: if there is no such row, naming those that exist.
    """
    if name not in BACKBONES:
        raise ParameterError(f"there is no backbone {name!r}; known are {', '.join(sorted(BACKBONES))}.")
    return BACKBONES[name]


def needed(rows: Sequence[int], backbone: Backbone) -> list[int]:
    """Numbers of the pictures behind the features `rows`, increasing: of the same number, and for pairs also of the next."""
    return sorted({row + further for row in rows for further in range(1 + backbone.pairs)})


def views(pictures: Iterable[tuple[int, np.ndarray]], rows: Sequence[int], backbone: Backbone) -> Iterator[tuple[int, np.ndarray]]:
    """What `extract` wants to be given for the features `rows`, out of a stream of the pictures `needed` for them.

    Args:
        pictures: number and RGB `[height, width, 3]` of each, in the order of time; some may be missing.
        rows: numbers of the features; where pairs are looked at, feature i is of the pictures i and i + 1, so that a video has one
            feature fewer than pictures.
        backbone: the network's expectations.

    Yields:
        Number of the feature, and the picture itself, or the pair `[2, height, width, 3]`. A pair that is not complete is left out; if
        none is, the last picture is paired with itself, which shows no motion.
    """
    if not backbone.pairs:
        yield from pictures
        return
    wanted, last, any_given = set(rows), None, False
    for number, picture in pictures:
        if last is not None and last[0] in wanted and last[0] == number - 1:
            yield last[0], np.stack([last[1], picture])
            any_given = True
        last = number, picture.copy()  # the decoder may reuse its frame
    if last is not None and not any_given:
        yield last[0], np.stack([last[1], last[1]])


def preprocess(
    frames: UInt8[np.ndarray, "video_frames *pair height width 3"], backbone: Backbone
) -> Float[Tensor, "video_frames channels size size"]:
    """Turn RGB frames of any size, or pairs of them, into the normalised squares that a network reads.

    Args:
        frames: red, green, blue in 0..255; smaller ones are enlarged.
        backbone: the network's expectations.

    Raises:
        ParameterError: for single frames where the network looks at pairs, and the reverse.

    Source:
        torchvision's Resize, CenterCrop, ToTensor, Normalize, as the released ResNet-50 extractor uses them; antialiased bilinear, rounded
        to whole grey levels after resizing as Pillow does. Pairs: RegNet's extract_feature.py.
    """
    return _normalise(torch.stack([_square(frame, backbone) for frame in frames]), backbone)


def _square(frame: UInt8[np.ndarray, "*pair height width 3"], backbone: Backbone) -> UInt8[Tensor, "channels size size"]:
    if frame.ndim != 3 + backbone.pairs:
        wanted = "pairs of pictures [2, height, width, 3]" if backbone.pairs else "single pictures [height, width, 3]"
        raise ParameterError(f"this backbone looks at {wanted}, found {list(frame.shape)}; see features.views.")
    if backbone.pairs:
        return _resize(flow.look(frame), (backbone.size, backbone.size))
    height, width, _ = frame.shape
    resized = tuple(backbone.short_side * side // min(height, width) for side in (height, width))
    image = _resize(frame, resized)
    top, left = (round((side - backbone.size) / 2) for side in resized)
    return image[:, top : top + backbone.size, left : left + backbone.size].clone()  # the caller may reuse its frame, and we let it go


def _resize(frame: UInt8[np.ndarray, "height width channels"], size: tuple[int, int]) -> UInt8[Tensor, "channels new_height new_width"]:
    image = torch.from_numpy(np.require(frame, requirements=["C", "W"])).permute(2, 0, 1)[None]
    return F.interpolate(image, size=size, mode="bilinear", antialias=True)[0]


def _normalise(
    squares: UInt8[Tensor, "video_frames channels size size"], backbone: Backbone
) -> Float[Tensor, "video_frames channels size size"]:
    mean, std = (torch.tensor(values, device=squares.device).view(-1, 1, 1) for values in (backbone.mean, backbone.std))
    # One multiplication and one addition a pixel, in the layout that convolutions on a CPU are twice as fast with.
    return (squares.to(memory_format=torch.channels_last) * (1 / (255 * std))).sub_(mean / std)


@torch.no_grad()
def extract(
    frames: Iterable[np.ndarray],
    module: nn.Module,
    backbone: Backbone,
    batch: int = 4,
    on_batch: Callable[[int], None] | None = None,
) -> Float[Tensor, "video_frames dim"]:
    """Look at a stream of frames and keep one feature each; never more than a few batches in memory, of the size that the network sees.

    Args:
        frames: uint8 RGB `[height, width, 3]` each, for example from `media.video.read_frames`; or pairs `[2, height, width, 3]` for a
            backbone that looks at pairs, for example from `views`. They are asked for in a thread, while those before are looked at.
        module: the network itself, in evaluation mode, on any device.
        backbone: what the network expects, from `find_backbone`.
        batch: frames looked at together; changes speed, not results.
        on_batch: called after each batch with the number of frames done so far.

    Returns:
        float32 on the CPU, in the order of the frames.

    Raises:
        ParameterError: if there are no frames, they are single where pairs are wanted or the reverse, the batch is below 1, or the
            network is in training mode.
    """
    if batch < 1:
        raise ParameterError(f"a batch of {batch} frames was asked for; it must be 1 or more.")
    if module.training:
        raise ParameterError("features need the backbone in evaluation mode, where a frame's result depends on no other; call eval().")
    weights = next(module.parameters())
    squares = (_square(frame, backbone) for frame in frames)
    parts: list[Tensor] = []
    with closing(_ahead(squares, 2 * batch)) as ready:
        while waiting := list(islice(ready, batch)):
            images = _normalise(torch.stack(waiting).to(weights.device), backbone)
            parts.append(module(images.to(weights.dtype)).float().cpu())
            if on_batch:
                on_batch(sum(map(len, parts)))
    if not parts:
        raise ParameterError("0 frames were given; features need 1 or more.")
    return torch.cat(parts)


def _ahead(items: Iterator[Tensor], n: int) -> Iterator[Tensor]:
    """The items, made in a thread of their own, at most `n` of them before they are asked for."""
    thread = ThreadPoolExecutor(1, "read")
    try:
        waiting = deque(thread.submit(next, items, None) for _ in range(n))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(thread.submit(next, items, None))
            yield item
    finally:
        thread.shutdown(cancel_futures=True)


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


def fit_released(features: Float[Tensor, "video_frames dim"], clip: Clip) -> Float[Tensor, "features dim"]:
    """The rows of a feature file of the authors' that belong to a clip: of 215, the central 212, numbers 1 to 212.

    Args:
        features: of `RELEASED_SECONDS` of video at the clip's feature rate, 215 rows or a few more or less; those of a shorter video are
            repeated from its start.
        clip: the grid, which is shorter than the files.

    Raises:
        ParameterError: if there are no rows, or the clip is longer than the files.

    Source:
        The released data set: 215 rows, then a central crop; tiling is the demo's. Differs: the data set fills short files with zeros,
        which with the published files (214 rows and more) never reaches the crop.
    """
    n_rows = int(RELEASED_SECONDS * clip.feature_fps)
    if clip.n_features > n_rows:
        raise ParameterError(f"a clip of {clip.n_features} features was asked of the authors' {n_rows}; only shorter clips fit.")
    first = (n_rows - clip.n_features) // 2
    return tile(features, n_rows)[first : first + clip.n_features]
