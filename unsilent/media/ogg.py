"""Chained Ogg files, as of web radios: several recordings in one file, of any sample rates and numbers of channels."""

import io
from collections.abc import Iterator
from pathlib import Path

_HEADER_BYTES = 27  # header of a page, without its segment table
_FIRST = 2  # flag of the first page of a stream


def links(path: Path) -> list[tuple[int, int]]:
    """Byte ranges of the recordings in a file, one after another; none for a file of another format or with damage between pages.

    Source:
        RFC 3533: the first pages of all streams of a recording precede its other pages.
    """
    starts, position, was_first = list[int](), 0, False
    size = path.stat().st_size
    with path.open("rb") as file:
        while position + _HEADER_BYTES <= size:
            file.seek(position)
            header = file.read(_HEADER_BYTES)
            if header[:4] != b"OggS":
                return []
            is_first = bool(header[5] & _FIRST)
            if is_first and not was_first:
                starts.append(position)
            was_first = is_first
            position += _HEADER_BYTES + header[26] + sum(file.read(header[26]))
    return list(zip(starts, [*starts[1:], size], strict=True))


def chained(path: Path) -> Iterator[io.BytesIO]:
    """The recordings in a chained file, each as a file of its own; none if there is only one.

    FFmpeg reads such a file as one only if all have the same sample rate and channels, and ends without an error at another one.
    """
    found = links(path)
    with path.open("rb") as file:
        for first, end in found if len(found) > 1 else []:
            file.seek(first)
            yield io.BytesIO(file.read(end - first))
