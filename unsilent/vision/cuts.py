"""Cut detection: the frames at which a new shot begins."""

import numpy as np
from jaxtyping import Float32, UInt8

_BINS = 16  # bins of the grey-level histogram of each cell
_PLACES = 4  # cells along each side of a frame
_NEIGHBOURS = 4, 27  # frames on each side whose differences a cut must exceed, for histograms and images; images change in slow videos too
_SIDE = 4  # pixels along each side of the averaged blocks of an image
_LEAST_VARIANCE = 25.0  # variance of grey levels below which an image is too flat to compare
_MIN_DIFFERENCES = 0.3, 0.4  # minimum difference of histograms and of images, each 0 to 1
_MIN_RATIO = 2.0  # minimum ratio to the largest other difference nearby
_MIN_FRAMES = 10  # frames of a shot, half a second


class CutMeter:
    """Detects cuts in a stream of small grey frames.

    Frames are compared by histograms of 4 x 4 cells, which motion within a cell does not change, and as coarse images, which differ even
    where histograms are alike. At a cut, the difference is large and much larger than that of the frames around it. Fast motion, flashes
    and fades do not satisfy both. Only a few numbers are kept for each frame.
    """

    def __init__(self) -> None:
        self._last: tuple[Float32[np.ndarray, "places bins"], Float32[np.ndarray, "rows columns"]] | None = None
        self._numbers: list[int] = []
        self._differences: list[tuple[float, float]] = []

    def add(self, number: int, grey: UInt8[np.ndarray, "height width"]) -> None:
        """Measure the next frame.

        Args:
            number: number of the frame, greater than the one before.
            grey: luminance, with sides that are multiples of 4.
        """
        now = _histograms(grey), _image(grey)
        self._numbers.append(number)
        changed = (0.0, 0.0) if self._last is None else (_difference(self._last[0], now[0]), _distance(self._last[1], now[1]))
        self._differences.append(changed)
        self._last = now

    def cuts(self) -> list[int]:
        """Numbers of the frames that begin a new shot; shots last half a second or longer."""
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
    """Mean levels of blocks minus the mean of the whole image."""
    height, width = grey.shape
    blocks = grey.reshape(height // _SIDE, _SIDE, width // _SIDE, _SIDE).mean((1, 3), dtype=np.float32)
    return blocks - blocks.mean()


def _distance(one: Float32[np.ndarray, "rows columns"], other: Float32[np.ndarray, "rows columns"]) -> float:
    """Mean squared difference relative to that of two unrelated images: 0 to about 1."""
    variance = max(float(np.square(one).mean()), float(np.square(other).mean()), _LEAST_VARIANCE)
    return float(np.square(one - other).mean()) / (2 * variance)


def _histograms(grey: UInt8[np.ndarray, "height width"]) -> Float32[np.ndarray, "places bins"]:
    """Grey-level histogram of each cell, normalised to 1 and smoothed over neighbouring bins."""
    height, width = grey.shape
    n_places, shape = _PLACES**2, (_PLACES, height // _PLACES, _PLACES, width // _PLACES)
    levels = (grey // (256 // _BINS)).astype(np.intp).reshape(shape).swapaxes(1, 2).reshape(n_places, -1)
    counts = np.bincount((levels + _BINS * np.arange(n_places)[:, None]).reshape(-1), minlength=n_places * _BINS)
    padded = np.pad(counts.reshape(n_places, _BINS).astype(np.float32), ((0, 0), (1, 1)))
    return (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / (4 * levels.shape[1])


def _difference(one: Float32[np.ndarray, "places bins"], other: Float32[np.ndarray, "places bins"]) -> float:
    """Mean total variation distance of the cells' histograms, 0 to 1."""
    return float(np.abs(one - other).sum(1).mean() / 2)
