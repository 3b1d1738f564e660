"""Signal measures of generated and real sounds: spectrum, level, peak, DC offset, clipping, onset rate."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from unsilent.clip import Clip
from unsilent.signal.loudness import TARGET_LUFS, loudness_lufs
from unsilent.signal.mel import RANGE_DB, log_mel01
from unsilent.signal.onsets import find_onsets

FULL_SCALE = 0.999  # samples at or above this level count as clipped


@dataclass(frozen=True)
class Signal:
    """Measures of one sound.

    Attributes:
        bands_db: mean of each mel band over time, in dB.
        lufs: loudness in LUFS; minus infinity for silence.
        rms_db, peak_db: levels in dB relative to full scale.
        onsets: onsets per second.
        offset: absolute mean of the samples (DC offset), in 0..1.
        clipped: fraction of samples at full scale, in 0..1.
    """

    bands_db: np.ndarray
    lufs: float
    rms_db: float
    peak_db: float
    onsets: float
    offset: float
    clipped: float


def measure(waveform: np.ndarray, clip: Clip) -> Signal:
    """Measure a mono sound in [-1, 1] that is at least one code column long."""
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


def compare(made: Sequence[Signal], real: Sequence[Signal]) -> dict[str, float]:
    """Compare generated and real sounds by the means of their measures, and by the distance of their mean spectra.

    Returns:
        `spectrum_db` is the mean over bands of the absolute difference of the band means. The others are counts and means of both.
    """
    bands = [np.mean([one.bands_db for one in side], axis=0) for side in (made, real)]
    means = {"made": len(made), "real": len(real), "spectrum_db": float(np.abs(bands[0] - bands[1]).mean())}
    for name in ("lufs", "rms_db", "peak_db", "onsets"):
        for which, side in (("made", made), ("real", real)):
            values = np.array([getattr(one, name) for one in side])
            means[f"{name}_{which}"] = float(values[np.isfinite(values)].mean())
    return means


def faults(made: Sequence[Signal]) -> dict[str, float]:
    """Return the rates of faults: clipping, DC offset, silence, and deviation from the target loudness."""
    away = np.abs([one.lufs - TARGET_LUFS for one in made])
    audible = np.isfinite(away)
    return {
        "sounds": len(made),
        "clipped_sounds": float(np.mean([one.clipped > 0 for one in made])),
        "clipped_samples": float(np.mean([one.clipped for one in made])),
        "largest_offset": max(one.offset for one in made),
        "silent_sounds": float(1 - audible.mean()),
        "lufs_away": float(away[audible].mean()),
        "lufs_furthest": float(away[audible].max()),
    }


def _decibels(amplitude: float) -> float:
    return float(20 * np.log10(max(amplitude, 1e-10)))
