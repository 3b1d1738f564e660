"""Cuts: frames at which a video goes on with another picture."""

import numpy as np
from jaxtyping import Float32, UInt8

_BINS = 16  # of the histogram of grey levels, in each of 4 x 4 places
_PLACES = 4
_NEIGHBOURS = 4  # frames before and after, whose differences a cut exceeds
_MIN_DIFFERENCE = 0.3  # of histograms, 0 to 1
_MIN_RATIO = 2.0  # to the largest other difference nearby
_MIN_FRAMES = 10  # of a scene: half a second


class CutMeter:
    """Finds cuts in a stream of small grey frames.

    Frames are compared by the histograms of their places, which motion within a place does not change. A cut is a difference that is large
    and stands out from those of the frames around it: fast motion, flashes and fades do not. Memory holds a few numbers for each frame.
    """

    def __init__(self) -> None:
        self._last: Float32[np.ndarray, "places bins"] | None = None
        self._numbers: list[int] = []
        self._differences: list[float] = []

    def add(self, number: int, grey: UInt8[np.ndarray, "height width"]) -> None:
        """Measure the next frame.

        Args:
            number: of the frame, greater than that of the one before.
            grey: luminance, with sides that are multiples of 4.
        """
        now = _histograms(grey)
        self._numbers.append(number)
        self._differences.append(0.0 if self._last is None else _difference(self._last, now))
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
        before, after = (self._differences[max(0, start) : max(0, start + _NEIGHBOURS)] for start in (place - _NEIGHBOURS, place + 1))
        return self._differences[place] > max(_MIN_DIFFERENCE, _MIN_RATIO * max(before + after, default=0.0))


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
