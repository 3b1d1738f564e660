"""Muxing: copies video packets, and encodes and interleaves the new audio."""

import heapq
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from jaxtyping import Float

from unsilent.choices import Original
from unsilent.errors import MediaError, ParameterError
from unsilent.files import atomic_write
from unsilent.media.boxes import finish_boxes
from unsilent.media.copying import CONTAINERS, EDIT_LISTS, Plan, add_streams, options_for, plan_copy, prepare
from unsilent.media.encoding import PictureEncoder
from unsilent.media.files import decode, demux, find_video, first_frame_time, open_media
from unsilent.media.own_sound import BLOCK_SAMPLES, OwnSound
from unsilent.media.sounds import resample

ORIGINALS = ("drop", "keep", "duck")
BIT_RATE = 192_000  # bits per second


def plan_mux(video: Path, out: Path, original: Original = "drop") -> Plan:
    """Plan the work of `mux`, and refuse impossible requests before a sound is made.

    Returns:
        The plan; its notes list losses.

    Raises:
        MediaError: if the video cannot be read, or the container of `out` cannot hold its frames.
    """
    _check_output(video, out)
    plan = plan_copy(video, out)
    return plan if original == "drop" else plan.with_notes(OwnSound(video).notes)


def mux(
    video: Path,
    waveform: Float[np.ndarray, "*channels samples"],
    sample_rate: int,
    out: Path,
    original: Original = "drop",
    comment: str = "",
    plan: Plan | None = None,
    further: Mapping[str, Float[np.ndarray, "*channels samples"]] | None = None,
) -> Plan:
    """Write a video with new audio. Video packets and their times since the first frame are unchanged, unless the plan encodes frames.

    Args:
        video: source file; its streams except audio, its chapters and its metadata are copied if `out` supports them.
        waveform: mono in [-1, 1], or two channels; its first sample is aligned with the first frame.
        sample_rate: Hz.
        out: file to write atomically; .mp4, .m4v, .mov and .mkv get AAC audio, .webm gets Opus.
        original: the video's own audio. `drop` removes it. `keep` mixes it in unchanged; more than two channels become stereo. `duck` mixes
            it in 12 dB lower where the new audio is audible. The mix has the waveform's length, and is scaled down as a whole if it exceeds
            full scale. Without decodable audio, all three are the same.
        comment: text for the file's metadata.
        plan: result of `plan_mux`; None makes one.
        further: additional sounds by title, like `waveform`; each becomes an audio track that players do not select by default.

    Returns:
        The plan: how each stream was written.

    Raises:
        MediaError: if the video cannot be read, or `out` is the video itself, does not support its codec, or cannot be written.
        ParameterError: if the waveform is empty, the sample rate is not positive, or `original` is not one of the three choices.
    """
    check_mux_arguments(video, waveform, sample_rate, out, original)
    plan = plan or plan_copy(video, out)
    start = first_frame_time(video)
    with open_media(video) as source, atomic_write(out) as temporary:
        main = find_video(source, video)
        if start is None:
            raise MediaError(f"{video} has no frame that can be decoded.")
        try:
            with av.open(str(temporary.absolute()), "w", format=plan.container, container_options=options_for(source)) as target:
                copies, encoders = add_streams(source, target, plan)
                target.metadata.update({"comment": comment} if comment else {})
                codec = CONTAINERS[out.suffix.lower()][1]
                audio = _new_audio(target, codec, np.atleast_2d(waveform), sample_rate, video, original)
                if further:
                    target.streams.audio[0].disposition = av.stream.Disposition.default
                    tracks = [
                        _new_audio(target, codec, np.atleast_2d(sound), sample_rate, video, original, title)
                        for title, sound in further.items()
                    ]
                    audio = heapq.merge(audio, *tracks, key=lambda packet: packet.pts * packet.time_base)
                target.start_encoding()
                packets = _timed_packets(demux(source, *copies, *encoders), video, plan)
                shown = interleave(_encoded(packets, encoders), target, copies, start, audio, main)
        except av.FFmpegError as error:
            raise MediaError(f"{out} cannot be written: {error.strerror}.") from error
        plan.finish_file(temporary)
        if plan.container in EDIT_LISTS:
            finish_boxes(temporary, video, shown if plan.hidden_end else None)
    return plan


def _new_audio(
    target: av.container.OutputContainer,
    codec: str,
    waveform: Float[np.ndarray, "channels samples"],
    sample_rate: int,
    video: Path,
    original: str,
    title: str = "",
) -> Iterator[av.Packet]:
    """Add an audio track to the target, and yield its packets; additional tracks have a title."""
    own, layout = None if original == "drop" else OwnSound(video), "mono" if len(waveform) == 1 else "stereo"
    if own is None or not own.tracks:
        return _Encoder(target, codec, sample_rate, layout, title).encode(_slices(waveform), sample_rate)
    encoder = _Encoder(target, codec, max(sample_rate, own.sample_rate), own.layout if layout == "mono" else layout, title)
    resampled = resample(waveform, sample_rate, encoder.sample_rate)
    return encoder.encode(own.mixed_with(resampled, encoder.sample_rate, original == "duck"), encoder.sample_rate)


def check_mux_arguments(video: Path, waveform: Float[np.ndarray, "*channels samples"], sample_rate: int, out: Path, original: str) -> None:
    """Check the arguments of `mux` before anything is read or written; raises the errors of `mux`."""
    if original not in ORIGINALS:
        raise ParameterError(f"original is {original!r}, but must be drop, keep or duck.")
    if not waveform.size or sample_rate <= 0:
        raise ParameterError(f"audio of {waveform.shape[-1]} samples at {sample_rate} Hz was given; both must be positive.")
    _check_output(video, out)


def _check_output(video: Path, out: Path) -> None:
    if out.suffix.lower() not in CONTAINERS:
        raise MediaError(f"{out} cannot be written: {out.suffix or 'no suffix'} is not among {', '.join(CONTAINERS)}; choose one of them.")
    if out.exists() and video.exists() and out.samefile(video):
        raise MediaError(f"{out} is the video itself; choose another name for the result.")


def _timed_packets(packets: Iterator[av.Packet], video: Path, plan: Plan) -> Iterator[av.Packet]:
    """Packets with time stamps, up to the last displayed one."""
    any_timed, behind = False, list[av.Packet]()
    for packet in packets:
        if packet.size and packet.stream.type == "video":
            prepare(packet, plan)
        if plan.encoder and packet.stream.type == "video":
            yield packet  # decoders drop hidden frames
            any_timed = True
        elif not packet.size or (packet.dts is None and packet.pts is None):
            continue
        elif packet.is_discard and packet.stream.type == "video":
            behind.append(packet)
        else:
            any_timed = True
            hidden = [one for one in behind if one.stream is packet.stream]
            behind = [one for one in behind if one.stream is not packet.stream]
            yield from (*hidden, packet)
    if not any_timed:
        raise MediaError(f"{video} is a raw stream without time stamps; put it into a container such as .mp4 first.")


def _encoded(packets: Iterator[av.Packet], encoders: dict[av.stream.Stream, PictureEncoder]) -> Iterator[av.Packet]:
    """Packets to copy, and packets of encoded frames."""
    for packet in packets:
        if packet.stream in encoders:
            yield from encoders[packet.stream].encode(decode(packet))
        else:
            yield packet
    for encoder in encoders.values():
        yield from encoder.encode([None])


def interleave(
    packets: Iterator[av.Packet],
    target: av.container.OutputContainer,
    copies: dict[av.stream.Stream, av.stream.Stream],
    start: Fraction,
    audio: Iterator[av.Packet],
    main: av.VideoStream,
) -> Fraction:
    """Write packets, each preceded by the audio up to its time, so that neither stream must be buffered.

    Args:
        packets: packets of the source in file order, or of the target's encoders.
        target: container whose header is written.
        copies: target stream of each source stream.
        start: presentation time of the first frame, in seconds, which becomes 0.
        audio: packets of the new tracks, from time 0.
        main: stream whose end is measured.

    Returns:
        End of the last displayed packet of the main stream, in seconds.
    """
    audio_time, last, end = Fraction(-1), {}, Fraction(0)
    for packet in packets:
        is_cover = bool(packet.stream.disposition & av.stream.Disposition.attached_pic)
        shift = 0 if is_cover else round(start / packet.time_base)
        packet.pts = None if packet.pts is None else packet.pts - shift
        if packet.dts is not None:  # containers require increasing time stamps; damaged files may violate this
            packet.dts = max(packet.dts - shift, last.get(packet.stream, packet.dts - shift - 1) + 1)
            packet.pts = packet.dts if packet.pts is None else max(packet.pts, packet.dts)
            last[packet.stream] = packet.dts
        now = (packet.pts if packet.dts is None else packet.dts) * packet.time_base
        while not is_cover and audio_time < now and (encoded := next(audio, None)) is not None:
            audio_time = encoded.pts * encoded.time_base
            target.mux(encoded)
        if packet.stream is main and not packet.is_discard:
            end = max(end, ((packet.dts if packet.pts is None else packet.pts) + (packet.duration or 0)) * packet.time_base)
        packet.stream = copies.get(packet.stream, packet.stream)
        target.mux(packet)
    for encoded in audio:
        target.mux(encoded)
    return end


class _Encoder:
    """A new audio track that starts at time 0. FFmpeg stores the codec's initial delay in the file, so that players skip it."""

    def __init__(self, target: av.container.OutputContainer, codec: str, sample_rate: int, layout: str, title: str = "") -> None:
        rates = av.Codec(codec, "w").audio_rates or [sample_rate]
        self.sample_rate = sample_rate if sample_rate in rates else 48_000
        self.layout = layout
        self._stream = target.add_stream(codec, rate=self.sample_rate)
        self._stream.layout = layout
        if title:
            self._stream.metadata.update({"title": title, "handler_name": title})  # MP4 stores the title as handler_name
            self._stream.disposition = av.stream.Disposition(0)
        n_channels = self._stream.layout.nb_channels
        # AAC allows 6144 bits per channel in each packet of 1024 samples
        self._stream.bit_rate = min(BIT_RATE, 6144 * n_channels * self.sample_rate // 1024)

    def encode(self, blocks: Iterator[Float[np.ndarray, "channels block"]], sample_rate: int) -> Iterator[av.Packet]:
        """Encode blocks to packets; `sample_rate` of the blocks may differ from the track's."""
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
