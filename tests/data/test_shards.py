"""Shards come back as they went in, and a broken one is noticed."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from unsilent.data.shards import Shard, Writer, coarse, fine, write_shard
from unsilent.errors import DataError


def test_round_trip(tmp_path):
    items = [(np.arange(6, dtype=np.int16).reshape(3, 2), {"clip_id": "a"}), (np.ones((1, 2), np.int16), {"clip_id": "b"})]
    assert write_shard(tmp_path, "codes", items, {"how": 1}) == 2
    shard = Shard(tmp_path, "codes")
    assert len(shard) == 2
    assert shard.extractor == {"how": 1}
    for i, (array, about) in enumerate(items):
        np.testing.assert_array_equal(shard[i], array)
        assert shard.entries[i].about == about


def test_a_missing_shard_is_named(tmp_path):
    with pytest.raises(DataError, match="no shard 'codes'"):
        Shard(tmp_path, "codes")


def test_a_short_file_is_noticed(tmp_path):
    write_shard(tmp_path, "codes", [(np.zeros((4, 2), np.int16), {})], {})
    (tmp_path / "codes.bin").write_bytes(b"123")
    with pytest.raises(DataError, match="has 3 bytes, its index promises 16"):
        Shard(tmp_path, "codes")


def test_an_interrupted_write_leaves_no_index(tmp_path):
    def items():
        yield np.zeros((4, 2), np.int16), {}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path, "codes", items(), {})
    with pytest.raises(DataError, match="no shard"):
        Shard(tmp_path, "codes")


def piece(n):
    """Up to two entries of `n` rows, or none but the reason."""
    entries = [(np.full((n, 2), n, np.int16), {"clip_id": f"{n}{part}"}) for part in range(n % 3)]
    return entries, [] if entries else [(f"{n}", "is bad.")]


PIECES = [piece(n) for n in range(1, 9)]


def write(folder, upto=None, **options):
    """All pieces, or those up to a number, after which the writer is stopped; which it has written."""
    written = []
    with suppress(KeyboardInterrupt), Writer(folder, "codes", {"how": 1}, **options) as writer:
        for number in () if writer.is_whole else range(writer.n_pieces, len(PIECES)):
            if number == upto:
                raise KeyboardInterrupt
            writer.add(*PIECES[number])
            written.append(number)
    return written


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_stopped_writer_is_gone_on_with(tmp_path):
    write(tmp_path / "once")
    assert write(tmp_path / "twice", upto=3) == [0, 1, 2]
    assert set(contents(tmp_path / "twice")) == {"codes.bin.part", "codes.journal"}
    assert write(tmp_path / "twice") == [3, 4, 5, 6, 7]
    assert contents(tmp_path / "twice") == contents(tmp_path / "once")
    assert Shard(tmp_path / "once", "codes").left_out == [("3", "is bad."), ("6", "is bad.")]


def test_whatever_a_kill_leaves_behind_the_shard_becomes_the_same(tmp_path):
    """Data and journal, each cut off at every length that it may have had."""
    write(tmp_path / "once")
    write(tmp_path / "stopped", upto=6)
    data, journal = (contents(tmp_path / "stopped")[name] for name in ("codes.bin.part", "codes.journal"))
    for n_data in range(0, len(data) + 1, 7):
        for n_journal in range(0, len(journal) + 1, 41):
            folder = tmp_path / f"{n_data} {n_journal}"
            folder.mkdir()
            (folder / "codes.bin.part").write_bytes(data[:n_data])
            (folder / "codes.journal").write_bytes(journal[:n_journal])
            write(folder)
            assert contents(folder) == contents(tmp_path / "once")


@pytest.mark.parametrize(("method", "number"), [("replace", 0), ("replace", 1), ("unlink", 0), ("unlink", 1)])
def test_a_kill_while_the_shard_appears(tmp_path, monkeypatch, method, number):
    write(tmp_path / "once")
    calls, original = [], getattr(Path, method)

    def killed(path, *arguments, **options):
        calls.append(path)
        if len(calls) > number:
            raise KeyboardInterrupt
        return original(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, method, killed)
        write(tmp_path / "killed")
    assert len(calls) == number + 1
    assert write(tmp_path / "killed") == []  # nothing is made again
    found = contents(tmp_path / "killed")
    found.pop("codes.journal", None)  # where only that was left to be done
    assert found == contents(tmp_path / "once")


def test_a_whole_shard_is_kept_and_one_made_otherwise_refused(tmp_path):
    write(tmp_path)
    before = contents(tmp_path)
    with Writer(tmp_path, "codes", {"how": 1}) as writer:
        assert writer.is_whole
    with pytest.raises(DataError, match=r"codes\.bin was made otherwise, with another how, what; .* --redo"):
        Writer(tmp_path, "codes", {"how": 2, "what": 3})
    assert contents(tmp_path) == before
    with Writer(tmp_path, "codes", {"how": 2}, redo=True) as writer:
        assert not writer.is_whole
        assert Shard(tmp_path, "codes").extractor == {"how": 1}  # the old one stays until the new one is whole
    assert Shard(tmp_path, "codes").extractor == {"how": 2}


def test_an_unfinished_shard_made_otherwise_is_refused(tmp_path):
    write(tmp_path, upto=2)
    with pytest.raises(DataError, match=r"codes\.bin\.part was made otherwise, with another how"):
        Writer(tmp_path, "codes", {"how": 2})
    assert write(tmp_path, upto=0, redo=True) == []
    assert write(tmp_path) == list(range(8))


def test_two_writers_of_one_shard_are_kept_apart(tmp_path):
    with Writer(tmp_path, "codes", {}), pytest.raises(DataError, match=r"another process is writing .*codes\.bin"):
        Writer(tmp_path, "codes", {})


def test_coarse_numbers_come_back_within_half_a_step():
    values = np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32) * 3 + 1
    stored, steps = coarse(values)
    assert stored.dtype == np.uint8
    assert (stored.min(), stored.max()) == (0, 255)
    np.testing.assert_allclose(fine(stored, steps), values, atol=steps["step"] * 0.501)
    assert np.array_equal(fine(*coarse(np.full((2, 3), 4.0, np.float32))), np.full((2, 3), 4.0))


def test_floating_point_numbers_are_taken_as_they_are():
    assert np.array_equal(fine(np.array([0.5, -2], np.float16), {}), np.array([0.5, -2], np.float32))
