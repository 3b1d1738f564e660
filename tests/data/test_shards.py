"""Shards: round trip, damage, resuming, locking, quantisation."""

import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from unsilent.data.rows import CodesRow, FeaturesRow, ItemRow
from unsilent.data.shards import Shard, ShardWriter, dequantise, quantise, write_shard
from unsilent.errors import DataError


def row(clip_id="a"):
    return CodesRow(clip_id, "sound", "dog", "train", 22050, item=0, variant=0, speed=1.0, shift_samples=0, start_column=0)


def test_round_trip(tmp_path):
    items = [(np.arange(6, dtype=np.int16).reshape(3, 2), row("a")), (np.ones((1, 2), np.int16), row("b"))]
    assert write_shard(tmp_path, "codes", items, {"how": 1}) == 2
    shard = Shard(tmp_path, "codes")
    assert len(shard) == 2
    assert shard.extractor == {"how": 1}
    for i, (array, expected) in enumerate(items):
        np.testing.assert_array_equal(shard[i], array)
        assert shard.entries[i].row == expected


def test_index_columns(tmp_path):
    """The JSON is a file format: later versions must read it."""
    write_shard(tmp_path, "codes", [(np.zeros((4, 2), np.int16), row())], {"version": 4})
    write_shard(tmp_path, "features", [(np.zeros((4, 2), np.uint8), FeaturesRow("a", "clip", "", "", 0, 0.5, 0.1))], {})
    write_shard(tmp_path, "motion", [(np.zeros((4, 2), np.float16), ItemRow("a", "clip", "", "", 0))], {})
    codes, features, motion = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("codes", "features", "motion"))
    common = {"clip_id": "a", "kind": "sound", "label": "dog", "split": "train", "sample_rate": 22050}
    place = {"item": 0, "variant": 0, "speed": 1.0, "shift_samples": 0, "start_column": 0}
    assert list(codes) == ["dtype", "row_shape", "extractor", "sha256", "entries", "left_out"]
    assert codes["entries"] == [[0, 4, common | place]]
    assert features["entries"][0][2].keys() == common.keys() | {"lowest", "step"}
    assert motion["entries"][0][2].keys() == common.keys()


def test_a_missing_shard_is_named(tmp_path):
    with pytest.raises(DataError, match="no shard 'codes'"):
        Shard(tmp_path, "codes")


def test_a_truncated_array_is_named(tmp_path):
    write_shard(tmp_path, "codes", [(np.zeros((4, 2), np.int16), row())], {})
    (tmp_path / "codes.bin").write_bytes(b"123")
    with pytest.raises(DataError, match="has 3 bytes instead of the 16 of its index"):
        Shard(tmp_path, "codes")
    (tmp_path / "codes.bin").unlink()
    with pytest.raises(DataError, match="has 0 bytes instead of the 16 of its index"):
        Shard(tmp_path, "codes")


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda index: index["entries"][0][2].pop("speed"), r"entries\.0\.2\.speed: Field required"),
        (lambda index: index["entries"][0][2].update(item="3"), r"entries\.0\.2\.item: Input should be a valid integer"),
        (lambda index: index["entries"][0][2].update(kind="smell"), r"entries\.0\.2\.kind: Input should be 'sound', 'image' or 'clip'"),
        (lambda index: index.pop("dtype"), "dtype: Field required"),
    ],
)
def test_a_damaged_or_old_index_is_named(tmp_path, damage, problem):
    write_shard(tmp_path, "codes", [(np.zeros((4, 2), np.int16), row())], {})
    index = json.loads((tmp_path / "codes.json").read_text())
    damage(index)
    (tmp_path / "codes.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match=rf"codes\.json is damaged or of another version \({problem}\); extract it again with --redo"):
        Shard(tmp_path, "codes")


def test_an_index_that_is_not_json_is_named(tmp_path):
    write_shard(tmp_path, "codes", [], {})
    (tmp_path / "codes.json").write_text('{"dtype')
    with pytest.raises(DataError, match=r"is damaged or of another version \(Invalid JSON"):
        Shard(tmp_path, "codes")
    with pytest.raises(DataError, match=r"codes\.json is damaged; choose another folder, or replace it with --redo"):
        ShardWriter(tmp_path, "codes", {})


def test_a_missing_setting_is_named(tmp_path):
    write_shard(tmp_path, "features", [], {"dim": 3})
    assert Shard(tmp_path, "features").setting("dim") == 3
    with pytest.raises(DataError, match=r"features\.json is damaged or of another version \(extractor\.rows_per_column: Field required"):
        Shard(tmp_path, "features").setting("rows_per_column")


def test_an_interrupted_write_leaves_no_index(tmp_path):
    def items():
        yield np.zeros((4, 2), np.int16), row()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path, "codes", items(), {})
    with pytest.raises(DataError, match="no shard"):
        Shard(tmp_path, "codes")


def batch(n):
    """Up to two items of `n` rows, or only a reason."""
    items = [(np.full((n, 2), n, np.int16), row(f"{n}{part}")) for part in range(n % 3)]
    return items, [] if items else [(f"{n}", "is bad.")]


BATCHES = [batch(n) for n in range(1, 9)]


def write(folder, upto=None, **options):
    """Write all batches, or stop before batch `upto`; the numbers of those written."""
    written = []
    with suppress(KeyboardInterrupt), ShardWriter(folder, "codes", {"how": 1}, **options) as writer:
        for number in () if writer.is_finished else range(writer.n_batches, len(BATCHES)):
            if number == upto:
                raise KeyboardInterrupt
            writer.add(*BATCHES[number])
            written.append(number)
    return written


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_stopped_writer_resumes(tmp_path):
    write(tmp_path / "once")
    assert write(tmp_path / "twice", upto=3) == [0, 1, 2]
    assert set(contents(tmp_path / "twice")) == {"codes.bin.part", "codes.journal"}
    assert write(tmp_path / "twice") == [3, 4, 5, 6, 7]
    assert contents(tmp_path / "twice") == contents(tmp_path / "once")
    assert Shard(tmp_path / "once", "codes").left_out == [("3", "is bad."), ("6", "is bad.")]


def test_resuming_after_any_kill_gives_the_same_shard(tmp_path):
    """Array and journal, each truncated at many lengths."""
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
def test_a_kill_while_the_shard_is_published(tmp_path, monkeypatch, method, number):
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
    assert write(tmp_path / "killed") == []  # no batch is written again
    found = contents(tmp_path / "killed")
    found.pop("codes.journal", None)  # remains if the kill was just before its removal
    assert found == contents(tmp_path / "once")


def test_a_finished_shard_is_kept_and_other_settings_refused(tmp_path):
    write(tmp_path)
    before = contents(tmp_path)
    with ShardWriter(tmp_path, "codes", {"how": 1}) as writer:
        assert writer.is_finished
    with pytest.raises(DataError, match=r"codes\.bin was made with other how, what; .* --redo"):
        ShardWriter(tmp_path, "codes", {"how": 2, "what": 3})
    assert contents(tmp_path) == before
    with ShardWriter(tmp_path, "codes", {"how": 2}, redo=True) as writer:
        assert not writer.is_finished
        assert Shard(tmp_path, "codes").extractor == {"how": 1}  # the old one stays until the new one is finished
    assert Shard(tmp_path, "codes").extractor == {"how": 2}


def test_an_unfinished_shard_of_other_settings_is_refused(tmp_path):
    write(tmp_path, upto=2)
    with pytest.raises(DataError, match=r"codes\.bin\.part was made with other how"):
        ShardWriter(tmp_path, "codes", {"how": 2})
    assert write(tmp_path, upto=0, redo=True) == []
    assert write(tmp_path) == list(range(8))


def test_a_second_writer_is_refused(tmp_path):
    with ShardWriter(tmp_path, "codes", {}), pytest.raises(DataError, match=r"another process is writing .*codes\.bin"):
        ShardWriter(tmp_path, "codes", {})


def features_row(lowest=None, step=None):
    return FeaturesRow("", "clip", "", "", 0, lowest, step)


def test_quantised_values_are_within_half_a_step():
    values = np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32) * 3 + 1
    stored, lowest, step = quantise(values)
    assert stored.dtype == np.uint8
    assert (stored.min(), stored.max()) == (0, 255)
    np.testing.assert_allclose(dequantise(stored, features_row(lowest, step)), values, atol=step * 0.501)
    constant, lowest, step = quantise(np.full((2, 3), 4.0, np.float32))
    assert np.array_equal(dequantise(constant, features_row(lowest, step)), np.full((2, 3), 4.0))


def test_dequantise_keeps_floating_point_values():
    assert np.array_equal(dequantise(np.array([0.5, -2], np.float16), features_row()), np.array([0.5, -2], np.float32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "object"}, "dtype: 'object'"),
        ({"dtype": "nonsense"}, "dtype: 'nonsense'"),
        ({"row_shape": [-2]}, "row_shape: negative"),
        ({"row_shape": [10**30]}, "row_shape: negative or very large"),
        ({"entries": [[1, 3, None]]}, "entries.0: starts at 1 instead of 0"),
        ({"entries": [[0, -3, None]]}, "negative length"),
        ({"entries": [[0, 3, None], [0, 3, None]]}, "entries.1: starts at 0 instead of 3"),
    ],
)
def test_lying_indexes_are_refused(tmp_path, change, message):
    write_shard(tmp_path, "codes", [(np.zeros((3, 2), np.int16), row())], {})
    path = tmp_path / "codes.json"
    index = json.loads(path.read_text())
    about = index["entries"][0][2]
    change = {key: [[*entry[:2], about] for entry in value] if key == "entries" else value for key, value in change.items()}
    path.write_text(json.dumps(index | change))
    with pytest.raises(DataError, match=message):
        Shard(tmp_path, "codes")


@pytest.mark.parametrize("line", [b"[]", b"{}", b"5", b"not JSON", b'{"bytes": "x", "entries": [], "left_out": []}', b"[" * 100_000])
def test_damaged_journals_are_refused(tmp_path, line):
    with suppress(KeyboardInterrupt), ShardWriter(tmp_path, "codes", {}) as writer:
        writer.add([(np.zeros((3, 2), np.int16), row())])
        raise KeyboardInterrupt
    path = tmp_path / "codes.journal"
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(DataError, match=r"codes\.journal is damaged; start over with --redo"):
        ShardWriter(tmp_path, "codes", {})


@pytest.mark.parametrize("redo", [False, True])
def test_files_of_others_are_not_replaced(tmp_path, redo):
    """A file that happens to be named like a shard's array or index."""
    name = "codes.json" if redo else "codes.bin"
    (tmp_path / name).write_text("of the user")
    with pytest.raises(DataError, match=rf"{name} (is damaged|exists without an index)"):
        ShardWriter(tmp_path, "codes", {}, redo=redo)
    assert (tmp_path / name).read_text() == "of the user"
