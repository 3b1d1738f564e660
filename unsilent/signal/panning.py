"""Panning of a mono sound to a position that changes over time."""

import numpy as np
from jaxtyping import Float

WIDTH = 0.5  # largest pan: the amplitude of one channel is three times that of the other, 9.5 dB


def pan(
    waveform: Float[np.ndarray, "samples"], places: Float[np.ndarray, "places"], places_per_second: int, sample_rate: int
) -> Float[np.ndarray, "2 samples"]:
    """Left and right channel of a sound whose position changes.

        left = g (1 - p) x,   right = g (1 + p) x,   p = WIDTH · place

    The mean of both channels is the mono sound times `g`, one number for the whole sound, about 0.7. It keeps the total energy of the
    channels equal to that of the mono sound; it is lowered if the peak would otherwise exceed that of the mono sound.

    Args:
        waveform: mono.
        places: positions from -1 (left) to 1 (right); the last is held.
        places_per_second: rate of the positions, from the beginning of the sound.
        sample_rate: in Hz.
    """
    seconds = np.arange(len(waveform)) / sample_rate
    place = WIDTH * np.interp(seconds, np.arange(len(places)) / places_per_second, places).clip(-1, 1)
    energy = np.square(waveform, dtype=np.float64)
    wide = float((energy * place**2).sum() / energy.sum()) if energy.any() else 0.0
    gain = min((2 * (1 + wide)) ** -0.5, 1 / (1 + np.abs(place).max(initial=0)))
    return (gain * np.stack([1 - place, 1 + place]) * waveform).astype(waveform.dtype)
