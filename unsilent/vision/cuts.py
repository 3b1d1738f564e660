"""Cuts: frames at which a video goes on with another picture."""

import numpy as np
from jaxtyping import Float32, UInt8

_BINS = 16  # of the histogram of grey levels, in each of 4 x 4 places
_PLACES = 4
_NEIGHBOURS = 4, 27  # frames before and after, whose differences a cut exceeds; more for images, which change in slow videos too
_SIDE = 4  # pixels of the blocks of an image
_LEAST_VARIANCE = 25.0  # of the levels of an image; what is flatter shows little
_MIN_DIFFERENCES = 0.3, 0.4  # of histograms and of images, each 0 to 1
_MIN_RATIO = 2.0  # to the largest other difference nearby
_MIN_FRAMES = 10  # of a scene: half a second


class CutMeter:
    """Finds cuts in a stream of small grey frames.

    Frames are compared by the histograms of their places, which motion within a place does not change, and as coarse images, which differ
    where histograms are alike. A cut is a difference that is large and stands out from those of the frames around it: fast motion, flashes
    and fades do not. Memory holds a few numbers for each frame.
    """

    def __init__(self) -> None:
        self._last: tuple[Float32[np.ndarray, "places bins"], Float32[np.ndarray, "rows columns"]] | None = None
        self._numbers: list[int] = []
        self._differences: list[tuple[float, float]] = []

    def add(self, number: int, grey: UInt8[np.ndarray, "height width"]) -> None:
        """Measure the next frame.

        Args:
            number: of the frame, greater than that of the one before.
            grey: luminance, with sides that are multiples of 4.
        """
        now = _histograms(grey), _image(grey)
        self._numbers.append(number)
        changed = (0.0, 0.0) if self._last is None else (_difference(self._last[0], now[0]), _distance(self._last[1], now[1]))
        self._differences.append(changed)
        self._last = now

    def cuts(self) -> list[int]:
        """Numbers of the frames that begin another scene; scenes are half a second or longer."""
        found, last = list[int](), self._numbers[0] if self._numbers else 0
        for place, number in enumerate(self._numbers):
            if self._is_cut(place) and number - last >= _MIN_FRAMES and self._numbers[-1] - number >= _MIN_FRAMES:
                found.append(number)
                last = number
        return found

    def _is_cut(self, place: int) -> bool:
        for kind, n in enumerate(_NEIGHBOURS):
            around = [*self._differences[max(0, place - n) : place], *self._differences[place + 1 : place + 1 + n]]
            nearby = max((one[kind] for one in around), default=0.0)
            if self._differences[place][kind] > max(_MIN_DIFFERENCES[kind], _MIN_RATIO * nearby):
                return True
        return False


def _image(grey: UInt8[np.ndarray, "height width"]) -> Float32[np.ndarray, "rows columns"]:
    """Mean levels of blocks, less those of the whole."""
    height, width = grey.shape
    blocks = grey.reshape(height // _SIDE, _SIDE, width // _SIDE, _SIDE).mean((1, 3), dtype=np.float32)
    return blocks - blocks.mean()


def _distance(one: Float32[np.ndarray, "rows columns"], other: Float32[np.ndarray, "rows columns"]) -> float:
    """Mean square of the difference, of that of two images without relation: 0 to about 1."""
    variance = max(float(np.square(one).mean()), float(np.square(other).mean()), _LEAST_VARIANCE)
    return float(np.square(one - other).mean()) / (2 * variance)


def _histograms(grey: UInt8[np.ndarray, "height width"]) -> Float32[np.ndarray, "places bins"]:
    """Share of each grey level in each place, smoothed over neighbouring levels."""
    height, width = grey.shape
    n_places, shape = _PLACES**2, (_PLACES, height // _PLACES, _PLACES, width // _PLACES)
    levels = (grey // (256 // _BINS)).astype(np.intp).reshape(shape).swapaxes(1, 2).reshape(n_places, -1)
    counts = np.bincount((levels + _BINS * np.arange(n_places)[:, None]).reshape(-1), minlength=n_places * _BINS)
    padded = np.pad(counts.reshape(n_places, _BINS).astype(np.float32), ((0, 0), (1, 1)))
    return (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / (4 * levels.shape[1])


def _difference(one: Float32[np.ndarray, "places bins"], other: Float32[np.ndarray, "places bins"]) -> float:
    """Mean over places of how much of the levels is elsewhere, 0 to 1."""
    return float(np.abs(one - other).sum(1).mean() / 2)
