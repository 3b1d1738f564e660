"""The table of material: round trip, mistakes named."""

import pytest

from unsilent.data.manifest import Row, read_manifest, write_manifest
from unsilent.errors import DataError


def test_round_trip(tmp_path):
    rows = [
        Row(f"{kind}{i}", f"{kind}{i}.x", kind, "dog", "train", "CC0", 0.5 * i, 1.5, 8000, "ab") for i, kind in enumerate(("sound", "clip"))
    ]
    write_manifest(tmp_path, rows, tmp_path / "m.parquet")
    assert read_manifest(tmp_path / "m.parquet") == (tmp_path, rows)


def test_a_missing_or_foreign_manifest_is_named(tmp_path):
    with pytest.raises(DataError, match="there is no manifest"):
        read_manifest(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(DataError, match="is not a Parquet file"):
        read_manifest(tmp_path / "text.parquet")
