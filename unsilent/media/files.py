"""Opens media files with clear errors, chooses streams, and demuxes and decodes despite damage."""

import io
import logging
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from functools import cache, lru_cache
from itertools import accumulate
from pathlib import Path

import av

from unsilent.errors import MediaError
from unsilent.files import require_file, require_path
from unsilent.media.clock import Clock
from unsilent.media.webp import as_animated_png, is_animated_webp

log = logging.getLogger(__name__)

# (offset, magic bytes) of container formats, which distinguish damaged media files from other files
SIGNATURES = ((4, b"ftyp"), (0, b"\x1a\x45\xdf\xa3"), (0, b"RIFF"), (0, b"OggS"), (0, b"FLV"), (0, b"\x47"), (0, b"fLaC"))
# Demuxers of playlists and scripts, which refer to other files or URLs, and of plain text rendered as video.
NOT_MEDIA = {"concat", "hls", "dash", "imf", "sdp", "rtsp", "rtp", "sap", "lavfi", "tty", "ffmetadata"}
MAX_GAP_SECONDS = 3600  # longer gaps between frames or samples come from damaged time stamps
MAX_CONSECUTIVE_ERRORS = 8  # errors after which reading of a damaged file ends
MAX_PIXELS = 8192 * 8192  # pixels of a frame; limits memory
MAX_REORDERING = 32  # largest distance, in packets, between the stored and the displayed position of a frame


def open_media(path: Path, part: io.BytesIO | None = None) -> av.container.InputContainer:
    """Open a file for demuxing.

    Args:
        path: a media file; never interpreted as a URL or a pattern.
        part: content of one part of the file, which is read instead of the whole; None reads the whole file.

    Raises:
        MediaError: if the file is missing, a folder, a pipe, empty, unreadable, truncated, or not a media file. Playlists are refused.
    """
    require_path(path)
    require_file(path, MediaError)
    try:
        with path.open("rb") as file:
            head = file.read(16)
        if not head:
            raise MediaError(f"{path} is empty (0 bytes).")
        # absolute, because FFmpeg would read `take:1.mp4` as a URL; +genpts fills in missing time stamps
        options = {"fflags": "+genpts", "format_whitelist": _formats()}
        source = part or (as_animated_png(path) if is_animated_webp(path) else str(path.absolute()))
        container = av.open(source, options=options, metadata_errors="replace")
    except OSError as error:
        raise MediaError(f"{path} cannot be opened: {error.strerror}.") from None
    except (av.FFmpegError, UnicodeDecodeError):
        if any(head[offset:].startswith(magic) for offset, magic in SIGNATURES):
            raise _damaged(path) from None
        raise MediaError(f"{path} is not a media file that FFmpeg can read.") from None
    if all(stream.codec_context is None for stream in container.streams):
        container.close()
        raise _damaged(path)
    return container


@cache
def _formats() -> str:
    """All formats except `NOT_MEDIA`. FFmpeg refuses other formats before it opens the files that they refer to."""
    return ",".join(sorted(av.formats_available - NOT_MEDIA))


def _damaged(path: Path) -> MediaError:
    return MediaError(f"{path} is truncated or damaged: nothing in it can be read.")


def find_video(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    """The main video stream; cover art is ignored.

    Raises:
        MediaError: if there is none, the file is an image, or its frames have more than `MAX_PIXELS`. Later frames that do count as
            damaged.
    """
    if container.format.name.endswith("_pipe"):  # the suffix of FFmpeg's names of image formats
        raise MediaError(f"{path} is an image; give a video.")
    streams = video_streams(container)
    if not streams:
        raise MediaError(f"{path} has audio but no video." if container.streams.audio else f"{path} has no video.")
    best = container.streams.best("video")
    found = best if best in streams else streams[0]
    context = found.codec_context
    if context.width * context.height > MAX_PIXELS:
        most = f"up to {MAX_PIXELS / 1e6:.0f} megapixels are possible"
        raise MediaError(f"{path} has frames of {context.width} x {context.height} pixels, but {most}; scale it down.")
    if not context.is_open:
        context.options = {"max_pixels": str(MAX_PIXELS)}
    return found


def video_streams(container: av.container.InputContainer) -> list[av.VideoStream]:
    """All video streams except cover art and streams whose codec FFmpeg does not know."""
    cover = av.stream.Disposition.attached_pic
    return [stream for stream in container.streams.video if stream.codec_context is not None and not stream.disposition & cover]


def find_audio(container: av.container.InputContainer, path: Path) -> av.AudioStream:
    """The main audio track among those whose codec FFmpeg knows.

    Raises:
        MediaError: if there is none.
    """
    known = audio_streams(container)
    if not known:
        unknown = f" that can be decoded: the codec of its {len(container.streams.audio)} audio tracks is unknown"
        raise MediaError(f"{path} has no audio{unknown if container.streams.audio else ''}.")
    best = container.streams.best("audio")
    return best if best in known else known[0]


def audio_streams(container: av.container.InputContainer) -> list[av.AudioStream]:
    """All audio tracks whose codec FFmpeg knows."""
    return [stream for stream in container.streams.audio if stream.codec_context is not None]


def first_frame_time(path: Path) -> Fraction | None:
    """Presentation time in seconds of the first displayed frame, to which audio is aligned; None without video."""
    with open_media(path) as container:
        streams = video_streams(container)
        if not streams:
            return None
        stream = find_video(container, path)
        timeline = Timeline(stream)
        for packet in demux(container, stream):
            timeline.add(packet)
            if timeline.n_packets > MAX_REORDERING:
                break
        return None if timeline.start is None else timeline.start * stream.time_base


def demux(container: av.container.InputContainer, *streams: av.stream.Stream) -> Iterator[av.Packet]:
    """Packets in file order with continuous time stamps, then an empty packet for each stream to flush its decoder. Damage is skipped."""
    errors, clock, times = 0, Clock(container), _times(container)
    while errors < MAX_CONSECUTIVE_ERRORS:
        try:
            for packet in container.demux():  # all streams, because the clock needs them
                errors = 0 if packet.size else errors
                if packet.size:
                    packet.pts, packet.dts = next(times, (packet.pts, packet.dts))
                    clock.correct(packet)
                if packet.stream in streams:  # by identity, because a damaged file may reuse the index for another stream
                    yield packet
            return
        except av.FFmpegError as error:
            errors += 1
            log.debug("%s: %s", container.name, error)
    for stream in streams:
        flush = av.Packet()
        flush.stream = stream
        yield flush


def is_untimed(container: av.container.InputContainer) -> bool:
    """Whether a file is a raw video stream, whose format stores no time stamps. FFmpeg estimates some, which may be wrong."""
    is_raw = bool(container.format.flags & av.format.Flags.no_timestamps.value) and bool(video_streams(container))
    return is_raw and container.file is None  # pipes of live video are read only once


def _times(container: av.container.InputContainer) -> Iterator[tuple[int, int]]:
    """Presentation and decoding times of all packets of a raw stream; nothing for other files."""
    if not is_untimed(container):
        return iter(())
    path = Path(container.name)
    state = path.stat()
    return iter(_displayed_times(path, state.st_mtime_ns, state.st_size))


@lru_cache(maxsize=1)  # because a video is opened several times
def _displayed_times(path: Path, modified: int, size: int) -> list[tuple[int, int]]:
    """Times by the order in which the decoder returns the frames, without gaps, from 0. A packet without a frame follows the one before."""
    durations, shown = list[int](), dict[int, int]()
    with open_media(path) as container:
        stream = find_video(container, path)
        stream.thread_type = "AUTO"
        default = round(1 / ((stream.guessed_rate or 25) * stream.time_base))
        with suppress(av.FFmpegError):
            for packet in container.demux(stream):
                if packet.size:
                    packet.pts = len(durations)
                    durations.append(packet.duration or default)
                for frame in decode(packet):
                    shown.setdefault(frame.pts, len(shown))
    places = accumulate(range(len(durations)), lambda place, number: shown.get(number, place), initial=-1)
    order = sorted(range(len(durations)), key=list(places)[1:].__getitem__)
    starts = list(accumulate((durations[number] for number in order), initial=0))
    rank = {number: place for place, number in enumerate(order)}
    delay = max((number - rank[number] for number in rank), default=0)  # frames that the decoder must wait for
    first = durations[0] if durations else 0
    return [(starts[rank[n]], starts[n - delay] if n >= delay else (n - delay) * first) for n in range(len(durations))]


def decode(packet: av.Packet) -> list[av.VideoFrame | av.AudioFrame]:
    """Frames completed by a packet; none if it is damaged."""
    try:
        return packet.decode()
    except av.FFmpegError as error:
        log.debug("packet at %s: %s", packet.dts, error)
        return []


class Timeline:
    """Start and end of a video stream, measured from its packets because headers may be wrong (truncated files, variable rates).

    Packets hidden by an edit list are ignored, and so are frames displayed before the first key frame, which cannot be decoded.

    Attributes:
        n_packets: number of counted packets.
        start, end: in units of the stream's time base; None without packets. The end is that of the last frame, because frames of damaged
            files may overlap those after them.
        longest_gap: longest time from the end of one frame to the start of the next, in the same units.
        longest: longest duration of a frame, in the same units.
    """

    def __init__(self, stream: av.VideoStream) -> None:
        self.time_base = stream.time_base
        rate = stream.average_rate or stream.guessed_rate or 25
        self._default_duration = round(1 / (rate * self.time_base))
        self._key: int | None = None
        self._last: int | None = None
        self.n_packets = 0
        self.start: int | None = None
        self.end: int | None = None
        self.longest_gap = self.longest = 0

    def add(self, packet: av.Packet) -> None:
        """Count a packet."""
        if not packet.size or (self._key is None and not packet.is_keyframe):
            return
        # a packet without a time stamp, as in a raw stream, starts at the end of the one before
        pts = next((time for time in (packet.pts, packet.dts, self.end) if time is not None), 0)
        self._key = pts if self._key is None else self._key
        if packet.is_discard or pts < self._key:
            return
        end = pts + (packet.duration or self._default_duration)
        self.longest = max(self.longest, end - pts)
        self.n_packets += 1
        self.longest_gap = max(self.longest_gap, pts - (pts if self.end is None else self.end))
        self.start = pts if self.start is None else min(self.start, pts)
        if self._last is None or pts >= self._last:
            self._last, self.end = pts, end
