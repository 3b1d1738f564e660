"""FFmpeg filter graphs for frames."""

from collections.abc import Iterator

import av
from av.filter import Graph

_UNSPECIFIED = 2
_MATRICES = {0, 1, 2, 4, 5, 6, 7, 9}  # codes of ITU-T H.273 that FFmpeg's scaler converts
_NO_TRANSFERS = {0, 3, 9, 10}  # reserved codes, and logarithmic curves, which the scaler refuses
_NO_PRIMARIES = {0, 3}


def with_known_colours(frame: av.VideoFrame) -> av.VideoFrame:
    """The frame, with colour properties that FFmpeg's scaler would refuse, such as YCgCo or ICtCp, set to unspecified."""
    if int(frame.colorspace) not in _MATRICES:
        frame.colorspace = _UNSPECIFIED
    if int(frame.color_trc) in _NO_TRANSFERS or int(frame.color_trc) > 18:
        frame.color_trc = _UNSPECIFIED
    if int(frame.color_primaries) in _NO_PRIMARIES or int(frame.color_primaries) > 22:
        frame.color_primaries = _UNSPECIFIED
    return frame


def build_graph(frame: av.VideoFrame, *filters: tuple[str, dict[str, str]]) -> Graph:
    """A chain of filters for frames with the properties of `frame`."""
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


def pull(graph: Graph) -> Iterator[av.VideoFrame]:
    """All frames that are ready."""
    while True:
        try:
            yield graph.vpull()
        except (av.BlockingIOError, av.EOFError):
            return
