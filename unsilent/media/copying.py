"""Plans, tried in memory, of how a video's streams are written to another file: copied if the container supports them, else encoded."""

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av

from unsilent.errors import MediaError
from unsilent.media.boxes import sample_formats
from unsilent.media.encoding import ENCODERS, PictureEncoder
from unsilent.media.files import MAX_REORDERING, decode, demux, find_video, is_untimed, open_media, video_streams
from unsilent.media.matroska import SPARE, finish_file, finish_tracks
from unsilent.media.probe import orientation
from unsilent.media.vfw import VfW, vfw_of

CONTAINERS = {
    ".mp4": ("mp4", "aac"),
    ".m4v": ("mp4", "aac"),
    ".mov": ("mov", "aac"),
    ".mkv": ("matroska", "aac"),
    ".webm": ("webm", "libopus"),
}
EDIT_LISTS = {"mp4", "mov"}  # containers with edit lists
_INVERTED = ("gray", "mono", "pal8")  # pixel formats that QuickTime stores raw with 0 for white, and others for black
_TAGGED = {"prores", "rawvideo"}  # codecs whose variant is stored in the tag only
# Metadata that describes the old file and is not copied.
_FILE_METADATA = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration"}
_STREAM_STATISTICS = ("duration", "bps", "number_of", "_statistics", "rotate", "alpha_mode")
_APPLE = "com.apple.quicktime."
_FROM_METADATA = {"tmcd", "text"}  # time code and chapter titles, which the muxer writes from metadata
_OTHERS = {"subtitle": "subtitles", "data": "data", "attachment": "attachment"}
_TRIED_PACKETS = 1000  # largest number of packets until a frame must be decodable


@dataclass(frozen=True)
class Plan:
    """How each stream of a video is written to another file.

    Attributes:
        container: format of the output.
        pictures: `copied`, or the encoding of the frames, for users.
        encoder: a key of `encoding.ENCODERS`; None copies packets.
        hidden_end: whether frames after the end, hidden by an edit list, must be copied because other frames refer to them.
        with_tags: whether codec tags are copied.
        vfw: headers of a codec that Matroska stores by its FourCC; None for others.
        swaps: whether the display matrix exchanges width and height of encoded frames.
        size: width and height of the first stored frame, if frames are encoded; headers of damaged files may state millions of pixels.
        shape: width of a pixel divided by its height, which Matroska must store; None for square pixels.
        left_out: indices of streams that the container does not support.
        notes: sentences about losses.
    """

    container: str
    pictures: str = "copied"
    encoder: str | None = None
    hidden_end: bool = False
    with_tags: bool = True
    vfw: VfW | None = None
    swaps: bool = False
    size: tuple[int, int] | None = None
    shape: Fraction | None = None
    left_out: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()

    def with_notes(self, notes: list[str]) -> "Plan":
        """The plan with more notes."""
        return replace(self, notes=(*self.notes, *notes))

    def finish_tracks(self, head: bytes) -> bytes:
        """Complete the beginning of a written file with elements that PyAV cannot write; only Matroska changes."""
        return finish_tracks(head, self.shape, self.vfw is not None, self.container == "webm") if self.patches else head

    def finish_file(self, path: Path) -> None:
        """Complete a file in place, like `finish_tracks`."""
        if self.patches:
            finish_file(path, self.shape, self.vfw is not None, self.container == "webm")

    @property
    def patches(self) -> bool:
        """Whether the tracks of the written file must be finished."""
        return self.shape is not None or self.vfw is not None


def plan_copy(video: Path, out: Path) -> Plan:
    """Plan how the streams of a video are written to `out`, and try the plan in memory with the first packets.

    Raises:
        MediaError: if the video cannot be read, or the container of `out` cannot hold its frames.
    """
    plan = Plan(CONTAINERS[out.suffix.lower()][0])
    with open_media(video) as source:
        stream = find_video(source, video)
        if is_untimed(source):
            rate = f"{float(stream.guessed_rate or 25):.5g} frames a second"
            plan = plan.with_notes([f"{video}: the raw stream has no time stamps, so {rate} were assumed."])
        shape = stream.sample_aspect_ratio or Fraction(1)
        plan = replace(plan, shape=shape if shape != 1 and plan.container not in EDIT_LISTS else None)
        codec, why, is_mov = stream.codec_context.codec.canonical_name, "", source.format.name.split(",")[0] == "mov"
        if codec == "rawvideo" and is_mov != (plan.container in EDIT_LISTS) and _pixel_format(stream).startswith(_INVERTED):
            why = "QuickTime inverts raw grey"
        elif not _is_timed(stream):
            why = "the first ones have no time stamps"
        elif is_mov:
            hidden = _hidden(stream)
            if hidden is not None:
                plan = replace(plan, hidden_end=hidden.behind_end)
                if hidden.between or (plan.container not in EDIT_LISTS and (hidden.before_start or hidden.behind_end)):
                    why = "an edit list hides some of them" + ("" if hidden.between else f", which {out.suffix} cannot")
    if not why:
        for attempt in _ways_to_copy(plan, video):
            found = _without_what_fails(attempt, video, out)
            if found is not None:
                return found
        why = f"{out.suffix} cannot hold {codec}"
    swaps, size = _first_frame(video)
    plan = replace(plan, hidden_end=False, swaps=swaps, size=size, shape=1 / plan.shape if plan.shape and swaps else plan.shape)
    for encoder in ENCODERS[plan.container]:
        found = _without_what_fails(replace(plan, encoder=encoder), video, out)
        if found is not None:
            how = f"encoded as {encoder}"
            return replace(found, pictures=how, notes=(f"{video}: the frames are {how}, because {why}.", *found.notes))
    raise MediaError(f"{out} cannot hold the video stream of {video} ({codec}); write .mkv, which can hold any.")


@dataclass(frozen=True)
class _Hidden:
    before_start: bool
    between: bool
    behind_end: bool


def _first_frame(video: Path) -> tuple[bool, tuple[int, int] | None]:
    """Whether the display matrix of the first frame exchanges width and height, and its stored size; None if no frame can be decoded."""
    with open_media(video) as source:
        stream = find_video(source, video)
        first = next((frame for packet in demux(source, stream) for frame in decode(packet)), None)
        return (False, None) if first is None else (orientation(first).swaps, (first.width, first.height))


def _pixel_format(stream: av.VideoStream) -> str:
    """Name of the pixel format; empty if FFmpeg does not know it."""
    return stream.format.name if stream.format else ""


def _is_timed(stream: av.VideoStream) -> bool:
    """Whether the first packet has a time stamp. Damaged files may have packets without any, which cannot be copied."""
    with open_media(Path(stream.container.name)) as again:
        first = next((packet for packet in demux(again, again.streams[stream.index]) if packet.size), None)
        return first is None or first.pts is not None or first.dts is not None


def _hidden(stream: av.VideoStream) -> _Hidden | None:
    """Positions of the packets that an edit list hides; None if none are hidden before the last displayed packet."""
    entries = stream.index_entries
    flags = [entries[i].is_discard for i in range(len(entries))]
    if not any(flags):
        return None
    packets = [(packet.pts, packet.is_discard) for packet in demux(stream.container, stream) if packet.size and packet.pts is not None]
    shown = [pts for pts, is_hidden in packets if not is_hidden]
    if not shown:
        return None
    last = max(number for number, (_, is_hidden) in enumerate(packets) if not is_hidden)
    hidden = [pts for pts, is_hidden in packets[:last] if is_hidden]
    first, end = min(shown), max(shown)
    return _Hidden(any(pts < first for pts in hidden), any(first <= pts <= end for pts in hidden), any(pts > end for pts in hidden))


def _ways_to_copy(plan: Plan, video: Path) -> Iterator[Plan]:
    yield plan
    yield replace(plan, with_tags=False)
    if plan.container == "matroska":
        with open_media(video) as source:
            vfw = vfw_of(find_video(source, video)) if len(video_streams(source)) == 1 else None
        if vfw is not None:
            yield replace(plan, vfw=vfw)


def _without_what_fails(plan: Plan, video: Path, out: Path) -> Plan | None:
    """The plan, without those further streams that cannot be written; None if the video stream itself cannot."""
    with open_media(video) as source:
        formats = sample_formats(video) if source.format.name.startswith("mov,") else {}
        others = {stream.index: stream for stream in source.streams if _is_other(stream)}
        written = {index for index, stream in others.items() if stream.type == "data" and formats.get(stream.id) in _FROM_METADATA}
        plan, others = replace(plan, left_out=frozenset(written)), {index: others[index] for index in others.keys() - written}
        names = {index: _describe(stream, formats.get(stream.id, "")) for index, stream in others.items()}
        kinds = {index: stream.type for index, stream in others.items()}
    if _works(plan, video):
        return plan
    if not others or not _works(replace(plan, left_out=plan.left_out | frozenset(others)), video):
        return None
    left_out = set[int]()
    for index in others:  # one by one
        if not _works(replace(plan, left_out=(plan.left_out | frozenset(others)) - {index}), video):
            left_out.add(index)
    if not _works(replace(plan, left_out=plan.left_out | left_out), video):
        left_out = set(others)
    notes = tuple(
        _loss(video, out, [names[index] for index in sorted(left_out) if kinds[index] == kind]) for kind in _kinds(left_out, kinds)
    )
    return replace(plan, left_out=plan.left_out | left_out, notes=notes)


def _kinds(left_out: set[int], kinds: dict[int, str]) -> list[str]:
    return list(dict.fromkeys(kinds[index] for index in sorted(left_out)))


def _loss(video: Path, out: Path, names: list[str]) -> str:
    hint = "" if out.suffix.lower() == ".mkv" else "; .mkv holds more"
    return f"{video}: left out {', '.join(names)}, which {out.suffix} cannot hold{hint}."


def _is_other(stream: av.stream.Stream) -> bool:
    """Whether a stream is neither audio nor video."""
    return stream.type != "audio" and not _is_video(stream)


def _is_video(stream: av.stream.Stream) -> bool:
    return stream in video_streams(stream.container)


def _describe(stream: av.stream.Stream, sample_format: str) -> str:
    if stream.type == "video":
        return "the cover picture" if stream.codec_context else "a video track of an unknown codec"
    codec = stream.codec_context.name if stream.codec_context else stream.metadata.get("filename", sample_format)
    kind = _OTHERS.get(stream.type, "a track")
    return f"{kind} ({codec})" if codec else kind


def _works(plan: Plan, video: Path) -> bool:
    """Whether the first packets can be written to memory, and read again with the same codec and a decodable frame."""
    buffer = io.BytesIO()
    try:
        with open_media(video) as source, av.open(buffer, "w", format=plan.container, container_options=options_for(source)) as target:
            copies, encoders = add_streams(source, target, plan)
            target.start_encoding()
            has_picture, n_written = False, 0
            main = find_video(source, video)
            for packet in islice((one for one in demux(source, *copies, *encoders) if one.size), _TRIED_PACKETS):
                if packet.stream in encoders:
                    frames = decode(packet)
                    has_picture, n_written = has_picture or bool(frames), n_written + len(frames)
                    target.mux(list(encoders[packet.stream].encode(frames)))
                elif packet.pts is not None or packet.dts is not None:
                    has_picture = has_picture or (packet.stream is main and bool(decode(packet)))
                    n_written += packet.stream is main
                    prepare(packet, plan)
                    packet.stream = copies[packet.stream]
                    target.mux(packet)
                if has_picture and n_written >= MAX_REORDERING:
                    break
            for encoder in encoders.values():
                target.mux(list(encoder.encode([None])))
            codec = main.codec_context.name if plan.encoder is None else None
        if not has_picture:
            return n_written > 0 or plan.encoder is not None
        content = buffer.getvalue()
        with av.open(io.BytesIO(plan.finish_tracks(content))) as written:
            stream = written.streams.video[0]
            if stream.codec_context is None or (codec is not None and stream.codec_context.name != codec):
                return False
            return any(True for packet in written.demux(stream) for _ in decode(packet))
    except (av.FFmpegError, ValueError, IndexError, NotImplementedError):
        return False


def options_for(source: av.container.InputContainer) -> dict[str, str]:
    """Options of the muxer: boxes for Dolby Vision and 360° that are not in the standard, and Apple's metadata if the source has it."""
    keeps_keys = any(key.startswith(_APPLE) for key in source.metadata)
    return {"strict": "unofficial", **({"movflags": "use_metadata_tags"} if keeps_keys else {})}


def add_streams(
    source: av.container.InputContainer, target: av.container.OutputContainer, plan: Plan
) -> tuple[dict[av.stream.Stream, av.stream.Stream], dict[av.stream.Stream, PictureEncoder]]:
    """Add the streams of a plan to a target.

    Returns:
        Target stream of each copied source stream, and encoder of each encoded one.

    Raises:
        ValueError, FFmpegError: if the container does not support a codec.
    """
    target.metadata.update({key: value for key, value in source.metadata.items() if key.lower() not in _FILE_METADATA})
    if chapters := source.chapters():
        target.set_chapters(chapters)
    copies, encoders = {}, {}
    main = find_video(source, Path(source.name)) if plan.patches else None
    for stream in source.streams:
        if stream.index in plan.left_out or stream.type == "audio":
            continue
        if _is_video(stream):
            if plan.encoder:
                size = plan.size if stream is find_video(source, Path(source.name)) else None
                encoders[stream] = PictureEncoder(target, stream, ENCODERS[plan.container][plan.encoder], plan.encoder, plan.swaps, size)
                _describe_copy(stream, encoders[stream].stream, stream is main)
                continue
            copy = plan.vfw.add(target, stream) if plan.vfw else _copy_pictures(stream, target, plan)
        elif not _is_other(stream):
            continue
        elif stream.type == "video" and stream.codec_context is None:
            raise ValueError("a track of an unknown codec cannot be copied")
        elif stream.type == "video" and plan.container == "matroska":
            _attach_cover(stream, target)
            continue
        elif stream.type == "attachment":
            copy = target.add_attachment(stream.name or stream.metadata.get("filename", "attachment"), stream.mimetype or "", stream.data)
            copy.metadata.update(stream.metadata)
            continue
        else:
            copy = target.add_stream_from_template(stream, opaque=True)
        _describe_copy(stream, copy, stream is main)
        copies[stream] = copy
    return copies, encoders


def _attach_cover(stream: av.VideoStream, target: av.container.OutputContainer) -> None:
    """Add a cover as an attachment, as Matroska stores it."""
    with open_media(Path(stream.container.name)) as again:
        content = next((bytes(packet) for packet in demux(again, again.streams[stream.index]) if packet.size), b"")
    kind = "png" if stream.codec_context.name == "png" else "jpeg"
    target.add_attachment("cover.png" if kind == "png" else "cover.jpg", f"image/{kind}", content)


def _describe_copy(stream: av.stream.Stream, copy: av.stream.Stream, with_spare: bool) -> None:
    statistics = _STREAM_STATISTICS
    copy.metadata.update({key: value for key, value in stream.metadata.items() if not key.lower().startswith(statistics)})
    if with_spare:
        copy.metadata["title"] = copy.metadata.get("title", "") + SPARE
    copy.disposition = stream.disposition


def _copy_pictures(stream: av.VideoStream, target: av.container.OutputContainer, plan: Plan) -> av.VideoStream:
    copy = target.add_stream_from_template(stream, opaque=True)
    context, own = copy.codec_context, stream.codec_context
    context.framerate = stream.average_rate or 0
    if stream.sample_aspect_ratio:
        context.sample_aspect_ratio = stream.sample_aspect_ratio
    is_relative = stream.container.format.name.split(",")[0] == "mov" and plan.container in EDIT_LISTS
    if plan.with_tags and (is_relative or own.name in _TAGGED):
        context.codec_tag = own.codec_tag
    if stream.metadata.get("alpha_mode") == "1":
        context.pix_fmt = "yuva420p"  # sets the container's flag for alpha, which decoders need
    if own.name == "hevc" and plan.container in EDIT_LISTS:
        context.codec_tag = "hvc1"  # Apple's players refuse the default hev1
    return copy


def prepare(packet: av.Packet, plan: Plan) -> None:
    """Adapt the time stamps of a packet to the storage of its stream."""
    if packet.stream.disposition & av.stream.Disposition.attached_pic:
        packet.pts = packet.dts = 0
    elif plan.vfw and packet.stream.type == "video" and packet.dts is not None:
        packet.pts = packet.dts  # these tracks store decoding times only
