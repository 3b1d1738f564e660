"""Priming: the sampler continues the first seconds of a real sound. Paper figures 14 and 15.

A reference is like a prime, but it is cut off, and takes are ranked by their similarity to it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from unsilent.clip import Clip
from unsilent.codec.codec import Codec
from unsilent.errors import ParameterError
from unsilent.media.audio import read_audio
from unsilent.models.listener import Ranker
from unsilent.request import OWN, Request
from unsilent.signal.loudness import CEILING, limit_peaks, normalise_loudness
from unsilent.signal.mel import log_mel01
from unsilent.vision.scene import Scene

_FADE_SECONDS = 0.05  # cross-fade from real to generated samples
_LEAD_SECONDS = 3.0  # part of a reference that precedes the sound


@dataclass(frozen=True)
class Prime:
    """The beginning of a real sound.

    Attributes:
        codes: whole code columns.
        waveform: samples of these columns, at their original level.
        sample_rate: Hz.
    """

    codes: Int[Tensor, "rows known"]
    waveform: Float[np.ndarray, "samples"]
    sample_rate: int

    def join(self, made: Float[np.ndarray, "length"]) -> Float[np.ndarray, "length"]:
        """Replace the beginning of a generated sound by the real samples.

        The beginning of the generated sound is a reconstruction of the real samples. The sound is scaled so that the two have equal power.
        They are cross-faded at constant power over the last 50 ms of the real samples.
        """
        real = self.waveform[: len(made)]
        power_of_real, power_of_made = (float(np.square(one[: len(real)], dtype=np.float64).mean()) for one in (real, made))
        scaled = made * np.float32((power_of_real / power_of_made) ** 0.5 if power_of_made else 1.0)
        scaled = limit_peaks(scaled, self.sample_rate, max(CEILING, float(np.abs(real).max())))
        fade = min(round(_FADE_SECONDS * self.sample_rate), len(real))
        angle = ((np.arange(fade) + 0.5) / fade * np.pi / 2).astype(np.float32)
        scaled[: len(real) - fade] = real[: len(real) - fade]
        over = slice(len(real) - fade, len(real))
        scaled[over] = real[over] * np.cos(angle) + scaled[over] * np.sin(angle)
        return scaled


@torch.inference_mode()
def load_prime(scene: Scene, request: Request, codec: Codec, loudness_lufs: float | None) -> Prime | None:
    """Read and encode the prime of a request. Samples after `prime_seconds` have no influence.

    Args:
        scene: source of the sound if `prime` is `own`; read from its start.
        request: resolved.
        codec: encodes the sound.
        loudness_lufs: loudness of the codebook's training; the sound is normalised to it before encoding. None keeps the level.

    Returns:
        The prime: all whole code columns that fit into `prime_seconds`. None if the request has none.

    Raises:
        MediaError: if the file cannot be read or has no sound.
        ParameterError: if the sound is shorter than `prime_seconds`, or `prime_seconds` shorter than a code column.
    """
    if request.prime is None:
        return None
    source, clip = scene.path if request.prime == OWN else Path(request.prime), codec.clip
    waveform = read_audio(source, clip.sample_rate)
    if request.prime == OWN:
        waveform = waveform[round(scene.start_seconds * clip.sample_rate) :]
    n_columns = int(request.prime_seconds / clip.column_seconds + 1e-6)
    if not n_columns:
        raise ParameterError(
            f"prime_seconds is {request.prime_seconds:g}, but a code column of this model lasts {clip.column_seconds:.2f}."
        )
    if len(waveform) < n_columns * clip.column_samples:
        found = len(waveform) / clip.sample_rate
        raise ParameterError(f"{source} has {found:.2f} s of sound, but prime_seconds is {request.prime_seconds:g}; lower it.")
    waveform = waveform[: n_columns * clip.column_samples]
    normalised = waveform if loudness_lufs is None else normalise_loudness(waveform, clip.sample_rate, loudness_lufs)
    return Prime(codec.encode(normalised)[: clip.rows], waveform, clip.sample_rate)


@dataclass(frozen=True)
class Reference:
    """A sound that takes should resemble.

    Attributes:
        codes: `reference_columns` columns of the reference, then as many of silence for the unconditional rows.
        shares: how often its clip with most energy has each code in each row.
        features: the listener's features of that clip, a unit vector.
    """

    codes: Int[Tensor, "2 rows lead"]
    shares: Float[Tensor, "rows codes"]
    features: Float[Tensor, "dim"]


class GivenSounds(NamedTuple):
    """Prime and reference of a request, read and encoded."""

    prime: Prime | None = None
    reference: Reference | None = None


def load_given(scene: Scene, request: Request, codec: Codec, ranker: Ranker | None, loudness_lufs: float | None) -> GivenSounds:
    """Read prime and reference of a request. Arguments and errors: see `load_prime` and `load_reference`."""
    return GivenSounds(load_prime(scene, request, codec, loudness_lufs), load_reference(request, codec, ranker, loudness_lufs))


def reference_columns(clip: Clip) -> int:
    """Number of reference columns before a sound."""
    return min(clip.hop_columns, int(_LEAD_SECONDS / clip.column_seconds))


@torch.inference_mode()
def load_reference(request: Request, codec: Codec, ranker: Ranker | None, loudness_lufs: float | None) -> Reference | None:
    """Read the reference of a request. Features are of its clip with most energy, codes of the stretch with most energy in that clip.

    Args:
        request: resolved.
        codec: encodes the sound.
        ranker: the model's; every model that accepts a reference has one.
        loudness_lufs: as in `load_prime`.

    Returns:
        The reference; None if the request has none.

    Raises:
        MediaError: if the file cannot be read or has no sound.
        ParameterError: if the file is silent.
    """
    if request.like is None:
        return None
    clip, waveform = codec.clip, read_audio(Path(request.like), codec.clip.sample_rate)
    if not waveform.any():
        raise ParameterError(f"{request.like} is silent, so it cannot be a reference; choose another file.")
    loud = loudest(waveform, clip.columns * clip.column_samples)
    loud = loud if loudness_lufs is None else normalise_loudness(loud, clip.sample_rate, loudness_lufs)
    n_lead = reference_columns(clip) * clip.column_samples
    lead = np.resize(loudest(loud, n_lead), n_lead)  # repeats a shorter sound
    mel01 = log_mel01(torch.from_numpy(np.pad(loud, (0, max(0, clip.n_fft - len(loud)))))[None], clip).to(codec.device)
    with codec.autocast():
        features = ranker.listener.features(mel01)[0].float()
    shares = F.one_hot(codec.encode(loud)[: clip.rows], codec.codebook.config.n_codes).float().mean(1)
    return Reference(torch.stack([codec.encode(one)[: clip.rows] for one in (lead, np.zeros_like(lead))]), shares, features)


def loudest(waveform: Float[np.ndarray, "samples"], n: int) -> Float[np.ndarray, "stretch"]:
    """The `n` consecutive samples with most energy; the whole waveform if it is not longer."""
    if len(waveform) <= n:
        return waveform
    energy = np.concatenate([[0.0], np.cumsum(waveform.astype(np.float64) ** 2)])
    start = int(np.argmax(energy[n:] - energy[:-n]))
    return waveform[start : start + n]
