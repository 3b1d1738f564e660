"""Writes sound files for other programs: WAV of any size with a broadcast time stamp, FLAC, Opus. Converts sample rates."""

import struct
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from jaxtyping import Float

from unsilent.choices import Bits
from unsilent.errors import MediaError, ParameterError
from unsilent.files import atomic_write
from unsilent.media.suffixes import OWN_COMMENT

WRITTEN = (".wav", ".flac", ".opus")
OPUS_RATE, OPUS_BITS_PER_SECOND = 48_000, 96_000  # Hz; bits per second and channel
_BLOCK = 1 << 16  # samples
_FORMATS = {"16": (1, 16), "24": (1, 24), "32f": (3, 32)}  # format code of WAV, bits
_MAX_RIFF = (1 << 32) - 1  # bytes; larger files are RF64
# flat up to 0.98 of the band, with images 124 dB lower (docs/formats.md); FFmpeg's faster settings lose 2 dB there
_RESAMPLER = {
    "filter_size": "256",
    "phase_shift": "10",
    "cutoff": "0.985",
    "exact_rational": "1",
    "filter_type": "kaiser",
    "kaiser_beta": "12",
}


def write_sound(
    path: Path,
    waveform: Float[np.ndarray, "*channels samples"],
    sample_rate: int,
    bits: Bits = "16",
    since_midnight: Fraction | None = None,
) -> None:
    """Write a sound atomically, with a comment that names this program.

    Args:
        path: file to write, `.wav`, `.flac` or `.opus`; an existing file is replaced.
        waveform: mono, or one or two channels; clipped to [-1, 1] unless written in floating point.
        sample_rate: in Hz; Opus is resampled to 48 kHz.
        bits: `16`, `24` or `32f`. Only WAV supports `32f`, floating point; Opus ignores it.
        since_midnight: timecode of the first sample, in seconds since midnight, for WAV only (BWF, EBU Tech 3285). None writes none.

    Raises:
        MediaError: if the folder is missing or cannot be written, or the disk is full.
        ParameterError: for another suffix, or bits that the format does not support.
    """
    check_sound(path, bits)
    waveform = np.atleast_2d(waveform)
    with atomic_write(path) as temporary:
        if path.suffix.lower() == ".wav":
            _write_wav(temporary, waveform, sample_rate, bits, since_midnight)
        else:
            _encode(temporary, path, waveform, sample_rate, bits)


def check_sound(path: Path, bits: Bits) -> None:
    """Refuse a suffix or bits that cannot be written.

    Raises:
        ParameterError: for another suffix, or bits that the format does not support.
    """
    if path.suffix.lower() not in WRITTEN:
        raise ParameterError(f"{path} cannot be written: choose one of {', '.join(WRITTEN)}.")
    if path.suffix.lower() == ".flac" and bits == "32f":
        raise ParameterError(f"{path} cannot be floating point; choose 16 or 24 bits, or WAV.")


class GrowingWav:
    """Writes a mono 16-bit WAV block by block, so that it can be played meanwhile; a context manager. Not atomic.

    The bytes equal those of `write_sound`.

    Args:
        path: file to write; an existing file is replaced.
        sample_rate: in Hz.

    Raises:
        MediaError: if the file cannot be opened for writing.
        OSError: in `write`, with the path, if the disk is full.
    """

    def __init__(self, path: Path, sample_rate: int) -> None:
        self._path, self._sample_rate, self._n_samples = path, sample_rate, 0
        try:
            self._file = path.open("wb")
        except OSError as error:
            raise MediaError(f"{path} cannot be written: {error.strerror}.") from None

    def __enter__(self) -> "GrowingWav":
        self.write(np.zeros(0, np.float32))
        return self

    def __exit__(self, *unused: object) -> None:
        with suppress(OSError):  # everything is flushed already, or its error was raised
            self._file.close()

    def write(self, waveform: Float[np.ndarray, "samples"]) -> None:
        """Append samples, clipped to [-1, 1], and flush them. The header counts them up to 4 GB."""
        self._n_samples += len(waveform)
        header = _header(1, self._n_samples, self._sample_rate, "16", None)
        try:
            if header.startswith(b"RIFF"):
                self._file.seek(0)
                self._file.write(header)
            self._file.seek(0, 2)
            self._file.write(as_bytes(waveform[None], "16"))
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from None


def _write_wav(path: Path, waveform: np.ndarray, sample_rate: int, bits: Bits, since_midnight: Fraction | None) -> None:
    n_channels, n_samples = waveform.shape
    with path.open("wb") as file:
        file.write(_header(n_channels, n_samples, sample_rate, bits, since_midnight))
        for block in _blocks(waveform):
            file.write(as_bytes(block, bits))
        file.write(bytes(n_channels * n_samples * _FORMATS[bits][1] // 8 % 2))


def _header(n_channels: int, n_samples: int, sample_rate: int, bits: Bits, since_midnight: Fraction | None) -> bytes:
    """Everything in a WAV before its samples."""
    code, size = _FORMATS[bits]
    frame = n_channels * size // 8
    n_bytes = n_samples * frame
    form = struct.pack("<HHIIHH", code, n_channels, sample_rate, sample_rate * frame, frame, size)
    chunks = _chunk(b"fmt ", form + (b"\0\0" if code == 3 else b""))
    chunks += _chunk(b"fact", struct.pack("<I", min(n_samples, _MAX_RIFF))) if code == 3 else b""
    if since_midnight is not None:
        chunks = _chunk(b"bext", _broadcast(round(since_midnight * sample_rate))) + chunks
    comment = OWN_COMMENT.encode() + b"\0"
    chunks += _chunk(b"LIST", b"INFO" + _chunk(b"ICMT", comment))
    total = 4 + len(chunks) + 8 + n_bytes + n_bytes % 2
    is_large = total + 36 > _MAX_RIFF
    if is_large:
        total += 36
        sizes = struct.pack("<QQQI", total, n_bytes, n_samples, 0)
        head = b"RF64" + struct.pack("<I", _MAX_RIFF) + b"WAVE" + _chunk(b"ds64", sizes)
    else:
        head = b"RIFF" + struct.pack("<I", total) + b"WAVE"
    return head + chunks + b"data" + struct.pack("<I", _MAX_RIFF if is_large else n_bytes)


def _broadcast(samples: int) -> bytes:
    """Contents of a `bext` chunk, version 1, with the time reference in samples since midnight."""
    description, originator = OWN_COMMENT.encode().ljust(256, b"\0"), b"unsilent".ljust(32, b"\0")
    dates = bytes(32) + b"0000-00-00" + b"00:00:00"  # no originator reference and no date, so that files are reproducible
    return description + originator + dates + struct.pack("<QH", samples, 1) + bytes(64 + 190)


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def as_bytes(block: Float[np.ndarray, "channels samples"], bits: Bits) -> bytes:
    """Interleaved samples, little-endian; clipped to [-1, 1] unless in floating point."""
    if bits == "32f":
        return np.ascontiguousarray(block.T).astype("<f4").tobytes()
    levels = _levels(block, bits)
    return levels.astype("<i2").tobytes() if bits == "16" else levels.view(np.uint8).reshape(*levels.shape, 4)[..., :3].tobytes()


def _levels(block: np.ndarray, bits: Bits) -> np.ndarray:
    """Samples quantised to integers, interleaved; -1 is negative full scale."""
    full = 1 << (int(bits) - 1)
    return np.rint(np.ascontiguousarray(block.T, dtype=np.float64) * full).clip(-full, full - 1).astype("<i4")


def _blocks(waveform: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, waveform.shape[1], _BLOCK):
        yield waveform[:, start : start + _BLOCK]


def _encode(temporary: Path, path: Path, waveform: np.ndarray, sample_rate: int, bits: Bits) -> None:
    is_opus, layout = path.suffix.lower() == ".opus", "mono" if len(waveform) == 1 else "stereo"
    if is_opus:
        waveform, sample_rate = resample(waveform, sample_rate, OPUS_RATE), OPUS_RATE
    try:
        with av.open(str(temporary.absolute()), "w", format="opus" if is_opus else "flac") as container:
            container.metadata["comment"] = OWN_COMMENT
            stream = container.add_stream("libopus" if is_opus else "flac", rate=sample_rate)
            stream.layout = layout
            kind = "flt" if is_opus else "s16" if bits == "16" else "s32"
            stream.format = kind
            if is_opus:
                stream.bit_rate = OPUS_BITS_PER_SECOND * len(waveform)
            position = 0
            for block in _blocks(waveform):
                if is_opus:
                    numbers = np.clip(block.T, -1, 1).astype(np.float32)
                else:
                    numbers = _levels(block, bits)
                    numbers = numbers.astype(np.int16) if bits == "16" else numbers << 8
                frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(numbers).reshape(1, -1), format=kind, layout=layout)
                frame.sample_rate, frame.time_base, frame.pts = sample_rate, Fraction(1, sample_rate), position
                position += block.shape[1]
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    except av.FFmpegError as error:
        raise MediaError(f"{path} cannot be written: {error.strerror}.") from error


def resample(waveform: Float[np.ndarray, "channels samples"], from_rate: int, to_rate: int) -> Float[np.ndarray, "channels resampled"]:
    """Convert the sample rate.

    Returns:
        `round(samples * to_rate / from_rate)` samples; flat up to 0.98 of the narrower band.

    Source:
        FFmpeg's resampler, with a Kaiser window of 256 taps.
    """
    if from_rate == to_rate:
        return waveform
    layout, n = "mono" if len(waveform) == 1 else "stereo", round(waveform.shape[1] * Fraction(to_rate, from_rate))
    resampler, done = av.AudioResampler(format="fltp", layout=layout, rate=to_rate, options=_RESAMPLER), 0
    resampled = np.zeros((len(waveform), n), np.float32)
    for block in (*_blocks(waveform), None):
        frame = (
            block if block is None else av.AudioFrame.from_ndarray(np.ascontiguousarray(block, np.float32), format="fltp", layout=layout)
        )
        if frame is not None:
            frame.sample_rate = from_rate
        for piece in resampler.resample(frame):
            part = piece.to_ndarray()[:, : n - done]
            resampled[:, done : done + part.shape[1]] = part
            done += part.shape[1]
    return resampled
