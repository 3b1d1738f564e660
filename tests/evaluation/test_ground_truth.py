"""Labels of clips from folders, tables, manifests and VGGSounder."""

import sys
from types import SimpleNamespace

import pytest

from unsilent import labels
from unsilent.data.manifest import Row, write_manifest
from unsilent.errors import DataError, ParameterError
from unsilent.evaluation.ground_truth import read_labels, read_manifest_labels

CLIPS = ["cat/y", "dog/x", "z"]


def test_read_labels_takes_folder_names():
    assert read_labels("folders", CLIPS) == {"cat/y": {"cat"}, "dog/x": {"dog"}}


def test_read_labels_matches_table_rows_by_the_end_of_their_path(tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("path,label,more\nsounds/dog/x.ogg,dog,1\nz.v2,hum,\ny,cat\ny,purr\nother,dog\nz,\n")
    assert read_labels(str(table), [*CLIPS, "z.v2"]) == {"cat/y": {"cat", "purr"}, "dog/x": {"dog"}, "z.v2": {"hum"}}


def test_read_labels_refuses_tables_without_labels(tmp_path):
    table = tmp_path / "labels.csv"
    with pytest.raises(DataError, match=r"there is no table of labels .*labels.csv; give a CSV file, 'folders' or 'vggsounder'"):
        read_labels(str(table), CLIPS)
    table.write_text("path,class\nx,dog\n")
    with pytest.raises(DataError, match="lacks the column label; it needs path and label"):
        read_labels(str(table), CLIPS)
    table.write_text("path,label\nelse,dog\n")
    with pytest.raises(DataError, match=r"none of the 3 reference sounds has a label in .*labels\.csv"):
        read_labels(str(table), CLIPS)


def test_read_manifest_labels_selects_a_split(tmp_path):
    about = {"licence": "", "start_seconds": 0.0, "duration_seconds": 1.0, "sample_rate": 22050, "checksum": ""}
    rows = [
        Row("sounds/dog/x", "sounds/dog/x.ogg", "sound", "dog", "valid", **about),
        Row("sounds/cat/y", "sounds/cat/y.ogg", "sound", "cat", "train", **about),
        Row("images/z", "images/z.jpg", "image", "hum", "valid", **about),
    ]
    write_manifest(tmp_path, rows, tmp_path / "m.parquet")
    assert read_manifest_labels(tmp_path / "m.parquet", CLIPS, None) == ({"dog/x": {"dog"}, "cat/y": {"cat"}}, CLIPS)
    assert read_manifest_labels(tmp_path / "m.parquet", CLIPS, "valid") == ({"dog/x": {"dog"}}, ["dog/x"])
    with pytest.raises(DataError, match="has 0 sounds of the split 'test', but none of them is among the 3 reference sounds"):
        read_manifest_labels(tmp_path / "m.parquet", CLIPS, "test")


def test_vggsounder_labels_match_videos_and_seconds(monkeypatch):
    asked = []

    def annotated(modality):
        asked.append(modality)
        return {"abcdefghijk_000034": SimpleNamespace(labels=["dog barking", "wind noise"])}

    monkeypatch.setitem(sys.modules, "vggsounder", SimpleNamespace(VGGSounder=annotated))
    clips = ["abcdefghijk_34000_44000", "test/abcdefghijk_000034", "abcdefghijk_35000_45000"]
    found = read_labels("vggsounder", clips)
    assert found == dict.fromkeys(clips[:2], frozenset({"dog barking", "wind noise"}))
    assert asked == ["A"]


def test_vggsounder_labels_are_classes_of_vggsound():
    annotated = pytest.importorskip("vggsounder", reason="needs the extra vggsounder").VGGSounder(modality="A")
    assert {label for one in annotated.values() for label in one.labels} <= set(labels.classes("vggsound"))


def test_vggsounder_labels_need_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "vggsounder", None)
    with pytest.raises(ParameterError, match=r"need the package vggsounder; run in .*: pip install '\.\[vggsounder\]'"):
        read_labels("vggsounder", CLIPS)
