"""Length, size and rotation of a video, measured from its packets and frames instead of read from its headers."""

import math
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideDataType
from jaxtyping import UInt8

from unsilent.config import MAX_HOURS, MAX_SECONDS
from unsilent.errors import MediaError
from unsilent.media.files import MAX_GAP_SECONDS, Timeline, decode, demux, find_video, open_media, video_streams

MAX_SLIDE_SECONDS = 10  # largest plausible mean time between frames of a video longer than an hour


def _unknown_side_data(cls: type[SideDataType], value: int) -> SideDataType:
    """A member for side data that PyAV does not list, such as Exif; it would refuse all side data of the frame otherwise."""
    member = object.__new__(cls)
    member._name_, member._value_ = f"UNKNOWN_{value}", value
    return member


SideDataType._missing_ = classmethod(_unknown_side_data)


@dataclass(frozen=True)
class VideoInfo:
    """Properties of a video file.

    Attributes:
        path: the file.
        seconds: length from the start of the first frame to the end of the last, above 0.
        fps: average frames per second.
        n_video_frames: number of stored frames.
        width, height: pixels as displayed, after rotation; the sample aspect ratio is ignored.
        rotation: clockwise, from stored to displayed frames: 0, 90, 180 or 270 degrees.
        has_audio: whether there is an audio track.
    """

    path: Path
    seconds: float
    fps: float
    n_video_frames: int
    width: int
    height: int
    rotation: int
    has_audio: bool


def probe(path: Path) -> VideoInfo:
    """Read all packets of a video and decode one frame.

    Args:
        path: file in any format that FFmpeg reads; of a truncated file, the readable part counts.

    Raises:
        MediaError: if the file is missing, a folder, empty, unreadable or not a media file; if no frame can be decoded; if the video is
            longer than 12 hours, or time stamps are implausible.
    """
    with open_media(path) as container:
        stream = find_video(container, path)
        timeline, first = Timeline(stream), None
        for packet in demux(container, stream):
            timeline.add(packet)
            if first is None:
                first = next(iter(decode(packet)), None)
        if first is None or timeline.start is None:
            raise MediaError(f"{path} has no frame that can be decoded.")
        _refuse_implausible(timeline, path)
        seconds = max(timeline.end - timeline.start, 1) * timeline.time_base
        turned = orientation(first)
        width, height = (first.height, first.width) if turned.swaps else (first.width, first.height)
        n_video_frames = timeline.n_packets
        fps = float(n_video_frames / seconds)
        return VideoInfo(path, float(seconds), fps, n_video_frames, width, height, turned.degrees, bool(container.streams.audio))


def _refuse_implausible(timeline: Timeline, path: Path) -> None:
    """Refuse implausible time stamps, because they determine the length of the generated sound.

    Raises:
        MediaError: if a gap between frames, the length, or the mean time between frames is too large.
    """
    gap = max(timeline.longest_gap, timeline.longest) * timeline.time_base
    seconds = (timeline.end - timeline.start) * timeline.time_base
    if gap > MAX_GAP_SECONDS:
        raise MediaError(f"{path} has a gap of {float(gap) / 3600:.1f} hours between two frames: its time stamps are damaged; remux it.")
    if seconds > MAX_SECONDS:
        raise MediaError(f"{path} is {float(seconds) / 3600:.1f} hours long, but at most {MAX_HOURS} are possible; cut it.")
    if seconds > MAX_GAP_SECONDS and seconds > MAX_SLIDE_SECONDS * timeline.n_packets:
        raise MediaError(
            f"{path} has {timeline.n_packets} frames in {float(seconds) / 3600:.1f} hours: its time stamps are damaged; remux it."
        )


def has_pictures(path: Path) -> bool:
    """Whether a media file has video; cover art is ignored.

    Raises:
        MediaError: if the file cannot be opened.
    """
    with open_media(path) as container:
        return bool(video_streams(container))


def read_comment(path: Path) -> str:
    """The comment in a file's metadata; empty if there is none.

    Raises:
        MediaError: if the file cannot be opened.
    """
    with open_media(path) as container:
        places = [container.metadata, *(stream.metadata for stream in container.streams.audio)]  # Ogg stores it in the streams
        return next((value for place in places for key, value in place.items() if key.lower() == "comment"), "")


@dataclass(frozen=True)
class Orientation:
    """Transformation from stored to displayed frames: transpose, then mirror horizontally, then flip vertically."""

    swaps: bool
    mirrors: bool
    flips: bool

    @property
    def degrees(self) -> int:
        """Clockwise rotation in degrees; 0 for a mirror image without rotation."""
        if self.swaps:
            return 90 if self.mirrors else 270
        return 180 if self.mirrors and self.flips else 0

    def apply(self, image: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "new_height new_width 3"]:
        """Rotate and mirror a stored image to the displayed one; the result is contiguous."""
        image = image.swapaxes(0, 1) if self.swaps else image
        image = image[:, ::-1] if self.mirrors else image
        return np.ascontiguousarray(image[::-1] if self.flips else image)


def orientation(frame: av.VideoFrame) -> Orientation:
    """Orientation of a decoded frame by its display matrix, rounded to 90 degrees.

    Source:
        FFmpeg's libavutil/display.h: (x, y) is mapped to (a x + c y, b x + d y); the matrix is stored as a, b, u, c, d, v, x, y, w.
    """
    matrix = SideDataContainer(frame).get("DISPLAYMATRIX")  # `frame.side_data` would keep the frame until garbage is collected
    if matrix is None:
        return Orientation(False, False, False)
    a, b, _, c, d = np.frombuffer(bytes(matrix), dtype=np.int32)[:5].tolist()
    return Orientation(True, c < 0, b < 0) if math.hypot(a, d) < math.hypot(b, c) else Orientation(False, a < 0, d < 0)
