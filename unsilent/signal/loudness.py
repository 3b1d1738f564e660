"""Loudness as ears judge it, so that every sound of a scene comes out at a predictable level."""

import warnings
from math import inf, isfinite, log10

import numpy as np
import pyloudnorm
from jaxtyping import Float

from unsilent.errors import ParameterError

TARGET_LUFS = -23.0  # the European broadcast level (EBU R 128)
_BLOCK_SECONDS = 0.4  # the shortest stretch that the standard measures
_STRETCH_SECONDS = 120.0  # measured at once, since filtering makes several copies in double precision


def loudness_lufs(waveform: Float[np.ndarray, "samples"], sample_rate: int) -> float:
    """Integrated loudness of a whole sound.

    Args:
        waveform: mono, full scale 1; a sound shorter than 0.4 s is measured with silence after it.
        sample_rate: in Hz.

    Returns:
        LUFS, 0 for a full-scale sound of loudness 0; `-inf` for silence and for anything below the standard's gate of -70.

    Raises:
        ParameterError: if a sample is not a finite number.

    Source:
        ITU-R BS.1770-4, by pyloudnorm. Differs: short sounds, which the standard leaves undefined, get a value; sounds above two minutes
        are the energy mean of stretches of two minutes, each with a relative gate of its own, so that memory does not grow with length.
    """
    if not np.isfinite(waveform).all():
        raise ParameterError(f"{np.count_nonzero(~np.isfinite(waveform))} of {len(waveform)} samples are not finite numbers.")
    length = round(_STRETCH_SECONDS * sample_rate)
    stretches = [waveform[start : start + length] for start in range(0, max(1, len(waveform)), length)]
    levels = np.array([_stretch_lufs(stretch, sample_rate) for stretch in stretches])
    if not np.isfinite(levels).any():
        return -inf
    heard, seconds = np.isfinite(levels), np.array([len(stretch) for stretch in stretches])
    return float(levels[0] if len(levels) == 1 else 10 * np.log10(np.average(10 ** (levels[heard] / 10), weights=seconds[heard])))


def _stretch_lufs(waveform: Float[np.ndarray, "samples"], sample_rate: int) -> float:
    missing = max(0, int(np.ceil(_BLOCK_SECONDS * sample_rate)) - len(waveform))
    block = np.pad(waveform.astype(np.float64), (0, missing))
    with warnings.catch_warnings():
        # Releases of pyloudnorm differ in which logarithms of zero and empty means they announce; both mean silence here.
        warnings.simplefilter("ignore", RuntimeWarning)
        return float(pyloudnorm.Meter(sample_rate, block_size=_BLOCK_SECONDS).integrated_loudness(block))


def normalise_loudness(
    waveform: Float[np.ndarray, "samples"], sample_rate: int, target_lufs: float = TARGET_LUFS, peak_db: float = -1.0
) -> Float[np.ndarray, "samples"]:
    """Scale a sound to a loudness, as far as its peaks allow.

    Args:
        waveform: mono, full scale 1.
        sample_rate: in Hz.
        target_lufs: wanted loudness.
        peak_db: no sample may exceed this, in dB relative to full scale, at most 0; wins over the target.

    Returns:
        The sound times one gain, in its own dtype; silence comes back unchanged.

    Raises:
        ParameterError: if the peak limit is above full scale, or a sample is not a finite number.
    """
    if peak_db > 0:
        raise ParameterError(f"a peak limit of {peak_db} dB would clip; it must be 0 dB (full scale) or less.")
    loudness = loudness_lufs(waveform, sample_rate)
    if not isfinite(loudness):
        return waveform
    gain_db = min(target_lufs - loudness, peak_db - 20 * log10(np.abs(waveform).max(initial=0)))
    return waveform * waveform.dtype.type(10 ** (gain_db / 20))
