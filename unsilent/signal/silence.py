"""Silence: the peak below which a recording counts as silent, and trimming of silent ends."""

import numpy as np
from jaxtyping import Shaped

SILENT_PEAK = 1e-4  # peak, -80 dB relative to full scale
EDGE_DB = -50.0  # level relative to the peak; quieter samples at either end count as padding


def trim_silent_ends(waveform: Shaped[np.ndarray, "samples"]) -> Shaped[np.ndarray, "kept"]:
    """Cut samples more than 50 dB below the peak from both ends; an all-zero waveform becomes empty."""
    loud = np.flatnonzero(np.abs(waveform) > np.abs(waveform).max(initial=0) * 10 ** (EDGE_DB / 20))
    return waveform[loud[0] : loud[-1] + 1] if len(loud) else waveform[:0]


def without_silent_ends(waveform: Shaped[np.ndarray, "samples"], shortest: int) -> Shaped[np.ndarray, "kept"]:
    """Like `trim_silent_ends`, for the input of classifiers, but unchanged if fewer than `shortest` samples would remain.

    Otherwise a single click, trimmed and repeated, would become a tone.
    """
    trimmed = trim_silent_ends(waveform)
    return trimmed if len(trimmed) >= shortest else waveform
