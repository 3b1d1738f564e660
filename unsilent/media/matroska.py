"""Track elements of Matroska and WebM files that PyAV cannot write: the pixel aspect ratio, and codecs by their FourCC.

The muxer gets a track name with spare bytes. In the complete file, the element `Tracks` is rewritten in the same number of bytes.

Source:
    RFC 9559 (Matroska) and RFC 8794 (EBML) for elements and checksums.
"""

import zlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

SPARE = "unsilent" * 5  # end of a track's name, which reserves bytes for added elements
_TRACKS, _ENTRY, _VIDEO, _CRC, _VOID, _NAME, _CODEC = 0x1654AE6B, 0xAE, 0xE0, 0xBF, 0xEC, 0x536E, 0x86
_DISPLAY_WIDTH, _DISPLAY_HEIGHT, _DISPLAY_UNIT, _ASPECT_RATIO = 0x54B0, 0x54BA, 0x54B2, 3
_PIXEL_WIDTH, _PIXEL_HEIGHT = 0xB0, 0xBA
_MASTERS = {0x18538067}  # Segment, which contains the tracks
_HEAD_BYTES = 1 << 20  # beginning of a file that contains the element `Tracks`
_STAND_IN, _BY_FOURCC = b"V_MPEG4/ISO/ASP", b"V_MS/VFW/FOURCC"

Element = tuple[int, int, int, int]  # id, start, start of the content, end


def finish_tracks(head: bytes, shape: Fraction | None, by_fourcc: bool, is_webm: bool) -> bytes:
    """Complete, in the beginning of a file, the track whose name ends in `SPARE`.

    Args:
        head: first bytes of the file, with the whole element `Tracks`.
        shape: width of a pixel divided by its height; None for square pixels.
        by_fourcc: whether the MPEG-4 track stands for a codec that is identified by its FourCC.
        is_webm: whether the display size is written in pixels, because WebM does not allow ratios.
    """
    tracks = next((one for one in _elements(head, 0, len(head)) if one[0] == _TRACKS), None)
    if tracks is None or SPARE.encode() not in head[tracks[2] : tracks[3]]:
        return head
    _, _, start, end = tracks
    entries, checksum_bytes = list[bytes](), 0
    for number, at, content, stop in _elements(head, start, end):
        if number == _ENTRY and SPARE.encode() in head[content:stop]:
            entries.append(_element(_ENTRY, b"".join(_track(head, content, stop, shape, by_fourcc, is_webm))))
        elif number == _CRC:
            checksum_bytes = stop - at
        elif number != _VOID:
            entries.append(head[at:stop])
    body = b"".join(entries)
    body += _void(end - start - checksum_bytes - len(body))
    checksum = _element(_CRC, zlib.crc32(body).to_bytes(4, "little")) if checksum_bytes else b""
    return head[:start] + checksum + body + head[end:]


def finish_file(path: Path, shape: Fraction | None, by_fourcc: bool, is_webm: bool) -> None:
    """Complete a file in place, like `finish_tracks`."""
    with path.open("r+b") as file:
        head = file.read(_HEAD_BYTES)
        file.seek(0)
        file.write(finish_tracks(head, shape, by_fourcc, is_webm))


def _track(head: bytes, start: int, end: int, shape: Fraction | None, by_fourcc: bool, is_webm: bool) -> Iterator[bytes]:
    for number, at, content, stop in _elements(head, start, end):
        value = head[content:stop]
        if number == _NAME:
            name = value.removesuffix(SPARE.encode())
            yield _element(_NAME, name) if name else b""
        elif number == _CODEC and by_fourcc and value == _STAND_IN:
            yield _element(_CODEC, _BY_FOURCC)
        elif number == _VIDEO and shape is not None:
            yield _element(_VIDEO, b"".join(_video(head, content, stop, shape, is_webm)))
        else:
            yield head[at:stop]


def _video(head: bytes, start: int, end: int, shape: Fraction, is_webm: bool) -> Iterator[bytes]:
    sizes = {number: int.from_bytes(head[content:stop]) for number, _, content, stop in _elements(head, start, end)}
    width, height = sizes.get(_PIXEL_WIDTH, 1), sizes.get(_PIXEL_HEIGHT, 1)
    ratio = Fraction(width, height) * shape
    shown = (round(width * shape), height) if is_webm else (ratio.numerator, ratio.denominator)
    for number, at, _, stop in _elements(head, start, end):
        if number not in (_DISPLAY_WIDTH, _DISPLAY_HEIGHT, _DISPLAY_UNIT):
            yield head[at:stop]
    for number, value in zip((_DISPLAY_WIDTH, _DISPLAY_HEIGHT), shown, strict=True):
        yield _element(number, value.to_bytes(4))
    if not is_webm:
        yield _element(_DISPLAY_UNIT, bytes([_ASPECT_RATIO]))


def _elements(data: bytes, start: int, end: int) -> Iterator[Element]:
    """Elements of one level; the segment is replaced by its elements."""
    while start < end:
        number, at = _number(data, start, keeps_marker=True)
        size, content = _number(data, at, keeps_marker=False)
        if number is None or size is None:
            return
        if number in _MASTERS:
            start = content
            continue
        if content + size > end:
            return
        yield number, start, content, content + size
        start = content + size


def _number(data: bytes, start: int, keeps_marker: bool) -> tuple[int | None, int]:
    """A variable-length number and the position after it; None if it is damaged."""
    length = 9 - data[start].bit_length() if start < len(data) else 9
    if length > 8 or start + length > len(data):
        return None, start
    value = int.from_bytes(data[start : start + length])
    return value if keeps_marker else value & ((1 << 7 * length) - 1), start + length


def _element(number: int, content: bytes) -> bytes:
    return number.to_bytes(-(-number.bit_length() // 8)) + _size(len(content)) + content


def _size(size: int) -> bytes:
    length = next(length for length in range(1, 9) if size < (1 << 7 * length) - 1)
    return (size | 1 << 7 * length).to_bytes(length)


def _void(size: int) -> bytes:
    """A void element of `size` bytes, 2 or more."""
    length = 1 if size < 100 else 8
    return _VOID.to_bytes() + (size - 1 - length | 1 << 7 * length).to_bytes(length) + bytes(size - 1 - length)
