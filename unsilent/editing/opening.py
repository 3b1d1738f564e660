"""Opens a result or a recording for editing: its samples, codes, video and request."""

import logging
from collections.abc import Sequence
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
    """A sound opened for editing.

    Attributes:
        path: file of the result or recording.
        waveform: samples at the clip's sample rate, in [-1, 1].
        codes: the grid of codes, with the rows that the sampler predicts.
        scene: the video; None for a sound without one.
        request: resolved.
        history: retakes so far.
        seen: likeliest classes of the frames, with probabilities.
        breaks: columns whose sound does not continue the column before.
    """

    path: Path
    waveform: Float[np.ndarray, "samples"]
    codes: Int[np.ndarray, "rows columns"]
    scene: Scene | None
    request: Request
    history: tuple[Edit, ...]
    seen: dict[str, float]
    breaks: tuple[int, ...] = ()


@torch.inference_mode()
def open_result(pipeline: Pipeline, path: Path, found: Found | None, video: Path | None = None, label: str | None = None) -> Opened:
    """Open a result from its sidecar. A file without a sidecar is a recording, which is encoded.

    Args:
        pipeline: the model that made the result; any model for a recording.
        path: result or recording; of a video without a sidecar, its own sound is the recording.
        found: its sidecar from `find_sidecar`.
        video: current path of the result's video, or a video for the recording.
        label: label of a recording, for models that need one.

    Raises:
        MediaError: if a file is missing or cannot be read.
        ParameterError: if the result was made with other weights, or `video` is not the result's.
    """
    if found is None:
        return _open_recording(pipeline, path, video, label)
    sidecar, parts = found.sidecar, pipeline.parts
    if sidecar.model.weights != parts.fingerprint:
        raise ParameterError(
            f"{path} was made with {sidecar.model.name}, weights {sidecar.model.weights}; this model is {pipeline.name}, weights "
            f"{parts.fingerprint}. Choose the bundle of the result with --model."
        )
    video, codes = video_of(found, video), sidecar.grid()
    scene = None if video is None else Scene.of_video(video)
    waveform = samples_of(found)
    if waveform is None:
        waveform = decode_sound(pipeline.codec, codes, sidecar.sound.samples, sidecar.request, sidecar.breaks)
        if digest(waveform) != sidecar.sound.sha256:
            log.warning("%s was decoded again and differs by rounding, because another machine or version made it.", path)
    return Opened(path, waveform, codes, scene, pipeline.resolve(sidecar.request), sidecar.history, sidecar.seen, sidecar.breaks)


def _open_recording(pipeline: Pipeline, path: Path, video: Path | None, label: str | None) -> Opened:
    video = video or (path if has_pictures(path) else None)
    scene = None if video is None else Scene.of_video(video)
    waveform = read_audio(path, pipeline.clip.sample_rate)
    request = pipeline.resolve(Request(label=label, seconds=len(waveform) / pipeline.clip.sample_rate))
    codes = encode_sound(pipeline.codec, waveform, pipeline.clip.rows, pipeline.parts.loudness_lufs)
    return Opened(path, waveform, codes, scene, request, (), {})


def decode_sound(
    codec: Codec, codes: Int[np.ndarray, "rows columns"], n_samples: int, request: Request, breaks: Sequence[int] = ()
) -> Float[np.ndarray, "samples"]:
    """Decode the codes of a generated sound again; bit by bit equal on the machine that made it."""
    if request.stream:
        return render_codes(codec, codes, n_samples)
    grid = torch.from_numpy(codes).to(codec.device)
    return shaper(request, codec.clip, None, breaks)(codec.vocode(codec.decode(grid))[:n_samples].cpu().numpy())


def encode_sound(
    codec: Codec, waveform: Float[np.ndarray, "samples"], rows: int, loudness_lufs: float | None
) -> Int[np.ndarray, "rows columns"]:
    """Encode a sound, normalised to the loudness of the codebook's training; None keeps its level."""
    normalised = waveform if loudness_lufs is None else normalise_loudness(waveform, codec.clip.sample_rate, loudness_lufs)
    return codec.encode(normalised)[:rows].cpu().numpy()
