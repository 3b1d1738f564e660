"""Joins: a stretch of a sound is replaced by a new one, without a click, a step in level or a spectral notch. Nothing else changes.

    new, excess = splice(old, new, start, stop, sample_rate)  # samples for old[start:stop]

Both joins lie inside the stretch. A join is a cross-fade. Its position and length are chosen such that both sounds are in phase there, and
that loudness and spectrum do not jump more than elsewhere in the sound. If no cross-fade is so quiet, the best one is softened.

Arrays of one edge run from the kept samples into the stretch: the end of a stretch is reversed in time.
"""

from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from unsilent.signal.room_tone import RoomTone, overlap_add, spectra

REACH_SECONDS = 0.25  # largest distance of a join's end from the edge of the stretch; at most a third of the stretch
_FADES_SECONDS = (0.01, 0.03, 0.08, 0.2)
_PLACES = 12  # the reach is divided into this many parts; in each, the position with the highest correlation is tried
_FRAME_SECONDS, _FRAMES_APART = 0.02, 4  # length of short-time spectra, which overlap by three quarters
_FLOOR_DB = 60.0  # range below the loudest frame; quieter frames count as silent
_BAND = 4  # FFT bins per band
_LIMIT_PERCENTILE = 95
_LEAST_DB = 0.5  # smaller jumps are never too large
_CONTEXT_SECONDS = 15.0  # length on each side of the stretch in which typical jumps are measured
_MAX_MATCH_DB = 12.0  # largest gain that matches the new sound's level to the old one at a join
_RELAX_SECONDS = 0.2  # time constant with which this gain decays
_ORDER, _MODEL_SECONDS = 32, 0.1  # linear prediction that continues a sound beyond its end
_LEAST_CORRELATION = -0.9  # lower limit, because the gain of a constant-power fade would exceed 3
_SOFTENED_SECONDS = 0.5  # from the edge; at most half of the stretch
_MARGIN, _ROUNDS = 0.85, 6  # softening aims below the limit, and is repeated, because changed frames overlap
_PASSES = 5  # over the frames in each round
_QUIETEST_GAIN = 1e-6  # of power
_SOFTENED = 4  # cross-fades that are softened, until one meets the limits


class Jumps(NamedTuple):
    """Changes between each frame and the adjacent one, which begins where it ends; frame `i` begins at sample `i * hop`.

    Attributes:
        energy: absolute change in level, in dB.
        flux: mean over bands of the increase in level, in dB.
    """

    energy: Float[np.ndarray, "*sounds frames"]
    flux: Float[np.ndarray, "*sounds frames"]


def jumps(sound: Float[np.ndarray, "*sounds samples"], sample_rate: int, loudest: float) -> Jumps:
    """Jumps of energy and spectrum. `loudest` is the power of the loudest frame; levels 60 dB below it count as silence."""
    return _jumps_of(_powers(sound, sample_rate), loudest)


def _jumps_of(powers: Float[np.ndarray, "*sounds frames bands"], loudest: float) -> Jumps:
    levels, totals = _levels(powers, loudest)
    rise = np.maximum(levels[..., _FRAMES_APART:, :] - levels[..., :-_FRAMES_APART, :], 0).mean(-1)
    return Jumps(np.abs(totals[..., _FRAMES_APART:] - totals[..., :-_FRAMES_APART]), rise)


def _levels(powers: Float[np.ndarray, "*frames bands"], loudest: float) -> tuple[np.ndarray, np.ndarray | float]:
    """Levels of bands and of whole frames, in dB."""
    floor = loudest * 10 ** (-_FLOOR_DB / 10)
    return 10 * np.log10(powers + floor / powers.shape[-1]), 10 * np.log10(powers.sum(-1) + floor)


def loudest_power(sound: Float[np.ndarray, "samples"], sample_rate: int) -> float:
    """Power of the loudest frame; a small positive number for silence."""
    return max(float(_powers(sound, sample_rate).sum(1).max(initial=0)), 1e-12)


def usual_jumps(sound: Float[np.ndarray, "samples"], sample_rate: int, loudest: float, n: int = 1) -> tuple[float, float]:
    """95th percentiles of the jumps of energy and of spectrum inside a sound, or of the largest of `n` successive jumps."""
    each = jumps(sound, sample_rate, loudest)
    return tuple(float(np.percentile(_largest(one, n), _LIMIT_PERCENTILE)) if len(one) else 0.0 for one in each)


def _largest(values: Float[np.ndarray, "frames"], n: int) -> Float[np.ndarray, "places"]:
    return np.lib.stride_tricks.sliding_window_view(values, min(n, len(values))).max(1)


def splice(
    old: Float[np.ndarray, "samples"],
    new: Float[np.ndarray, "stretch"],
    start: int,
    stop: int,
    sample_rate: int,
    tone: RoomTone | None = None,
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
        tone: background of the old sound, which is added to the new one and to what continues the old one; None adds nothing.

    Returns:
        The samples, and the largest jump at a join divided by its limit: the 95th percentile of jumps in the old sound around it. For
        jumps where a join may lie but does not, the limit is the 95th percentile of the largest jump in as long a time.
    """
    context = round(_CONTEXT_SECONDS * sample_rate)
    around = old[max(0, start - context) : stop + context]
    new = new if tone is None else tone.fill(new)
    judge = partial(_Judge.of, around, min(round(REACH_SECONDS * sample_rate), len(new) // 3), sample_rate)
    made, at_start = _join(old[:start], old[start:stop], new, judge(False), tone)
    made, at_stop = _join(old[stop:][::-1], old[start:stop][::-1], made[::-1], judge(True), tone and tone.reversed())
    return made[::-1].copy(), max(at_start, at_stop)


class _Judge(NamedTuple):
    """Scores joins at one edge relative to the jumps in the old sound.

    Attributes:
        usual: limits of jumps at a join.
        rare: limits of jumps elsewhere within reach.
        reach: samples from the edge in which a join may lie.
        reversed: whether arrays are reversed in time.
    """

    sample_rate: int
    loudest: float
    usual: tuple[float, float]
    rare: tuple[float, float]
    reach: int
    reversed: bool

    @classmethod
    def of(cls, around: np.ndarray, reach: int, sample_rate: int, reversed: bool) -> "_Judge":
        """A judge for an edge; `around` is the old sound near the stretch."""
        loudest, frame = loudest_power(around, sample_rate), round(_FRAME_SECONDS * sample_rate)
        n = (reach + 2 * frame) // (frame // _FRAMES_APART)
        return cls(sample_rate, loudest, *(usual_jumps(around, sample_rate, loudest, one) for one in (1, n)), reach, reversed)

    @property
    def frame(self) -> int:
        """Samples of a frame."""
        return round(_FRAME_SECONDS * self.sample_rate)

    def powers(self, sound: Float[np.ndarray, "*sounds samples"]) -> Float[np.ndarray, "*sounds frames bands"]:
        """Powers of frames in the order of time."""
        hop = self.frame // _FRAMES_APART
        whole = sound[..., : max(0, sound.shape[-1] - self.frame) // hop * hop + self.frame]
        return _powers(whole[..., ::-1] if self.reversed else whole, self.sample_rate)

    def jumps(self, sound: Float[np.ndarray, "*sounds samples"]) -> Jumps:
        """Jumps, from the kept samples into the stretch."""
        return Jumps(*(one[..., ::-1] if self.reversed else one for one in _jumps_of(self.powers(sound), self.loudest)))

    def limits(self, n_known: int, was: Jumps, start: int, stop: int) -> list[Float[np.ndarray, "pairs"]]:
        """Largest jumps for a join at samples `start` to `stop` of the stretch; infinite beyond the reach.

        A jump that begins before the stretch may be as large as in the old sound, because it is in samples that are kept.

        Args:
            n_known: number of kept samples before the stretch.
            was: jumps of the old sound.
            start: first sample of the cross-fade.
            stop: first sample after it.
        """
        hop = self.frame // _FRAMES_APART
        first, last = max(0, (n_known + start - 2 * self.frame) // hop + 1), (n_known + stop) // hop + 1
        limits = []
        for one, usual, rare in zip(was, self.usual, self.rare, strict=True):
            limit = np.full(len(one), max(rare, _LEAST_DB))
            limit[first:last] = max(usual, _LEAST_DB)
            limit[(n_known + self.reach) // hop + 1 :] = np.inf
            outside = -(-n_known // hop)
            limit[:outside] = np.maximum(limit[:outside], one[:outside])
            limits.append(limit)
        return limits


def _join(before: np.ndarray, beneath: np.ndarray, new: np.ndarray, judge: _Judge, tone: RoomTone | None) -> tuple[np.ndarray, float]:
    """Join the beginning of a stretch to the sound before it with the best of several fades; `beneath` is the old sound in the stretch."""
    rate, reach = judge.sample_rate, judge.reach
    if not len(before) or reach < 2:
        out, fade = new.copy(), min(round(_FADES_SECONDS[0] * rate), len(new) // 3)
        out[:fade] *= np.linspace(0, 1, fade, dtype=out.dtype)
        return out, 0.0
    if not beneath[:reach].any() and before[-reach:].any():
        beneath = np.concatenate([extrapolate(before[-round(_MODEL_SECONDS * rate) :], reach), beneath[reach:]])
        beneath = beneath if tone is None else tone.fill(beneath)
    old, known, end = beneath[:reach], before[-2 * judge.frame :], reach + 2 * judge.frame
    fades = sorted({max(2, min(round(seconds * rate), reach)) for seconds in _FADES_SECONDS})
    tried = [(place, fade) for fade in fades for place in _places(old, new, fade, reach)]
    heads = np.stack([np.concatenate([known, _fade(old, new[:end], *one, rate)]) for one in tried])
    found, was = judge.jumps(heads), judge.jumps(np.concatenate([known, beneath[:end]]))
    limits = [judge.limits(len(known), was, place, place + fade) for place, fade in tried]
    excesses = [_excess(one, limit) for one, limit in zip(zip(*found, strict=True), limits, strict=True)]
    best, least = None, np.inf
    for number in np.argsort(excesses, kind="stable")[:_SOFTENED]:
        out, excess = _fade(old, new, *tried[number], rate), float(excesses[number])
        if excess > 1:
            out, excess = _soften(known, out, limits[number], excess, judge)
        if excess < least:
            best, least = out, excess
        if least <= 1:
            break
    return best, least


def _excess(found: Iterable[Float[np.ndarray, "pairs"]], limits: Iterable[Float[np.ndarray, "pairs"]]) -> float:
    """The largest jump divided by its limit."""
    return max(float((one / limit).max(initial=0)) for one, limit in zip(found, limits, strict=True))


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


def _fade(old: np.ndarray, new: np.ndarray, place: int, fade: int, rate: int) -> np.ndarray:
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
    return sound


def _soften(
    known: np.ndarray, out: np.ndarray, limits: list[Float[np.ndarray, "pairs"]], excess: float, judge: _Judge
) -> tuple[np.ndarray, float]:
    """Attenuate bands near an edge until jumps are below their limits, or as small as they become. Returns the sound and its excess.

    Frames that overlap kept samples stay as they are. Beyond the limits, jumps may become as large as the sound's own or usual ones.
    """
    hop = judge.frame // _FRAMES_APART
    n = min(round(_SOFTENED_SECONDS * judge.sample_rate), len(out) // 2)
    n = (n + len(known) - judge.frame) // hop * hop + judge.frame - len(known)  # whole frames
    turned = slice(None, None, -1 if judge.reversed else 1)
    was = judge.jumps(np.concatenate([known, out[:n]]))
    n_pairs = len(was.energy)
    limits = [np.pad(one[:n_pairs], (0, max(0, n_pairs - len(one))), constant_values=np.inf) for one in limits]
    aims = [
        np.where(np.isinf(limit), np.maximum(usual * _MARGIN, jump), limit * _MARGIN)[turned]
        for limit, usual, jump in zip(limits, judge.usual, was, strict=True)
    ]
    numbers = np.arange(n_pairs + _FRAMES_APART)
    most_db = np.where(numbers * hop < len(known), 0, numbers[::-1] / _FRAMES_APART * judge.usual[0] * _MARGIN)  # falls to 0 at the end
    best, least, softened = out, excess, out.copy()
    for _ in range(_ROUNDS):
        head = np.concatenate([known, softened[:n]])[turned]
        gains = _gains(_powers(head, judge.sample_rate), judge.loudest, aims, most_db[turned])
        softened[:n] = _filtered(head, gains, judge.frame)[turned][len(known) :]
        excess = _excess(judge.jumps(np.concatenate([known, softened[:n]])), limits)
        if excess < least:
            best, least = softened.copy(), excess
        if least <= 1:
            break
    return best, least


def _gains(
    powers: Float[np.ndarray, "frames bands"], loudest: float, aims: list[Float[np.ndarray, "pairs"]], most_db: Float[np.ndarray, "frames"]
) -> Float[np.ndarray, "frames bands"]:
    """Gains of power, at most 1, that make jumps as small as `aims`; `most_db` is the largest attenuation of each frame."""
    gains, least = np.ones_like(powers), np.maximum(10 ** (-most_db[:, None] / 10), _QUIETEST_GAIN)

    def levels(some: slice) -> tuple[np.ndarray, np.ndarray]:
        return _levels(powers[some] * gains[some], loudest)

    def attenuate(some: slice, decibels: np.ndarray) -> None:
        gains[some] = np.maximum(gains[some] * 10 ** (-decibels / 10), least[some])

    energy, flux = (one[:, None] for one in aims)
    steps = range(0, len(energy), _FRAMES_APART)  # frames of a step do not depend on each other
    pairs = [(slice(one, min(one + _FRAMES_APART, len(energy))), slice(one + _FRAMES_APART, one + 2 * _FRAMES_APART)) for one in steps]
    for _ in range(_PASSES):
        for one, two in pairs:  # what rises is lowered afterwards
            bands, total = levels(one)
            rise = np.maximum(levels(two)[0] - bands, 0)
            attenuate(two, rise * np.maximum(1 - flux[one] / np.maximum(rise.mean(1, keepdims=True), 1e-9), 0))
            attenuate(two, np.maximum((levels(two)[1] - total)[:, None] - energy[one], 0))
        for one, two in reversed(pairs):  # what falls is lowered before
            attenuate(one, np.maximum((levels(one)[1] - levels(two)[1])[:, None] - energy[one], 0))
    return gains


def _filtered(sound: np.ndarray, gains: Float[np.ndarray, "frames bands"], frame: int) -> np.ndarray:
    """The sound with gains of power for the bands of its frames, which are overlapped and added."""
    found, factors = spectra(sound.astype(np.float64), frame), np.sqrt(gains).repeat(_BAND, 1)
    factors = np.pad(factors, ((0, 0), (0, found.shape[1] - factors.shape[1])), mode="edge")
    return (sound + overlap_add(found * (factors - 1), frame, len(sound))).astype(sound.dtype)


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


def _powers(sound: Float[np.ndarray, "*sounds samples"], sample_rate: int) -> Float[np.ndarray, "*sounds frames bands"]:
    """Power of each band of short-time spectra."""
    frame = round(_FRAME_SECONDS * sample_rate)
    missing = max(0, frame - sound.shape[-1])
    padded = np.pad(sound.astype(np.float64), [(0, 0)] * (sound.ndim - 1) + [(0, missing)])
    frames = np.lib.stride_tricks.sliding_window_view(padded, frame, -1)[..., :: frame // _FRAMES_APART, :]
    powers = np.abs(np.fft.rfft(frames * np.hanning(frame))) ** 2
    n_bands = powers.shape[-1] // _BAND
    return powers[..., : n_bands * _BAND].reshape(*powers.shape[:-1], n_bands, _BAND).sum(-1)
