"""Inputs of an evaluation: names of systems, damaged settings, contradictory requests."""

import pytest

from unsilent.errors import DataError, ParameterError
from unsilent.evaluation.inputs import find_inputs


def test_find_inputs_refuses_a_damaged_samples_json(sounds):
    (sounds / "made/samples.json").write_text("{")
    with pytest.raises(DataError, match=r"samples.json is not JSON, or damaged"):
        find_inputs(sounds / "real", [sounds / "made"])
    (sounds / "made/samples.json").write_text("[]")
    with pytest.raises(DataError, match=r"samples.json must be an object with model, seed, top_k, temperature"):
        find_inputs(sounds / "real", [sounds / "made"])


def test_find_inputs_refuses_nothing_to_evaluate(tiny_sounds):
    with pytest.raises(ParameterError, match="there is nothing to evaluate: give folders with --generated, or labels"):
        find_inputs(tiny_sounds / "real", [])


def test_find_inputs_refuses_labels_twice_and_a_split_without_a_manifest(tiny_sounds, tmp_path):
    with pytest.raises(ParameterError, match=r"labels are given twice, by folders and .*m\.parquet; leave out one"):
        find_inputs(tiny_sounds / "real", [], "folders", tmp_path / "m.parquet")
    with pytest.raises(ParameterError, match="the split 'valid' needs a manifest"):
        find_inputs(tiny_sounds / "real", [], "folders", split="valid")


def test_find_inputs_gives_systems_distinct_names(tiny_sounds, sounds):
    folders = [tiny_sounds / "made", sounds / "made"]
    assert [folder.name for folder in find_inputs(tiny_sounds / "real", folders).folders] == [
        "reference", f"{tiny_sounds.name}/made", "sounds/made",
    ]  # fmt: skip
    with pytest.raises(ParameterError, match="made is given more than once"):
        find_inputs(tiny_sounds / "real", [tiny_sounds / "made", tiny_sounds / "made"])
