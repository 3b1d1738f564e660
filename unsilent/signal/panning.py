"""Panning: a mono sound in the place where something moves."""

import numpy as np
from jaxtyping import Float

WIDTH = 0.5  # largest place: one channel three times the other, 9.5 dB


def pan(
    waveform: Float[np.ndarray, "samples"], places: Float[np.ndarray, "places"], places_per_second: int, sample_rate: int
) -> Float[np.ndarray, "2 samples"]:
    """Left and right channel of a sound whose place changes.

        left = g (1 - p) x,   right = g (1 + p) x,   p = WIDTH · place

    Their mean is the mono sound times `g`, one number for the whole sound, about 0.7. It keeps the energy of both channels at that of the
    mono sound, as far as no sample becomes larger.

    Args:
        waveform: mono.
        places: from -1, left, to 1, right; the last stays.
        places_per_second: from the beginning of the sound.
        sample_rate: in Hz.
    """
    seconds = np.arange(len(waveform)) / sample_rate
    place = WIDTH * np.interp(seconds, np.arange(len(places)) / places_per_second, places).clip(-1, 1)
    energy = np.square(waveform, dtype=np.float64)
    wide = float((energy * place**2).sum() / energy.sum()) if energy.any() else 0.0
    gain = min((2 * (1 + wide)) ** -0.5, 1 / (1 + np.abs(place).max(initial=0)))
    return (gain * np.stack([1 - place, 1 + place]) * waveform).astype(waveform.dtype)
