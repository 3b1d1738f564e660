"""The table of material: round trip, splits that keep scenes together, mistakes named."""

import pytest

from unsilent.data.manifest import read_folder, read_manifest, write_manifest
from unsilent.errors import DataError


def test_round_trip(material, tmp_path):
    rows = read_folder(material)
    write_manifest(material, rows, tmp_path / "m.parquet")
    assert read_manifest(tmp_path / "m.parquet") == (material, rows)
    assert {(row.kind, row.label) for row in rows} == {("sound", "low"), ("sound", "high"), ("image", "low"), ("image", "high")}


def test_excerpts_of_one_scene_share_a_split(tmp_path):
    names = [f"clips/{i:03d}-source-some-scene-number-{scene:02d}-and-more_{i}.mp4" for scene in range(40) for i in range(3)]
    lines = ["path,label,licence,seconds,sample_rate", *(f"{name},,x,2.0,44100" for name in names)]
    (tmp_path / "clips.csv").write_text("\n".join(lines) + "\n")
    rows = read_folder(tmp_path)
    splits = [{row.split for row in rows[start : start + 3]} for start in range(0, len(rows), 3)]
    assert all(len(split) == 1 for split in splits)
    assert {"train", "valid"} == set.union(*splits)


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(DataError, match=r"holds none of sounds\.csv, images\.csv, clips\.csv"):
        read_folder(tmp_path)


def test_a_missing_column_is_named(tmp_path):
    (tmp_path / "sounds.csv").write_text("path,split\na.wav,train\n")
    with pytest.raises(DataError, match=r"sounds\.csv has no column 'label'"):
        read_folder(tmp_path)


def test_a_missing_or_foreign_manifest_is_named(tmp_path):
    with pytest.raises(DataError, match="there is no manifest"):
        read_manifest(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(DataError, match="is not a Parquet file"):
        read_manifest(tmp_path / "text.parquet")
