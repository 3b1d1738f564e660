"""Landing: moves the events of a generated sound to cues, and attenuates events without a cue.

    landed = land(waveform, cues, clip)

Times are in seconds from the beginning of the sound. A sampler times events to a column (0.19 s) at best, but people notice 0.05 s.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float

from unsilent.clip import Clip
from unsilent.cues import Cue
from unsilent.signal.mel import log_mel01
from unsilent.signal.onsets import find_onsets

REACH_SECONDS = 0.25  # largest move of an event; a cue without an event in reach gets a copy of one
LANDED_SECONDS = 0.02  # largest distance from a cue at which an event counts as landed
_LEAD_SECONDS, _RIGID_SECONDS = 0.012, 0.05  # samples this long before and after an onset are moved but never stretched
_EVENT_SECONDS = 0.4  # largest length of a copied event
_FADE_SECONDS = 0.005
_ENVELOPE_SECONDS = 0.008  # resolution of the envelope in which rises are detected
_PIECE, _SEARCH = 1024, 256  # WSOLA: samples per segment, and search range on each side
_PASSES = 2  # repetitions of copying and attenuating

Samples = Float[np.ndarray, "samples"]
Found = Float[np.ndarray, "found"]
Wanted = Float[np.ndarray, "wanted"]


def onsets_of(waveform: Samples, clip: Clip) -> Found:
    """Onsets of a sound of any length, in seconds."""
    padded = np.pad(waveform.astype(np.float32), (0, max(0, clip.n_fft - len(waveform))))
    return find_onsets(log_mel01(torch.from_numpy(padded)[None], clip)[0], clip)


def land(waveform: Samples, cues: Sequence[Cue], clip: Clip) -> Samples:
    """Move the events of a sound to cues.

    - The event nearest to a cue, within 0.25 s, is moved to it. The sound between two events is stretched by WSOLA.
    - A cue without an event in reach gets a copy of the nearest event.
    - An onset without a cue is attenuated to the level before it, until the next cue.
    - Amplitudes follow the strengths of the cues; a cue with a length is followed by silence.

    Args:
        waveform: mono, at the clip's sample rate.
        cues: in any order; cues after the end have no effect.
        clip: the grid.

    Returns:
        The same number of samples. A sound without onsets changes only by the strengths and lengths of cues.

    Source:
        Stretching: Verhelst and Roelands, "An overlap-add technique based on waveform similarity (WSOLA)" (1993).
    """
    rate = clip.sample_rate
    cues = sorted((cue for cue in cues if cue.seconds < len(waveform) / rate), key=lambda cue: cue.seconds)
    if not cues:
        return waveform
    wanted, found = np.array([cue.seconds for cue in cues]), onsets_of(waveform, clip)
    pairs = pair(found, wanted, REACH_SECONDS)
    landed = waveform
    if pairs:
        landed = _moved(waveform, found[[i for i, _ in pairs]], wanted[[j for _, j in pairs]], rate)
        has_event = {j for _, j in pairs}
        for _ in range(_PASSES):
            landed = _copied(landed, wanted, has_event, rate)
            landed = _without_rises(landed, wanted, onsets_of(landed, clip), rate)
            has_event = {j for _, j in pair(onsets_of(landed, clip), wanted, LANDED_SECONDS)} or has_event
    return (landed * _gains(cues, len(landed), rate)).astype(waveform.dtype)


def pair(found: Found, wanted: Wanted, reach: float) -> list[tuple[int, int]]:
    """Index pairs (found, wanted) in the order of time: the largest matching within `reach` seconds, with the smallest total distance.

    Args:
        found: ascending times in seconds.
        wanted: ascending times in seconds.
        reach: largest distance of a pair.
    """
    both = np.sort(np.concatenate([found, wanted]))
    borders = both[1:][np.diff(both) > reach]  # no pair crosses these
    parts = zip(np.searchsorted(found, [-1.0, *borders]), np.searchsorted(wanted, [-1.0, *borders]), strict=True)
    edges = [*parts, (len(found), len(wanted))]
    return [
        (int(first) + i, int(second) + j)
        for (first, second), (last, end) in pairwise(edges)
        for i, j in _pair_all(found[first:last], wanted[second:end], reach)
    ]


def _pair_all(found: Found, wanted: Wanted, reach: float) -> list[tuple[int, int]]:
    """Dynamic programming over the best value for the first i and j times; a pair is worth 1 minus a small penalty for its distance."""
    distance = np.abs(np.subtract.outer(found, wanted))
    worth = np.where(distance <= reach, 1 - distance / (2 * reach * (len(wanted) + 1)), -np.inf)
    best = np.zeros((len(found) + 1, len(wanted) + 1))
    for i in range(len(found)):
        best[i + 1, 1:] = np.maximum(best[i, 1:], best[i, :-1] + worth[i])
        best[i + 1] = np.maximum.accumulate(best[i + 1])
    pairs, i, j = [], len(found), len(wanted)
    while i and j:
        if best[i, j] == best[i - 1, j]:
            i -= 1
        elif best[i, j] == best[i, j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            pairs.append((i, j))
    return pairs[::-1]


def _moved(waveform: Samples, found: Found, wanted: Wanted, rate: int) -> Samples:
    """The sound with each found onset moved to its wanted time."""
    hop, n = _PIECE // 2, len(waveform)
    around = np.diff(wanted) / 2
    before = np.minimum(_LEAD_SECONDS + hop / rate, np.concatenate([[np.inf], around]))
    after = np.minimum(_RIGID_SECONDS + hop / rate, np.concatenate([around, [np.inf]]))
    knots = np.stack([wanted - before, wanted + after], 1).reshape(-1)
    shifts = np.repeat(found - wanted, 2)
    inner = (knots > 0) & (knots < n / rate)
    knots, shifts = np.concatenate([[0], knots[inner], [n / rate]]), np.concatenate([[0], shifts[inner], [0]])
    starts = np.arange(-hop, n, hop)
    centres = (starts + hop) / rate
    targets = starts + np.round(np.interp(centres, knots, shifts) * rate).astype(int)
    following, bounded = np.searchsorted(wanted, centres), np.concatenate([[-np.inf], wanted, [np.inf]])
    distance = np.minimum(centres - bounded[following], bounded[following + 1] - centres)
    is_rigid = distance <= (hop / rate + _LEAD_SECONDS)
    pad = 2 * _PIECE + _SEARCH + round(REACH_SECONDS * rate)
    padded, window = np.pad(waveform.astype(np.float32), pad), np.hanning(_PIECE + 1)[:-1].astype(np.float32)
    moved, last = np.zeros(n + 2 * _PIECE, np.float32), int(targets[0]) - hop
    for start, target, rigid in zip(starts.tolist(), targets.tolist(), is_rigid.tolist(), strict=True):
        natural = last + hop
        if target != natural and not rigid:
            target = _most_similar(padded, pad + target, padded[pad + natural :][:_PIECE]) - pad
        last = target
        moved[start + hop :][:_PIECE] += window * padded[pad + target :][:_PIECE]
    return moved[hop:][:n]


def _most_similar(padded: Samples, target: int, natural: Float[np.ndarray, "piece"]) -> int:
    """Position near the target with the highest normalised correlation to `natural`."""
    region = padded[target - _SEARCH : target + _SEARCH + len(natural)]
    energy = np.cumsum(np.pad(region.astype(np.float64) ** 2, (1, 0)))
    energy = np.sqrt(energy[len(natural) :] - energy[: -len(natural)] + 1e-9)
    return target - _SEARCH + int(np.argmax(np.correlate(region, natural, "valid") / energy))


def _copied(waveform: Samples, wanted: Wanted, has_event: set[int], rate: int) -> Samples:
    """The sound with a copy of the nearest event cross-faded in at each cue without one."""
    made = waveform.copy()
    lead, fade, ends = round(_LEAD_SECONDS * rate), round(_FADE_SECONDS * rate), [*wanted[1:], len(waveform) / rate]
    for cue in sorted(set(range(len(wanted))) - has_event):
        source = min(has_event, key=lambda one: abs(wanted[one] - wanted[cue]))
        lengths = [min(_EVENT_SECONDS, ends[one] - wanted[one]) for one in (source, cue)]
        n = round(min(lengths) * rate)
        start, first = round(wanted[cue] * rate) - lead, round(wanted[source] * rate) - lead
        skipped = max(0, -start, -first)
        start, first, n = start + skipped, first + skipped, n - skipped
        event = waveform[first : first + n]
        n = min(len(event), len(made) - start)
        if n <= 2 * fade:
            continue
        share = np.interp(np.arange(n), [0, fade, n // 2, n], [0, 1, 1, 0]).astype(np.float32)
        place = slice(start, start + n)
        made[place] = made[place] * np.sqrt(1 - share) + event[:n] * np.sqrt(share)
        quiet = max(0, start - round(0.06 * rate))
        made[quiet:start] *= np.linspace(1, 0.25, start - quiet, dtype=np.float32) ** 1
        fall = min(fade, n)
        made[start : start + fall] *= np.linspace(0.25, 1, fall, dtype=np.float32)
    return made


def _without_rises(waveform: Samples, wanted: Wanted, found: Found, rate: int) -> Samples:
    """The sound with each onset that has no cue attenuated to the level before it, until the next cue."""
    alone = sorted(set(range(len(found))) - {i for i, _ in pair(found, wanted, LANDED_SECONDS)})
    if not alone:
        return waveform
    width = max(1, round(_ENVELOPE_SECONDS * rate))
    n = -(-len(waveform) // width)
    power = np.square(np.pad(waveform, (0, n * width - len(waveform))), dtype=np.float64).reshape(n, width)
    envelope = np.sqrt(power.mean(1)) + 1e-9
    gain = np.ones(n)
    edges = np.concatenate([wanted - _LEAD_SECONDS, [len(waveform) / rate]])
    for onset in alone:
        first = int((found[onset] - 2 * _LEAD_SECONDS) * rate / width)
        stop = int(edges[np.searchsorted(edges, found[onset])] * rate / width)
        if stop <= first or first < 1:
            continue
        before = np.median((gain * envelope)[max(0, first - 4) : first])
        gain[first:stop] = np.minimum(gain[first:stop], before / envelope[first:stop])
    lowest = np.lib.stride_tricks.sliding_window_view(np.pad(gain, 2, mode="edge"), 5).min(1)
    smooth = np.convolve(np.pad(lowest, 1, mode="edge"), np.full(3, 1 / 3), "valid")  # never above the gain itself, as in a limiter
    return waveform * np.interp(np.arange(len(waveform)), (np.arange(n) + 0.5) * width, smooth).astype(np.float32)


def _gains(cues: Sequence[Cue], n: int, rate: int) -> Samples:
    """Gain over time: the strength of each cue until the next, and 0 after the length of a cue."""
    fade = _FADE_SECONDS
    knots, values = [0.0], [cues[0].strength]
    for cue, following in zip(cues, [*cues[1:], None], strict=True):
        start, end = cue.seconds - _LEAD_SECONDS, n / rate if following is None else following.seconds - _LEAD_SECONDS
        knots += [max(knots[-1], start - fade), max(knots[-1], start)]
        values += [values[-1], cue.strength]
        if cue.length is not None and cue.seconds + cue.length < end:
            knots += [cue.seconds + cue.length, cue.seconds + cue.length + 4 * fade]
            values += [cue.strength, 0.0]
    return np.interp(np.arange(n) / rate, knots, values).astype(np.float32)
