"""Priming: a sound begins with the first seconds of a real one, and the sampler continues it. Paper figures 14 and 15."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unsilent.codec.codec import Codec
from unsilent.errors import ParameterError
from unsilent.media.audio import read_audio
from unsilent.request import OWN, Request
from unsilent.signal.loudness import CEILING, limit_peaks, normalise_loudness
from unsilent.vision.scene import Scene

_FADE_SECONDS = 0.05  # cross-fade from real to made samples


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
