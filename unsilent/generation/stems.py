"""Stems: a sound split into one part for each label over time. The parts add up to the sound."""

import numpy as np
from jaxtyping import Float

from unsilent.clip import Clip
from unsilent.errors import ParameterError
from unsilent.generation.steering import SEEN, Steering
from unsilent.request import Request

_FADE_SECONDS = 0.05
REST = "seen"  # name of the part whose class is recognised from the video


def stem_labels(request: Request) -> list[str]:
    """Labels of the parts, sorted; `REST` stands for the recognised class. Empty without labels over time."""
    named = {one.label for one in (*(request.prompt_track or ()), *(request.cues or ())) if one.label}
    return sorted(named | {request.label or REST}) if named else []


def split_by_label(
    sound: Float[np.ndarray, "channels samples"], request: Request, clip: Clip
) -> dict[str, Float[np.ndarray, "channels samples"]]:
    """The parts of a sound by label, each as long as the whole.

    Args:
        sound: the whole, at the clip's sample rate.
        request: resolved.
        clip: the grid.

    Raises:
        ParameterError: if the request has no labels over time.
    """
    labels = stem_labels(request)
    if not labels:
        raise ParameterError("stems need labels over time; give a prompt track, or cues with labels.")
    numbers = Steering.of(request, clip.columns_for(sound.shape[1]), clip, [label for label in labels if label != REST]).classes
    names = {SEEN: REST} | dict(enumerate(label for label in labels if label != REST))
    fade = max(1, round(_FADE_SECONDS * clip.sample_rate))
    of_sample = np.repeat(numbers, clip.column_samples)[: sound.shape[1]]
    shares = {}
    for number in np.unique(numbers):
        edges = np.pad((of_sample == number).astype(np.float64), (fade, fade), mode="edge")
        sums = np.cumsum(np.pad(edges, (1, 0)))
        shares[names[int(number)]] = ((sums[2 * fade + 1 :] - sums[: -2 * fade - 1]) / (2 * fade + 1)).astype(np.float32)
    *others, last = shares
    parts = {name: sound * shares[name] for name in others}
    parts[last] = sound - sum(parts.values())  # a difference, so that the parts add up to the sound except for rounding
    return parts
