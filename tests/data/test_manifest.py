"""The manifest: round trip, errors."""

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
