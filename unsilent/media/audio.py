"""Sound of media files as arrays, and WAV files."""

import io
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import soundfile
from jaxtyping import Float, Int16

from unsilent.errors import MediaError, ParameterError
from unsilent.files import atomic_write
from unsilent.media.files import decode, demux, find_sound, first_picture_time, open_media

GAP_SECONDS = 0.1  # a longer hole between packets is kept as silence; shorter ones are rounding of time stamps


def read_audio(path: Path, sample_rate: int) -> Float[np.ndarray, "samples"]:
    """The first sound track of a file, mixed down to one channel.

    Args:
        path: a sound file, or a video with sound. The sound of a video is aligned with its first picture: what was recorded before it is
            left out, and where sound sets in later there is silence.
        sample_rate: Hz to resample to.

    Returns:
        Values in [-1, 1]; a channel that is alone keeps its level, equal channels keep theirs.

    Raises:
        MediaError: if the file is missing, no media file, has no sound, or none of it can be decoded. A damaged part is left out.
        ParameterError: if the sample rate is not positive.
    """
    if sample_rate <= 0:
        raise ParameterError(f"a sample rate of {sample_rate} Hz was asked for; it must be positive.")
    blocks = [block[0] for block in decode_blocks(path, sample_rate, "mono")]
    if not blocks:
        raise MediaError(f"{path} has a sound track, but nothing of it can be decoded.")
    return np.concatenate(blocks).astype(np.float32) / 32768


def recorded_rate(path: Path) -> int:
    """Samples a second, in Hz, that the first sound track of a file has been stored with.

    Raises:
        MediaError: if the file cannot be opened or has no sound.
    """
    with open_media(path) as container:
        return find_sound(container, path).rate


def decode_blocks(path: Path, sample_rate: int, layout: str) -> Iterator[Int16[np.ndarray, "channels block"]]:
    """The first sound track piece by piece, without holes, from the time of the first picture on (or its own start without pictures).

    Args:
        path: a file with sound.
        sample_rate: Hz to resample to.
        layout: `mono` or `stereo`.

    Raises:
        MediaError: if the file cannot be opened or has no sound.
    """
    given = 0
    for position, block in _placed_blocks(path, sample_rate, layout):
        if position > given:
            yield np.zeros((len(block), position - given), dtype=np.int16)
            given = position
        block = block[:, given - position :]
        given += block.shape[1]
        yield block


def _placed_blocks(path: Path, sample_rate: int, layout: str) -> Iterator[tuple[int, np.ndarray]]:
    """Resampled blocks `[channels, block]` and the position, in samples, where each belongs by its time stamps.

    One step of FFmpeg's resampler does rate, channels and the 16-bit format: mixing down in floats is 3 dB louder than in integers.
    """
    zero = first_picture_time(path)
    with open_media(path) as container:
        position, due, kind, resampler = 0, 0.0, None, None
        for frame in _sound_frames(container, find_sound(container, path)):
            seconds = due if frame.pts is None else float(frame.pts * frame.time_base - (zero or 0))
            if zero is None and resampler is None:
                zero, seconds = frame.pts * frame.time_base if frame.pts is not None else 0, 0.0
            found = (frame.format.name, frame.layout.name, frame.sample_rate)
            if found != kind or abs(seconds - due) > GAP_SECONDS:
                if resampler is not None:
                    for late in _arrays(resampler.resample(None)):
                        yield position, late
                        position += late.shape[1]
                resampler, kind = av.AudioResampler(format="s16", layout=layout, rate=sample_rate), found
                position, due = round(seconds * sample_rate), seconds
            due += frame.samples / frame.sample_rate
            frame.pts = None  # the resampler is not to second-guess what has been decided here
            for block in _arrays(resampler.resample(frame)):
                yield position, block
                position += block.shape[1]
        if resampler is not None:
            for block in _arrays(resampler.resample(None)):
                yield position, block
                position += block.shape[1]


def _sound_frames(container: av.container.InputContainer, stream: av.AudioStream) -> Iterator[av.AudioFrame]:
    for packet in demux(container, stream):
        yield from decode(packet)


def _arrays(frames: list[av.AudioFrame]) -> Iterator[np.ndarray]:
    """Packed 16-bit frames as `[channels, block]`."""
    for frame in frames:
        yield frame.to_ndarray().reshape(-1, frame.layout.nb_channels).T


def write_wav(path: Path, waveform: Float[np.ndarray, "samples"], sample_rate: int) -> None:
    """Write sound as 16-bit WAV, whole or not at all.

    Args:
        path: file to write; one that exists is replaced.
        waveform: mono, clipped to [-1, 1].
        sample_rate: Hz.

    Raises:
        MediaError: if the folder is missing or cannot be written, or the disk is full.
    """
    buffer = io.BytesIO()  # libsndfile would not say why a write failed
    soundfile.write(buffer, np.clip(waveform, -1.0, 1.0), sample_rate, format="WAV", subtype="PCM_16")
    with atomic_write(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())
