"""Impact detection: moments at which something in a video hits, estimated from the growth and the stop of motion.

The amount of motion does not suffice to find them.

    meter = ImpactMeter()
    meter.add(number, grey)  # each frame
    meter.levels             # of each frame, for `motion.normalise`

The weights come from a ridge regression; benchmarks/impacts.py fits and scores it.
"""

from collections import deque
from functools import cache
from importlib.resources import as_file, files
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, UInt8

REACH = 5  # a level depends on this many frames before and after, 0.23 s
WHOLE, MEASURES = 9, 24  # number of measures of the whole frame, which come first, and of all measures
_DOWN, _UP = 1, 3  # directions of flow; 0 and 2 are right and left
_CELLS = 4  # cells along each side of a frame
_BLOCKS = 2 * _CELLS  # flow vectors along each side
_NOISE_LEVEL = 0.5  # grey levels of 255; smaller changes are mostly noise of camera and codec
_FLAT = 20.0  # regularisation in squared grey levels, added to squared gradients so that flat blocks have no flow
_MAX_HELD = 2  # consecutive pairs that may repeat the measures of the pair before: repeated frames of slower videos, and cuts
_CUT, _CUT_RISE = np.log1p(25 / _NOISE_LEVEL), np.log(4)  # minimum median amount at a cut, and its minimum increase over the pair before

Scales = tuple[Float32[np.ndarray, "height width"], Float32[np.ndarray, "half_height half_width"]]


class ImpactMeter:
    """Estimates the strength of an impact at each frame of a stream, from the `REACH` frames before and after it:

        level[t] = max(0, sum over k from -5 to 5 of weights[k] · measures(frames t + k - 1 and t + k))

    Channel 0 uses the whole frame, channel 1 also the cell with most motion of 4 x 4 cells. The weights of each measure sum to 0, so a
    still video and steady motion have level 0. A repeated frame keeps the measures of the pair before. So does a cut, at which more than
    half of the frame changes without an impact. Memory holds two frames and the measures of `2 * REACH + 1` frames.

    Source:
        Deceleration by direction as a sign of impacts: Davis and Agrawala, "Visual rhythm and beat" (2018). Differs: flow by least squares
        in blocks (Lucas and Kanade 1981) at two scales, minus the camera's flow; acceleration, amount of change and brightness are used
        too; weights are fitted to the onsets of the sounds of real videos.
    """

    def __init__(self) -> None:
        self._levels: dict[int, Float[np.ndarray, "channels"]] = {}
        self._recent = deque[tuple[int, Float32[np.ndarray, "measures"]]](maxlen=2 * REACH + 1)
        self._next = 0  # number of the first frame without a final level
        self._picture: Scales | None = None
        self._change: _Change | None = None
        self._cuts, self._repeats, self._held = 0, 0, np.zeros(MEASURES, np.float32)

    def add(self, number: int, grey: UInt8[np.ndarray, "height width"]) -> None:
        """Measure the next frame; a gap in the numbers begins a new sequence.

        Args:
            number: number of the frame, greater than the one before.
            grey: small luminance image, with sides that are multiples of 16.
        """
        if not self._recent or self._recent[-1][0] != number - 1:
            self._levels |= self._pending()
            self._next = number
            self._picture, self._change = None, None
            self._cuts, self._repeats, self._held = 0, 0, np.zeros(MEASURES, np.float32)
            self._recent.clear()
        measures = self.measure(grey)
        self._recent.append((number, measures))
        if len(self._recent) == 2:  # the first frame has no pair, so it gets the measures of the second
            self._recent[0] = (number - 1, measures)
        if number - REACH >= self._next:
            self._levels[number - REACH] = self._level(number - REACH)
            self._next = number - REACH + 1

    def measure(self, grey: UInt8[np.ndarray, "height width"]) -> Float32[np.ndarray, "measures"]:
        """Measures of the pair of the last frame and this one; 0 for the first frame."""
        last, self._picture = self._picture, _scales(grey)
        if last is None:
            return np.zeros(MEASURES, np.float32)
        now = _compare(last, self._picture)
        before = self._change or now
        is_cut = np.median(now.amounts) > max(_CUT, np.median(before.amounts) + _CUT_RISE)
        self._cuts = self._cuts + 1 if is_cut else 0
        self._repeats = 0 if now.amounts.any() else self._repeats + 1
        if 0 < self._cuts <= _MAX_HELD or 0 < self._repeats <= _MAX_HELD:
            return self._held
        self._change, self._held = now, _summary(before, now)
        return self._held

    @property
    def levels(self) -> dict[int, Float[np.ndarray, "channels"]]:
        """Impact level of each frame by number: 0 or more, about 1 at a clear impact. The last `REACH` may change as frames are added."""
        return self._levels | self._pending()

    def forget(self, number: int) -> None:
        """Drop the levels of frames before a number."""
        self._levels = {one: level for one, level in self._levels.items() if one >= number}

    def level(self, number: int) -> Float[np.ndarray, "channels"]:
        """Current level of a frame, as in `levels`."""
        return self._levels[number] if number in self._levels else self._level(number)

    def _pending(self) -> dict[int, Float[np.ndarray, "channels"]]:
        """Provisional levels of the last frames, as if the video ended here."""
        return {number: self._level(number) for number, _ in self._recent if number >= self._next}

    def _level(self, number: int) -> Float[np.ndarray, "channels"]:
        """Level of a frame; beyond the ends of the stream, the measures of the first or last frame are repeated."""
        first, last = self._recent[0][0], self._recent[-1][0]
        near = [self._recent[min(max(number + k, first), last) - first][1] for k in range(-REACH, REACH + 1)]
        return np.maximum(weights() @ np.concatenate(near), 0).astype(np.float64)


class _Change(NamedTuple):
    """Change between two frames in each of 4 x 4 cells. Values are log(1 + x), so that no change is 0.

    Attributes:
        amounts: mean absolute difference, in units of half a grey level.
        brightness: signed mean difference, in units of 4 grey levels.
        speeds: for each scale, components of the flow to the right, down, left and up, minus the camera's, in quarters of a pixel.
        camera: speed of the median flow at the finer scale, in quarters of a pixel.
    """

    amounts: Float32[np.ndarray, "rows columns"]
    brightness: Float32[np.ndarray, "rows columns"]
    speeds: Float32[np.ndarray, "scales directions rows columns"]
    camera: float


def _compare(before: Scales, now: Scales) -> _Change:
    """Change from one frame to the next, at two scales."""
    differences = [b - a for a, b in zip(before, now, strict=True)]
    changes = _block_means(np.stack([np.abs(differences[0]), differences[0]])).reshape(2, _CELLS, 2, _CELLS, 2).mean((2, 4))
    flow = np.stack([_flow(0.5 * (a + b), d) * 2**i for i, (a, b, d) in enumerate(zip(before, now, differences, strict=True))])
    camera = np.median(flow.reshape(2, 2, -1), axis=2)
    flow -= camera[..., None, None]
    parts = np.maximum(np.concatenate([flow, -flow], axis=1), 0).reshape(2, 4, _CELLS, 2, _CELLS, 2).mean((3, 5))
    brightness = np.sign(changes[1]) * np.log1p(np.abs(changes[1]) / 4)
    return _Change(np.log1p(changes[0] / _NOISE_LEVEL), brightness, np.log1p(4 * parts), float(np.log1p(4 * np.hypot(*camera[0]))))


def _summary(before: _Change, now: _Change) -> Float32[np.ndarray, "measures"]:
    """Measures from two successive changes."""
    amounts, ranked, growth = now.amounts, np.sort(now.amounts, axis=None), now.amounts - before.amounts
    slower, faster = np.maximum(before.speeds - now.speeds, 0), np.maximum(now.speeds - before.speeds, 0)
    turn = now.speeds.mean((2, 3)) - before.speeds.mean((2, 3))
    parts = [
        # the whole frame
        [np.log1p(np.expm1(amounts).mean()), now.brightness.mean(), now.camera],
        now.speeds.mean((1, 2, 3)),
        np.maximum(-turn, 0).mean(1),
        np.maximum(turn, 0).mean(1),
        # cells with the largest changes
        [ranked[-1], ranked[-4], ranked[8], now.brightness.max(), now.brightness.min(), growth.max(), -growth.min()],
        slower.mean(1).max((1, 2)),
        faster.mean(1).max((1, 2)),
        slower[:, _DOWN].max((1, 2)),
        faster[:, _UP].max((1, 2)),
    ]
    return np.concatenate(parts).astype(np.float32)


def _scales(grey: UInt8[np.ndarray, "height width"]) -> Scales:
    """A frame at full and at half size."""
    fine = grey.astype(np.float32)
    return fine, 0.25 * (fine[::2, ::2] + fine[1::2, ::2] + fine[::2, 1::2] + fine[1::2, 1::2])


def _flow(
    mean: Float32[np.ndarray, "height width"], difference: Float32[np.ndarray, "height width"]
) -> Float32[np.ndarray, "2 rows columns"]:
    """Least-squares flow of each block, to the right and down in pixels, from the frame difference and the gradients of the mean image."""
    right, down = np.zeros_like(mean), np.zeros_like(mean)
    right[:, 1:-1], down[1:-1] = 0.5 * (mean[:, 2:] - mean[:, :-2]), 0.5 * (mean[2:] - mean[:-2])
    products = np.stack([right * right, down * down, right * down, right * difference, down * difference])
    xx, yy, xy, xt, yt = _block_means(products)
    xx, yy = xx + _FLAT, yy + _FLAT
    return np.stack([xy * yt - yy * xt, xy * xt - xx * yt]) / (xx * yy - xy * xy)


def _block_means(images: Float32[np.ndarray, "images height width"]) -> Float32[np.ndarray, "images rows columns"]:
    """Means over a grid of 8 x 8 blocks, as matrix products because sums over small blocks are slow."""
    return _averaging(images.shape[1]) @ images @ _averaging(images.shape[2]).T


@cache
def _averaging(length: int) -> Float32[np.ndarray, "blocks length"]:
    """Matrix that averages `_BLOCKS` stretches of equal length."""
    return np.kron(np.eye(_BLOCKS), np.full(length // _BLOCKS, _BLOCKS / length)).astype(np.float32)


@cache
def weights() -> Float32[np.ndarray, "channels terms"]:
    """Regression weights of the measures of `2 * REACH + 1` frames, the earliest frame first; written by benchmarks/impacts.py."""
    with as_file(files("unsilent.vision") / "impact.npy") as path:
        return np.load(path)
