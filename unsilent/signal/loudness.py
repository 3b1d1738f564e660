"""Loudness in LUFS (ITU-R BS.1770) and levelling of sounds to a target, with a look-ahead limiter for their peaks."""

from math import ceil, cos, inf, isfinite, log10, pi, sin

import numpy as np
from jaxtyping import Float

from unsilent.errors import ParameterError

TARGET_LUFS = -23.0  # the European broadcast level (EBU R 128)
LOUDNESS = "loudness_lufs"  # key in shards and checkpoints: the loudness that sounds were normalised to; None if they were not
_PEAK_DB = -1.0  # limit of peaks, in dB relative to full scale
CEILING = 10 ** (_PEAK_DB / 20)  # the same limit as a magnitude
_BLOCK_SECONDS = 0.4  # length of the standard's gating blocks
_BLOCKS_PER_POSITION = 4  # 75 % overlap
_GATE_LUFS = -70.0  # absolute gate
_OFFSET_LUFS = -0.691  # loudness of a K-weighted power of 1
_SHELF_HZ, _SHELF_Q, _SHELF_DB = 1500.0, 0.5**0.5, 4.0  # K-weighting, high shelf: the acoustic effect of the head
_HIGH_PASS_HZ, _HIGH_PASS_Q = 38.0, 0.5  # K-weighting, high-pass
_LOOK_AHEAD_SECONDS = 0.005  # attack and release of the limiter
_MAX_REDUCTION_DB = 12.0  # largest gain reduction of the limiter; more would be audible
_TOLERANCE_DB = 0.2  # deviation from the target at which levelling stops
_MAX_PASSES = 4  # each pass of the limiter reduces loudness slightly, which the next pass compensates
_TRUE_PEAK_PHASES, _TRUE_PEAK_TAPS, _TRUE_PEAK_CHUNK = 8, 48, 1 << 20
_CHUNK_SECONDS = 120.0  # processed at once; limits memory, because filtering makes several float64 copies


def loudness_lufs(waveform: Float[np.ndarray, "samples"], sample_rate: int) -> float:
    """Integrated loudness of a whole sound: `-0.691 + 10 log10(mean of z_j)`.

    `z_j` is the K-weighted power of block `j`, 0.4 s long with 75 % overlap. The mean leaves out blocks below -70 LUFS (absolute gate),
    then those more than 10 dB below the mean of the rest (relative gate).

    Args:
        waveform: mono, full scale 1; sounds shorter than one block are padded with silence.
        sample_rate: in Hz.

    Returns:
        LUFS; `-inf` for silence and for anything below the absolute gate.

    Raises:
        ParameterError: if a sample is NaN or infinite.

    Source:
        ITU-R BS.1770-4, with pyloudnorm's filters for any sample rate (a test compares). Differs: sounds shorter than a block get a value,
        which the standard leaves undefined. Above two minutes, the loudness is the energy mean of chunks of two minutes, each with its own
        relative gate, so that memory does not grow with length.
    """
    if not np.isfinite(waveform).all():
        raise ParameterError(f"{np.count_nonzero(~np.isfinite(waveform))} of {len(waveform)} samples are NaN or infinite.")
    meter = LoudnessMeter(sample_rate)
    meter.add(waveform)
    return meter.lufs()


class LoudnessMeter:
    """Loudness and peak of a sound that arrives in blocks of any length; see `loudness_lufs`.

    Attributes:
        peak: largest magnitude so far.
    """

    def __init__(self, sample_rate: int) -> None:
        self._sample_rate, self._length = sample_rate, round(_CHUNK_SECONDS * sample_rate)
        self._waiting, self._n_waiting, self._levels, self._weights = list[np.ndarray](), 0, list[float](), list[int]()
        self.peak = 0.0

    def add(self, block: Float[np.ndarray, "samples"]) -> None:
        """Measure the next samples, which must be finite."""
        self.peak = max(self.peak, float(np.abs(block).max(initial=0)))
        for start in range(0, len(block), self._length):
            piece = block[start : start + self._length]
            missing = self._length - self._n_waiting
            self._waiting.append(piece[:missing])
            self._n_waiting += len(piece[:missing])
            if self._n_waiting == self._length:
                self._measure()
                self._waiting, self._n_waiting = [piece[missing:]], len(piece) - missing

    def lufs(self) -> float:
        """Integrated loudness of all added samples, in LUFS; `-inf` for silence. Ends the measurement."""
        if self._n_waiting or not self._levels:
            self._measure()
        levels, weights = np.array(self._levels), np.array(self._weights)
        audible = np.isfinite(levels)
        if not audible.any():
            return -inf
        return float(levels[0] if len(levels) == 1 else 10 * np.log10(np.average(10 ** (levels[audible] / 10), weights=weights[audible])))

    def _measure(self) -> None:
        chunk = np.concatenate([np.zeros(0), *self._waiting])
        self._levels.append(_chunk_lufs(chunk, self._sample_rate))
        self._weights.append(len(chunk))


def _chunk_lufs(waveform: Float[np.ndarray, "samples"], sample_rate: int) -> float:
    block = _BLOCK_SECONDS * sample_rate
    weighted = _k_weighted(np.pad(waveform.astype(np.float64), (0, max(0, ceil(block) - len(waveform)))), sample_rate)
    starts = np.arange(_BLOCKS_PER_POSITION * (len(weighted) / block - 1) + 0.5) * block / _BLOCKS_PER_POSITION
    energy = np.concatenate([[0.0], np.cumsum(weighted**2)])
    edges = np.minimum([starts, starts + block], len(weighted)).astype(int)
    power = np.diff(energy[edges], axis=0)[0] / block
    power = power[power > 10 ** ((_GATE_LUFS - _OFFSET_LUFS) / 10)]
    power = power[power > power.mean() / 10] if len(power) else power  # the relative gate, 10 dB lower
    return _OFFSET_LUFS + 10 * log10(power.mean()) if len(power) else -inf


def _k_weighted(waveform: Float[np.ndarray, "samples"], sample_rate: int) -> Float[np.ndarray, "samples"]:
    """K-weighting by overlap-save FFT filtering in blocks of one second with an overlap of a quarter."""
    overlap = sample_rate // 4
    delay = np.exp(-2j * np.pi * np.fft.rfftfreq(sample_rate))
    response = np.prod([np.polyval(b[::-1], delay) / np.polyval(a[::-1], delay) for b, a in _k_filters(sample_rate)], axis=0)
    padded = np.pad(waveform, (overlap, -len(waveform) % (sample_rate - overlap)))
    seconds = np.lib.stride_tricks.sliding_window_view(padded, sample_rate)[:: sample_rate - overlap]
    return np.fft.irfft(np.fft.rfft(seconds) * response, sample_rate)[:, overlap:].reshape(-1)[: len(waveform)]


def _k_filters(sample_rate: int) -> list[tuple[list[float], list[float]]]:
    """Coefficients (b, a), in powers of z^-1, of the high shelf and the high-pass."""
    cosine, alpha = _biquad_angle(_SHELF_HZ, _SHELF_Q, sample_rate)
    gain = 10 ** (_SHELF_DB / 40)
    up, down, root = gain + 1, gain - 1, 2 * gain**0.5 * alpha
    shelf_b = [gain * (up + down * cosine + root), -2 * gain * (down + up * cosine), gain * (up + down * cosine - root)]
    shelf_a = [up - down * cosine + root, 2 * (down - up * cosine), up - down * cosine - root]
    cosine, alpha = _biquad_angle(_HIGH_PASS_HZ, _HIGH_PASS_Q, sample_rate)
    return [(shelf_b, shelf_a), ([(1 + cosine) / 2, -1 - cosine, (1 + cosine) / 2], [1 + alpha, -2 * cosine, 1 - alpha])]


def _biquad_angle(hz: float, q: float, sample_rate: int) -> tuple[float, float]:
    """`cos w` and `sin w / 2q` of the audio EQ cookbook."""
    angle = 2 * pi * hz / sample_rate
    return cos(angle), sin(angle) / (2 * q)


def normalise_loudness(
    waveform: Float[np.ndarray, "samples"], sample_rate: int, target_lufs: float = TARGET_LUFS
) -> Float[np.ndarray, "samples"]:
    """Scale a sound by one gain to a target loudness; the gain is limited such that peaks stay at -1 dB or below.

    Args:
        waveform: mono, full scale 1.
        sample_rate: in Hz.
        target_lufs: wanted loudness.

    Returns:
        The scaled sound, in its own dtype; silence is returned unchanged.

    Raises:
        ParameterError: if a sample is NaN or infinite.
    """
    gain_db = normalising_gain_db(loudness_lufs(waveform, sample_rate), float(np.abs(waveform).max(initial=0)), target_lufs)
    return waveform * waveform.dtype.type(10 ** (gain_db / 20)) if gain_db else waveform


def normalising_gain_db(loudness: float, peak: float, target_lufs: float = TARGET_LUFS, peak_db: float = _PEAK_DB) -> float:
    """Gain of `normalise_loudness` in dB; 0 for silence.

    Args:
        loudness: loudness of the sound, in LUFS.
        peak: largest magnitude of the sound.
        target_lufs: wanted loudness.
        peak_db: limit of the peak, in dB relative to full scale.
    """
    return min(target_lufs - loudness, peak_db - 20 * log10(peak)) if isfinite(loudness) else 0.0


def level(
    waveform: Float[np.ndarray, "samples"], sample_rate: int, target_lufs: float = TARGET_LUFS, peak_db: float = _PEAK_DB
) -> Float[np.ndarray, "samples"]:
    """Scale a sound to a target loudness; a look-ahead limiter reduces peaks above the limit by up to 12 dB.

    Args:
        waveform: mono, full scale 1.
        sample_rate: in Hz.
        target_lufs: wanted loudness.
        peak_db: limit of the peak, in dB relative to full scale, at most 0.

    Returns:
        The result of `normalise_loudness` if it reaches the target. Otherwise the sound is limited; it stays quieter than the target if
        more than 12 dB of reduction were needed.

    Raises:
        ParameterError: as in `normalise_loudness`.
    """
    gain_db = normalising_gain_db(loudness_lufs(waveform, sample_rate), float(np.abs(waveform).max(initial=0)), target_lufs, peak_db)
    gain = 10 ** (gain_db / 20)
    levelled = waveform * waveform.dtype.type(gain) if gain_db else waveform
    max_gain = gain * 10 ** (_MAX_REDUCTION_DB / 20)
    for _ in range(_MAX_PASSES):
        missing_db = target_lufs - loudness_lufs(levelled, sample_rate)
        if not isfinite(missing_db) or missing_db < _TOLERANCE_DB or gain == max_gain:
            break
        gain = min(gain * 10 ** (missing_db / 20), max_gain)
        levelled = limit_peaks(waveform * waveform.dtype.type(gain), sample_rate, 10 ** (peak_db / 20))
    return levelled


def level_true_peak(
    waveform: Float[np.ndarray, "samples"], sample_rate: int, target_lufs: float, true_peak_db: float
) -> Float[np.ndarray, "samples"]:
    """Like `level`, but limits the true peak, in dBTP."""
    limit = true_peak_db
    for _ in range(_MAX_PASSES):
        levelled = level(waveform, sample_rate, target_lufs, limit)
        excess = 20 * log10(max(true_peak(levelled), 1e-9)) - true_peak_db
        if excess <= 0:
            return levelled
        limit -= excess + 0.01
    return levelled * levelled.dtype.type(10 ** (-excess / 20))


def true_peak(waveform: Float[np.ndarray, "samples"]) -> float:
    """Largest magnitude of the continuous signal, by eightfold interpolation.

    Source:
        ITU-R BS.1770-4, annex 2. Differs: eight phases of a windowed sinc of 48 taps, because sample rates may be below 48 kHz.
    """
    taps = np.arange(-_TRUE_PEAK_TAPS // 2 + 1, _TRUE_PEAK_TAPS // 2 + 1)
    largest = float(np.abs(waveform).max(initial=0))
    for phase in range(1, _TRUE_PEAK_PHASES):
        places = taps - phase / _TRUE_PEAK_PHASES
        weights = np.sinc(places) * np.cos(np.pi * places / (_TRUE_PEAK_TAPS + 2)) ** 2
        for start in range(0, len(waveform), _TRUE_PEAK_CHUNK):
            chunk = waveform[max(0, start - _TRUE_PEAK_TAPS) : start + _TRUE_PEAK_CHUNK + _TRUE_PEAK_TAPS]
            largest = max(largest, float(np.abs(np.convolve(chunk, weights.astype(np.float32), "full")).max(initial=0)))
    return largest


def limit_peaks(
    waveform: Float[np.ndarray, "samples"], sample_rate: int, ceiling: float | Float[np.ndarray, "samples"]
) -> Float[np.ndarray, "samples"]:
    """Look-ahead limiter: a moving minimum of the required gain, then a moving average, which never exceeds the required gain.

        required[n] = min(1, ceiling / |x[n]|)        gain = mean_w(min_w(required)),  w = n ± 5 ms

    Args:
        waveform: mono.
        sample_rate: in Hz.
        ceiling: largest magnitude of the result, for all samples or for each; above 0.
    """
    reach, length = 2 * max(1, round(_LOOK_AHEAD_SECONDS * sample_rate)), round(_CHUNK_SECONDS * sample_rate)
    limited, ceilings = np.empty_like(waveform), np.broadcast_to(ceiling, waveform.shape)
    for start in range(0, len(waveform), length):
        first = max(0, start - reach)
        near, here = slice(first, start + length + reach), slice(start, start + length)
        gain = _limiter_gain(np.abs(waveform[near]) / ceilings[near], reach // 2)[start - first :][:length]
        # clipped, because rounding may exceed the ceiling by one ulp
        limited[here] = (waveform[here] * gain).clip(-ceilings[here], ceilings[here])
    return limited


class PeakLimiter:
    """`limit_peaks` for a stream, with a latency of 10 ms.

    Args:
        sample_rate: in Hz.
        ceiling: largest magnitude, above 0.
    """

    def __init__(self, sample_rate: int, ceiling: float) -> None:
        self._reach, self._ceiling = 2 * max(1, round(_LOOK_AHEAD_SECONDS * sample_rate)), ceiling
        self._held, self._n_past = np.zeros(0, np.float32), 0  # past samples, then pending ones

    def push(self, samples: Float[np.ndarray, "samples"]) -> Float[np.ndarray, "final"]:
        """Add samples; returns those whose gain is final."""
        self._held = np.concatenate([self._held, samples])
        return self._emit(max(0, len(self._held) - self._n_past - self._reach))

    def finish(self) -> Float[np.ndarray, "final"]:
        """Return the remaining samples."""
        return self._emit(len(self._held) - self._n_past)

    def _emit(self, n: int) -> Float[np.ndarray, "final"]:
        here = slice(self._n_past, self._n_past + n)
        gain = _limiter_gain(np.abs(self._held) / self._ceiling, self._reach // 2)[here]
        out = (self._held[here] * gain).clip(-self._ceiling, self._ceiling).astype(np.float32)
        dropped = max(0, self._n_past + n - self._reach)
        self._held, self._n_past = self._held[dropped:], self._n_past + n - dropped
        return out


def _limiter_gain(excess: Float[np.ndarray, "samples"], reach: int) -> Float[np.ndarray, "samples"]:
    """Gain at each sample, from magnitudes relative to the ceiling."""
    excess = np.pad(np.maximum(excess, 1), 2 * reach, constant_values=1)
    left, width = 2 * reach, 1
    while left:  # moving maximum by doubling the window
        step = min(width, left)
        excess, left, width = np.maximum(excess[:-step], excess[step:]), left - step, width + step
    sums = np.cumsum(np.pad(1 / excess, (1, 0)), dtype=np.float64)
    return (sums[width:] - sums[:-width]) / width
