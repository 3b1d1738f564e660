"""Pictures of a video as arrays at any rate, and a video file with new sound."""

import math
from collections.abc import Collection, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.filter import Graph
from av.video.reformatter import VideoReformatter
from jaxtyping import Float, UInt8

from unsilent.errors import MediaError, ParameterError
from unsilent.media.files import decode, demux, find_video, open_media
from unsilent.media.mux import mux
from unsilent.media.probe import orientation

__all__ = ["Picture", "mux", "read_frames", "stream_frames", "stream_pictures"]

GREY_SIZE = (48, 64)  # height and width of small grey pictures, whatever the shape of the video


class Picture:
    """A picture of a video that is not converted before it is asked for, and is to be asked before the next one.

    Attributes:
        number: at the rate that was asked for, from 0.
    """

    def __init__(self, number: int, frame: av.VideoFrame, to_rgb: "_ToRGB", to_grey: VideoReformatter) -> None:
        self.number = number
        self._frame, self._to_rgb, self._to_grey = frame, to_rgb, to_grey

    def rgb(self) -> UInt8[np.ndarray, "height width 3"]:
        """As displayed; of the size that the first of its video had."""
        return self._to_rgb(self._frame)

    def grey(self) -> UInt8[np.ndarray, "height width"]:
        """Its brightness in `GREY_SIZE`, as it is stored: not turned upright. Costs a small part of what `rgb` does."""
        height, width = GREY_SIZE
        # more threads than one would wait for each other longer than they work
        return self._to_grey.reformat(self._frame, width, height, "gray", interpolation="AREA", threads=1).to_ndarray()


def stream_pictures(
    path: Path, fps: float | int, *, wanted: Collection[int] | None = None, short_side: int | None = None
) -> Iterator[Picture]:
    """Pictures at an even rate, one after the other; memory does not grow with the video.

    Args:
        path: video file; damaged parts are passed over.
        fps: pictures per second to give, whatever the video has: its pictures are repeated or left out, each taking the nearest time.
        wanted: numbers of the pictures to give, at that rate from 0; None gives all. Reading ends after the last.
        short_side: pixels of the shorter side of RGB pictures, if the video has more; None keeps its size.

    Raises:
        MediaError: if the file cannot be read or no picture of it can be decoded.
        ParameterError: for a rate or size that is not positive.
    """
    if fps <= 0 or (short_side is not None and short_side <= 0):
        raise ParameterError(f"pictures at {fps} per second and {short_side} pixels were asked for; both must be positive.")
    if wanted is not None and not wanted:
        return
    chosen = None if wanted is None else set(wanted)
    last = None if chosen is None else max(chosen)
    to_rgb, to_grey = _ToRGB(short_side), VideoReformatter()
    for number, frame in enumerate(_at_rate(path, fps)):
        if chosen is None or number in chosen:
            yield Picture(number, frame, to_rgb, to_grey)
        if number == last:
            return


def stream_frames(
    path: Path, fps: float | int, *, wanted: Collection[int] | None = None, short_side: int | None = None
) -> Iterator[tuple[float, UInt8[np.ndarray, "height width 3"]]]:
    """As `stream_pictures`, but seconds since the first picture of the video, and RGB upright as displayed, all of one size."""
    for picture in stream_pictures(path, fps, wanted=wanted, short_side=short_side):
        yield picture.number / fps, picture.rgb()


def read_frames(
    path: Path, fps: float | int, start_seconds: float | int = 0.0, seconds: float | int | None = None
) -> tuple[UInt8[np.ndarray, "video_frames height width 3"], Float[np.ndarray, "video_frames"]]:
    """Pictures of a video or a stretch of it, all at once.

    Args:
        path: video file.
        fps: pictures per second to give.
        start_seconds: since the first picture of the video, >= 0.
        seconds: length of the stretch; None goes on to the end.

    Returns:
        RGB pictures, and their times in seconds since the first picture of the video (float64).

    Raises:
        MediaError: if the file cannot be read, no picture of it can be decoded, or there is none in the stretch.
        ParameterError: for a rate that is not positive.
    """
    first = max(0, round(start_seconds * fps))
    stretch = None if seconds is None else range(first, round((start_seconds + seconds) * fps))
    found = [(time, frame) for time, frame in stream_frames(path, fps, wanted=stretch) if time >= first / fps]
    if not found:
        asked = f"{start_seconds:g} s" if seconds is None else f"{start_seconds:g} s and {start_seconds + seconds:g} s"
        raise MediaError(
            f"{path} has no picture {'after' if seconds is None else 'between'} {asked}; ask for an earlier or longer stretch."
        )
    return np.stack([frame for _, frame in found]), np.array([time for time, _ in found])


def _at_rate(path: Path, fps: float | int) -> Iterator[av.VideoFrame]:
    """Decoded pictures through FFmpeg's fps filter, which repeats and drops references and copies no picture."""
    graph, any_given = None, False
    with open_media(path) as container:
        stream = find_video(container, path)
        stream.thread_type = "AUTO"
        for frame in _decoded(container, stream):
            if graph is None:
                graph = _build_graph(frame, ("fps", {"fps": str(Fraction(fps).limit_denominator(100_000))}))
            graph.push(frame)
            for given in _pull(graph):
                any_given = True
                yield given
    if graph is None:
        raise MediaError(f"{path} has no picture that can be decoded.")
    graph.push(None)
    for given in _pull(graph):
        any_given = True
        yield given
    if not any_given:  # a video shorter than half a step still has a picture
        yield frame


def _decoded(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """Pictures with time stamps that begin at 0 and are never missing."""
    first, following = None, 0
    step = round(1 / ((stream.average_rate or stream.guessed_rate or 25) * stream.time_base))
    for packet in demux(container, stream):
        for frame in decode(packet):
            pts = following if frame.pts is None else frame.pts
            first = pts if first is None else first
            following = pts + step
            frame.time_base, frame.pts = stream.time_base, pts - first
            yield frame


class _ToRGB:
    """Turns decoded pictures into upright RGB arrays that all have the size of the first.

    FFmpeg's scale filter knows colour matrix and range of each picture, 10-bit and other formats; it is rebuilt where these change.
    """

    def __init__(self, short_side: int | None) -> None:
        self._short_side = short_side
        self._size: tuple[int, int] | None = None
        self._kind: tuple | None = None
        self._graph: Graph | None = None

    def __call__(self, frame: av.VideoFrame) -> UInt8[np.ndarray, "height width 3"]:
        turn = orientation(frame)
        if self._size is None:
            factor = min(1.0, (self._short_side or math.inf) / min(frame.width, frame.height))
            width, height = (max(1, round(side * factor)) for side in (frame.width, frame.height))
            self._size = (height, width) if turn.swaps else (width, height)
        width, height = self._size[::-1] if turn.swaps else self._size
        kind = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range, width, height)
        if kind != self._kind:
            smaller = width * height < frame.width * frame.height
            flags = ("area" if smaller else "bicubic") + "+accurate_rnd+full_chroma_int+full_chroma_inp"
            scale = ("scale", {"width": str(width), "height": str(height), "flags": flags})
            self._graph, self._kind = _build_graph(frame, scale, ("format", {"pix_fmts": "rgb24"})), kind
        self._graph.push(frame)
        return turn.apply(self._graph.vpull().to_ndarray())


def _build_graph(frame: av.VideoFrame, *filters: tuple[str, dict[str, str]]) -> Graph:
    """A chain of filters for pictures like `frame`."""
    graph = Graph()
    source = graph.add(
        "buffer",
        video_size=f"{frame.width}x{frame.height}",
        pix_fmt=frame.format.name,
        time_base=str(frame.time_base),
        colorspace=str(int(frame.colorspace)),
        range=str(int(frame.color_range)),
    )
    graph.link_nodes(source, *(graph.add(name, **options) for name, options in filters), graph.add("buffersink")).configure()
    return graph


def _pull(graph: Graph) -> Iterator[av.VideoFrame]:
    """All pictures that are ready."""
    while True:
        try:
            yield graph.vpull()
        except (av.BlockingIOError, av.EOFError):
            return
