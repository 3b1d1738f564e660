"""Reads the frames of a video as arrays at any frame rate."""

import math
import sys
from collections.abc import Collection, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.filter import Graph
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8

from unsilent.errors import MediaError, ParameterError
from unsilent.media.files import decode, demux, find_video, open_media
from unsilent.media.filters import build_graph, pull, with_known_colours
from unsilent.media.probe import orientation

GREY_SIZE = (48, 64)  # height and width of `LazyFrame.grey`, regardless of the video's aspect ratio


class LazyFrame:
    """A decoded frame that is converted on demand; valid until the next one is read.

    Attributes:
        number: index at the requested rate, from 0.
    """

    def __init__(self, number: int, frame: av.VideoFrame, to_rgb: "_ToRGB", to_grey: VideoReformatter) -> None:
        self.number = number
        self._frame, self._to_rgb, self._to_grey = frame, to_rgb, to_grey

    def rgb(self) -> UInt8[np.ndarray, "height width 3"]:
        """The frame as displayed, in the size of the video's first frame."""
        return self._to_rgb(self._frame)

    def grey(self) -> UInt8[np.ndarray, "height width"]:
        """Luminance in `GREY_SIZE`, without rotation. Much faster than `rgb`."""
        height, width = GREY_SIZE
        # one thread, because synchronisation takes longer than the work
        return self._to_grey.reformat(self._frame, width, height, "gray", interpolation="AREA", threads=1).to_ndarray()


def stream_lazy_frames(
    path: Path, fps: float | int, *, wanted: Collection[int] | None = None, short_side: int | None = None
) -> Iterator[LazyFrame]:
    """Yield frames at a constant rate, one at a time; memory does not grow with the video.

    Args:
        path: video file; damaged parts are skipped.
        fps: frames per second of the result; the video's frames are repeated or dropped, nearest in time.
        wanted: indices of frames at that rate, from 0; None yields all. Reading ends after the last one.
        short_side: pixels of the shorter side of RGB frames, if the video has more; None keeps its size.

    Raises:
        MediaError: if the file cannot be read or none of its frames can be decoded.
        ParameterError: for a rate or size that is not positive.
    """
    if fps <= 0 or (short_side is not None and short_side <= 0):
        raise ParameterError(f"fps is {fps} and short_side is {short_side}, but both must be positive.")
    if wanted is not None and not wanted:
        return
    chosen = None if wanted is None else set(wanted)
    last = None if chosen is None else max(chosen)
    to_rgb, to_grey = _ToRGB(short_side), VideoReformatter()
    with open_media(path) as container:
        stream = find_video(container, path)
        stream.thread_type = "AUTO"
        for number, frame in enumerate(_at_rate(container, stream, fps, path)):
            if chosen is None or number in chosen:
                yield LazyFrame(number, frame, to_rgb, to_grey)
            if number == last:
                return


def live_lazy_frames(
    source: str, fps: float | int, *, raw: tuple[int, int, float] | None = None, short_side: int | None = None
) -> Iterator[LazyFrame]:
    """Like `stream_lazy_frames`, for frames that arrive in real time; frames are not delayed.

    Args:
        source: `-` for standard input, in any container that can be read from a pipe, or the path of a camera, such as `/dev/video0`.
        fps: frames per second of the result.
        raw: width, height and frames per second of raw RGB frames (24 bits per pixel) on standard input; None for a container.
        short_side: as in `stream_lazy_frames`.

    Raises:
        MediaError: if the source cannot be opened, or none of its frames can be decoded.
    """
    options = {"probesize": "500000", "analyzeduration": "500000"}  # bytes and microseconds that are read to detect the codec
    kind = None if source == "-" else "v4l2"
    if raw is not None:
        kind = "rawvideo"
        options = {"video_size": f"{raw[0]}x{raw[1]}", "pixel_format": "rgb24", "framerate": str(raw[2])}
    try:
        container = av.open(sys.stdin.buffer if source == "-" else source, format=kind, options=options)
    except (av.FFmpegError, OSError) as error:
        raise MediaError(f"{source} cannot be opened as video: {error.strerror}.") from None
    with container:
        if not container.streams.video:
            raise MediaError(f"{source} has no video.")
        container.streams.video[0].thread_type = "SLICE"  # frame threading would delay frames
        frames = _at_rate(container, container.streams.video[0], fps, Path(source))
        to_rgb, to_grey = _ToRGB(short_side), VideoReformatter()
        for number, frame in enumerate(frames):
            yield LazyFrame(number, frame, to_rgb, to_grey)


def stream_frames(
    path: Path, fps: float | int, *, wanted: Collection[int] | None = None, short_side: int | None = None
) -> Iterator[tuple[float, UInt8[np.ndarray, "height width 3"]]]:
    """Like `stream_lazy_frames`, but yields seconds since the first frame, and RGB as displayed, all of one size."""
    for frame in stream_lazy_frames(path, fps, wanted=wanted, short_side=short_side):
        yield frame.number / fps, frame.rgb()


def _at_rate(container: av.container.InputContainer, stream: av.VideoStream, fps: float | int, path: Path) -> Iterator[av.VideoFrame]:
    """Decoded frames after FFmpeg's fps filter, which repeats and drops references without copying."""
    graph, is_empty = None, True
    for frame in _decoded(container, stream):
        if graph is None:
            graph = build_graph(frame, ("fps", {"fps": str(Fraction(fps).limit_denominator(100_000))}))
        graph.push(frame)
        for resampled in pull(graph):
            is_empty = False
            yield resampled
    if graph is None:
        raise MediaError(f"{path} has no frame that can be decoded.")
    graph.push(None)
    for resampled in pull(graph):
        is_empty = False
        yield resampled
    if is_empty:  # the filter returns nothing for a video shorter than half a period
        yield frame


def _decoded(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """Frames with time stamps from 0; missing ones are estimated."""
    first, next_pts = None, 0
    step = round(1 / ((stream.average_rate or stream.guessed_rate or 25) * stream.time_base))
    for packet in demux(container, stream):
        for frame in decode(packet):
            pts = next_pts if frame.pts is None else frame.pts
            first = pts if first is None else first
            next_pts = pts + step
            frame.time_base, frame.pts = stream.time_base, pts - first
            yield with_known_colours(frame)


class _ToRGB:
    """Converts decoded frames to RGB arrays as displayed, all in the size of the first.

    FFmpeg's scale filter converts colour matrix, range and pixel format; it is rebuilt when these change.
    """

    def __init__(self, short_side: int | None) -> None:
        self._short_side = short_side
        self._size: tuple[int, int] | None = None
        self._kind: tuple | None = None
        self._graph: Graph | None = None

    def __call__(self, frame: av.VideoFrame) -> UInt8[np.ndarray, "height width 3"]:
        turned = orientation(frame)
        if self._size is None:
            factor = min(1.0, (self._short_side or math.inf) / min(frame.width, frame.height))
            width, height = (max(1, round(side * factor)) for side in (frame.width, frame.height))
            self._size = (height, width) if turned.swaps else (width, height)
        width, height = self._size[::-1] if turned.swaps else self._size
        kind = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range, width, height)
        if kind != self._kind:
            smaller = width * height < frame.width * frame.height
            flags = ("area" if smaller else "bicubic") + "+accurate_rnd+full_chroma_int+full_chroma_inp"
            scale = ("scale", {"width": str(width), "height": str(height), "flags": flags})
            self._graph, self._kind = build_graph(frame, scale, ("format", {"pix_fmts": "rgb24"})), kind
        self._graph.push(frame)
        return turned.apply(self._graph.vpull().to_ndarray())
