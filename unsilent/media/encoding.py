"""Encoding of frames that a container cannot hold unchanged: lossless, or visually lossless."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import av

from unsilent.media.filters import build_graph, pull, with_known_colours
from unsilent.media.probe import orientation

# Pixel formats that FFV1 does not support, and equivalents with the same values.
_SAME = {
    "yuvj420p": "yuv420p", "yuvj422p": "yuv422p", "yuvj444p": "yuv444p", "yuvj440p": "yuv440p", "nv12": "yuv420p", "nv21": "yuv420p",
    "yuyv422": "yuv422p", "uyvy422": "yuv422p", "yvyu422": "yuv422p", "rgb24": "bgr0", "bgr24": "bgr0", "rgb0": "bgr0", "0rgb": "bgr0",
    "0bgr": "bgr0", "gbrp": "bgr0", "pal8": "bgra", "rgba": "bgra", "argb": "bgra", "abgr": "bgra", "gbrap": "bgra", "monow": "gray",
    "monob": "gray", "rgb48be": "rgb48le", "rgba64be": "rgba64le", "gray16be": "gray16le",
}  # fmt: skip
_RGB = ("bgr", "rgb", "gbr")  # prefixes of pixel formats without luma
_BT601, _LIMITED, _FULL = 6, 1, 2  # codes of ITU-T H.273 and of FFmpeg


@dataclass(frozen=True)
class Encoder:
    """Parameters of a codec.

    Attributes:
        codec: FFmpeg's name of the encoder.
        formats: pixel formats that are encoded unchanged.
        fallback: pixel format to which others are converted; empty if they are refused.
        odd: the fallback for frames with odd width or height.
        options: options of the encoder.
    """

    codec: str
    formats: frozenset[str]
    fallback: str
    odd: str
    options: dict[str, str] = field(default_factory=dict)


_FFV1 = frozenset(one.name for one in av.Codec("ffv1", "w").video_formats)
_X264 = frozenset(
    ("yuv420p", "yuv422p", "yuv444p", "yuvj420p", "yuvj422p", "yuvj444p", "yuv420p10le", "yuv422p10le", "yuv444p10le", "gray")
)
_VP9 = frozenset(("yuv420p", "yuva420p", "yuv422p", "yuv440p", "yuv444p", "gbrp"))
_H264 = {
    "lossless H.264": Encoder("libx264", _X264, "", "", {"qp": "0", "preset": "veryfast"}),
    "H.264 (CRF 12)": Encoder("libx264", frozenset(), "yuv420p", "yuv444p", {"crf": "12", "preset": "fast"}),
}
# by container and name for users; the first that works is used
ENCODERS = {
    "matroska": {"lossless FFV1": Encoder("ffv1", _FFV1, "bgra", "bgra", {"level": "3", "g": "1", "slicecrc": "1"})},
    "mp4": _H264,
    "mov": _H264,
    "webm": {
        "lossless VP9": Encoder("libvpx-vp9", _VP9, "", "", {"lossless": "1", "deadline": "realtime", "cpu-used": "5", "row-mt": "1"}),
        "VP9 (CRF 12)": Encoder(
            "libvpx-vp9", frozenset(), "yuva420p", "yuv444p", {"crf": "12", "b": "0", "deadline": "realtime", "cpu-used": "5"}
        ),
    },
}


class PictureEncoder:
    """Encodes the frames of a stream as displayed, with their original time stamps.

    Args:
        target: container that gets the new stream.
        source: stream of the frames.
        how: parameters of the codec.
        name: key of `ENCODERS`.
        swaps: whether the display matrix exchanges width and height.
        size: width and height of stored frames; None takes those of the stream's header.

    Raises:
        ValueError: if the pixel format of the source is not supported.
    """

    def __init__(
        self,
        target: av.container.OutputContainer,
        source: av.VideoStream,
        how: Encoder,
        name: str,
        swaps: bool,
        size: tuple[int, int] | None = None,
    ) -> None:
        own = source.codec_context
        width, height = size or (own.width, own.height)
        own.thread_type = "AUTO"
        found = own.format.name if own.format else ""
        is_odd = width % 2 or height % 2
        wanted = found if found in how.formats else _SAME.get(found) if _SAME.get(found) in how.formats else ""
        self._format = wanted or (how.odd if is_odd else how.fallback)
        if not self._format:
            raise ValueError(f"{name} has no pixel format like {found}")
        self.stream = target.add_stream(how.codec, rate=source.average_rate or 25, options=how.options)
        context = self.stream.codec_context
        context.width, context.height = (height, width) if swaps else (width, height)
        context.pix_fmt = self._format
        context.time_base = source.time_base
        context.color_range, context.color_primaries, context.color_trc = own.color_range, own.color_primaries, own.color_trc
        context.colorspace = 0 if self._format.startswith(_RGB) else own.colorspace
        is_grey = found.startswith("gray")
        context.color_range = context.color_range or (_FULL if is_grey else 0)  # readers assume full range for grey without a range
        # FFmpeg would keep the matrix and range of RGB and grey, which no decoder applies to luma and chroma
        self._to_luma = not self._format.startswith((*_RGB, "gray")) and bool(is_grey or (own.format and own.format.is_rgb))
        if self._to_luma:
            context.colorspace, context.color_range = _BT601, _LIMITED
        if source.sample_aspect_ratio:
            context.sample_aspect_ratio = 1 / source.sample_aspect_ratio if swaps else source.sample_aspect_ratio
        self._source, self._graph, self._kind, self._last = source, None, None, None
        self._step = max(1, round(1 / ((source.average_rate or source.guessed_rate or 25) * source.time_base)))

    def encode(self, frames: Sequence[av.VideoFrame | None]) -> Iterator[av.Packet]:
        """Encode frames to packets; None ends the stream."""
        for frame in frames:
            if frame is None:
                yield from self.stream.encode(None)
                return
            for shown in self._displayed(frame):
                shown.pict_type = av.video.frame.PictureType.NONE
                yield from self.stream.encode(shown)

    def _displayed(self, frame: av.VideoFrame) -> Iterator[av.VideoFrame]:
        turned, frame = orientation(frame), with_known_colours(frame)
        follows = (self._source.start_time or 0) if self._last is None else self._last + self._step
        pts = follows if frame.pts is None else frame.pts
        self._last = frame.pts = pts if self._last is None else max(pts, self._last + 1)
        frame.time_base = self._source.time_base
        kind = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range)
        if kind != self._kind:
            steps = [("transpose", {"dir": "0"})] if turned.swaps else []
            steps += [("hflip", {})] if turned.mirrors else []
            steps += [("vflip", {})] if turned.flips else []
            steps += [("scale", {"out_color_matrix": "bt601", "out_range": "limited"})] if self._to_luma else []
            self._graph, self._kind = build_graph(frame, *steps, ("format", {"pix_fmts": self._format})), kind
        self._graph.push(frame)
        return pull(self._graph)
