"""Blending at cuts: two sounds that follow each other are cross-faded, although each of them ends or begins at the cut."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

_BEFORE_SECONDS, _AFTER_SECONDS = 0.12, 0.3  # a sound may ring on after a cut, but should not be audible long before it
_DECAY_DB = 40.0  # level at the end of a fade relative to its beginning


def blend(sound: Float[np.ndarray, "samples"], cuts: Sequence[int], sample_rate: int) -> Float[np.ndarray, "samples"]:
    """Continue the sound on each side of a cut beyond it, mirrored in time and decaying, so that level and samples do not jump.

    The gains of both sounds have constant power, and are equal at the cut. Fades of close cuts are shortened to half of their distance.

    Args:
        sound: mono.
        cuts: samples at which a sound begins, in ascending order; those outside the sound are ignored.
        sample_rate: in Hz.
    """
    edges, blended = [0, *(cut for cut in cuts if 0 < cut < len(sound)), len(sound)], sound.copy()
    for before, cut, after in zip(edges, edges[1:], edges[2:], strict=False):
        first, last = (before + cut) // 2, (cut + after) // 2
        old, new = sound[first:cut][::-1], sound[cut:last]  # both run away from the cut
        head, tail = blended[first:cut][::-1], blended[cut:last]  # views
        for side, own, other, seconds in ((head, old, new, _BEFORE_SECONDS), (tail, new, old, _AFTER_SECONDS)):
            n = min(len(own), len(other), round(seconds * sample_rate))
            share = 0.5 * 10 ** (-_DECAY_DB / 10 * np.arange(n) / max(1, n))  # of power
            side[:n] = np.sqrt(1 - share) * own[:n] + np.sqrt(share) * other[:n]
    return blended
