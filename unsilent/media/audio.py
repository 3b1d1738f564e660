"""Audio of media files as arrays, and WAV files."""

import io
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import soundfile
from jaxtyping import Float, Int16

from unsilent.errors import MediaError, ParameterError
from unsilent.files import atomic_write
from unsilent.media.files import decode, demux, find_audio, first_frame_time, open_media

GAP_SECONDS = 0.1  # longer gaps between packets become silence; shorter ones are rounding of time stamps


def read_audio(path: Path, sample_rate: int) -> Float[np.ndarray, "samples"]:
    """The first audio track of a file, mixed down to mono.

    Args:
        path: an audio file, or a video. Audio of a video is aligned with its first frame: earlier audio is cut, later audio is preceded
            by silence.
        sample_rate: Hz to resample to.

    Returns:
        Values in [-1, 1]; mono keeps its level, and so do equal channels.

    Raises:
        MediaError: if the file is missing, not a media file, has no audio, or nothing of it can be decoded. Damaged parts are skipped.
        ParameterError: if the sample rate is not positive.
    """
    if sample_rate <= 0:
        raise ParameterError(f"the sample rate must be positive, found {sample_rate} Hz.")
    blocks = [block[0] for block in decode_blocks(path, sample_rate, "mono")]
    if not blocks:
        raise MediaError(f"{path} has an audio track, but nothing of it can be decoded.")
    return np.concatenate(blocks).astype(np.float32) / 32768


def recorded_rate(path: Path) -> int:
    """Stored sample rate of the first audio track, in Hz.

    Raises:
        MediaError: if the file cannot be opened or has no audio.
    """
    with open_media(path) as container:
        return find_audio(container, path).rate


def decode_blocks(path: Path, sample_rate: int, layout: str) -> Iterator[Int16[np.ndarray, "channels block"]]:
    """Decode the first audio track in blocks, with gaps filled by silence, from the time of the first frame on.

    Args:
        path: a file with audio; without video, decoding starts at its own start.
        sample_rate: Hz to resample to.
        layout: `mono` or `stereo`.

    Raises:
        MediaError: if the file cannot be opened or has no audio.
    """
    done = 0
    for position, block in _positioned_blocks(path, sample_rate, layout):
        if position > done:
            yield np.zeros((len(block), position - done), dtype=np.int16)
            done = position
        block = block[:, done - position :]
        done += block.shape[1]
        yield block


def _positioned_blocks(path: Path, sample_rate: int, layout: str) -> Iterator[tuple[int, Int16[np.ndarray, "channels block"]]]:
    """Resampled blocks, each with its position in samples according to its time stamps.

    FFmpeg's resampler converts rate, channels and format in one step, because its mono mix is 3 dB louder in floats than in integers.
    """
    zero = first_frame_time(path)
    with open_media(path) as container:
        position, expected, kind, resampler = 0, 0.0, None, None
        for frame in _audio_frames(container, find_audio(container, path)):
            seconds = expected if frame.pts is None else float(frame.pts * frame.time_base - (zero or 0))
            if zero is None and resampler is None:
                zero, seconds = frame.pts * frame.time_base if frame.pts is not None else 0, 0.0
            found = (frame.format.name, frame.layout.name, frame.sample_rate)
            if found != kind or abs(seconds - expected) > GAP_SECONDS:
                if resampler is not None:
                    for late in _arrays(resampler.resample(None)):
                        yield position, late
                        position += late.shape[1]
                resampler, kind = av.AudioResampler(format="s16", layout=layout, rate=sample_rate), found
                position, expected = round(seconds * sample_rate), seconds
            expected += frame.samples / frame.sample_rate
            frame.pts = None  # otherwise the resampler would compensate gaps on its own
            for block in _arrays(resampler.resample(frame)):
                yield position, block
                position += block.shape[1]
        if resampler is not None:
            for block in _arrays(resampler.resample(None)):
                yield position, block
                position += block.shape[1]


def _audio_frames(container: av.container.InputContainer, stream: av.AudioStream) -> Iterator[av.AudioFrame]:
    for packet in demux(container, stream):
        yield from decode(packet)


def _arrays(frames: list[av.AudioFrame]) -> Iterator[Int16[np.ndarray, "channels block"]]:
    """Arrays of packed 16-bit frames."""
    for frame in frames:
        yield frame.to_ndarray().reshape(-1, frame.layout.nb_channels).T


def write_wav(path: Path, waveform: Float[np.ndarray, "samples"], sample_rate: int) -> None:
    """Write a 16-bit WAV file atomically.

    Args:
        path: file to write; an existing one is replaced.
        waveform: mono, clipped to [-1, 1].
        sample_rate: Hz.

    Raises:
        MediaError: if the folder is missing or cannot be written, or the disk is full.
    """
    buffer = io.BytesIO()  # libsndfile does not report why a write failed
    soundfile.write(buffer, np.clip(waveform, -1.0, 1.0), sample_rate, format="WAV", subtype="PCM_16")
    with atomic_write(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())
