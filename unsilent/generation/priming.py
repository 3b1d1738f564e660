"""Priming: a sound begins with the first seconds of a real one, and the sampler continues it. Paper figures 14 and 15.

A reference is a prime that is cut off: the sound continues it, and takes are compared with it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
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

_FADE_SECONDS = 0.05  # cross-fade from real to made samples
_LEAD_SECONDS = 3.0  # of a reference, before the sound


@dataclass(frozen=True)
class Prime:
    """The beginning of a real sound.

    Attributes:
        codes: whole code columns.
        waveform: the samples of these columns, at their own level.
        sample_rate: Hz.
    """

    codes: Int[Tensor, "rows known"]
    waveform: Float[np.ndarray, "samples"]
    sample_rate: int

    def join(self, made: Float[np.ndarray, "length"]) -> Float[np.ndarray, "length"]:
        """Replace the beginning of a made sound by the real samples.

        The made sound is scaled so that its beginning, which is the reconstruction of the real samples, has their power. Real and made
        samples are cross-faded at constant power over the last 50 ms of the real ones.
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
    """Read and encode the beginning that a request asks for; what follows it in the file has no influence.

    Args:
        scene: whose own sound may be asked for, from its start.
        request: resolved.
        codec: to encode with.
        loudness_lufs: of the codebook's training; the sound is normalised to it before encoding. None leaves its level.

    Returns:
        The prime, as many whole code columns as fit into `prime_seconds`; None if none is asked for.

    Raises:
        MediaError: if the file cannot be read or has no sound.
        ParameterError: if it is shorter than `prime_seconds`, or these than a code column.
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
    heard = waveform if loudness_lufs is None else normalise_loudness(waveform, clip.sample_rate, loudness_lufs)
    return Prime(codec.encode(heard)[: clip.rows], waveform, clip.sample_rate)


@dataclass(frozen=True)
class Reference:
    """A sound that others should be like.

    Attributes:
        codes: of the columns before the sound, `reference_columns` many; and of silence as long, which guidance leads away from.
        features: of the listener, a unit vector.
    """

    codes: Int[Tensor, "2 rows lead"]
    features: Float[Tensor, "dim"]


class GivenSounds(NamedTuple):
    """Sounds that a request gives to a generation."""

    prime: Prime | None = None
    reference: Reference | None = None


def load_given(scene: Scene, request: Request, codec: Codec, ranker: Ranker | None, loudness_lufs: float | None) -> GivenSounds:
    """Read what a request gives; arguments and errors as of `load_prime` and `load_reference`."""
    return GivenSounds(load_prime(scene, request, codec, loudness_lufs), load_reference(request, codec, ranker, loudness_lufs))


def reference_columns(clip: Clip) -> int:
    """Columns of a reference before a sound."""
    return min(clip.hop_columns, int(_LEAD_SECONDS / clip.column_seconds))


@torch.inference_mode()
def load_reference(request: Request, codec: Codec, ranker: Ranker | None, loudness_lufs: float | None) -> Reference | None:
    """Read the sound that a request wants takes to be like: the clip of it that has most energy, and in this the beginning.

    Args:
        request: resolved.
        codec: to encode with.
        ranker: of the model; a resolved request with a reference is for a model that has one.
        loudness_lufs: as of `load_prime`.

    Returns:
        The reference; None if none is asked for.

    Raises:
        MediaError: if the file cannot be read or has no sound.
        ParameterError: if it is silent.
    """
    if request.like is None:
        return None
    clip, waveform = codec.clip, read_audio(Path(request.like), codec.clip.sample_rate)
    if not waveform.any():
        raise ParameterError(f"{request.like} is silent; nothing can sound like it.")
    heard = loudest(waveform, clip.columns * clip.column_samples)
    heard = heard if loudness_lufs is None else normalise_loudness(heard, clip.sample_rate, loudness_lufs)
    n_lead = reference_columns(clip) * clip.column_samples
    lead = np.resize(loudest(heard, n_lead), n_lead)  # a shorter sound is repeated
    mel01 = log_mel01(torch.from_numpy(np.pad(heard, (0, max(0, clip.n_fft - len(heard)))))[None], clip).to(codec.device)
    with codec.autocast():
        features = ranker.listener.features(mel01)[0].float()
    return Reference(torch.stack([codec.encode(one)[: clip.rows] for one in (lead, np.zeros_like(lead))]), features)


def loudest(waveform: Float[np.ndarray, "samples"], n: int) -> Float[np.ndarray, "stretch"]:
    """The stretch of `n` samples with most energy; all, if there are no more."""
    if len(waveform) <= n:
        return waveform
    energy = np.concatenate([[0.0], np.cumsum(waveform.astype(np.float64) ** 2)])
    start = int(np.argmax(energy[n:] - energy[:-n]))
    return waveform[start : start + n]
