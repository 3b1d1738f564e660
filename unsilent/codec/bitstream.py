"""The file format of codes, `.uns`: a header, blocks of whole code columns that are decoded alone, and an index of the blocks.

    header   magic, version, rows, bits, codes, sample rate, samples in a column, columns in a block, gain, digest, CRC
    blocks   marker, number, columns, bytes, CRC; then the codes, column by column, each of `bits` bits, most significant first
    index    marker, samples, blocks, then the offset of each block; CRC, bytes of the index, marker

All numbers are little-endian. A CRC is CRC-32 of everything before it in its part. A damaged block loses itself and no other: blocks are
found through the index or, where that is damaged, by their markers.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from unsilent.errors import DataError, ParameterError
from unsilent.media.suffixes import CODES_MAGIC as MAGIC

VERSION = 1
_HEADER = struct.Struct("<8sBBBxHHIIf16s")
_BLOCK_MARKER, _BLOCK = b"\xabUNB", struct.Struct("<4sIHI")
_INDEX_MARKER, _INDEX, _INDEX_END = b"\xabUNI", struct.Struct("<4sQI"), struct.Struct("<II4s")
_CRC = struct.Struct("<I")
_MOST_BLOCKS = 1 << 20  # four months; a forged number of a block must not ask for more memory


@dataclass(frozen=True)
class Header:
    """Parameters that a decoder needs.

    Attributes:
        rows: codes in a column.
        n_codes: entries of the codebook.
        sample_rate: Hz.
        column_samples: samples in a code column.
        block_columns: columns in each block but the last.
        gain_db: gain that was applied before encoding.
        digest: first 16 bytes of the SHA-256 of the codebook's weights.
    """

    rows: int
    n_codes: int
    sample_rate: int
    column_samples: int
    block_columns: int
    gain_db: float
    digest: bytes

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return max(1, (self.n_codes - 1).bit_length())


@dataclass(frozen=True)
class Unpacked:
    """Content of a file.

    Attributes:
        header: see `Header`.
        grid: all codes; those of lost blocks are -1.
        n_samples: length of the sound.
        lost: numbers of the blocks that are damaged or missing.
    """

    header: Header
    grid: Int[np.ndarray, "rows columns"]
    n_samples: int
    lost: list[int]


def pack(header: Header, grid: Int[np.ndarray, "rows columns"], n_samples: int) -> Iterator[bytes]:
    """The parts of a file, in the order of writing.

    Args:
        header: of the file.
        grid: codes, from 0 to `n_codes - 1`.
        n_samples: length of the sound, at most that of all columns.

    Raises:
        ParameterError: if the codes do not fit the header.
    """
    if grid.ndim != 2 or len(grid) != header.rows or not grid.size or not 0 <= grid.min() <= grid.max() < header.n_codes:
        raise ParameterError(f"codes of shape {list(grid.shape)} do not fit {header.rows} rows of {header.n_codes} codes.")
    sizes = header.rows, header.bits, header.n_codes, header.block_columns, header.sample_rate, header.column_samples
    yield (first := _with_crc(_HEADER.pack(MAGIC, VERSION, *sizes, header.gain_db, header.digest)))
    position, offsets = len(first), []
    for start in range(0, grid.shape[1], header.block_columns):
        part = grid[:, start : start + header.block_columns].T
        codes = _to_bytes(part, header.bits)
        block = _BLOCK.pack(_BLOCK_MARKER, len(offsets), len(part), len(codes)) + codes
        offsets.append(position)
        yield (block := _with_crc(block))
        position += len(block)
    index = _INDEX.pack(_INDEX_MARKER, n_samples, len(offsets)) + struct.pack(f"<{len(offsets)}Q", *offsets)
    yield index + _INDEX_END.pack(zlib.crc32(index), len(index), _INDEX_MARKER)


def unpack(data: bytes) -> Unpacked:
    """Read a file.

    Raises:
        DataError: if it is no such file, of another version, its header is damaged, or no block can be read.
    """
    header = _read_header(data)
    first = _HEADER.size + _CRC.size
    index = _read_index(data)
    n_samples, offsets = index or (0, list(_find_blocks(data, first)))
    blocks: dict[int, np.ndarray] = {}
    for offset in offsets:
        if (found := _read_block(data, offset, header)) is not None:
            blocks[found[0]] = found[1]
    if not blocks:
        raise DataError("no block of codes in the file can be read.")
    last = max(max(blocks), len(offsets) - 1 if index else 0)
    n_columns = -(-n_samples // header.column_samples) if n_samples else last * header.block_columns + len(blocks[last])
    n_columns = min(n_columns, (last + 1) * header.block_columns)
    grid = np.full((header.rows, n_columns), -1, np.int64)
    for number, columns in blocks.items():
        start = number * header.block_columns
        grid[:, start : start + len(columns)] = columns.T[:, : max(0, n_columns - start)]
    lost = [number for number in range(last + 1) if number not in blocks]
    return Unpacked(header, grid, n_samples or n_columns * header.column_samples, lost)


def _with_crc(part: bytes) -> bytes:
    return part + _CRC.pack(zlib.crc32(part))


def _read_header(data: bytes) -> Header:
    if data[: len(MAGIC)] != MAGIC:
        raise DataError("this is not a file of codes (.uns).")
    if len(data) < _HEADER.size + _CRC.size or _CRC.unpack_from(data, _HEADER.size)[0] != zlib.crc32(data[: _HEADER.size]):
        raise DataError("the header of the file of codes is damaged.")
    _, version, rows, bits, n_codes, block_columns, sample_rate, column_samples, gain_db, digest = _HEADER.unpack_from(data)
    if version != VERSION:
        raise DataError(f"the file of codes is of version {version}; this program reads version {VERSION}.")
    header = Header(rows, n_codes, sample_rate, column_samples, block_columns, gain_db, digest)
    if not all((rows, n_codes, sample_rate, column_samples, block_columns)) or bits != header.bits:
        raise DataError("the header of the file of codes contradicts itself.")
    return header


def _read_index(data: bytes) -> tuple[int, list[int]] | None:
    """Samples and offsets of the blocks; None if the index is damaged."""
    if len(data) < _INDEX_END.size:
        return None
    crc, length, marker = _INDEX_END.unpack_from(data, len(data) - _INDEX_END.size)
    start = len(data) - _INDEX_END.size - length
    if marker != _INDEX_MARKER or start < 0 or length < _INDEX.size or zlib.crc32(data[start : start + length]) != crc:
        return None
    marker, n_samples, n_blocks = _INDEX.unpack_from(data, start)
    if marker != _INDEX_MARKER or _INDEX.size + 8 * n_blocks != length:
        return None
    return n_samples, list(struct.unpack_from(f"<{n_blocks}Q", data, start + _INDEX.size))


def _find_blocks(data: bytes, first: int) -> Iterator[int]:
    position = data.find(_BLOCK_MARKER, first)
    while position >= 0:
        yield position
        position = data.find(_BLOCK_MARKER, position + 1)


def _read_block(data: bytes, offset: int, header: Header) -> tuple[int, Int[np.ndarray, "columns rows"]] | None:
    """Number and codes of a block; None if it is damaged."""
    if offset + _BLOCK.size > len(data):
        return None
    marker, number, n_columns, n_bytes = _BLOCK.unpack_from(data, offset)
    stop = offset + _BLOCK.size + n_bytes
    if marker != _BLOCK_MARKER or stop + _CRC.size > len(data) or not 0 < n_columns <= header.block_columns or number >= _MOST_BLOCKS:
        return None
    if _CRC.unpack_from(data, stop)[0] != zlib.crc32(data[offset:stop]) or n_bytes != -(-n_columns * header.rows * header.bits // 8):
        return None
    codes = _from_bytes(data[offset + _BLOCK.size : stop], n_columns * header.rows, header.bits)
    return (number, codes.reshape(n_columns, header.rows)) if codes.max() < header.n_codes else None


def _to_bytes(codes: Int[np.ndarray, "columns rows"], bits: int) -> bytes:
    """Codes side by side, most significant bit first; zeros fill the last byte."""
    return np.packbits((codes.reshape(-1, 1) >> np.arange(bits - 1, -1, -1)) & 1).tobytes()


def _from_bytes(data: bytes, n_codes: int, bits: int) -> Int[np.ndarray, "n_codes"]:
    each = np.unpackbits(np.frombuffer(data, np.uint8), count=n_codes * bits).reshape(n_codes, bits)
    return each.astype(np.int64) @ (1 << np.arange(bits - 1, -1, -1))
