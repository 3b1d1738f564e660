"""The file format of codes, `.uns`: a header, independently decodable blocks of whole code columns, and an index of the blocks.

    header   magic, version, rows, coder, codes, sample rate, samples per column, columns per block, gain, digests, CRC
    blocks   marker, number, columns, bytes, CRC of the codes; then the codes coded by one of `coders`, column by column; CRC
    index    marker, samples, blocks, then the offset of each block; CRC, bytes of the index, marker

All numbers are little-endian. A CRC is the CRC-32 of everything before it in its part; a CRC of codes is of their 16-bit numbers. A damaged
block does not affect others: blocks are found through the index or, if the index is damaged, by their markers.
"""

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from unsilent.codec.coders import BlockCoder, PlainCoder
from unsilent.errors import DataError, ParameterError
from unsilent.media.suffixes import CODES_MAGIC as MAGIC

VERSION = 2
_HEADER = struct.Struct("<8sBBBxHHIIf16s16s")
_BLOCK_MARKER, _BLOCK = b"\xabUNB", struct.Struct("<4sIHII")
_INDEX_MARKER, _INDEX, _INDEX_END = b"\xabUNI", struct.Struct("<4sQI"), struct.Struct("<II4s")
_CRC = struct.Struct("<I")
_MOST_BLOCKS = 1 << 20  # four months of sound; limits the memory that a forged block number can claim


@dataclass(frozen=True)
class Header:
    """Parameters that a decoder needs.

    Attributes:
        rows: codes per column.
        n_codes: entries of the codebook.
        sample_rate: Hz.
        column_samples: samples per code column.
        block_columns: columns of each block except the last.
        gain_db: gain that was applied before encoding.
        digest: first 16 bytes of the SHA-256 of the codebook's weights.
        coder: number of the coder that coded the blocks.
        coder_digest: digest of the coder's model, see `coders`.
    """

    rows: int
    n_codes: int
    sample_rate: int
    column_samples: int
    block_columns: int
    gain_db: float
    digest: bytes
    coder: int = 0
    coder_digest: bytes = bytes(16)

    @property
    def plain(self) -> PlainCoder:
        """The coder that needs no sampler."""
        return PlainCoder(self.rows, max(1, (self.n_codes - 1).bit_length()))


@dataclass(frozen=True)
class Unpacked:
    """Content of a file.

    Attributes:
        header: see `Header`.
        grid: all codes; -1 in lost blocks.
        n_samples: length of the sound.
        lost: numbers of the blocks that are damaged or missing.
        disagreed: whether blocks were lost because the decoded codes differ from the encoded ones, as with other probabilities.
    """

    header: Header
    grid: Int[np.ndarray, "rows columns"]
    n_samples: int
    lost: list[int]
    disagreed: bool


def pack(
    header: Header, grids: Iterable[Int[np.ndarray, "rows _"]], n_samples: Callable[[], int], coder: BlockCoder | None = None
) -> Iterator[bytes]:
    """The parts of a file in order, one by one.

    Args:
        header: header of the file.
        grids: codes from 0 to `n_codes - 1`, in blocks of `block_columns`; the last may have fewer.
        n_samples: returns the length of the sound, at most that of all columns; called after the last block.
        coder: coder of the blocks; None takes the plain one.

    Raises:
        ParameterError: if the codes do not fit the header.
    """
    coder = coder or header.plain
    sizes = header.rows, coder.name, header.n_codes, header.block_columns, header.sample_rate, header.column_samples
    yield (first := _with_crc(_HEADER.pack(MAGIC, VERSION, *sizes, header.gain_db, header.digest, coder.digest)))
    position, offsets = len(first), []
    for grid in grids:
        _check(header, grid)
        codes = grid.T
        data = coder.encode(codes)
        block = _with_crc(_BLOCK.pack(_BLOCK_MARKER, len(offsets), len(codes), len(data), _crc_of(codes)) + data)
        offsets.append(position)
        yield block
        position += len(block)
    index = _INDEX.pack(_INDEX_MARKER, n_samples(), len(offsets)) + struct.pack(f"<{len(offsets)}Q", *offsets)
    yield index + _INDEX_END.pack(zlib.crc32(index), len(index), _INDEX_MARKER)


def _check(header: Header, grid: Int[np.ndarray, "rows columns"]) -> None:
    if grid.ndim != 2 or len(grid) != header.rows or not grid.size or not 0 <= grid.min() <= grid.max() < header.n_codes:
        raise ParameterError(f"codes of shape {list(grid.shape)} do not fit {header.rows} rows of {header.n_codes} codes.")


def _crc_of(codes: Int[np.ndarray, "columns rows"]) -> int:
    return zlib.crc32(np.ascontiguousarray(codes, dtype="<u2").tobytes())


def unpack(data: bytes, coder: BlockCoder | None = None, wanted: range | None = None) -> Unpacked:
    """Read a file.

    Args:
        data: all bytes of the file.
        coder: the coder that the header names; None takes the plain one.
        wanted: columns whose blocks are decoded; None is all. Codes of others are -1, and are not lost.

    Raises:
        DataError: if the data is not a file of codes, has another version or a damaged header, or no block can be read.
    """
    header = read_header(data)
    coder = coder or header.plain
    first = _HEADER.size + _CRC.size
    index = _read_index(data)
    n_samples, offsets = index or (0, list(_find_blocks(data, first)))
    blocks: dict[int, np.ndarray] = {}
    disagreed, sizes = False, dict[int, int]()

    def is_wanted(number: int) -> bool:
        start = number * header.block_columns
        return wanted is None or (start < wanted.stop and wanted.start < start + header.block_columns)

    for offset in offsets:
        if (found := _read_block(data, offset, header)) is None:
            continue
        number, n_columns, crc, coded = found
        if not is_wanted(number):
            sizes[number] = n_columns
            continue
        codes = coder.decode(coded, n_columns)
        if codes is not None and codes.max() < header.n_codes and _crc_of(codes) == crc:
            blocks[number], sizes[number] = codes, n_columns
        else:
            disagreed = True
    if not blocks and (wanted is None or disagreed or not sizes):
        why = "; this machine computes other probabilities than those of the encoder" if disagreed else ""
        raise DataError(f"no block of codes in the file can be read{why}.")
    last = max(max(sizes), len(offsets) - 1 if index else 0)
    n_columns = -(-n_samples // header.column_samples) if n_samples else last * header.block_columns + sizes[last]
    n_columns = min(n_columns, (last + 1) * header.block_columns)
    grid = np.full((header.rows, n_columns), -1, np.int64)
    for number, columns in blocks.items():
        start = number * header.block_columns
        grid[:, start : start + len(columns)] = columns.T[:, : max(0, n_columns - start)]
    lost = [number for number in range(last + 1) if number not in blocks and is_wanted(number)]
    return Unpacked(header, grid, n_samples or n_columns * header.column_samples, lost, disagreed)


def _with_crc(part: bytes) -> bytes:
    return part + _CRC.pack(zlib.crc32(part))


def read_header(data: bytes) -> Header:
    """Read the header of a file. Raises `DataError` like `unpack`."""
    if data[: len(MAGIC)] != MAGIC:
        raise DataError("this is not a file of codes (.uns).")
    if len(data) > len(MAGIC) and data[len(MAGIC)] != VERSION:
        raise DataError(f"the file of codes has version {data[len(MAGIC)]}, or is damaged; this program reads version {VERSION}.")
    if len(data) < _HEADER.size + _CRC.size or _CRC.unpack_from(data, _HEADER.size)[0] != zlib.crc32(data[: _HEADER.size]):
        raise DataError("the header of the file of codes is damaged.")
    _, _, rows, coder, n_codes, block_columns, sample_rate, column_samples, *rest = _HEADER.unpack_from(data)
    header = Header(rows, n_codes, sample_rate, column_samples, block_columns, *rest[:2], coder, rest[2])
    if not all((rows, n_codes, sample_rate, column_samples, block_columns)):
        raise DataError("the header of the file of codes has a size of 0; the file is damaged.")
    return header


def _read_index(data: bytes) -> tuple[int, list[int]] | None:
    """Number of samples, and offsets of the blocks; None if the index is damaged."""
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


def _read_block(data: bytes, offset: int, header: Header) -> tuple[int, int, int, bytes] | None:
    """Number, columns, CRC of the codes and coded bytes of a block; None if it is damaged."""
    if offset + _BLOCK.size > len(data):
        return None
    marker, number, n_columns, n_bytes, crc = _BLOCK.unpack_from(data, offset)
    stop = offset + _BLOCK.size + n_bytes
    if marker != _BLOCK_MARKER or stop + _CRC.size > len(data) or not 0 < n_columns <= header.block_columns or number >= _MOST_BLOCKS:
        return None
    if _CRC.unpack_from(data, stop)[0] != zlib.crc32(data[offset:stop]):
        return None
    return number, n_columns, crc, data[offset + _BLOCK.size : stop]
