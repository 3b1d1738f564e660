"""Loudness as ears judge it, so that every sound of a scene comes out at a predictable level."""

from math import ceil, cos, inf, isfinite, log10, pi, sin

import numpy as np
from jaxtyping import Float

from unsilent.errors import ParameterError

TARGET_LUFS = -23.0  # the European broadcast level (EBU R 128)
_BLOCK_SECONDS = 0.4  # the shortest stretch that the standard measures
_OVERLAPPING = 4  # such stretches over each moment
_GATE_LUFS = -70.0  # quieter ones do not count
_OFFSET_LUFS = -0.691  # of a sound whose weighted power is 1
_SHELF_HZ, _SHELF_Q, _SHELF_DB = 1500.0, 0.5**0.5, 4.0  # what the head adds to the highs
_LOWEST_HZ, _LOWEST_Q = 38.0, 0.5  # below which ears hear less
_LOOK_AHEAD_SECONDS = 0.005  # in which a limiter turns down before a peak, and up again after it
_MOST_LIMITED_DB = 12.0  # that peaks are turned down by; more would be heard
_NEAR_DB = 0.2  # of the target is as good as there
_LIMITINGS = 4  # each of which takes some loudness too, which the next makes up for
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
        ITU-R BS.1770-4, its filters for any sample rate as pyloudnorm designs them (a test compares). Differs: short sounds, which the
        standard leaves undefined, get a value; sounds above two minutes are the energy mean of stretches of two minutes, each with a
        relative gate of its own, so that memory does not grow with length.
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
    block = _BLOCK_SECONDS * sample_rate
    heard = _weighted(np.pad(waveform.astype(np.float64), (0, max(0, ceil(block) - len(waveform)))), sample_rate)
    starts = np.arange(_OVERLAPPING * (len(heard) / block - 1) + 0.5) * block / _OVERLAPPING
    energy = np.concatenate([[0.0], np.cumsum(heard**2)])
    edges = np.minimum([starts, starts + block], len(heard)).astype(int)
    power = np.diff(energy[edges], axis=0)[0] / block
    power = power[power > 10 ** ((_GATE_LUFS - _OFFSET_LUFS) / 10)]
    power = power[power > power.mean() / 10] if len(power) else power  # the relative gate, 10 dB lower
    return _OFFSET_LUFS + 10 * log10(power.mean()) if len(power) else -inf


def _weighted(waveform: Float[np.ndarray, "samples"], sample_rate: int) -> Float[np.ndarray, "samples"]:
    """Through the standard's filters, a second at a time, of which a quarter serves to forget what was before."""
    past = sample_rate // 4
    delay = np.exp(-2j * np.pi * np.fft.rfftfreq(sample_rate))
    response = np.prod([np.polyval(above[::-1], delay) / np.polyval(below[::-1], delay) for above, below in _filters(sample_rate)], axis=0)
    padded = np.pad(waveform, (past, -len(waveform) % (sample_rate - past)))
    seconds = np.lib.stride_tricks.sliding_window_view(padded, sample_rate)[:: sample_rate - past]
    return np.fft.irfft(np.fft.rfft(seconds) * response, sample_rate)[:, past:].reshape(-1)[: len(waveform)]


def _filters(sample_rate: int) -> list[tuple[list[float], list[float]]]:
    """Numerator and denominator, in powers of a delay of one sample, of a shelf that lifts the highs and of a filter without the lowest."""
    cosine, slope = _angle(_SHELF_HZ, _SHELF_Q, sample_rate)
    gain = 10 ** (_SHELF_DB / 40)
    up, down, root = gain + 1, gain - 1, 2 * gain**0.5 * slope
    lifting = [gain * (up + down * cosine + root), -2 * gain * (down + up * cosine), gain * (up + down * cosine - root)]
    lifted = [up - down * cosine + root, 2 * (down - up * cosine), up - down * cosine - root]
    cosine, slope = _angle(_LOWEST_HZ, _LOWEST_Q, sample_rate)
    return [(lifting, lifted), ([(1 + cosine) / 2, -1 - cosine, (1 + cosine) / 2], [1 + slope, -2 * cosine, 1 - slope])]


def _angle(hz: float, q: float, sample_rate: int) -> tuple[float, float]:
    angle = 2 * pi * hz / sample_rate
    return cos(angle), sin(angle) / (2 * q)


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


def level(
    waveform: Float[np.ndarray, "samples"], sample_rate: int, target_lufs: float = TARGET_LUFS, peak_db: float = -1.0
) -> Float[np.ndarray, "samples"]:
    """Bring a sound to a loudness where its peaks do not allow it: they are turned down, and up again, within milliseconds.

    Args:
        waveform: mono, full scale 1.
        sample_rate: in Hz.
        target_lufs: wanted loudness; missed where peaks would have to be turned down by more than 12 dB for it.
        peak_db: no sample exceeds this, in dB relative to full scale, at most 0.

    Returns:
        As of `normalise_loudness` where that reaches the target.

    Raises:
        ParameterError: as `normalise_loudness`.
    """
    levelled = normalise_loudness(waveform, sample_rate, target_lufs, peak_db)
    before, after = (float(np.abs(one).max(initial=0)) for one in (waveform, levelled))
    ceiling = 10 ** (peak_db / 20)
    gain = after / before if before else 1.0
    most = gain * 10 ** (_MOST_LIMITED_DB / 20)
    for _ in range(_LIMITINGS):
        missing_db = target_lufs - loudness_lufs(levelled, sample_rate)
        if not isfinite(missing_db) or missing_db < _NEAR_DB or gain == most:
            break
        gain = min(gain * 10 ** (missing_db / 20), most)
        levelled = _limited(waveform * waveform.dtype.type(gain), sample_rate, ceiling)
    return levelled


def _limited(waveform: Float[np.ndarray, "samples"], sample_rate: int, ceiling: float) -> Float[np.ndarray, "samples"]:
    """No sample above the ceiling: of the gain that each needs the least around every moment, and of that the mean, which is no greater."""
    reach, length = 2 * max(1, round(_LOOK_AHEAD_SECONDS * sample_rate)), round(_STRETCH_SECONDS * sample_rate)
    limited = np.empty_like(waveform)
    for start in range(0, len(waveform), length):  # so that memory does not grow with length
        first = max(0, start - reach)
        gain = _limiting_gain(np.abs(waveform[first : start + length + reach]) / ceiling, reach // 2)[start - first :][:length]
        limited[start : start + length] = (waveform[start : start + length] * gain).clip(-ceiling, ceiling)  # of rounding, a hair
    return limited


def _limiting_gain(excess: Float[np.ndarray, "samples"], reach: int) -> Float[np.ndarray, "samples"]:
    excess = np.pad(np.maximum(excess, 1), 2 * reach, constant_values=1)
    left, width = 2 * reach, 1
    while left:  # windows twice as wide, again and again
        step = min(width, left)
        excess, left, width = np.maximum(excess[:-step], excess[step:]), left - step, width + step
    sums = np.cumsum(np.pad(1 / excess, (1, 0)), dtype=np.float64)
    return (sums[width:] - sums[:-width]) / width
