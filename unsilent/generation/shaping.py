"""Shaping of a waveform after the vocoder: blended cuts, and as the request asks, events moved to cues, silence, level, fades."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from unsilent.clip import Clip
from unsilent.cues import AUTO, Stretch
from unsilent.generation.priming import Prime
from unsilent.request import Request
from unsilent.signal.blending import blend
from unsilent.signal.landing import land
from unsilent.signal.loudness import TARGET_LUFS, level, level_true_peak
from unsilent.vision.cues import cues_of, see_cues
from unsilent.vision.scene import Observation, Scene

Samples = Float[np.ndarray, "samples"]
_FADE_SECONDS = 0.01  # fade at the borders of silence


def with_seen_cues(request: Request, scene: Scene, observation: Observation | None, clip: Clip) -> Request:
    """The request with cues "auto" replaced by the impacts detected in the video.

    For models without motion, the video is read once more.
    """
    if request.cues != AUTO:
        return request
    seen = cues_of(observation.levels, clip) if observation is not None and observation.levels else see_cues(scene.path, clip)
    moved = [cue.model_copy(update={"seconds": cue.seconds - scene.start_seconds}) for cue in seen]
    return request.model_copy(update={"cues": tuple(cue for cue in moved if 0 <= cue.seconds < scene.seconds)})


def timed(waveform: Samples, request: Request, clip: Clip, breaks: Sequence[int] = (), start_column: int = 0) -> Samples:
    """A stretch of a sound, blended at its breaks, with its events moved to the cues, and muted stretches silent.

    Args:
        waveform: the stretch.
        request: resolved, without cues "auto".
        clip: the grid.
        breaks: columns whose sound does not continue the column before, see `Plan.breaks`.
        start_column: start of the stretch within the sound.
    """
    waveform = blend(waveform, [(column - start_column) * clip.column_samples for column in breaks], clip.sample_rate)
    start_seconds = start_column * clip.column_seconds
    cues = [cue.model_copy(update={"seconds": cue.seconds - start_seconds}) for cue in request.cues or () if cue.seconds >= start_seconds]
    waveform = land(waveform, cues, clip) if cues else waveform
    return silence(waveform, request.mute, clip.sample_rate, start_seconds) if request.mute else waveform


def shaper(request: Request, clip: Clip, prime: Prime | None, breaks: Sequence[int] = ()) -> Callable[[Samples], Samples]:
    """A function that finishes the waveform of a take: blended cuts, events at cues, silent stretches, level, fades.

    Args:
        request: resolved, without cues "auto".
        clip: the grid.
        prime: replaces the beginning, if the request keeps its samples.
        breaks: columns whose sound does not continue the column before, see `Plan.breaks`.
    """

    def shape(waveform: Samples) -> Samples:
        waveform = timed(waveform, request, clip, breaks)
        if prime is not None and request.prime_keep == "samples":
            return faded(prime.join(waveform), request, clip.sample_rate)
        return faded(levelled(waveform, request, clip.sample_rate), request, clip.sample_rate)

    return shape


def levelled(waveform: Samples, request: Request, sample_rate: int) -> Samples:
    """The sound at the requested loudness, limited to the requested true peak."""
    target = TARGET_LUFS if request.lufs is None else request.lufs
    if request.true_peak is None:
        return level(waveform, sample_rate, target)
    return level_true_peak(waveform, sample_rate, target, request.true_peak)


def faded(waveform: Samples, request: Request, sample_rate: int) -> Samples:
    """The sound with quarter-sine fades. A fade longer than the sound is cut off."""
    for seconds, turned in ((request.fade_in, slice(None)), (request.fade_out, slice(None, None, -1))):
        if seconds is not None:
            share = np.minimum(np.arange(len(waveform)) / (seconds * sample_rate), 1)
            waveform = (waveform[turned] * np.sin(share * np.pi / 2).astype(np.float32))[turned]
    return waveform


def silence(waveform: Samples, stretches: tuple[Stretch, ...], sample_rate: int, start_seconds: float = 0.0) -> Samples:
    """Set stretches of a sound to 0, with fades of 10 ms inside them; `start_seconds` is the time of its first sample."""
    gain, fade = np.ones(len(waveform), np.float32), max(1, round(_FADE_SECONDS * sample_rate))
    for stretch in stretches:
        start, stop = (min(len(gain), max(0, round((at - start_seconds) * sample_rate))) for at in (stretch.start, stretch.stop))
        ramp = np.arange(stop - start)
        gain[start:stop] = np.minimum(gain[start:stop], 1 - np.minimum(1, (1 + np.minimum(ramp, ramp[::-1])) / fade))
    return waveform * gain
