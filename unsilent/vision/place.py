"""Horizontal position of the motion in a video, for panning."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from unsilent.media.video import stream_lazy_frames

PLACES_PER_SECOND = 10
_SHORT_SIDE = 48  # pixels
_SMOOTH_SECONDS = 0.3  # standard deviation of the Gaussian that smooths over time
_LITTLE = 2.0  # grey levels summed over columns; this amount of motion halves the distance from the middle


def motion_places(path: Path) -> Float[np.ndarray, "places"]:
    """Centre of motion, `PLACES_PER_SECOND` times a second: -1 at the left edge of the frame, 1 at the right, 0 if little moves.

    Motion of the whole frame, as by the camera, is removed: the median over pixel columns is subtracted from each column.

    Raises:
        MediaError: if the video cannot be read.
    """
    sums, last = list[tuple[float, float]](), None
    for frame in stream_lazy_frames(path, PLACES_PER_SECOND, short_side=_SHORT_SIDE):
        grey = frame.rgb().astype(np.float32).mean(2)
        motion = np.zeros(grey.shape[1]) if last is None else np.abs(grey - last).mean(0)
        motion = np.maximum(motion - np.median(motion), 0)
        sums.append((float(motion @ np.linspace(-1, 1, len(motion))), float(motion.sum())))
        last = grey
    width = _SMOOTH_SECONDS * PLACES_PER_SECOND
    kernel = np.exp(-0.5 * (np.arange(-round(3 * width), round(3 * width) + 1) / width) ** 2)
    moments, amounts = (np.convolve(one, kernel / kernel.sum(), "full")[len(kernel) // 2 :][: len(sums)] for one in np.array(sums).T)
    return moments / (amounts + _LITTLE)
