"""Sidecars: a file beside each result from which it can be reopened: request, model, codes, loudness, and what was done to it since.

    NAME.unsilent.json   JSON with the fields of `Sidecar`; NAME is that of the result with its suffix
    NAME.unsilent.wav    its samples in 32-bit floating point, where decoding the codes anew would not give them

Paths in it are relative to its folder, so results move together with their video.
"""

import base64
import hashlib
import json
import os
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from pydantic import Field

from unsilent.checkpoints.bundle import Parts
from unsilent.choices import Layer, Precision, VocoderChoice
from unsilent.clip import Clip
from unsilent.codec.bitstream import Header, pack, unpack
from unsilent.config import Config
from unsilent.errors import MediaError, ParameterError, UnsilentError
from unsilent.files import atomic_write, require_path
from unsilent.generation.result import Generation
from unsilent.media.audio import read_audio
from unsilent.media.probe import read_comment
from unsilent.media.suffixes import OWN_FORMAT
from unsilent.outputs import SIDECAR_SUFFIX, sidecar_of
from unsilent.request import Request
from unsilent.signal.loudness import loudness_lufs
from unsilent.version import __version__

VERSION = 1
POINTER = " sidecar="  # before the sidecar's name, at the end of the comment in a result


class Made(Config):
    """The model that a result was made with.

    Attributes:
        name, weights: name and digest, see `checkpoints.bundle.fingerprint`.
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
    """The video of a result; its size in bytes tells it from another of the same name."""

    path: str
    bytes: int = Field(ge=0)


class Sound(Config):
    """The samples of a result.

    Attributes:
        sha256: of the samples as little-endian 32-bit floating point.
        file: that has exactly these samples; None where decoding the codes gives them.
        lufs, peak_db: loudness and peak; None for silence.
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
        start, stop: seconds that were made anew, in the result before; below 0 or behind its end where it was extended.
        seed, take: source of its randomness.
        label, layer: as asked for.
        keep: share of the codes in it that stayed.
        join: largest jump of energy or spectrum at a join as a share of the 95th percentile around; 0 without a join.
        score: mean log-likelihood of the codes after it, in nats a code, or agreement with what is seen where nothing follows.
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
    """Everything that a command needs to go on from a result.

    Attributes:
        format, version: of the file.
        made_by: program and version.
        output: name of the result beside it.
        video: that it was made for; None for a sound without video.
        model, request, take, score, seen: as in `Generation`; files that the request names are relative too.
        sound: its samples.
        codes: a file of codes (`codec.bitstream`) in base64.
        history: retakes, the first first.
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
    history: tuple[Edit, ...] = ()

    def grid(self) -> Int[np.ndarray, "rows columns"]:
        """The codes.

        Raises:
            DataError: if they are damaged.
        """
        return unpack(base64.b64decode(self.codes)).grid

    def write(self, beside: Path) -> Path:
        """Write it beside a result atomically; returns its path.

        Raises:
            MediaError: if it cannot be written.
        """
        out = sidecar_of(beside)
        with atomic_write(out) as temporary:
            temporary.write_text(json.dumps(self.model_dump(), indent=1) + "\n", encoding="utf-8")
        return out


@dataclass(frozen=True)
class Found:
    """A sidecar and where it lies."""

    sidecar: Sidecar
    path: Path

    def resolve(self, relative: str) -> Path:
        """A path of the sidecar, seen from here."""
        return self.path.parent / relative


def sidecar_for(
    made: Generation, out: Path, model: Made, *, samples: Path | None = None, history: tuple[Edit, ...] = (), has_video: bool = True
) -> Sidecar:
    """Describe a result.

    Args:
        made: the sound.
        out: the result's file.
        model: that made it.
        samples: file in the same folder that has its very samples; needed where its codes decode to others.
        history: what was done to it.
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
        codes=_packed(made.codes, made.clip, len(made.waveform)),
        history=history,
    )


def pointer_to(out: Path) -> str:
    """What the comment in a result ends with: the name of its sidecar."""
    return POINTER + _text(sidecar_of(out).name)


def find_sidecar(result: Path) -> Found | None:
    """The sidecar of a result, or of itself; None for a file without one.

    It is looked for under the result's name, then under the name that the comment inside the result has.

    Raises:
        MediaError: if the result is missing, or the sidecar is damaged or of another version.
    """
    require_path(result)
    if result.name.endswith(SIDECAR_SUFFIX):
        return Found(read_sidecar(result), result)
    if not sidecar_of(result).exists():
        try:
            _, points, name = read_comment(result).partition(POINTER)
        except MediaError:  # not media; whoever reads it next says so
            return None
        if not points or not result.with_name(name).is_file():
            return None
        result = result.with_name(name.removesuffix(SIDECAR_SUFFIX))
    return Found(read_sidecar(sidecar_of(result)), sidecar_of(result))


def read_sidecar(path: Path) -> Sidecar:
    """Read a sidecar.

    Raises:
        MediaError: if it cannot be read, is none, or is of another version.
    """
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as why:
        raise MediaError(f"{path} cannot be read: {why.strerror}.") from None
    except ValueError:
        raise MediaError(f"{path} is not JSON, so it describes no result.") from None
    if not isinstance(content, dict) or content.get("format") != OWN_FORMAT:
        raise MediaError(f"{path} does not describe a result of unsilent.")
    if content.get("version") != VERSION:
        raise MediaError(f"{path} is of version {content.get('version')!r}; this program reads version {VERSION}.")
    try:
        found = Sidecar(**content)
        found.grid()
    except (UnsilentError, ValueError) as why:
        raise MediaError(f"{path} is damaged: {why}") from None
    return found


def video_of(found: Found, video: Path | None = None) -> Path | None:
    """The video of a result, where it lies now; None for a sound without.

    Args:
        found: its sidecar.
        video: where the video is now; None takes the path in the sidecar.

    Raises:
        MediaError: if it is not there.
        ParameterError: if it has another size than the one that the result was made for.
    """
    source = found.sidecar.video
    if source is None:
        return video
    path = video or found.resolve(source.path)
    if not path.exists():
        raise MediaError(f"{found.path} names the video {path}, which does not exist; say where it is by --video.")
    if path.stat().st_size != source.bytes:
        raise ParameterError(f"{path} has {path.stat().st_size} bytes, but the video of {found.path} had {source.bytes}; it is another.")
    return path


def samples_of(found: Found) -> Float[np.ndarray, "samples"] | None:
    """The samples that are kept beside a result; None where its codes are decoded instead.

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
        raise MediaError(f"{path} has other samples than those of {found.path}; retake from it by naming it alone, away from its sidecar.")
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
    """A file name as valid text, which names on Unix need not be."""
    return name.encode("utf-8", "backslashreplace").decode()
