"""When something begins to sound: how much a mel spectrogram rises from moment to moment, and the moments at which it rises most.

    strength = onset_strength(mel01, clip)  # dB, one a frame
    seconds = find_onsets(mel01, clip)

Both compare a sound with itself only, so its level does not matter.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from unsilent.clip import Clip
from unsilent.signal.mel import RANGE_DB

FLOOR_DB = 60.0  # below the loudest band of the sound; what is quieter than that does not rise
GAP_SECONDS = 0.05  # between onsets; the stronger of two that are closer is kept
NEIGHBOURHOOD_SECONDS = 0.5  # before and after a peak, whose median it must exceed
RISE_DB = 2.5  # by this much at least,
SHARE = 0.2  # and by this share of what the strongest frame exceeds the median of the whole sound by


def onset_strength(mel01: Float[Tensor, "mels frames"], clip: Clip = Clip()) -> Float[Tensor, "frames"]:
    """How much louder bands become, frame by frame.

    Args:
        mel01: a mel spectrogram in [0, 1].
        clip: its grid.

    Returns:
        Mean over bands of the decibels that a band rises by, within half an analysis window, above itself and its two neighbours; falling
        bands count as 0. A click peaks in the frame that is centred on it. As many frames at either end are 0: the first have nothing
        before them, the last see the sound reflected.

    Source:
        Böck and Widmer, "Maximum filter vibrato suppression for onset detection" (2013). Differs: mels instead of a quarter-tone filter
        bank, decibels above a floor 60 dB below the sound's loudest instead of log(1 + x), so that strengths do not depend on the level;
        a mean over bands instead of a sum.
    """
    decibels = RANGE_DB * torch.maximum(mel01, mel01.max() - FLOOR_DB / RANGE_DB)
    lag = max(1, clip.n_fft // 2 // clip.hop)
    before = torch.nn.functional.max_pool1d(decibels.T, 3, stride=1, padding=1).T  # a tone that glides into the next band is no onset
    strength = decibels.new_zeros(decibels.shape[1])
    strength[lag:-lag] = (decibels[:, lag:-lag] - before[:, : -2 * lag]).clamp(min=0).mean(0)
    return strength


def find_onsets(mel01: Float[Tensor, "mels frames"], clip: Clip = Clip()) -> Float[np.ndarray, "onsets"]:
    """The moments at which something begins to sound.

    Args:
        mel01: a mel spectrogram in [0, 1]; that of a waveform is `log_mel01(waveform[None], clip)[0]`.
        clip: its grid.

    Returns:
        Seconds from the beginning, ascending: the frames that are the strongest within `GAP_SECONDS` to either side, and exceed the
        median strength within `NEIGHBOURHOOD_SECONDS` to either side by `RISE_DB` and by `SHARE` of the whole sound's range of strengths.

    Source:
        Peak picking of Böck, Krebs and Schedl, "Evaluating the online capabilities of onset detection methods" (2012). Differs: a median
        instead of a mean, which a dense group of onsets would raise, and thresholds in decibels and of the sound's own range.
    """
    strength = onset_strength(mel01, clip).double().cpu().numpy()
    gap = _frames(GAP_SECONDS, clip)
    threshold = np.maximum(RISE_DB, SHARE * (strength.max() - np.median(strength)))
    exceeds = strength - np.median(_around(strength, _frames(NEIGHBOURHOOD_SECONDS, clip), "reflect"), axis=1) >= threshold
    peaks = np.flatnonzero(exceeds & (strength == _around(strength, gap, "constant").max(1)))
    return peaks[np.diff(peaks, prepend=-gap - 1) > gap] * clip.hop / clip.sample_rate  # of equals the first


def _frames(seconds: float, clip: Clip) -> int:
    return max(1, round(seconds * clip.sample_rate / clip.hop))


def _around(strength: Float[np.ndarray, "frames"], reach: int, beyond: str) -> Float[np.ndarray, "frames width"]:
    """For each frame, itself and as many as `reach` to either side."""
    reach_there = min(reach, len(strength) - 1) if beyond == "reflect" else reach
    return np.lib.stride_tricks.sliding_window_view(np.pad(strength, reach_there, mode=beyond), 2 * reach_there + 1)
