"""Muxing: video packets are copied, the new audio is encoded and interleaved with them."""

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from jaxtyping import Float

from unsilent.choices import Original
from unsilent.errors import MediaError, ParameterError
from unsilent.files import atomic_write
from unsilent.media.audio import decode_blocks
from unsilent.media.files import demux, find_video, first_frame_time, open_media, video_streams

CONTAINERS = {
    ".mp4": ("mp4", "aac"),
    ".m4v": ("mp4", "aac"),
    ".mov": ("mov", "aac"),
    ".mkv": ("matroska", "aac"),
    ".webm": ("webm", "libopus"),
}
# metadata about the old file, not copied
FILE_METADATA = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration"}
EDIT_LISTS = {"mp4", "mov"}  # containers that have them
ORIGINAL_GAIN_DB = {"keep": 0.0, "duck": -12.0}
BIT_RATE = 192_000  # bits per second
BLOCK_SAMPLES = 4096


def mux(
    video: Path, waveform: Float[np.ndarray, "samples"], sample_rate: int, out: Path, original: Original = "drop", comment: str = ""
) -> None:
    """Write a video with new audio; video packets and their times since the first frame are unchanged.

    Args:
        video: file whose video (and subtitles, where `out` supports them) is copied.
        waveform: mono in [-1, 1]; its first sample is aligned with the first frame.
        sample_rate: Hz.
        out: file to write atomically; .mp4, .m4v, .mov and .mkv get AAC audio, .webm gets Opus.
        original: the video's own audio. `drop`: removed. `keep`: mixed in unchanged, stereo stays stereo. `duck`: mixed in 12 dB lower.
            The mix has the waveform's length, and is scaled down where it would exceed full scale. All three are the same for a video
            without audio.
        comment: text for the file's metadata.

    Raises:
        MediaError: if the video cannot be read, `out` is the video itself, does not support its codec, or cannot be written.
        ParameterError: if the waveform is empty, the sample rate is not positive, or `original` is not one of the three words.
    """
    check_mux_arguments(video, waveform, sample_rate, out, original)
    container, codec = CONTAINERS[out.suffix.lower()]
    start = first_frame_time(video)
    with open_media(video) as source, atomic_write(out) as temporary:
        find_video(source, video)
        if start is None:
            raise MediaError(f"{video} has no frame that can be decoded.")
        try:
            with av.open(str(temporary.absolute()), "w", format=container) as target:
                metadata = {key: value for key, value in source.metadata.items() if key.lower() not in FILE_METADATA}
                target.metadata.update(metadata | ({"comment": comment} if comment else {}))
                copies = _copied_streams(source, target, out)
                track = source.streams.best("audio")
                if original == "drop" or track is None:
                    encoder = _Encoder(target, codec, sample_rate, "mono")
                    audio = encoder.encode(_slices(waveform[None]), sample_rate)
                else:
                    rate, n_channels = track.codec_context.sample_rate, track.codec_context.layout.nb_channels
                    encoder = _Encoder(target, codec, max(sample_rate, rate), "stereo" if n_channels > 1 else "mono")
                    resampled = _resample(waveform, sample_rate, encoder.sample_rate)
                    blocks = _mix(resampled, video, encoder.sample_rate, encoder.layout, ORIGINAL_GAIN_DB[original])
                    audio = encoder.encode(blocks, encoder.sample_rate)
                _write_header(target, out, copies)
                interleave(_timed_packets(demux(source, *copies), video, start, target), target, copies, start, audio)
        except av.FFmpegError as error:
            raise MediaError(f"{out} cannot be written: {error.strerror}.") from error


def check_mux_arguments(video: Path, waveform: Float[np.ndarray, "samples"], sample_rate: int, out: Path, original: str) -> None:
    """Check the arguments of `mux` before anything is read or written; raises its errors."""
    if original != "drop" and original not in ORIGINAL_GAIN_DB:
        raise ParameterError(f"original must be drop, keep or duck, found {original!r}.")
    if not len(waveform) or sample_rate <= 0:
        raise ParameterError(f"audio of {len(waveform)} samples at {sample_rate} Hz was given; both must be positive.")
    if out.suffix.lower() not in CONTAINERS:
        raise MediaError(f"{out} cannot be written: {out.suffix or 'no suffix'} is not among {', '.join(CONTAINERS)}; choose one of them.")
    if out.exists() and video.exists() and out.samefile(video):
        raise MediaError(f"{out} is the video itself; choose another name for the result.")


def _copied_streams(
    source: av.container.InputContainer, target: av.container.OutputContainer, out: Path
) -> dict[av.stream.Stream, av.stream.Stream]:
    """Streams in the target for the source's video streams, and for those of its subtitles that the container supports."""
    copies = {}
    for stream in video_streams(source):
        try:
            copy = target.add_stream_from_template(stream, opaque=True)
        except ValueError:
            raise _unsupported(out, stream) from None
        copy.codec_context.framerate = stream.average_rate or 0
        if stream.codec_context.name == "hevc" and target.format.name in EDIT_LISTS:
            copy.codec_context.codec_tag = "hvc1"  # Apple's players refuse the default hev1
        copies[stream] = copy
    for stream in source.streams.subtitles:
        with contextlib.suppress(ValueError, av.FFmpegError):
            copies[stream] = target.add_stream_from_template(stream, opaque=True)
    for stream, copy in copies.items():
        copy.metadata.update({key: value for key, value in stream.metadata.items() if key in ("language", "title")})
    return copies


def _write_header(target: av.container.OutputContainer, out: Path, copies: dict[av.stream.Stream, av.stream.Stream]) -> None:
    """Write the header; some containers report unsupported codecs only here."""
    try:
        target.start_encoding()
    except OSError:
        raise
    except av.FFmpegError:
        raise _unsupported(out, next(iter(copies))) from None


def _unsupported(out: Path, stream: av.VideoStream) -> MediaError:
    return MediaError(f"{out} cannot hold {stream.codec_context.name} video; write .mkv, which supports all codecs.")


def _timed_packets(packets: Iterator[av.Packet], video: Path, start: Fraction, target: av.container.OutputContainer) -> Iterator[av.Packet]:
    """Packets with time stamps; refuses packets hidden by an edit list if the target has none, which would display them."""
    any_timed = False
    for packet in packets:
        if not packet.size or (packet.dts is None and packet.pts is None):
            continue
        if packet.is_discard and packet.pts * packet.time_base < start and target.format.name not in EDIT_LISTS:
            raise MediaError(f"{video} hides its first frames by an edit list, which only .mp4 and .mov have; write one of these.")
        any_timed = True
        yield packet
    if not any_timed:
        raise MediaError(f"{video} is a raw stream without time stamps; put it into a container such as .mp4 first.")


def interleave(
    packets: Iterator[av.Packet],
    target: av.container.OutputContainer,
    copies: dict[av.stream.Stream, av.stream.Stream],
    start: Fraction,
    audio: Iterator[av.Packet],
) -> None:
    """Copy packets, each preceded by the audio up to its time, so that neither is buffered until the other is complete.

    Args:
        packets: of the source, in file order.
        target: container with its header written.
        copies: target stream of each source stream.
        start: presentation time of the first frame, in seconds, which becomes 0.
        audio: packets of the new track, from time 0.
    """
    audio_time, last = Fraction(-1), {}
    for packet in packets:
        shift = round(start / packet.time_base)
        packet.pts = None if packet.pts is None else packet.pts - shift
        if packet.dts is not None:  # containers require increasing time stamps, which damaged files may not have
            packet.dts = max(packet.dts - shift, last.get(packet.stream, packet.dts - shift - 1) + 1)
            packet.pts = packet.dts if packet.pts is None else max(packet.pts, packet.dts)
            last[packet.stream] = packet.dts
        now = (packet.pts if packet.dts is None else packet.dts) * packet.time_base
        while audio_time < now and (encoded := next(audio, None)) is not None:
            audio_time = encoded.pts * encoded.time_base
            target.mux(encoded)
        packet.stream = copies[packet.stream]
        target.mux(packet)
    for encoded in audio:
        target.mux(encoded)


class _Encoder:
    """The new audio track, from time 0. FFmpeg records the codec's initial delay in the file, so that players skip it."""

    def __init__(self, target: av.container.OutputContainer, codec: str, sample_rate: int, layout: str) -> None:
        rates = av.Codec(codec, "w").audio_rates or [sample_rate]
        self.sample_rate = sample_rate if sample_rate in rates else 48_000
        self.layout = layout
        self._stream = target.add_stream(codec, rate=self.sample_rate)
        self._stream.layout = layout
        n_channels = self._stream.layout.nb_channels
        # AAC allows 6144 bits per channel in each packet of 1024 samples
        self._stream.bit_rate = min(BIT_RATE, 6144 * n_channels * self.sample_rate // 1024)

    def encode(self, blocks: Iterator[Float[np.ndarray, "channels block"]], sample_rate: int) -> Iterator[av.Packet]:
        """Packets of all blocks; their sample rate may differ from the track's."""
        position = 0
        for block in blocks:
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block, dtype=np.float32), format="fltp", layout=self.layout)
            frame.sample_rate, frame.time_base, frame.pts = sample_rate, Fraction(1, sample_rate), position
            position += block.shape[1]
            yield from self._stream.encode(frame)
        yield from self._stream.encode(None)


def _slices(audio: Float[np.ndarray, "channels samples"]) -> Iterator[Float[np.ndarray, "channels block"]]:
    for position in range(0, audio.shape[1], BLOCK_SAMPLES):
        yield audio[:, position : position + BLOCK_SAMPLES]


def _mix(
    waveform: Float[np.ndarray, "samples"], video: Path, sample_rate: int, layout: str, gain_db: float
) -> Iterator[Float[np.ndarray, "channels block"]]:
    """The waveform mixed with a video's own audio, which is decoded twice, first for the peak."""
    peak = max(float(np.abs(block).max()) for block in _sum(waveform, video, sample_rate, layout, gain_db))
    for block in _sum(waveform, video, sample_rate, layout, gain_db):
        yield block / max(1.0, peak)


def _sum(
    waveform: Float[np.ndarray, "samples"], video: Path, sample_rate: int, layout: str, gain_db: float
) -> Iterator[Float[np.ndarray, "channels block"]]:
    gain, position = 10 ** (gain_db / 20) / 32768, 0
    for block in decode_blocks(video, sample_rate, layout):
        new = waveform[position : position + block.shape[1]]
        position += len(new)
        if len(new):
            yield new + block[:, : len(new)].astype(np.float32) * np.float32(gain)
        if position == len(waveform):
            return
    for new in _slices(waveform[None, position:]):
        yield new.repeat(2 if layout == "stereo" else 1, axis=0)


def _resample(waveform: Float[np.ndarray, "samples"], from_rate: int, to_rate: int) -> Float[np.ndarray, "resampled"]:
    """FFmpeg's resampler."""
    if from_rate == to_rate:
        return waveform
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=to_rate)
    pieces = []
    for block in _slices(waveform[None]):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block, dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = from_rate
        pieces += resampler.resample(frame)
    return np.concatenate([piece.to_ndarray()[0] for piece in pieces + resampler.resample(None)])
