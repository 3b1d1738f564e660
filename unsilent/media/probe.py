"""What a video file really holds, from its packets rather than its headers."""

import math
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from unsilent.errors import MediaError
from unsilent.media.files import Timeline, decode, demux, find_video, open_media

LONGEST_GAP_SECONDS = 3600  # between two pictures; time stamps that jump or wrap around claim a day of nothing


@dataclass(frozen=True)
class VideoInfo:
    """Facts of a video file.

    Attributes:
        path: the file.
        seconds: from the start of the first picture to the end of the last, > 0.
        fps: pictures per second on average.
        n_video_frames: how many pictures are stored.
        width, height: pixels as displayed, after rotation; the shape of a pixel is not taken into account.
        rotation: degrees clockwise by which stored pictures are turned for display: 0, 90, 180 or 270.
        has_audio: whether there is sound, too.
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
    """Look at a video: its packets are read through and one picture is decoded.

    Args:
        path: file in any format that FFmpeg reads; a file that is cut off counts as far as it can be read.

    Raises:
        MediaError: if it is missing, a folder, empty, no media file, damaged beyond reading, has no picture that can be decoded, or has
            time stamps that cannot be true.
    """
    with open_media(path) as container:
        stream = find_video(container, path)
        timeline, first = Timeline(stream), None
        for packet in demux(container, stream):
            timeline.add(packet)
            if first is None:
                first = next(iter(decode(packet)), None)
        if first is None or timeline.start is None:
            raise MediaError(f"{path} has no picture that can be decoded.")
        gap = timeline.longest_gap * timeline.time_base
        if gap > LONGEST_GAP_SECONDS:
            raise MediaError(f"{path} lets {float(gap) / 3600:.1f} hours pass between two pictures: its time stamps are damaged; remux it.")
        seconds = max(timeline.end - timeline.start, 1) * timeline.time_base
        turn = orientation(first)
        width, height = (first.height, first.width) if turn.swaps else (first.width, first.height)
        n_video_frames = timeline.n_packets
        fps = float(n_video_frames / seconds)
        return VideoInfo(path, float(seconds), fps, n_video_frames, width, height, turn.degrees, bool(container.streams.audio))


def read_comment(path: Path) -> str:
    """The comment in a file's metadata; empty where there is none.

    Raises:
        MediaError: if the file cannot be opened.
    """
    with open_media(path) as container:
        found = {key.lower(): value for key, value in container.metadata.items()}
        return found.get("comment", "")


@dataclass(frozen=True)
class Orientation:
    """How stored pictures are turned for display: rows and columns swapped, then mirrored left to right, then upside down."""

    swaps: bool
    mirrors: bool
    flips: bool

    @property
    def degrees(self) -> int:
        """The rotation in it, clockwise; a mirror image that is not rotated has 0."""
        if self.swaps:
            return 90 if self.mirrors else 270
        return 180 if self.mirrors and self.flips else 0

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """Turn an array `[height, width, 3]`."""
        picture = picture.swapaxes(0, 1) if self.swaps else picture
        picture = picture[:, ::-1] if self.mirrors else picture
        return np.ascontiguousarray(picture[::-1] if self.flips else picture)


def orientation(frame: av.VideoFrame) -> Orientation:
    """What the display matrix of a decoded picture asks for, to the nearest quarter turn.

    Source:
        FFmpeg's libavutil/display.h: a point (x, y) goes to (a x + c y, b x + d y), the matrix being stored as a, b, u, c, d, v, x, y, w.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return Orientation(False, False, False)
    a, b, _, c, d = np.frombuffer(bytes(matrix), dtype=np.int32)[:5].tolist()
    return Orientation(True, c < 0, b < 0) if math.hypot(a, d) < math.hypot(b, c) else Orientation(False, a < 0, d < 0)
