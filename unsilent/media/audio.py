"""Audio of media files as arrays."""

import itertools
import logging
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from jaxtyping import Float, Float32

from unsilent.errors import MediaError, ParameterError
from unsilent.media.files import MAX_GAP_SECONDS, decode, demux, find_audio, first_frame_time, open_media
from unsilent.media.ogg import chained

log = logging.getLogger(__name__)

MIN_RATE, MAX_RATE = 1000, 1_000_000  # Hz; a header with another rate is damaged
_UNORDERED = re.compile("channels|ambisonic")  # names of layouts that do not assign channels to speakers
_USUAL = {3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}  # default layouts by number of channels, in FFmpeg's order
GAP_SECONDS = 0.1  # longer gaps between packets become silence; shorter ones are rounding of time stamps


def read_audio(path: Path, sample_rate: int) -> Float[np.ndarray, "samples"]:
    """The main audio track of a file, mixed down to mono.

    Args:
        path: an audio file, or a video. Audio of a video is aligned with its first frame: earlier audio is cut, later audio is preceded
            by silence.
        sample_rate: Hz of the result.

    Returns:
        Samples with full scale 1, which floating-point recordings may exceed. Channels are averaged.

    Raises:
        MediaError: if the file is missing, is not a media file, has no audio, or none that can be decoded; if samples are NaN or infinite,
            or gaps in time stamps are longer than an hour in total. Damaged parts are skipped.
        ParameterError: if the sample rate is not positive.
    """
    return np.concatenate(list(read_blocks(path, sample_rate)))


def read_blocks(path: Path, sample_rate: int) -> Iterator[Float[np.ndarray, "block"]]:
    """Like `read_audio`, but yields blocks as they are decoded."""
    if sample_rate <= 0:
        raise ParameterError(f"the sample rate is {sample_rate} Hz, but must be positive.")
    is_empty = True
    for block in decode_blocks(path, sample_rate, "mono"):
        is_empty = False
        yield block[0]
    if is_empty:
        raise MediaError(f"{path} has an audio track, but none of it can be decoded.")


def recorded_rate(path: Path) -> int:
    """Stored sample rate of the main audio track, in Hz.

    Raises:
        MediaError: if the file cannot be opened or has no audio.
    """
    with open_media(path) as container:
        return find_audio(container, path).rate


def decode_blocks(
    path: Path, sample_rate: int, layout: str, track: int | None = None, most: int | None = None
) -> Iterator[Float32[np.ndarray, "channels block"]]:
    """Decode an audio track in blocks from the time of the first video frame; gaps are filled with silence.

    Args:
        path: a file with audio; without video, decoding starts with the audio.
        sample_rate: Hz of the result.
        layout: `mono` or `stereo`. Mono is the mean of the channels. Stereo of more channels is a sum, with centre and surround 3 dB lower.
        track: index of the stream; None takes the main track.
        most: number of samples after which decoding ends; None decodes all.

    Raises:
        MediaError: if the file cannot be opened or has no audio; if samples are NaN or infinite, or gaps in time stamps are longer than an
            hour in total.
    """
    done = n_silent = 0
    for position, block in _positioned_blocks(path, sample_rate, layout, track):
        if most is not None and position >= most:
            return
        if not np.isfinite(block).all():
            raise MediaError(f"{path} has samples that are NaN or infinite at {position / sample_rate:.2f} s.")
        if position > done:
            n_silent += position - done
            if n_silent > MAX_GAP_SECONDS * sample_rate:
                raise MediaError(f"{path} has time stamps with {n_silent / sample_rate / 3600:.1f} hours of gaps: it is damaged; remux it.")
            yield np.zeros((len(block), position - done), dtype=np.float32)
            done = position
        block = block[:, done - position :]
        done += block.shape[1]
        yield block


def _positioned_blocks(
    path: Path, sample_rate: int, layout: str, track: int | None
) -> Iterator[tuple[int, Float32[np.ndarray, "channels block"]]]:
    """Resampled blocks, each with its position in samples by its time stamp."""
    zero, parts = first_frame_time(path), iter(())
    with open_media(path) as container:
        if container.format.name == "ogg" and zero is None:
            parts = chained(path)
        first = next(parts, None)
        if first is None:
            stream = find_audio(container, path) if track is None else container.streams[track]
            yield from _blocks_of(container, stream, path, sample_rate, layout, zero)
            return
    start = end = 0
    for part in itertools.chain([first], parts):
        try:
            container = open_media(path, part)
        except MediaError as error:  # cut off or damaged; skipped like what cannot be decoded
            log.debug("%s: %s", path, error)
            continue
        with container:
            for position, block in _blocks_of(container, find_audio(container, path), path, sample_rate, layout, None):
                yield start + position, block
                end = start + position + block.shape[1]
        start = end


def _blocks_of(
    container: av.container.InputContainer, stream: av.AudioStream, path: Path, sample_rate: int, layout: str, zero: Fraction | None
) -> Iterator[tuple[int, Float32[np.ndarray, "channels block"]]]:
    """Like `_positioned_blocks`, for an open file; `zero` is the time of its first video frame, None without video."""
    position, expected, kind, resampler = 0, 0.0, None, None
    for frame in _mixable_frames(container, stream, path):
        seconds = expected if frame.pts is None else float(frame.pts * frame.time_base - (zero or 0))
        if zero is None and resampler is None:
            zero, seconds = frame.pts * frame.time_base if frame.pts is not None else 0, 0.0
        found = (frame.format.name, frame.layout.name, frame.sample_rate)
        if found != kind or abs(seconds - expected) > GAP_SECONDS:
            if resampler is not None:
                for late in _arrays(resampler.resample(None)):
                    yield position, late
                    position += late.shape[1]
            # the weights of a mono mix sum to 1; those of a stereo mix may sum to more, as in FFmpeg
            weights = {"rematrix_maxval": "1"} if layout == "mono" else {}
            resampler, kind = av.AudioResampler(format="fltp", layout=layout, rate=sample_rate, options=weights), found
            position, expected = round(seconds * sample_rate), seconds
        expected += frame.samples / frame.sample_rate
        frame.pts = None  # otherwise the resampler would compensate gaps on its own
        try:
            resampled = resampler.resample(frame)
        except (av.FFmpegError, ValueError) as error:  # such as a damaged layout; skipped like what cannot be decoded
            log.debug("%s: %s", path, error)
            kind = resampler = None
            continue
        for block in _arrays(resampled):
            yield position, block
            position += block.shape[1]
    if resampler is not None:
        for block in _arrays(resampler.resample(None)):
            yield position, block
            position += block.shape[1]


def _mixable_frames(container: av.container.InputContainer, stream: av.AudioStream, path: Path) -> Iterator[av.AudioFrame]:
    for frame in (frame for packet in demux(container, stream) for frame in decode(packet)):
        if not MIN_RATE <= frame.sample_rate <= MAX_RATE:
            raise MediaError(f"{path} has a sample rate of {frame.sample_rate} Hz in its header; it is damaged.")
        try:
            mixable = _mixable(frame)
        except (av.FFmpegError, ValueError) as error:  # such as a damaged layout; skipped like undecodable packets
            log.debug("%s: %s", path, error)
            continue
        yield mixable


def _mixable(frame: av.AudioFrame) -> av.AudioFrame:
    """The frame, with the default layout for channels without an assignment, and averaged to mono for layouts without an order."""
    n_channels = frame.layout.nb_channels
    if n_channels <= 2 or not _UNORDERED.search(frame.layout.name):
        return frame
    to_float = av.AudioResampler(format="flt")  # not planar, because PyAV reads 8 planes only
    pts, frame.pts = frame.pts, None
    samples = [one.to_ndarray().reshape(-1, n_channels) for one in (*to_float.resample(frame), *to_float.resample(None))]
    layout = _USUAL.get(n_channels) if frame.layout.name.endswith("channels") else None
    channels = np.concatenate(samples) if layout else np.concatenate(samples).mean(axis=1, dtype=np.float32)[:, None]
    mixed = av.AudioFrame.from_ndarray(np.ascontiguousarray(channels).reshape(1, -1), format="flt", layout=layout or "mono")
    mixed.sample_rate, mixed.time_base, mixed.pts = frame.sample_rate, frame.time_base, pts
    return mixed


def _arrays(frames: list[av.AudioFrame]) -> Iterator[Float32[np.ndarray, "channels block"]]:
    """Planar frames as arrays."""
    for frame in frames:
        yield frame.to_ndarray()
