"""Reopening: a result, or any recording, as samples, codes and what they are conditioned on."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int

from unsilent.codec.codec import Codec
from unsilent.errors import ParameterError
from unsilent.generation.shaping import shaper
from unsilent.generation.sidecar import Edit, Found, digest, samples_of, video_of
from unsilent.generation.streaming import render_codes
from unsilent.media.audio import read_audio
from unsilent.media.probe import has_pictures
from unsilent.pipeline import Pipeline
from unsilent.request import Request
from unsilent.signal.loudness import normalise_loudness
from unsilent.vision.scene import Scene

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Opened:
    """A sound that can be worked on.

    Attributes:
        path: of the result or recording.
        waveform: its samples, at the clip's sample rate.
        codes: as many rows as the sampler writes.
        scene: its video; None for a sound without.
        request: resolved.
        history: what was done to it.
        seen: likeliest classes.
        is_recorded: whether it is a recording, not a result.
    """

    path: Path
    waveform: Float[np.ndarray, "samples"]
    codes: Int[np.ndarray, "rows columns"]
    scene: Scene | None
    request: Request
    history: tuple[Edit, ...]
    seen: dict[str, float]
    is_recorded: bool


@torch.inference_mode()
def open_result(pipeline: Pipeline, path: Path, found: Found | None, video: Path | None = None, label: str | None = None) -> Opened:
    """Reopen a result from its sidecar; a file without one is a recording, which is encoded.

    Args:
        pipeline: of the model that made it; any for a recording.
        path: result or recording; a video's own sound is a recording.
        found: its sidecar, as of `find_sidecar`.
        video: where its video is now, or the video that a recording belongs to.
        label: of a recording, for models that need one.

    Raises:
        MediaError: if a file is missing or cannot be read.
        ParameterError: if the result was made with other weights, or the video is another.
    """
    if found is None:
        return _open_recording(pipeline, path, video, label)
    sidecar, parts = found.sidecar, pipeline.parts
    if sidecar.model.weights != parts.fingerprint:
        raise ParameterError(
            f"{path} was made with {sidecar.model.name} of weights {sidecar.model.weights}, this model is {pipeline.name} of "
            f"{parts.fingerprint}; name its bundle by --model."
        )
    video, codes = video_of(found, video), sidecar.grid()
    scene = None if video is None else Scene.of_video(video)
    waveform = samples_of(found)
    if waveform is None:
        waveform = decode_sound(pipeline.codec, codes, sidecar.sound.samples, sidecar.request)
        if digest(waveform) != sidecar.sound.sha256:
            log.warning("%s was decoded anew and differs by rounding, because it was made on another machine or version.", path)
    return Opened(path, waveform, codes, scene, pipeline.resolve(sidecar.request), sidecar.history, sidecar.seen, False)


def _open_recording(pipeline: Pipeline, path: Path, video: Path | None, label: str | None) -> Opened:
    video = video or (path if has_pictures(path) else None)
    scene = None if video is None else Scene.of_video(video)
    waveform = read_audio(path, pipeline.clip.sample_rate)
    request = pipeline.resolve(Request(label=label, seconds=len(waveform) / pipeline.clip.sample_rate))
    codes = encode_sound(pipeline.codec, waveform, pipeline.clip.rows, pipeline.parts.loudness_lufs)
    return Opened(path, waveform, codes, scene, request, (), {}, True)


def decode_sound(codec: Codec, codes: Int[np.ndarray, "rows columns"], n_samples: int, request: Request) -> Float[np.ndarray, "samples"]:
    """The samples of a generated sound, decoded from its codes again: to the bit on the machine that made them."""
    if request.stream:
        return render_codes(codec, codes, n_samples)
    grid = torch.from_numpy(codes).to(codec.device)
    return shaper(request, codec.clip, None)(codec.vocode(codec.decode(grid))[:n_samples].cpu().numpy())


def encode_sound(
    codec: Codec, waveform: Float[np.ndarray, "samples"], rows: int, loudness_lufs: float | None
) -> Int[np.ndarray, "rows columns"]:
    """Codes of a sound, at the loudness that the codebook was trained with; None leaves its level."""
    heard = waveform if loudness_lufs is None else normalise_loudness(waveform, codec.clip.sample_rate, loudness_lufs)
    return codec.encode(heard)[:rows].cpu().numpy()
