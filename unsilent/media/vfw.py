"""Codecs that Matroska holds by their FourCC (`V_MS/VFW/FOURCC`), such as WMV, H.263 or HuffYUV, which PyAV does not offer.

FFmpeg writes their headers into an AVI in memory. A track of MPEG-4, which PyAV does offer, gets these headers; `matroska.finish_tracks`
replaces the name of the codec.
"""

import io
import struct
from dataclasses import dataclass

import av

_HEADER_BYTES = 40  # of a BITMAPINFOHEADER, before the codec's own data
_KEPT_TAGS = ("avi", "asf", "matroska,webm")  # containers whose tags are those of AVI


@dataclass(frozen=True)
class VfW:
    """How Matroska holds one stream.

    Attributes:
        header: BITMAPINFOHEADER and the codec's own data, as AVI has them.
        template: AVI that claims to hold MPEG-4, in bytes.
    """

    header: bytes
    template: bytes

    def add(self, target: av.container.OutputContainer, stream: av.VideoStream) -> av.VideoStream:
        """Add a track to a target; the file's tracks must be finished when it is complete."""
        with av.open(io.BytesIO(self.template)) as avi:
            copy = target.add_stream_from_template(avi.streams.video[0], opaque=True)
        copy.codec_context.extradata = self.header
        copy.codec_context.framerate = stream.average_rate or 0
        copy.codec_context.sample_aspect_ratio = stream.sample_aspect_ratio or 0
        copy.time_base = stream.time_base
        return copy


def vfw_of(stream: av.VideoStream) -> VfW | None:
    """How Matroska can hold a stream; None if AVI has no FourCC for its codec."""
    buffer = io.BytesIO()
    try:
        with av.open(buffer, "w", format="avi") as avi:
            copy = avi.add_stream_from_template(stream, opaque=True)
            copy.codec_context.framerate = stream.average_rate or 25
            if stream.container.format.name in _KEPT_TAGS and stream.codec_context.codec_tag.strip("\0 "):
                copy.codec_context.codec_tag = stream.codec_context.codec_tag
            avi.start_encoding()
    except (av.FFmpegError, ValueError):
        return None
    content = buffer.getvalue()
    start = content.find(b"strf") + 8
    size = struct.unpack("<I", content[start - 4 : start])[0]
    header = content[start : start + size]
    # the FourCC stands in the stream's header and in that of the pictures
    claimed = bytearray(content)
    claimed[content.find(b"strh") + 12 : content.find(b"strh") + 16] = b"FMP4"
    claimed[start + 16 : start + 20] = b"FMP4"
    return VfW(header, bytes(claimed)) if size >= _HEADER_BYTES and content[start + 16 : start + 20].strip(b"\0") else None
