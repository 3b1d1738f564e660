"""What reading and writing have in common: opening with clear errors, choosing streams, and files that appear whole or not at all."""

import logging
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av

from unsilent.errors import MediaError

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ogv")
SOUND_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".aif", ".aiff", ".wma")
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")

# First bytes of containers that we would know if they were whole: (offset, bytes)
SIGNATURES = ((4, b"ftyp"), (0, b"\x1a\x45\xdf\xa3"), (0, b"RIFF"), (0, b"OggS"), (0, b"FLV"), (0, b"\x47"), (0, b"fLaC"))
NOT_MEDIA = {"tty"}  # a demuxer that draws plain text as pictures
ERRORS_IN_A_ROW = 8  # after which a damaged file is given up
REORDERED_PACKETS = 32  # pictures are stored at most this far from where they are shown


def open_media(path: Path) -> av.container.InputContainer:
    """Open a file for demuxing.

    Args:
        path: a media file; never taken for an address or a pattern, whatever characters it has.

    Raises:
        MediaError: if it is missing, a folder, empty, unreadable, cut off, or not a media file.
    """
    if not path.exists():
        raise MediaError(f"{path} does not exist.")
    if path.is_dir():
        raise MediaError(f"{path} is a folder; name a file.")
    try:
        with path.open("rb") as file:
            head = file.read(16)
        if not head:
            raise MediaError(f"{path} is empty (0 bytes).")
        # an absolute path cannot be mistaken for an address such as `take:1.mp4`; missing time stamps are filled in
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
    return MediaError(f"{path} is cut off or damaged: nothing in it can be read.")


def find_video(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    """The main video stream; the pictures on the cover of a song do not count.

    Raises:
        MediaError: if there is none.
    """
    streams = moving_pictures(container)
    if not streams:
        raise MediaError(f"{path} has sound but no video." if container.streams.audio else f"{path} has no video.")
    best = container.streams.best("video")
    return best if best in streams else streams[0]


def moving_pictures(container: av.container.InputContainer) -> list[av.VideoStream]:
    """All video streams but cover art, and but those of a codec that this FFmpeg does not know."""
    cover = av.stream.Disposition.attached_pic
    return [stream for stream in container.streams.video if stream.codec_context is not None and not stream.disposition & cover]


def find_sound(container: av.container.InputContainer, path: Path) -> av.AudioStream:
    """The main sound track.

    Raises:
        MediaError: if there is none.
    """
    best = container.streams.best("audio")
    if best is None or best.codec_context is None:
        raise MediaError(f"{path} has no sound.")
    return best


def first_picture_time(path: Path) -> Fraction | None:
    """Time stamp in seconds of the first picture that a player shows, which other tracks must be aligned with; None without video."""
    with open_media(path) as container:
        streams = moving_pictures(container)
        if not streams:
            return None
        stream = find_video(container, path)
        timeline = Timeline(stream)
        for packet in demux(container, stream):
            timeline.add(packet)
            if timeline.n_packets > REORDERED_PACKETS:
                break
        return None if timeline.start is None else timeline.start * stream.time_base


def demux(container: av.container.InputContainer, *streams: av.stream.Stream) -> Iterator[av.Packet]:
    """Packets in file order, then one empty packet for each stream to flush its decoder; unreadable places are passed over."""
    errors = 0
    while errors < ERRORS_IN_A_ROW:
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
    """Frames that a packet completes; none where it is damaged."""
    try:
        return packet.decode()
    except av.FFmpegError as error:
        log.debug("packet at %s: %s", packet.dts, error)
        return []


class Timeline:
    """Follows the packets of one stream, to tell when its pictures really begin and end.

    Headers lie (cut files, wrong durations, variable rates); packets do not. Packets that an edit list hides do not count, and neither do
    pictures shown before the first key frame, which a decoder cannot draw.
    """

    def __init__(self, stream: av.VideoStream) -> None:
        self.time_base = stream.time_base
        rate = stream.average_rate or stream.guessed_rate or 25
        self._usual = round(1 / (rate * self.time_base))
        self._key: int | None = None
        self.n_packets = 0
        self.start: int | None = None  # in units of the stream's time base, like the end
        self.end: int | None = None
        self.longest_gap = 0  # from the end of what came before to a picture, in the same units

    def add(self, packet: av.Packet) -> None:
        """Take note of a packet."""
        if not packet.size or (self._key is None and not packet.is_keyframe):
            return
        # packets without any time stamp, as in a bare stream, follow each other
        pts = next((time for time in (packet.pts, packet.dts, self.end) if time is not None), 0)
        self._key = pts if self._key is None else self._key
        if packet.is_discard or pts < self._key:
            return
        end = pts + (packet.duration or self._usual)
        self.n_packets += 1
        self.longest_gap = max(self.longest_gap, pts - (pts if self.end is None else self.end))
        self.start = pts if self.start is None else min(self.start, pts)
        self.end = end if self.end is None else max(self.end, end)
