"""Joins: a stretch of a sound is replaced by a new one, without a click, a step in level or a spectral notch. Nothing else changes.

    new, excess = splice(old, new, start, stop, sample_rate)  # samples for old[start:stop]

Both joins lie inside the stretch. A join is a cross-fade. Its position and length are chosen such that both sounds are in phase there, and
that loudness and spectrum do not jump more than elsewhere in the sound.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

REACH_SECONDS = 0.25  # largest distance of a join's end from the edge of the stretch; at most a third of the stretch
_FADES_SECONDS = (0.01, 0.03, 0.08, 0.2)
_PLACES = 8  # the reach is divided into this many parts; in each, the position with the highest correlation is tried
_FRAME_SECONDS, _FRAMES_APART = 0.02, 4  # length of short-time spectra, which overlap by three quarters
_FLOOR_DB = 60.0  # range below the loudest frame; quieter frames count as silent
_BAND = 4  # FFT bins per band
_LIMIT_PERCENTILE = 95
_CONTEXT_SECONDS = 15.0  # length on each side of the stretch in which typical jumps are measured
_MAX_MATCH_DB = 12.0  # largest gain that matches the new sound's level to the old one at a join
_RELAX_SECONDS = 0.2  # time constant with which this gain decays
_ORDER, _MODEL_SECONDS = 32, 0.1  # linear prediction that continues a sound beyond its end
_LEAST_CORRELATION = -0.9  # lower limit, because the gain of a constant-power fade would exceed 3


class Jumps(NamedTuple):
    """Changes between each frame and the adjacent one, which begins where it ends; frame `i` begins at sample `i * hop`.

    Attributes:
        energy: absolute change in level, in dB.
        flux: mean over bands of the increase in level, in dB.
    """

    energy: Float[np.ndarray, "frames"]
    flux: Float[np.ndarray, "frames"]


def jumps(sound: Float[np.ndarray, "samples"], sample_rate: int, loudest: float) -> Jumps:
    """Jumps of energy and spectrum. `loudest` is the power of the loudest frame; levels 60 dB below it count as silence."""
    powers = _powers(sound, sample_rate)
    levels, totals = (10 * np.log10(one + loudest * 10 ** (-_FLOOR_DB / 10) / count)
                      for one, count in ((powers, powers.shape[1]), (powers.sum(1), 1)))  # fmt: skip
    rise = np.maximum(levels[_FRAMES_APART:] - levels[:-_FRAMES_APART], 0).mean(1)
    return Jumps(np.abs(totals[_FRAMES_APART:] - totals[:-_FRAMES_APART]), rise)


def loudest_power(sound: Float[np.ndarray, "samples"], sample_rate: int) -> float:
    """Power of the loudest frame; a small positive number for silence."""
    return max(float(_powers(sound, sample_rate).sum(1).max(initial=0)), 1e-12)


def usual_jumps(sound: Float[np.ndarray, "samples"], sample_rate: int, loudest: float) -> tuple[float, float]:
    """95th percentiles of the jumps of energy and of spectrum inside a sound."""
    return tuple(float(np.percentile(one, _LIMIT_PERCENTILE)) if len(one) else 0.0 for one in jumps(sound, sample_rate, loudest))


def splice(
    old: Float[np.ndarray, "samples"], new: Float[np.ndarray, "stretch"], start: int, stop: int, sample_rate: int
) -> tuple[Float[np.ndarray, "stretch"], float]:
    """Samples for `old[start:stop]`: the new sound, cross-faded with the old one at both edges.

    At the beginning or end of the old sound, the new one is faded over 10 ms instead. If the old sound is digital silence inside the edge,
    as in a gap or after its end, it is first continued by linear prediction.

    Args:
        old: the old sound, mono.
        new: the new sound, mono, `stop - start` samples at the level of the old sound.
        start: first sample of the stretch.
        stop: first sample after the stretch.
        sample_rate: in Hz.

    Returns:
        The samples, and the largest jump at a join divided by the 95th percentile of jumps in the old sound around it.
    """
    context = round(_CONTEXT_SECONDS * sample_rate)
    around = old[max(0, start - context) : stop + context]
    loudest = loudest_power(around, sample_rate)
    judge = _Judge(sample_rate, loudest, usual_jumps(around, sample_rate, loudest))
    made, at_start = _join(old[:start], old[start:stop], new, judge)
    made, at_stop = _join(old[stop:][::-1], old[start:stop][::-1], made[::-1], judge)
    return made[::-1].copy(), max(at_start, at_stop)


class _Judge(NamedTuple):
    """Scores joins relative to the jumps in the old sound."""

    sample_rate: int
    loudest: float
    usual: tuple[float, float]

    def excess(self, before: np.ndarray, joined: np.ndarray, beneath: np.ndarray, start: int, stop: int) -> float:
        """Largest jump at a join in `joined[start:stop]`, which follows `before`, divided by the typical jump.

        A jump that begins before the stretch may be as large as in the old sound, because it is in samples that are kept.
        """
        frame = round(_FRAME_SECONDS * self.sample_rate)
        known = before[-2 * frame :]
        length, hop = stop + 2 * frame, frame // _FRAMES_APART
        found, own = (jumps(np.concatenate([known, one[:length]]), self.sample_rate, self.loudest) for one in (joined, beneath))
        first, last = max(0, (len(known) + start - 2 * frame) // hop + 1), (len(known) + stop) // hop + 1
        outside = -(-len(known) // hop)  # jumps that begin before the stretch
        shares = []
        for one, was, usual in zip(found, own, self.usual, strict=True):
            limit = np.where(np.arange(len(was)) < outside, was, 0).clip(max(usual, 1e-3))
            shares.append(float((one / limit)[first:last].max(initial=0)))
        return max(shares)


def _join(before: np.ndarray, beneath: np.ndarray, new: np.ndarray, judge: _Judge) -> tuple[np.ndarray, float]:
    """Join the beginning of a stretch to the sound before it with the best of several fades; `beneath` is the old sound in the stretch."""
    rate, out = judge.sample_rate, new.copy()
    reach = min(round(REACH_SECONDS * rate), len(new) // 3)
    if not len(before) or reach < 2:
        fade = min(round(_FADES_SECONDS[0] * rate), len(new) // 3)
        out[:fade] *= np.linspace(0, 1, fade, dtype=out.dtype)
        return out, 0.0
    old = beneath[:reach]
    if not old.any() and before[-reach:].any():
        old = extrapolate(before[-round(_MODEL_SECONDS * rate) :], reach)
    tried = [
        _fade(old, new, place, fade, rate)
        for fade in sorted({max(2, min(round(seconds * rate), reach)) for seconds in _FADES_SECONDS})
        for place in _places(old, new, fade, reach)
    ]
    excesses = [judge.excess(before, one.sound, beneath, one.start, one.stop) for one in tried]
    best = int(np.argmin(excesses))
    return tried[best].sound, excesses[best]


class _Faded(NamedTuple):
    sound: np.ndarray
    start: int
    stop: int


def _places(old: np.ndarray, new: np.ndarray, fade: int, reach: int) -> list[int]:
    """Start of the fade with the highest correlation of both sounds, in each part of the reach."""
    n_places = reach - fade + 1
    step = max(1, fade // 256)  # in long fades, a coarser search finds the same phase
    windows = [np.lib.stride_tricks.sliding_window_view(one[:reach].astype(np.float64), fade)[::step] for one in (old, new)]
    products = np.einsum("pf,pf->p", *windows)
    norms = np.sqrt(np.prod([np.square(one).sum(1) for one in windows], axis=0))
    correlations = products / np.maximum(norms, 1e-20)
    parts = np.array_split(np.arange(len(correlations)), min(_PLACES, len(correlations)))
    return [min(int(part[np.argmax(correlations[part])]) * step, n_places - 1) for part in parts]


def _fade(old: np.ndarray, new: np.ndarray, place: int, fade: int, rate: int) -> _Faded:
    """Match the level of the new sound to the old one at the join, and cross-fade at constant power given their correlation."""
    over = slice(place, place + fade)
    power_old, power_new = (float(np.square(one[over], dtype=np.float64).mean()) for one in (old, new))
    match_db = 10 * np.log10((power_old + 1e-12) / (power_new + 1e-12)) if power_old and power_new else 0.0
    match_db = float(np.clip(match_db, -_MAX_MATCH_DB, _MAX_MATCH_DB))
    after = np.maximum(np.arange(len(new)) - place - fade, 0)
    sound = (new * 10 ** (match_db * np.exp(-after / (_RELAX_SECONDS * rate)) / 20)).astype(new.dtype)
    dot = float(np.dot(old[over].astype(np.float64), sound[over]))
    norm = (float(np.square(old[over], dtype=np.float64).sum()) * float(np.square(sound[over], dtype=np.float64).sum())) ** 0.5
    correlation = max(dot / norm, _LEAST_CORRELATION) if norm else 0.0
    angle = (np.arange(fade) + 0.5) / fade * np.pi / 2
    gain = 1 / np.sqrt(1 + correlation * np.sin(2 * angle))
    sound[over] = gain * (old[over] * np.cos(angle) + sound[over] * np.sin(angle))
    sound[:place] = old[:place]
    return _Faded(sound, place, place + fade)


def extrapolate(before: Float[np.ndarray, "known"], n: int) -> Float[np.ndarray, "n"]:
    """Continue a sound by linear prediction; the continuation has its spectrum and decays.

    Args:
        before: the last samples of the sound.
        n: number of samples to add.

    Source:
        Autocorrelation method of linear prediction, as in packet loss concealment; solved directly, because the order is small.
    """
    windowed = before * np.hanning(len(before))
    correlation = np.correlate(windowed, windowed, "full")[len(before) - 1 :][: _ORDER + 1]
    correlation = np.pad(correlation, (0, _ORDER + 1 - len(correlation)))
    lags = np.abs(np.subtract.outer(np.arange(_ORDER), np.arange(_ORDER)))
    matrix = correlation[lags] + np.eye(_ORDER) * (1e-4 * correlation[0] + 1e-12)
    weights = np.linalg.solve(matrix, correlation[1:])[::-1]
    known = np.pad(before.astype(np.float64), (max(0, _ORDER - len(before)), n))
    for position in range(len(known) - n, len(known)):
        known[position] = weights @ known[position - _ORDER : position]
    return known[len(known) - n :].astype(before.dtype)


def _powers(sound: np.ndarray, sample_rate: int) -> Float[np.ndarray, "frames bands"]:
    """Power of each band of short-time spectra."""
    frame = round(_FRAME_SECONDS * sample_rate)
    padded = np.pad(sound.astype(np.float64), (0, max(0, frame - len(sound))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, frame)[:: frame // _FRAMES_APART]
    powers = np.abs(np.fft.rfft(frames * np.hanning(frame))) ** 2
    return powers[:, : powers.shape[1] // _BAND * _BAND].reshape(len(powers), -1, _BAND).sum(2)
