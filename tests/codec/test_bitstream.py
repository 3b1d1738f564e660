"""Files of codes: lossless, found again after damage, never a crash."""

from dataclasses import replace

import numpy as np
import pytest

from unsilent.codec.bitstream import Header, pack, unpack
from unsilent.errors import DataError, ParameterError

HEADER = Header(rows=5, n_codes=512, sample_rate=22050, column_samples=4096, block_columns=53, gain_db=-3.5, digest=bytes(range(16)))


def codes(n_columns, header=HEADER, seed=0):
    return np.random.default_rng(seed).integers(0, header.n_codes, (header.rows, n_columns))


def packed(grid, header=HEADER, n_samples=None):
    pieces = [grid[:, start : start + header.block_columns] for start in range(0, max(1, grid.shape[1]), header.block_columns)]
    return b"".join(pack(header, pieces, lambda: n_samples or grid.shape[1] * header.column_samples))


@pytest.mark.parametrize("n_codes", [2, 128, 512, 1000, 1024])
@pytest.mark.parametrize("n_columns", [1, 53, 54, 200])
def test_codes_come_back(n_codes, n_columns):
    header = replace(HEADER, n_codes=n_codes)
    grid = codes(n_columns, header)
    found = unpack(packed(grid, header, n_columns * 4096 - 7))
    assert np.array_equal(found.grid, grid)
    assert (found.header, found.n_samples, found.lost) == (header, n_columns * 4096 - 7, [])


def test_the_paper_s_codes_take_their_bits_and_little_more():
    header = replace(HEADER, n_codes=1024)
    grid = codes(53 * 6, header)
    assert len(packed(grid, header)) * 8 < grid.size * 10 + 8 * 290


def test_a_damaged_block_loses_itself_and_no_other():
    grid = codes(53 * 4)
    data = bytearray(packed(grid))
    position = data.find(b"\xabUNB", data.find(b"\xabUNB") + 1)  # of block 1
    data[position + 40] ^= 1
    found = unpack(bytes(data))
    assert found.lost == [1]
    assert (found.grid[:, 53:106] == -1).all()
    assert np.array_equal(found.grid[:, :53], grid[:, :53])
    assert np.array_equal(found.grid[:, 106:], grid[:, 106:])


def test_blocks_are_found_without_an_index():
    """Of a file that was cut off in its third block, and of one whose end is damaged."""
    grid, data = codes(53 * 4), packed(codes(53 * 4))
    third = data.find(b"\xabUNB", data.find(b"\xabUNB", data.find(b"\xabUNB") + 1) + 1)
    assert np.array_equal(unpack(data[: third + 50]).grid, grid[:, :106])
    assert np.array_equal(unpack(data[:-1] + b"x").grid, grid)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: b"RIFF" + data[4:], "this is not a file of codes"),
        (lambda data: b"", "this is not a file of codes"),
        (lambda data: data[:20], "the header of the file of codes is damaged"),
        (lambda data: data[:13] + b"\xff" + data[14:], "the header of the file of codes is damaged"),
        (lambda data: data[:8] + b"\x01" + data[9:], "the file of codes has version 1, or is damaged; this program reads version 2"),
        (lambda data: data[:80], "no block of codes in the file can be read"),
    ],
)
def test_unusable_files_are_refused_in_a_sentence(change, words):
    with pytest.raises(DataError, match=words):
        unpack(change(packed(codes(60))))


def test_codes_that_do_not_fit_are_refused():
    for grid in (codes(5)[:4], np.full((5, 3), 512), np.full((5, 3), -1), np.zeros((5, 0), int)):
        with pytest.raises(ParameterError, match="do not fit 5 rows of 512 codes"):
            packed(grid, n_samples=1)


def test_mutated_files_never_crash_and_never_give_wrong_codes():
    """Bytes changed, cut out, doubled or cut off at random: what is read is what was written, or it is lost."""
    grid, rng, n_saved = codes(53 * 3 + 9), np.random.default_rng(1), 0
    data = packed(grid)
    for _ in range(2000):
        changed = bytearray(data)
        for _ in range(rng.integers(1, 4)):
            position, kind = int(rng.integers(len(changed))), rng.integers(4)
            if kind == 0:
                changed[position] = rng.integers(256)
            elif kind == 1:
                del changed[position : position + int(rng.integers(1, 50))]
            elif kind == 2:
                changed[position:position] = changed[position : position + int(rng.integers(1, 50))]
            else:
                del changed[position + 1 :]
        try:
            found = unpack(bytes(changed))
        except DataError:
            continue
        n_columns = min(found.grid.shape[1], grid.shape[1])
        kept = found.grid[:, :n_columns] >= 0
        assert np.array_equal(found.grid[:, :n_columns][kept], grid[:, :n_columns][kept])
        n_saved += kept.sum() / grid.size
    assert n_saved > 400
