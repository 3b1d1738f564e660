"""Sidecars: a file beside each result, from which it can be reopened. It has request, model, codes, loudness, and the history of retakes.

    NAME.unsilent.json   JSON with the fields of `Sidecar`; NAME is the result's name with its suffix
    NAME.unsilent.wav    samples in 32-bit floating point, if decoding the codes would not reproduce them

Paths are relative to the sidecar's folder, so results can be moved together with their video.
"""

import base64
import hashlib
import json
import os
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from pydantic import Field

from unsilent.checkpoints.bundle import Parts
from unsilent.choices import Layer, Precision, VocoderChoice
from unsilent.clip import Clip
from unsilent.codec.bitstream import Header, pack, unpack
from unsilent.config import Config
from unsilent.errors import MediaError, ParameterError, UnsilentError
from unsilent.files import atomic_write, read_json, require_path
from unsilent.generation.result import Generation
from unsilent.media.audio import read_audio
from unsilent.media.probe import read_comment
from unsilent.media.suffixes import OWN_FORMAT
from unsilent.outputs import SIDECAR_SUFFIX, sidecar_of
from unsilent.request import Request
from unsilent.signal.loudness import loudness_lufs
from unsilent.version import __version__

VERSION = 1
POINTER = " sidecar="  # precedes the sidecar's name at the end of a result's comment


class Made(Config):
    """The model that made a result.

    Attributes:
        name, weights: name of the model and digest of its weights, see `checkpoints.bundle.fingerprint`.
        precision, vocoder: as in `unsilent.load`.
    """

    name: str
    weights: str
    precision: Precision
    vocoder: VocoderChoice

    @classmethod
    def of(cls, parts: Parts, precision: Precision, vocoder: VocoderChoice) -> "Made":
        """The model of a pipeline."""
        return cls(name=parts.name, weights=parts.fingerprint, precision=precision, vocoder=vocoder)


class Source(Config):
    """The video of a result; the size in bytes distinguishes it from another video of the same name."""

    path: str
    bytes: int = Field(ge=0)


class Sound(Config):
    """The samples of a result.

    Attributes:
        sha256: digest of the samples as little-endian 32-bit floating point.
        file: file with exactly these samples; None if decoding the codes reproduces them.
        lufs, peak_db: loudness, and sample peak in dB of full scale; None for silence.
    """

    sample_rate: int = Field(gt=0)
    samples: int = Field(gt=0)
    sha256: str
    file: str | None = None
    lufs: float | None = None
    peak_db: float | None = None


class Edit(Config):
    """One retake in the history of a result; see `editing.retake`.

    Attributes:
        start, stop: retaken seconds, in the time of the result before; below 0 or after its end if the sound was extended.
        seed, take: source of its randomness.
        label, layer: those of the `Retake`.
        keep: share of the codes in the stretch that were kept.
        join: largest jump of energy or spectrum at a join, divided by the 95th percentile of jumps around it; 0 without a join.
        score: mean log-likelihood of the following codes, in nats per code; if none follow, the listener's agreement.
    """

    start: float
    stop: float
    seed: int = Field(ge=0)
    take: int = Field(ge=0)
    label: str | None = None
    layer: Layer = "replace"
    keep: float = Field(default=0.0, ge=0, lt=1)
    join: float = 0.0
    score: float | None = None


class Sidecar(Config):
    """Everything needed to continue work on a result.

    Attributes:
        format, version: name and version of this file format.
        made_by: program and version.
        output: file name of the result.
        video: video of the result; None for a sound without one.
        model, request, take, score, seen: as in `Generation`; paths in the request are relative too.
        sound: samples of the result.
        codes: codes in the format of `codec.bitstream`, as base64.
        breaks: as in `Generation`.
        history: retakes in the order of time.
    """

    format: Literal["unsilent result"] = OWN_FORMAT
    version: Literal[1] = VERSION
    made_by: str = f"unsilent {__version__}"
    output: str
    video: Source | None
    model: Made
    request: Request
    take: int = Field(ge=0)
    score: float | None = None
    seen: dict[str, float] = Field(default_factory=dict)
    sound: Sound
    codes: str
    breaks: tuple[int, ...] = ()
    history: tuple[Edit, ...] = ()

    def grid(self) -> Int[np.ndarray, "rows columns"]:
        """The grid of codes.

        Raises:
            DataError: if they are damaged.
        """
        return unpack(base64.b64decode(self.codes)).grid

    def write(self, beside: Path) -> Path:
        """Write the sidecar atomically beside a result; returns its path.

        Raises:
            MediaError: if it cannot be written.
        """
        out = sidecar_of(beside)
        with atomic_write(out) as temporary:
            temporary.write_text(json.dumps(self.model_dump(), indent=1) + "\n", encoding="utf-8")
        return out


@dataclass(frozen=True)
class Found:
    """A sidecar and its path."""

    sidecar: Sidecar
    path: Path

    def resolve(self, relative: str) -> Path:
        """The path that a relative path in the sidecar stands for."""
        return self.path.parent / relative


def sidecar_for(
    made: Generation, out: Path, model: Made, *, samples: Path | None = None, history: tuple[Edit, ...] = (), has_video: bool = True
) -> Sidecar:
    """Make the sidecar of a result.

    Args:
        made: the sound.
        out: file of the result.
        model: the model that made it.
        samples: file in the same folder with the exact samples; needed if decoding the codes would not reproduce them.
        history: retakes so far.
        has_video: whether `made.video` is a video.
    """
    where = out.absolute().parent
    peak = float(np.abs(made.waveform).max())
    loudness = loudness_lufs(made.waveform, made.sample_rate)
    given = {name: _relative(Path(path), where) for name, path in made.request.files().items()}
    return Sidecar(
        output=_text(out.name),
        video=Source(path=_relative(made.video, where), bytes=made.video.stat().st_size) if has_video else None,
        model=model,
        request=made.request.model_copy(update=given),
        take=made.take,
        score=made.score,
        seen=made.seen,
        sound=Sound(
            sample_rate=made.sample_rate,
            samples=len(made.waveform),
            sha256=digest(made.waveform),
            file=None if samples is None else _text(samples.name),
            lufs=round(loudness, 2) if isfinite(loudness) else None,
            peak_db=round(20 * float(np.log10(peak)), 2) if peak else None,
        ),
        breaks=made.breaks,
        codes=_packed(made.codes, made.clip, len(made.waveform)),
        history=history,
    )


def pointer_to(out: Path) -> str:
    """End of the comment in a result, with the name of its sidecar."""
    return POINTER + _text(sidecar_of(out).name)


def find_sidecar(result: Path) -> Found | None:
    """The sidecar of a result; None if it has none. The path may also be that of the sidecar itself.

    The sidecar has the result's name, or else the name in the result's comment.

    Raises:
        MediaError: if the result is missing, or the sidecar is damaged or of another version.
    """
    require_path(result)
    if result.name.endswith(SIDECAR_SUFFIX):
        return Found(read_sidecar(result), result)
    if not sidecar_of(result).exists():
        try:
            _, points, name = read_comment(result).partition(POINTER)
        except MediaError:  # not a media file; the next reader reports it
            return None
        if not points or not result.with_name(name).is_file():
            return None
        result = result.with_name(name.removesuffix(SIDECAR_SUFFIX))
    return Found(read_sidecar(sidecar_of(result)), sidecar_of(result))


def read_sidecar(path: Path) -> Sidecar:
    """Read a sidecar.

    Raises:
        MediaError: if the file cannot be read, is not a sidecar, or has another version.
    """
    content = read_json(path, MediaError)
    if not isinstance(content, dict) or content.get("format") != OWN_FORMAT:
        raise MediaError(f"{path} is not a sidecar of unsilent.")
    if content.get("version") != VERSION:
        raise MediaError(f"{path} has version {content.get('version')!r}; this program reads version {VERSION}.")
    try:
        found = Sidecar(**content)
        found.grid()
    except (UnsilentError, ValueError) as why:
        raise MediaError(f"{path} is damaged: {why}") from None
    return found


def video_of(found: Found, video: Path | None = None) -> Path | None:
    """Current path of the video of a result; None for a sound without video.

    Args:
        found: sidecar of the result.
        video: current path of the video; None takes the path in the sidecar.

    Raises:
        MediaError: if the video does not exist.
        ParameterError: if its size differs from that of the video in the sidecar.
    """
    source = found.sidecar.video
    if source is None:
        return video
    path = video or found.resolve(source.path)
    if not path.exists():
        raise MediaError(f"{found.path} names the video {path}, which does not exist; give its path with --video.")
    if path.stat().st_size != source.bytes:
        raise ParameterError(
            f"{path} has {path.stat().st_size} bytes, but the video of {found.path} had {source.bytes}; it is another video."
        )
    return path


def samples_of(found: Found) -> Float[np.ndarray, "samples"] | None:
    """The samples stored beside a result; None if its codes reproduce them.

    Raises:
        MediaError: if the file is missing or has other samples.
    """
    sound = found.sidecar.sound
    if sound.file is None:
        return None
    path = found.resolve(sound.file)
    require_path(path)
    waveform = read_audio(path, sound.sample_rate)
    if digest(waveform) != sound.sha256:
        raise MediaError(f"{path} has other samples than {found.path} expects; to retake it as a recording, move it away from its sidecar.")
    return waveform


def digest(waveform: Float[np.ndarray, "samples"]) -> str:
    """SHA-256 of samples as little-endian 32-bit floating point."""
    return hashlib.sha256(np.ascontiguousarray(waveform, "<f4").tobytes()).hexdigest()


def _packed(codes: Int[np.ndarray, "rows columns"], clip: Clip, n_samples: int) -> str:
    n_codes = 1 << max(10, int(codes.max()).bit_length())
    header = Header(len(codes), n_codes, clip.sample_rate, clip.column_samples, clip.columns, 0.0, b"")
    pieces = (codes[:, start : start + clip.columns] for start in range(0, codes.shape[1], clip.columns))
    return base64.b64encode(b"".join(pack(header, pieces, lambda: n_samples))).decode()


def _relative(path: Path, folder: Path) -> str:
    return _text(os.path.relpath(path.absolute(), folder))


def _text(name: str) -> str:
    """A file name as valid text; file names on Unix may be any bytes."""
    return name.encode("utf-8", "backslashreplace").decode()
