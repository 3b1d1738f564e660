"""Log-mel spectrograms, the input or output of every network of sound in this project, and their linear-frequency magnitudes.

Conventions: `mel01` is in [0, 1], linear in dB from -80 dB (or quieter) to +20 dB (or louder). 0 dB is magnitude 1. `mel` is the same in
[-1, 1]. Row 0 is the lowest band. Frame `t` is centred on sample `t * clip.hop`.
"""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from unsilent.clip import Clip
from unsilent.errors import ParameterError

FLOOR_DB = -80.0  # mel01 = 0; quieter bands are clipped
RANGE_DB = 100.0  # from the floor to the ceiling of +20 dB


def mel_filters(clip: Clip) -> Float[Tensor, "mels bins"]:
    """Triangular mel filters, Slaney scale and Slaney area normalisation.

    Args:
        clip: gives sample rate, FFT size, number of bands, lowest and highest frequency.

    Returns:
        float32 weights; one row sums the magnitudes of one band. Equal to `librosa.filters.mel` within 1e-7.

    Source:
        Slaney, Auditory Toolbox (1998): linear below 1 kHz, logarithmic above; the same librosa call as in the released
        extract_mel_spectrogram.py.
    """
    return torch.from_numpy(_filters(clip))


@lru_cache(maxsize=8)
def _filters(clip: Clip) -> Float[np.ndarray, "mels bins"]:
    edges_hz = _edges_hz(clip)
    bins_hz = np.linspace(0, clip.sample_rate / 2, clip.n_fft // 2 + 1)
    rising = (bins_hz - edges_hz[:-2, None]) / np.diff(edges_hz)[:-1, None]
    falling = (edges_hz[2:, None] - bins_hz) / np.diff(edges_hz)[1:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return (triangles * 2 / (edges_hz[2:] - edges_hz[:-2])[:, None]).astype(np.float32)


def band_centres_hz(clip: Clip) -> Float[np.ndarray, "mels"]:
    """Centre frequency of each mel band, in Hz."""
    return _edges_hz(clip)[1:-1]


def _edges_hz(clip: Clip) -> Float[np.ndarray, "edges"]:
    return _mel_to_hz(np.linspace(_hz_to_mel(clip.lowest_hz), _hz_to_mel(clip.highest_hz), clip.mels + 2))


# Slaney scale: 200/3 Hz per mel up to 1 kHz (mel 15), then 27 mels per factor of 6.4.
_LINEAR_HZ = 200 / 3
_KNEE_HZ = 1000.0
_KNEE_MEL = _KNEE_HZ / _LINEAR_HZ
_LOG_STEP = np.log(6.4) / 27


def _hz_to_mel(hz: float) -> float:
    return hz / _LINEAR_HZ if hz < _KNEE_HZ else _KNEE_MEL + np.log(hz / _KNEE_HZ) / _LOG_STEP


def _mel_to_hz(mel: Float[np.ndarray, "edges"]) -> Float[np.ndarray, "edges"]:
    return np.where(mel < _KNEE_MEL, mel * _LINEAR_HZ, _KNEE_HZ * np.exp(_LOG_STEP * (mel - _KNEE_MEL)))


def log_mel01(waveform: Float[Tensor, "batch samples"], clip: Clip = Clip()) -> Float[Tensor, "batch mels frames"]:
    """Log-mel spectrogram in [0, 1] of a waveform: `clip((20 log10(W |STFT(x)|) + 80) / 100, 0, 1)` with `W = mel_filters(clip)`.

    Args:
        waveform: mono, in [-1, 1], at `clip.sample_rate` Hz, at least half an FFT window long.
        clip: the time and frequency grid.

    Returns:
        `samples // hop` frames.

    Raises:
        ParameterError: if the waveform is too short for reflection padding.

    Source:
        Released extract_mel_spectrogram.py, TRANSFORMS (magnitude, not power; reflection padding). Differs: the released files keep 860 of
        862 frames; here only the last frame is dropped, so that frames = samples / hop.
    """
    if waveform.shape[-1] <= clip.n_fft // 2:
        raise ParameterError(f"{waveform.shape[-1]} samples are too few for a mel spectrogram, which needs {clip.n_fft // 2 + 1} or more.")
    magnitude = stft(waveform, clip).abs()[..., : max(1, waveform.shape[-1] // clip.hop)]
    bands = mel_filters(clip).to(magnitude) @ magnitude
    decibels = 20 * torch.log10(bands.clamp(min=10 ** (FLOOR_DB / 20)))
    return ((decibels - FLOOR_DB) / RANGE_DB).clamp(0, 1)


def stft(waveform: Float[Tensor, "batch samples"], clip: Clip) -> Complex[Tensor, "batch bins frames"]:
    """Complex spectrogram on the grid of the mels: periodic Hann window, centred frames, reflection padding."""
    window = torch.hann_window(clip.n_fft, dtype=waveform.dtype, device=waveform.device)
    return torch.stft(waveform, clip.n_fft, clip.hop, window=window, center=True, pad_mode="reflect", return_complex=True)


def to_mel01(mel: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """[-1, 1], the range of codebooks, to [0, 1], the range of vocoders and classifiers; values outside are clipped."""
    return ((mel + 1) / 2).clamp(0, 1)


def from_mel01(mel01: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """[0, 1] to [-1, 1], the inverse of `to_mel01`."""
    return mel01 * 2 - 1


def mel_of(waveform: Float[np.ndarray, "samples"], clip: Clip = Clip()) -> Float[np.ndarray, "mels frames"]:
    """Log-mel spectrogram in [-1, 1] of a sound of any length, at least a code column long; shorter ones are followed by silence."""
    padded = np.pad(waveform, (0, max(0, clip.column_samples - len(waveform)))).astype(np.float32)
    return from_mel01(log_mel01(torch.from_numpy(padded)[None], clip))[0].numpy()


def magnitude_from_mel01(mel01: Float[Tensor, "batch mels frames"], clip: Clip = Clip()) -> Float[Tensor, "batch bins frames"]:
    """Linear-frequency magnitudes of a mel spectrogram, estimated with the pseudo-inverse of the filters: `max(0, W⁺ m)`.

    Args:
        mel01: mel bands in [0, 1].
        clip: the time and frequency grid.

    Returns:
        Non-negative magnitudes: the minimum-norm least-squares solution, clipped at 0; zero outside the mel range.

    Source:
        The first half of librosa's `mel_to_audio`. Differs: clipped pseudo-inverse instead of iterative non-negative least squares.
    """
    bands = 10 ** ((mel01 * RANGE_DB + FLOOR_DB) / 20)
    bands = torch.where(mel01 > 0, bands, torch.zeros_like(bands))  # the floor stands for -80 dB or quieter, so for silence
    inverse = torch.linalg.pinv(mel_filters(clip).to(torch.float64)).to(bands)
    return (inverse @ bands).clamp(min=0)
