"""The manifest: round trip, errors."""

from contextlib import suppress

import pyarrow.parquet
import pytest

from unsilent.data.manifest import Row, read_manifest, write_manifest
from unsilent.errors import DataError


@pytest.mark.parametrize("impacts", [None, True])
def test_round_trip(tmp_path, impacts):
    rows = [
        Row("sound", "sound.x", "sound", "dog", "train", "CC0", 0.0, 1.5, 8000, "ab"),
        Row("clip", "clip.x", "clip", "dog", "train", "CC0", 0.5, 1.5, 8000, "ab", impacts),
    ]
    write_manifest(tmp_path, rows, tmp_path / "m.parquet")
    assert read_manifest(tmp_path / "m.parquet") == (tmp_path, rows)
    assert ("visible_impacts" in pyarrow.parquet.read_schema(tmp_path / "m.parquet").names) == bool(impacts)


def test_a_missing_or_unreadable_manifest_is_named(tmp_path):
    with pytest.raises(DataError, match="there is no manifest"):
        read_manifest(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(DataError, match="is not a Parquet file"):
        read_manifest(tmp_path / "text.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"clip_id": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match=r"lacks the columns checksum, .*; make it again"):
        read_manifest(tmp_path / "other.parquet")


def test_a_file_of_others_is_not_replaced(tmp_path):
    (tmp_path / "in.parquet").write_bytes(b"a video of the user")
    with pytest.raises(DataError, match=r"in\.parquet exists and is not a manifest of unsilent"):
        write_manifest(tmp_path, [ROW], tmp_path / "in.parquet")
    assert (tmp_path / "in.parquet").read_bytes() == b"a video of the user"


ROW = Row("a", "a.wav", "sound", "dog", "train", "CC0", 0.0, 1.5, 8000, "ab")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("clip_id", None),
        ("path", None),
        ("clip_id", ""),
        ("path", "a\0b"),
        ("kind", "song"),
        ("duration_seconds", float("nan")),
        ("checksum", None),
    ],
)
def test_values_that_no_file_has_are_refused(tmp_path, field, value):
    write_manifest(tmp_path, [ROW], tmp_path / "m.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "m.parquet")
    changed = pyarrow.Table.from_pylist([table.to_pylist()[0] | {field: value}], schema=table.schema)
    pyarrow.parquet.write_table(changed, tmp_path / "m.parquet")
    with pytest.raises(DataError, match="is damaged"):
        read_manifest(tmp_path / "m.parquet")


def test_damaged_parquet_is_named(tmp_path):
    write_manifest(tmp_path, [ROW], tmp_path / "m.parquet")
    content = (tmp_path / "m.parquet").read_bytes()
    for place in range(4, len(content) - 8, 7):
        (tmp_path / "m.parquet").write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        with suppress(DataError):  # and no other error
            read_manifest(tmp_path / "m.parquet")
