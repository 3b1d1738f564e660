"""Codecs that Matroska stores by their FourCC (`V_MS/VFW/FOURCC`), such as WMV, H.263 or HuffYUV; PyAV cannot write them.

FFmpeg writes their headers into an AVI in memory. An MPEG-4 track, which PyAV can write, gets these headers; `matroska.finish_tracks` then
replaces the codec's name.
"""

import io
import struct
from dataclasses import dataclass

import av

_HEADER_BYTES = 40  # size of a BITMAPINFOHEADER without the codec's private data
_KEPT_TAGS = ("avi", "asf", "matroska,webm")  # containers with the codec tags of AVI


@dataclass(frozen=True)
class VfW:
    """Headers of a stream that Matroska stores by its FourCC.

    Attributes:
        header: BITMAPINFOHEADER and the codec's private data, as in AVI.
        template: bytes of an AVI whose header names MPEG-4.
    """

    header: bytes
    template: bytes

    def add(self, target: av.container.OutputContainer, stream: av.VideoStream) -> av.VideoStream:
        """Add the track to a target; the complete file needs `matroska.finish_tracks`."""
        with av.open(io.BytesIO(self.template)) as avi:
            copy = target.add_stream_from_template(avi.streams.video[0], opaque=True)
        copy.codec_context.extradata = self.header
        copy.codec_context.framerate = stream.average_rate or 0
        copy.codec_context.sample_aspect_ratio = stream.sample_aspect_ratio or 0
        copy.time_base = stream.time_base
        return copy


def vfw_of(stream: av.VideoStream) -> VfW | None:
    """Headers for a stream; None if AVI has no FourCC for its codec."""
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
    # the FourCC is in the stream header and in the BITMAPINFOHEADER
    claimed = bytearray(content)
    claimed[content.find(b"strh") + 12 : content.find(b"strh") + 16] = b"FMP4"
    claimed[start + 16 : start + 20] = b"FMP4"
    return VfW(header, bytes(claimed)) if size >= _HEADER_BYTES and content[start + 16 : start + 20].strip(b"\0") else None
