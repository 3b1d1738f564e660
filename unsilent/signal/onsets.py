"""Onset detection: peaks of the spectral flux of a mel spectrogram.

    strength = onset_strength(mel01, clip)  # dB, one per frame
    seconds = find_onsets(mel01, clip)

Both are relative to the sound's own level, so they do not depend on gain.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from unsilent.clip import Clip
from unsilent.signal.mel import RANGE_DB

FLOOR_DB = 60.0  # bands are clipped at this level below the loudest band of the sound
GAP_SECONDS = 0.05  # smallest distance between onsets; of two closer ones, the stronger is kept
NEIGHBOURHOOD_SECONDS = 0.5  # length on each side of a peak; the median of both is the local baseline
RISE_DB = 2.5  # smallest height above the baseline
SHARE = 0.2  # smallest height above the baseline, relative to the range (maximum minus median) of the whole sound


def onset_strength(mel01: Float[Tensor, "mels frames"], clip: Clip = Clip()) -> Float[Tensor, "frames"]:
    """Spectral flux with vibrato suppression, in dB per frame, for `d[f,t]` in dB and a lag `l` of half an analysis window:

        strength[t] = mean_f max(0, d[f, t] - max(d[f-1, t-l], d[f, t-l], d[f+1, t-l]))

    Args:
        mel01: a mel spectrogram in [0, 1].
        clip: its grid.

    Returns:
        A click peaks in the frame that is centred on it. The first and last `l` frames are 0: the first have no predecessor, the last
        contain reflection padding.

    Source:
        Böck and Widmer, "Maximum filter vibrato suppression for onset detection" (2013). Differs: mels instead of a quarter-tone filter
        bank; a mean over bands instead of a sum. Decibels above a floor, 60 dB below the loudest band, replace log(1 + x), so that the
        result does not depend on gain.
    """
    decibels = RANGE_DB * torch.maximum(mel01, mel01.max() - FLOOR_DB / RANGE_DB)
    lag = max(1, clip.n_fft // 2 // clip.hop)
    # maximum over neighbouring bands: a glide into the next band is not an onset
    before = torch.nn.functional.max_pool1d(decibels.T, 3, stride=1, padding=1).T
    strength = decibels.new_zeros(decibels.shape[1])
    strength[lag:-lag] = (decibels[:, lag:-lag] - before[:, : -2 * lag]).clamp(min=0).mean(0)
    return strength


def find_onsets(mel01: Float[Tensor, "mels frames"], clip: Clip = Clip()) -> Float[np.ndarray, "onsets"]:
    """Times of onsets: peaks of `onset_strength`.

    Args:
        mel01: a mel spectrogram in [0, 1]; that of a waveform is `log_mel01(waveform[None], clip)[0]`.
        clip: its grid.

    Returns:
        Seconds from the beginning, ascending. A peak is the maximum within `GAP_SECONDS` on each side. It exceeds the median within
        `NEIGHBOURHOOD_SECONDS` on each side by `RISE_DB`, and by `SHARE` of the sound's range.

    Source:
        Peak picking of Böck, Krebs and Schedl, "Evaluating the online capabilities of onset detection methods" (2012). Differs: a median
        instead of a mean, which dense onsets would raise; thresholds in decibels and relative to the sound's range.
    """
    strength = onset_strength(mel01, clip).double().cpu().numpy()
    gap = _frames(GAP_SECONDS, clip)
    threshold = np.maximum(RISE_DB, SHARE * (strength.max() - np.median(strength)))
    exceeds = strength - np.median(_windows(strength, _frames(NEIGHBOURHOOD_SECONDS, clip), "reflect"), axis=1) >= threshold
    peaks = np.flatnonzero(exceeds & (strength == _windows(strength, gap, "constant").max(1)))
    return peaks[np.diff(peaks, prepend=-gap - 1) > gap] * clip.hop / clip.sample_rate  # the first of equal neighbours


def _frames(seconds: float, clip: Clip) -> int:
    return max(1, round(seconds * clip.sample_rate / clip.hop))


def _windows(strength: Float[np.ndarray, "frames"], reach: int, padding: str) -> Float[np.ndarray, "frames width"]:
    """Sliding windows of `2 * reach + 1` frames, one centred on each frame."""
    reach = min(reach, len(strength) - 1) if padding == "reflect" else reach
    return np.lib.stride_tricks.sliding_window_view(np.pad(strength, reach, mode=padding), 2 * reach + 1)
