"""MP4 and QuickTime boxes that FFmpeg does not write: ends of edit lists, and video metadata that it does not know.

Source:
    ISO/IEC 14496-12 for the boxes; boxes of video metadata are copied unchanged.
"""

import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

# Boxes copied from the visual sample entry: Dolby Vision, 360° and 3D, spatial video.
_CARRIED = (b"dvcC", b"dvvC", b"dvwC", b"hvcE", b"st3d", b"sv3d", b"vexu", b"hfov", b"lhvC", b"amve")
_VISUAL_BYTES = 86  # bytes of a visual sample entry, with its header, before its boxes
_LARGEST = 1 << 28  # largest `moov` box that is read, in bytes


class _Box(NamedTuple):
    kind: bytes
    start: int
    content: int
    end: int


def _boxes(data: bytes, start: int, end: int) -> Iterator[_Box]:
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        header = 8
        if size == 1 and start + 16 <= end:
            size, header = struct.unpack_from(">Q", data, start + 8)[0], 16
        size = end - start if size == 0 else size
        if size < header or start + size > end:
            return
        yield _Box(kind, start, start + header, start + size)
        start += size


def _path(data: bytes, start: int, end: int, *kinds: bytes) -> list[_Box]:
    """The nested boxes of a path of kinds, the first of each kind; empty if one is missing."""
    found = []
    for kind in kinds:
        box = next((one for one in _boxes(data, start, end) if one.kind == kind), None)
        if box is None:
            return []
        found.append(box)
        start, end = box.content, box.end
    return found


def _read_moov(path: Path) -> tuple[int, bytes]:
    """Position and bytes of the box `moov`; empty bytes if there is none."""
    size_of_file = path.stat().st_size
    with path.open("rb") as file:
        start = 0
        while start + 16 <= size_of_file:
            file.seek(start)
            size, kind, large = struct.unpack(">I4sQ", file.read(16))
            size = large if size == 1 else size_of_file - start if size == 0 else size
            if size < 8:
                break
            if kind == b"moov" and size <= _LARGEST:
                file.seek(start)
                return start, file.read(size)
            start += size
    return 0, b""


def _video_tracks(moov: bytes) -> Iterator[_Box]:
    for track in _boxes(moov, 8, len(moov)):
        handler = _path(moov, track.content, track.end, b"mdia", b"hdlr") if track.kind == b"trak" else []
        if handler and moov[handler[-1].content + 8 : handler[-1].content + 12] == b"vide":
            yield track


def sample_formats(path: Path) -> dict[int, str]:
    """Sample format of each track, such as `avc1` or `tmcd`, by track number; empty for other kinds of files."""
    _, moov = _read_moov(path)
    formats = {}
    for track in _boxes(moov, 8, len(moov)):
        header = _path(moov, track.content, track.end, b"tkhd") if track.kind == b"trak" else []
        described = _path(moov, track.content, track.end, b"mdia", b"minf", b"stbl", b"stsd")
        if header and described and described[-1].end - described[-1].content >= 16:
            place = header[0].content + (20 if moov[header[0].content] == 1 else 12)
            name = moov[described[-1].content + 12 : described[-1].content + 16]
            formats[int.from_bytes(moov[place : place + 4])] = name.decode("latin-1").strip()
    return formats


def finish_boxes(out: Path, video: Path, end: Fraction | None) -> None:
    """Complete a file that FFmpeg has written with `moov` at its end.

    Args:
        out: file to change in place.
        video: source of the video metadata; files of other formats have no effect.
        end: end of the displayed frames in seconds, if later frames must be hidden; None displays all.
    """
    position, moov = _read_moov(out)
    if not moov or position + len(moov) != out.stat().st_size:
        return
    before, content = moov, bytearray(moov)
    if end is not None:
        _limit(content, end)
    content = _carry(bytes(content), video)
    if content != before:
        with out.open("r+b") as file:
            file.seek(position)
            file.write(content)


def _limit(moov: bytearray, end: Fraction) -> None:
    """Limit edit list and duration of the first video track to an end time."""
    header = _path(moov, 8, len(moov), b"mvhd")
    track = next(_video_tracks(moov), None)
    if not header or track is None:
        return
    is_long = moov[header[0].content] == 1
    (scale,) = struct.unpack_from(">I", moov, header[0].content + (20 if is_long else 12))
    duration = int(end * scale)
    edits = _path(moov, track.content, track.end, b"edts", b"elst")
    if not edits:
        return
    place, is_wide = edits[-1].content, moov[edits[-1].content] == 1
    (count,) = struct.unpack_from(">I", moov, place + 4)
    size = 20 if is_wide else 12
    before = sum(struct.unpack_from(">Q" if is_wide else ">I", moov, place + 8 + number * size)[0] for number in range(count - 1))
    struct.pack_into(">Q" if is_wide else ">I", moov, place + 8 + (count - 1) * size, max(1, duration - before))
    about = _path(moov, track.content, track.end, b"tkhd")
    if about and moov[about[0].content] == 0:
        struct.pack_into(">I", moov, about[0].content + 20, duration)


def _carry(moov: bytes, video: Path) -> bytes:
    _, source = _read_moov(video)
    theirs = next(_video_tracks(source), None) if source else None
    ours = next(_video_tracks(moov), None)
    if theirs is None or ours is None:
        return moov
    path = (b"mdia", b"minf", b"stbl", b"stsd")
    described, place = _path(source, theirs.content, theirs.end, *path), _path(moov, ours.content, ours.end, *path)
    if not described or not place:
        return moov
    entry = next(_boxes(source, described[-1].content + 8, described[-1].end), None)
    target = next(_boxes(moov, place[-1].content + 8, place[-1].end), None)
    if entry is None or target is None:
        return moov
    known = {box.kind for box in _boxes(moov, target.start + _VISUAL_BYTES, target.end)}
    missing = [box for box in _boxes(source, entry.start + _VISUAL_BYTES, entry.end) if box.kind in _CARRIED and box.kind not in known]
    new = b"".join(source[box.start : box.end] for box in missing)
    if not new:
        return moov
    grown = bytearray(moov[: target.end] + new + moov[target.end :])
    for start in (0, ours.start, *(box.start for box in place), target.start):
        struct.pack_into(">I", grown, start, struct.unpack_from(">I", grown, start)[0] + len(new))
    return bytes(grown)
