"""What sounds are like as signals: spectrum, level, peak, offset, clipping, how often something begins. Made ones beside real ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from unsilent.clip import Clip
from unsilent.signal.loudness import TARGET_LUFS, loudness_lufs
from unsilent.signal.mel import RANGE_DB, log_mel01
from unsilent.signal.onsets import find_onsets

FULL_SCALE = 0.999  # what 16 bits cut is stored as this or more


@dataclass(frozen=True)
class Signal:
    """Measures of one sound.

    Attributes:
        bands_db: mean over time of every mel band.
        lufs: loudness; minus infinity for silence.
        rms_db, peak_db: relative to full scale.
        onsets: a second.
        offset: mean of all samples, 0 to 1.
        clipped: share of samples at full scale.
    """

    bands_db: np.ndarray
    lufs: float
    rms_db: float
    peak_db: float
    onsets: float
    offset: float
    clipped: float


def measure(waveform: np.ndarray, clip: Clip) -> Signal:
    """Measures of a sound of a code column or longer, mono in [-1, 1]."""
    mel01 = log_mel01(torch.from_numpy(waveform)[None].float(), clip)[0]
    size = np.abs(waveform)
    return Signal(
        mel01.mean(1).numpy() * RANGE_DB,
        loudness_lufs(waveform, clip.sample_rate),
        _decibels(np.sqrt(np.mean(np.square(waveform, dtype=np.float64)))),
        _decibels(size.max()),
        len(find_onsets(mel01, clip)) / (len(waveform) / clip.sample_rate),
        float(abs(waveform.mean(dtype=np.float64))),
        float((size >= FULL_SCALE).mean()),
    )


def beside(made: Sequence[Signal], real: Sequence[Signal]) -> dict[str, float]:
    """Means of made sounds and of real ones, and by how much their mean spectra differ.

    Returns:
        `spectrum_db` is the mean over bands of the absolute difference of what bands are on average; the others are means of both sides.
    """
    bands = [np.mean([one.bands_db for one in side], axis=0) for side in (made, real)]
    told = {"made": len(made), "real": len(real), "spectrum_db": float(np.abs(bands[0] - bands[1]).mean())}
    for name in ("lufs", "rms_db", "peak_db", "onsets"):
        for which, side in (("made", made), ("real", real)):
            values = np.array([getattr(one, name) for one in side])
            told[f"{name}_{which}"] = float(values[np.isfinite(values)].mean())
    return told


def faults(made: Sequence[Signal]) -> dict[str, float]:
    """What no sound should have: clipping, an offset, silence, another loudness than was asked for."""
    away = np.abs([one.lufs - TARGET_LUFS for one in made])
    heard = np.isfinite(away)
    return {
        "sounds": len(made),
        "clipped_sounds": float(np.mean([one.clipped > 0 for one in made])),
        "clipped_samples": float(np.mean([one.clipped for one in made])),
        "largest_offset": max(one.offset for one in made),
        "silent_sounds": float(1 - heard.mean()),
        "lufs_away": float(away[heard].mean()),
        "lufs_furthest": float(away[heard].max()),
    }


def _decibels(amplitude: float) -> float:
    return float(20 * np.log10(max(amplitude, 1e-10)))
