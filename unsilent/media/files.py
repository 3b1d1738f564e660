"""Opening media files with clear errors, choosing streams, demuxing and decoding despite damage."""

import logging
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av

from unsilent.errors import MediaError
from unsilent.files import require_path

log = logging.getLogger(__name__)

# first bytes of container formats, which tell damaged media files from other files: (offset, bytes)
SIGNATURES = ((4, b"ftyp"), (0, b"\x1a\x45\xdf\xa3"), (0, b"RIFF"), (0, b"OggS"), (0, b"FLV"), (0, b"\x47"), (0, b"fLaC"))
NOT_MEDIA = {"tty"}  # a demuxer that renders plain text as video
MAX_CONSECUTIVE_ERRORS = 8  # then a damaged file is given up
MAX_REORDERING = 32  # packets between the stored and the displayed position of a frame


def open_media(path: Path) -> av.container.InputContainer:
    """Open a file for demuxing.

    Args:
        path: a media file; never interpreted as a URL or a pattern.

    Raises:
        MediaError: if it is missing, a folder, empty, unreadable, truncated, or not a media file.
    """
    require_path(path)
    if path.is_dir():
        raise MediaError(f"{path} is a folder; name a file.")
    try:
        with path.open("rb") as file:
            head = file.read(16)
        if not head:
            raise MediaError(f"{path} is empty (0 bytes).")
        # absolute, because FFmpeg would take `take:1.mp4` for a URL; +genpts fills in missing time stamps
        container = av.open(str(path.absolute()), options={"fflags": "+genpts"})
    except OSError as error:
        raise MediaError(f"{path} cannot be opened: {error.strerror}.") from None
    except (av.FFmpegError, UnicodeDecodeError):
        if any(head[offset:].startswith(magic) for offset, magic in SIGNATURES):
            raise _damaged(path) from None
        raise MediaError(f"{path} is not a media file that FFmpeg can read.") from None
    if container.format.name in NOT_MEDIA:
        container.close()
        raise MediaError(f"{path} is not a media file that FFmpeg can read.")
    if all(stream.codec_context is None for stream in container.streams):
        container.close()
        raise _damaged(path)
    return container


def _damaged(path: Path) -> MediaError:
    return MediaError(f"{path} is truncated or damaged: nothing in it can be read.")


def find_video(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    """The main video stream; cover art does not count.

    Raises:
        MediaError: if there is none, or the file is an image.
    """
    if container.format.name.endswith("_pipe"):  # FFmpeg's name of all formats of single images
        raise MediaError(f"{path} is an image; give a video.")
    streams = video_streams(container)
    if not streams:
        raise MediaError(f"{path} has audio but no video." if container.streams.audio else f"{path} has no video.")
    best = container.streams.best("video")
    return best if best in streams else streams[0]


def video_streams(container: av.container.InputContainer) -> list[av.VideoStream]:
    """All video streams except cover art and codecs unknown to this FFmpeg."""
    cover = av.stream.Disposition.attached_pic
    return [stream for stream in container.streams.video if stream.codec_context is not None and not stream.disposition & cover]


def find_audio(container: av.container.InputContainer, path: Path) -> av.AudioStream:
    """The main audio track.

    Raises:
        MediaError: if there is none.
    """
    best = container.streams.best("audio")
    if best is None or best.codec_context is None:
        raise MediaError(f"{path} has no audio.")
    return best


def first_frame_time(path: Path) -> Fraction | None:
    """Presentation time, in seconds, of the first displayed frame, with which audio must be aligned; None without video."""
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
    """Packets in file order, then one empty packet for each stream to flush its decoder; unreadable parts are skipped."""
    errors = 0
    while errors < MAX_CONSECUTIVE_ERRORS:
        try:
            for packet in container.demux(*streams):
                errors = 0 if packet.size else errors
                yield packet
            return
        except av.FFmpegError as error:
            errors += 1
            log.debug("%s: %s", container.name, error)
    for stream in streams:
        flush = av.Packet()
        flush.stream = stream
        yield flush


def decode(packet: av.Packet) -> list[av.VideoFrame | av.AudioFrame]:
    """Frames completed by a packet; none where it is damaged."""
    try:
        return packet.decode()
    except av.FFmpegError as error:
        log.debug("packet at %s: %s", packet.dts, error)
        return []


class Timeline:
    """Start and end of a video stream, measured from its packets, because headers may be wrong (truncated files, variable rates).

    Packets hidden by an edit list do not count, nor frames displayed before the first key frame, which cannot be decoded.

    Attributes:
        n_packets: packets counted.
        start, end: in units of the stream's time base; None without packets.
        longest_gap: from the end of one frame to the start of the next, in the same units.
    """

    def __init__(self, stream: av.VideoStream) -> None:
        self.time_base = stream.time_base
        rate = stream.average_rate or stream.guessed_rate or 25
        self._default_duration = round(1 / (rate * self.time_base))
        self._key: int | None = None
        self.n_packets = 0
        self.start: int | None = None
        self.end: int | None = None
        self.longest_gap = 0

    def add(self, packet: av.Packet) -> None:
        """Count a packet."""
        if not packet.size or (self._key is None and not packet.is_keyframe):
            return
        # packets without time stamps, as in a raw stream, follow each other
        pts = next((time for time in (packet.pts, packet.dts, self.end) if time is not None), 0)
        self._key = pts if self._key is None else self._key
        if packet.is_discard or pts < self._key:
            return
        end = pts + (packet.duration or self._default_duration)
        self.n_packets += 1
        self.longest_gap = max(self.longest_gap, pts - (pts if self.end is None else self.end))
        self.start = pts if self.start is None else min(self.start, pts)
        self.end = end if self.end is None else max(self.end, end)
