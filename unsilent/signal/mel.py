"""Waveform to log-mel spectrogram, the picture that every network of this project reads, and the way back to magnitudes.

Conventions: mels in [0, 1] are called `mel01` (0 is -80 dB or quieter, 1 is +20 dB or louder, linear in dB between; 0 dB is magnitude 1),
mels in [-1, 1] are called `mel`. Row 0 is the lowest band. Frame `t` is centred on sample `t * clip.hop`.
"""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from unsilent.clip import Clip
from unsilent.errors import ParameterError

FLOOR_DB = -80.0  # quieter bands are shown as 0
RANGE_DB = 100.0  # from the floor to the ceiling of +20 dB


def mel_filters(clip: Clip) -> Float[Tensor, "mels bins"]:
    """Triangular mel filters, Slaney scale and Slaney area normalisation.

    Args:
        clip: gives sample rate, FFT size, number of bands, lowest and highest frequency.

    Returns:
        float32 weights; one row sums the magnitudes of one band. A test holds them to `librosa.filters.mel` within 1e-7.

    Source:
        Slaney, Auditory Toolbox (1998): linear below 1 kHz, logarithmic above; as the released extract_mel_spectrogram.py asks of librosa.
    """
    return torch.from_numpy(_filters(clip))


@lru_cache(maxsize=8)
def _filters(clip: Clip) -> np.ndarray:
    edges_hz = _edges_hz(clip)
    bins_hz = np.linspace(0, clip.sample_rate / 2, clip.n_fft // 2 + 1)
    rising = (bins_hz - edges_hz[:-2, None]) / np.diff(edges_hz)[:-1, None]
    falling = (edges_hz[2:, None] - bins_hz) / np.diff(edges_hz)[1:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return (triangles * 2 / (edges_hz[2:] - edges_hz[:-2])[:, None]).astype(np.float32)


def band_centres_hz(clip: Clip) -> Float[np.ndarray, "mels"]:
    """The frequency at which each mel band is most sensitive, in Hz."""
    return _edges_hz(clip)[1:-1]


def _edges_hz(clip: Clip) -> np.ndarray:
    return _mel_to_hz(np.linspace(_hz_to_mel(clip.lowest_hz), _hz_to_mel(clip.highest_hz), clip.mels + 2))


# Slaney's scale: 200/3 Hz a mel up to 1 kHz (mel 15), then 27 mels for each factor of 6.4.
_LINEAR_HZ = 200 / 3
_KNEE_HZ = 1000.0
_KNEE_MEL = _KNEE_HZ / _LINEAR_HZ
_LOG_STEP = np.log(6.4) / 27


def _hz_to_mel(hz: float) -> float:
    return hz / _LINEAR_HZ if hz < _KNEE_HZ else _KNEE_MEL + np.log(hz / _KNEE_HZ) / _LOG_STEP


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < _KNEE_MEL, mel * _LINEAR_HZ, _KNEE_HZ * np.exp(_LOG_STEP * (mel - _KNEE_MEL)))


def log_mel01(waveform: Float[Tensor, "batch samples"], clip: Clip = Clip()) -> Float[Tensor, "batch mels frames"]:
    """Turn sound into a log-mel spectrogram in [0, 1].

    Args:
        waveform: mono, in [-1, 1], at `clip.sample_rate` Hz, at least half an FFT window long.
        clip: the time and frequency grid.

    Returns:
        Magnitude mel bands in decibels, mapped from [-80, +20] dB to [0, 1] and cut there; `samples // hop` frames.

    Raises:
        ParameterError: if the sound is too short to be reflected at its ends.

    Source:
        Released extract_mel_spectrogram.py, TRANSFORMS (magnitude, not power; reflected ends). Differs: the released files keep 860 of the
        862 frames that padding gives; here the last frame, centred on the very end, is dropped so that frames = samples / hop exactly.
    """
    if waveform.shape[-1] <= clip.n_fft // 2:
        raise ParameterError(
            f"{waveform.shape[-1]} samples are too short for a mel spectrogram, which needs {clip.n_fft // 2 + 1} or more."
        )
    magnitude = stft(waveform, clip).abs()[..., : max(1, waveform.shape[-1] // clip.hop)]
    bands = mel_filters(clip).to(magnitude) @ magnitude
    decibels = 20 * torch.log10(bands.clamp(min=10 ** (FLOOR_DB / 20)))
    return ((decibels - FLOOR_DB) / RANGE_DB).clamp(0, 1)


def stft(waveform: Float[Tensor, "batch samples"], clip: Clip) -> "Tensor":
    """Complex spectrogram `[batch, bins, frames]` with the grid that mels use: periodic Hann window, centred, reflected ends."""
    window = torch.hann_window(clip.n_fft, dtype=waveform.dtype, device=waveform.device)
    return torch.stft(waveform, clip.n_fft, clip.hop, window=window, center=True, pad_mode="reflect", return_complex=True)


def to_mel01(mel: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """[-1, 1], as the codebook speaks, to [0, 1], as vocoders and classifiers read; values outside are cut."""
    return ((mel + 1) / 2).clamp(0, 1)


def from_mel01(mel01: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """[0, 1] to [-1, 1], the inverse of `to_mel01`."""
    return mel01 * 2 - 1


def magnitude_from_mel01(mel01: Float[Tensor, "batch mels frames"], clip: Clip = Clip()) -> Float[Tensor, "batch bins frames"]:
    """Estimate the linear-frequency magnitudes behind a mel spectrogram.

    Args:
        mel01: mel bands in [0, 1].
        clip: the time and frequency grid.

    Returns:
        Non-negative magnitudes; the least-squares solution of smallest norm with its negative parts cut, zero outside the mel range.

    Source:
        The first half of librosa's `mel_to_audio`. Differs: pseudo-inverse and cut instead of iterated non-negative least squares.
    """
    bands = 10 ** ((mel01 * RANGE_DB + FLOOR_DB) / 20)
    bands = torch.where(mel01 > 0, bands, torch.zeros_like(bands))  # the floor means "this or quieter": take it as silence
    inverse = torch.linalg.pinv(mel_filters(clip).to(torch.float64)).to(bands)
    return (inverse @ bands).clamp(min=0)
