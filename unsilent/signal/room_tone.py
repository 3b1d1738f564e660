"""Room tone: the steady background of a sound, estimated where it is quietest and continued as noise where a new sound is quieter.

bins    FFT bins
frames  short-time spectra, which overlap by three quarters
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Complex, Float

_FRAME_SECONDS, _OVERLAP = 0.046, 4
_SIDE_SECONDS = 4.0  # sound on each side in which the background is measured
_QUANTILE = 0.2  # of the power of each bin over time; the background lasts longer than this share
_SMOOTHED = 5  # frames and bins over which powers are averaged


class RoomTone(NamedTuple):
    """Power spectra of the background before and after a stretch, of frames with a Hann window."""

    before: Float[np.ndarray, "bins"]
    after: Float[np.ndarray, "bins"]
    frame: int

    @classmethod
    def around(cls, sound: Float[np.ndarray, "samples"], start: int, stop: int, sample_rate: int) -> "RoomTone":
        """Measure the background on both sides of `sound[start:stop]`; a side that is too short or silent has that of the other."""
        frame, n = round(_FRAME_SECONDS * sample_rate) // _OVERLAP * _OVERLAP, round(_SIDE_SECONDS * sample_rate)
        sides = [_background(one, frame) for one in (sound[max(0, start - n) : start], sound[stop : stop + n])]
        known = [one for one in sides if one is not None] or [np.zeros(frame // 2 + 1)]
        return cls(*(known[0] if one is None else one for one in sides), frame)

    def reversed(self) -> "RoomTone":
        """The background of the sound reversed in time."""
        return RoomTone(self.after, self.before, self.frame)

    def fill(self, sound: Float[np.ndarray, "stretch"]) -> Float[np.ndarray, "stretch"]:
        """Add noise where the sound of the stretch is quieter than the background, which changes evenly from side to side."""
        padded = np.pad(sound.astype(np.float64), self.frame, mode="reflect" if len(sound) > self.frame else "edge")
        padded = np.pad(padded, (0, -(len(padded) - self.frame) % (self.frame // _OVERLAP)))
        powers = _smoothed(np.abs(spectra(padded, self.frame)) ** 2)
        share = np.linspace(0, 1, len(powers))[:, None]
        wanted = self.before * (1 - share) + self.after * share
        noise = spectra(np.random.default_rng(0).standard_normal(len(padded)), self.frame)
        noise *= np.sqrt(np.maximum(wanted - powers, 0) / np.square(np.hanning(self.frame)).sum())
        return (sound + overlap_add(noise, self.frame, len(padded))[self.frame :][: len(sound)]).astype(sound.dtype)


def _background(side: Float[np.ndarray, "samples"], frame: int) -> Float[np.ndarray, "bins"] | None:
    """Mean power of stationary noise with the same quantile of power; None if it is too short or silent."""
    if len(side) < 2 * frame or not side.any():
        return None
    powers = _smoothed(np.abs(spectra(side.astype(np.float64), frame)) ** 2)
    noise = _smoothed(np.abs(spectra(np.random.default_rng(0).standard_normal(len(side)), frame)) ** 2)
    return np.quantile(powers, _QUANTILE, 0) * noise.mean() / np.quantile(noise, _QUANTILE, 0).mean()


def _smoothed(powers: Float[np.ndarray, "frames bins"]) -> Float[np.ndarray, "frames bins"]:
    for axis in (0, 1):
        around = [(_SMOOTHED // 2,) * 2 if axis == one else (0, 0) for one in (0, 1)]
        powers = np.lib.stride_tricks.sliding_window_view(np.pad(powers, around, mode="edge"), _SMOOTHED, axis).mean(-1)
    return powers


def spectra(sound: Float[np.ndarray, "samples"], frame: int) -> Complex[np.ndarray, "frames bins"]:
    """Short-time spectra of frames of this many samples with a Hann window, each a quarter of a frame after the one before."""
    return np.fft.rfft(np.lib.stride_tricks.sliding_window_view(sound, frame)[:: frame // _OVERLAP] * np.hanning(frame))


def overlap_add(found: Complex[np.ndarray, "frames bins"], frame: int, n: int) -> Float[np.ndarray, "samples"]:
    """Inverse of `spectra` for the first `n` samples, except at the ends, where fewer frames overlap."""
    hop, window, out = frame // _OVERLAP, np.hanning(frame), np.zeros(n)
    for number, one in enumerate(np.fft.irfft(found, frame) * window):
        out[number * hop : number * hop + frame] += one
    return out / (window @ window / hop)  # the sum of overlapping squared windows
