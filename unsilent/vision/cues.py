"""Detection of cues in a video: impacts are the peaks of the impact curve."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from unsilent.clip import Clip
from unsilent.cues import Cue
from unsilent.media.video import stream_lazy_frames
from unsilent.vision.impact import ImpactMeter
from unsilent.vision.motion import normalise

THRESHOLD = 0.25  # minimum height of a peak above the local median; curves are in [0, 2]
NEIGHBOURHOOD, GAP = 11, 2  # frames on each side: for the local median, and for the local maximum
_PLACE = 1  # channel of the levels; this one, which includes cells, finds more impacts than the mean of both (LOG.md)
_PERIODS = 5, 43  # shortest and longest period of repeated impacts in frames, 0.23 to 2 s
_REPEATED = 0.5  # weight of the curve one period before and after, at an autocorrelation of 1


def see_cues(path: Path, clip: Clip = Clip()) -> list[Cue]:
    """Read a video and detect its impacts.

    Raises:
        MediaError: if the video cannot be read.
    """
    meter = ImpactMeter()
    for frame in stream_lazy_frames(path, clip.feature_fps):
        meter.add(frame.number, frame.grey())
    return cues_of(meter.levels, clip)


def cues_of(levels: dict[int, Float[np.ndarray, "channels"]], clip: Clip) -> list[Cue]:
    """Cues at the peaks of impact levels.

    Args:
        levels: impact levels of successive frames, by number; see `impact.ImpactMeter`.
        clip: the grid.

    Returns:
        Cues in the order of time. Strengths are heights above the local median, at most 1.
    """
    if not levels:
        return []
    first = min(levels)
    curve = rhythmic(normalise(np.stack([levels[number] for number in sorted(levels)]))[:, _PLACE])
    places, heights = peaks(curve, THRESHOLD)
    seconds = np.maximum((places + first) / clip.feature_fps, 0)
    return [Cue(seconds=round(at, 3), strength=round(height, 2)) for at, height in zip(seconds, np.minimum(heights, 1), strict=True)]


def rhythmic(curve: Float[np.ndarray, "frames"]) -> Float[np.ndarray, "frames"]:
    """Emphasise periodic peaks: add the curve one period before and after, weighted by its autocorrelation at this period."""
    shortest, longest = _PERIODS[0], min(_PERIODS[1], len(curve) // 2)
    above = curve - curve.mean()
    if longest < shortest or not above.any():
        return curve
    similar = {period: above[period:] @ above[:-period] / (above @ above) for period in range(shortest, longest + 1)}
    period = max(similar, key=similar.__getitem__)
    repeated = np.zeros_like(curve)
    repeated[period:] += curve[:-period]
    repeated[:-period] += curve[period:]
    return normalise((curve + _REPEATED * max(0.0, similar[period]) * repeated)[:, None])[:, 0]


def peaks(curve: Float[np.ndarray, "frames"], threshold: float) -> tuple[Float[np.ndarray, "peaks"], Float[np.ndarray, "peaks"]]:
    """Positions and heights of the peaks of a curve.

    A peak is the largest value within `GAP` frames. Its height above the median of its neighbourhood is at least the threshold. A parabola
    through its neighbours gives its position to a fraction of a frame.
    """

    def windows(reach: int, value: float) -> Float[np.ndarray, "frames width"]:
        return np.lib.stride_tricks.sliding_window_view(np.pad(curve, reach, constant_values=value), 2 * reach + 1)

    high = curve - np.nanmedian(windows(NEIGHBOURHOOD, np.nan), axis=1)
    at = np.flatnonzero((curve == windows(GAP, -np.inf).max(1)) & (high >= threshold))
    before, after = np.pad(curve, 1, mode="edge")[:-2][at], np.pad(curve, 1, mode="edge")[2:][at]
    bend = np.maximum(2 * curve[at] - before - after, 1e-9)
    return at + np.clip(0.5 * (after - before) / bend, -0.5, 0.5), high[at]
