"""A video file with new sound: pictures are copied packet by packet, sound is encoded beside them."""

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
from unsilent.media.files import demux, find_video, first_picture_time, moving_pictures, open_media

CONTAINERS = {
    ".mp4": ("mp4", "aac"),
    ".m4v": ("mp4", "aac"),
    ".mov": ("mov", "aac"),
    ".mkv": ("matroska", "aac"),
    ".webm": ("webm", "libopus"),
}
ABOUT_THE_OLD_FILE = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration"}  # metadata that a new file has its own of
EDIT_LISTS = {"mp4", "mov"}
OWN_GAIN_DB = {"keep": 0.0, "duck": -12.0}
BIT_RATE = 192_000  # bits per second
BLOCK_SAMPLES = 4096


def mux(
    video: Path, waveform: Float[np.ndarray, "samples"], sample_rate: int, out: Path, original: Original = "drop", comment: str = ""
) -> None:
    """Write a video with new sound; its pictures stay the same bits, at the same times from the first picture on.

    Args:
        video: file whose pictures (and subtitles, where `out` can hold them) are copied.
        waveform: mono in [-1, 1]; its first sample sounds with the first picture.
        sample_rate: Hz.
        out: file to write, whole or not at all; .mp4, .m4v, .mov and .mkv get AAC sound, .webm gets Opus.
        original: what becomes of the video's own sound. `drop`: it is left out. `keep`: it is mixed in as it is, stereo remaining stereo.
            `duck`: it is mixed in 12 dB lower. The mix is as long as the waveform, and made quieter as a whole where it would exceed full
            scale. For a video without sound all three are the same.
        comment: words to keep in the file's metadata.

    Raises:
        MediaError: if the video cannot be read, `out` is the video itself, cannot hold its pictures, or cannot be written.
        ParameterError: if the waveform is empty, the sample rate is not positive, or `original` is none of the three words.
    """
    refuse_mistakes(video, waveform, sample_rate, out, original)
    container, codec = CONTAINERS[out.suffix.lower()]
    start = first_picture_time(video)
    with open_media(video) as source, atomic_write(out) as temporary:
        find_video(source, video)
        if start is None:
            raise MediaError(f"{video} has no picture that can be decoded.")
        try:
            with av.open(str(temporary.absolute()), "w", format=container) as target:
                kept = {key: value for key, value in source.metadata.items() if key.lower() not in ABOUT_THE_OLD_FILE}
                target.metadata.update(kept | ({"comment": comment} if comment else {}))
                copies = _copied_streams(source, target, out)
                own = source.streams.best("audio")
                if original == "drop" or own is None:
                    encoder = _Encoder(target, codec, sample_rate, "mono")
                    sound = encoder.encode(_slices(waveform[None]), sample_rate)
                else:
                    rate, n_channels = own.codec_context.sample_rate, own.codec_context.layout.nb_channels
                    encoder = _Encoder(target, codec, max(sample_rate, rate), "stereo" if n_channels > 1 else "mono")
                    over = _resampled(waveform, sample_rate, encoder.sample_rate)
                    blocks = _mixed(over, video, encoder.sample_rate, encoder.layout, OWN_GAIN_DB[original])
                    sound = encoder.encode(blocks, encoder.sample_rate)
                _start(target, out, copies)
                _interleave(_shown(demux(source, *copies), video, start, target), target, copies, start, sound)
        except av.FFmpegError as error:
            raise MediaError(f"{out} cannot be written: {error.strerror}.") from error


def refuse_mistakes(video: Path, waveform: np.ndarray, sample_rate: int, out: Path, original: str) -> None:
    """Check what `mux` was asked for before anything is read or written; raises as it says."""
    if original != "drop" and original not in OWN_GAIN_DB:
        raise ParameterError(f"original must be drop, keep or duck, found {original!r}.")
    if not len(waveform) or sample_rate <= 0:
        raise ParameterError(f"sound of {len(waveform)} samples at {sample_rate} Hz was given; both must be positive.")
    if out.suffix.lower() not in CONTAINERS:
        raise MediaError(f"{out} cannot be written: {out.suffix or 'no suffix'} is not among {', '.join(CONTAINERS)}; choose one of them.")
    if out.exists() and video.exists() and out.samefile(video):
        raise MediaError(f"{out} is the video itself; choose another name for the result.")


def _copied_streams(
    source: av.container.InputContainer, target: av.container.OutputContainer, out: Path
) -> dict[av.stream.Stream, av.stream.Stream]:
    """A stream in the target for each of the source's video streams, and for those of its subtitles that it can hold."""
    copies = {}
    for stream in moving_pictures(source):
        try:
            copy = target.add_stream_from_template(stream, opaque=True)
        except ValueError:
            raise _unfit(out, stream) from None
        copy.codec_context.framerate = stream.average_rate or 0
        if stream.codec_context.name == "hevc" and target.format.name in EDIT_LISTS:
            copy.codec_context.codec_tag = "hvc1"  # players by Apple refuse the default hev1
        copies[stream] = copy
    for stream in source.streams.subtitles:
        with contextlib.suppress(ValueError, av.FFmpegError):
            copies[stream] = target.add_stream_from_template(stream, opaque=True)
    for stream, copy in copies.items():
        copy.metadata.update({key: value for key, value in stream.metadata.items() if key in ("language", "title")})
    return copies


def _start(target: av.container.OutputContainer, out: Path, copies: dict[av.stream.Stream, av.stream.Stream]) -> None:
    """Write the header, in which some containers notice late what they cannot hold."""
    try:
        target.start_encoding()
    except OSError:
        raise
    except av.FFmpegError:
        raise _unfit(out, next(iter(copies))) from None


def _unfit(out: Path, stream: av.VideoStream) -> MediaError:
    return MediaError(f"{out} cannot hold {stream.codec_context.name} pictures; write .mkv, which holds any.")


def _shown(packets: Iterator[av.Packet], video: Path, start: Fraction, target: av.container.OutputContainer) -> Iterator[av.Packet]:
    """Packets that can be placed in time; refuses those that only an edit list keeps from being seen where there is no such list."""
    any_shown = False
    for packet in packets:
        if not packet.size or (packet.dts is None and packet.pts is None):
            continue
        if packet.is_discard and packet.pts * packet.time_base < start and target.format.name not in EDIT_LISTS:
            raise MediaError(f"{video} hides its first pictures by an edit list, which only .mp4 and .mov have; write one of these.")
        any_shown = True
        yield packet
    if not any_shown:
        raise MediaError(f"{video} is a bare stream without time stamps; put it into a container such as .mp4 first.")


def _interleave(
    packets: Iterator[av.Packet],
    target: av.container.OutputContainer,
    copies: dict[av.stream.Stream, av.stream.Stream],
    start: Fraction,
    sound: Iterator[av.Packet],
) -> None:
    """Copy packets, each preceded by the sound up to its time, so that neither has to wait in memory for the other."""
    sounding, last = Fraction(-1), {}
    for packet in packets:
        shift = round(start / packet.time_base)
        packet.pts = None if packet.pts is None else packet.pts - shift
        if packet.dts is not None:  # containers insist on time stamps that grow; damaged files may not have them
            packet.dts = max(packet.dts - shift, last.get(packet.stream, packet.dts - shift - 1) + 1)
            packet.pts = packet.dts if packet.pts is None else max(packet.pts, packet.dts)
            last[packet.stream] = packet.dts
        now = (packet.pts if packet.dts is None else packet.dts) * packet.time_base
        while sounding < now and (heard := next(sound, None)) is not None:
            sounding = heard.pts * heard.time_base
            target.mux(heard)
        packet.stream = copies[packet.stream]
        target.mux(packet)
    for heard in sound:
        target.mux(heard)


class _Encoder:
    """The sound track of a file that is being written, beginning at time 0.

    The codec's delay at the beginning is noted in the file by FFmpeg, so that players skip it.
    """

    def __init__(self, target: av.container.OutputContainer, codec: str, sample_rate: int, layout: str) -> None:
        rates = av.Codec(codec, "w").audio_rates or [sample_rate]
        self.sample_rate = sample_rate if sample_rate in rates else 48_000
        self.layout = layout
        self._stream = target.add_stream(codec, rate=self.sample_rate)
        self._stream.layout = layout
        n_channels = self._stream.layout.nb_channels
        # AAC allows 6144 bits a channel in each packet of 1024 samples
        self._stream.bit_rate = min(BIT_RATE, 6144 * n_channels * self.sample_rate // 1024)

    def encode(self, blocks: Iterator[Float[np.ndarray, "channels block"]], sample_rate: int) -> Iterator[av.Packet]:
        """Packets of all blocks, whose sample rate may differ from the track's."""
        position = 0
        for block in blocks:
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block, dtype=np.float32), format="fltp", layout=self.layout)
            frame.sample_rate, frame.time_base, frame.pts = sample_rate, Fraction(1, sample_rate), position
            position += block.shape[1]
            yield from self._stream.encode(frame)
        yield from self._stream.encode(None)


def _slices(sound: Float[np.ndarray, "channels samples"]) -> Iterator[Float[np.ndarray, "channels block"]]:
    for position in range(0, sound.shape[1], BLOCK_SAMPLES):
        yield sound[:, position : position + BLOCK_SAMPLES]


def _mixed(
    waveform: Float[np.ndarray, "samples"], video: Path, sample_rate: int, layout: str, gain_db: float
) -> Iterator[Float[np.ndarray, "channels block"]]:
    """The waveform over a video's own sound, as long as the waveform; the own sound is read twice, first for the peak."""
    peak = max(float(np.abs(block).max()) for block in _sum(waveform, video, sample_rate, layout, gain_db))
    for block in _sum(waveform, video, sample_rate, layout, gain_db):
        yield block / max(1.0, peak)


def _sum(
    waveform: Float[np.ndarray, "samples"], video: Path, sample_rate: int, layout: str, gain_db: float
) -> Iterator[Float[np.ndarray, "channels block"]]:
    gain, position = 10 ** (gain_db / 20) / 32768, 0
    for block in decode_blocks(video, sample_rate, layout):
        over = waveform[position : position + block.shape[1]]
        position += len(over)
        if len(over):
            yield over + block[:, : len(over)].astype(np.float32) * np.float32(gain)
        if position == len(waveform):
            return
    for over in _slices(waveform[None, position:]):
        yield over.repeat(2 if layout == "stereo" else 1, axis=0)


def _resampled(waveform: Float[np.ndarray, "samples"], from_rate: int, to_rate: int) -> Float[np.ndarray, "resampled"]:
    """The waveform at another rate, through FFmpeg's resampler."""
    if from_rate == to_rate:
        return waveform
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=to_rate)
    pieces = []
    for block in _slices(waveform[None]):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block, dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = from_rate
        pieces += resampler.resample(frame)
    return np.concatenate([piece.to_ndarray()[0] for piece in pieces + resampler.resample(None)])
