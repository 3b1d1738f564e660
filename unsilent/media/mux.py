"""Muxing: video packets are copied, the new audio is encoded and interleaved with them."""

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
    """Plan what `mux` does, and refuse what it cannot do, before a sound is made.

    Returns:
        The plan, whose notes say what is lost.

    Raises:
        MediaError: if the video cannot be read, or its pictures cannot get into `out`.
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
    """Write a video with new audio. Video packets and their times since the first frame are unchanged, or the pictures are encoded.

    Args:
        video: file whose streams other than audio are copied, with chapters and metadata, where `out` supports them.
        waveform: mono in [-1, 1], or two channels; its first sample is aligned with the first frame.
        sample_rate: Hz.
        out: file to write atomically; .mp4, .m4v, .mov and .mkv get AAC audio, .webm gets Opus.
        original: the video's own audio. `drop`: removed. `keep`: mixed in unchanged, stereo stays stereo, more channels become stereo.
            `duck`: 12 dB lower where the new audio is heard. The mix has the waveform's length, and is scaled down where it would exceed
            full scale. All three are the same for a video without audio that can be decoded.
        comment: text for the file's metadata.
        plan: of `plan_mux`; None makes one.
        further: sounds as `waveform` that become tracks of their own, by title; players play the first track unless another is chosen.

    Returns:
        What was done with the streams.

    Raises:
        MediaError: if the video cannot be read, `out` is the video itself, does not support its codec, or cannot be written.
        ParameterError: if the waveform is empty, the sample rate is not positive, or `original` is not one of the three words.
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
    """Packets of a new track, which is added to the target; one with a title is a further one."""
    own, layout = None if original == "drop" else OwnSound(video), "mono" if len(waveform) == 1 else "stereo"
    if own is None or not own.tracks:
        return _Encoder(target, codec, sample_rate, layout, title).encode(_slices(waveform), sample_rate)
    encoder = _Encoder(target, codec, max(sample_rate, own.sample_rate), own.layout if layout == "mono" else layout, title)
    resampled = resample(waveform, sample_rate, encoder.sample_rate)
    return encoder.encode(own.mixed_with(resampled, encoder.sample_rate, original == "duck"), encoder.sample_rate)


def check_mux_arguments(video: Path, waveform: Float[np.ndarray, "*channels samples"], sample_rate: int, out: Path, original: str) -> None:
    """Check the arguments of `mux` before anything is read or written; raises its errors."""
    if original not in ORIGINALS:
        raise ParameterError(f"original must be drop, keep or duck, found {original!r}.")
    if not waveform.size or sample_rate <= 0:
        raise ParameterError(f"audio of {waveform.shape[-1]} samples at {sample_rate} Hz was given; both must be positive.")
    _check_output(video, out)


def _check_output(video: Path, out: Path) -> None:
    if out.suffix.lower() not in CONTAINERS:
        raise MediaError(f"{out} cannot be written: {out.suffix or 'no suffix'} is not among {', '.join(CONTAINERS)}; choose one of them.")
    if out.exists() and video.exists() and out.samefile(video):
        raise MediaError(f"{out} is the video itself; choose another name for the result.")


def _timed_packets(packets: Iterator[av.Packet], video: Path, plan: Plan) -> Iterator[av.Packet]:
    """Packets with time stamps, up to the last one that is displayed."""
    any_timed, behind = False, list[av.Packet]()
    for packet in packets:
        if packet.size and packet.stream.type == "video":
            prepare(packet, plan)
        if plan.encoder and packet.stream.type == "video":
            yield packet  # decoders drop what is hidden
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
    """Packets to copy, and those of pictures that are encoded anew."""
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
    """Copy packets, each preceded by the audio up to its time, so that neither is buffered until the other is complete.

    Args:
        packets: of the source, in file order, or of the target's encoders.
        target: container with its header written.
        copies: target stream of each source stream.
        start: presentation time of the first frame, in seconds, which becomes 0.
        audio: packets of the new track, from time 0.
        main: stream whose end is measured.

    Returns:
        End of the last packet of the main stream that is displayed, in seconds.
    """
    audio_time, last, end = Fraction(-1), {}, Fraction(0)
    for packet in packets:
        is_cover = bool(packet.stream.disposition & av.stream.Disposition.attached_pic)
        shift = 0 if is_cover else round(start / packet.time_base)
        packet.pts = None if packet.pts is None else packet.pts - shift
        if packet.dts is not None:  # containers require increasing time stamps, which damaged files may not have
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
    """The new audio track, from time 0. FFmpeg records the codec's initial delay in the file, so that players skip it."""

    def __init__(self, target: av.container.OutputContainer, codec: str, sample_rate: int, layout: str, title: str = "") -> None:
        rates = av.Codec(codec, "w").audio_rates or [sample_rate]
        self.sample_rate = sample_rate if sample_rate in rates else 48_000
        self.layout = layout
        self._stream = target.add_stream(codec, rate=self.sample_rate)
        self._stream.layout = layout
        if title:
            self._stream.metadata.update({"title": title, "handler_name": title})  # the latter is the name of a track in MP4
            self._stream.disposition = av.stream.Disposition(0)
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
