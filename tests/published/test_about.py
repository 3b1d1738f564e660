"""Descriptions of models and networks."""

import pytest

from unsilent import labels, presets
from unsilent.checkpoints import folders
from unsilent.checkpoints.bundle import save_bundle
from unsilent.errors import ParameterError
from unsilent.published.about import describe, entries


def test_entries_have_every_model_and_network_once():
    names = [entry.name for entry in entries()]
    assert names[0] == "everyday"
    assert len(names) == len(set(names)) == len(presets.names()) + 8


def test_entries_say_where_weights_are(monkeypatch, tmp_path):
    monkeypatch.setenv("UNSILENT_CACHE", str(tmp_path))
    (tmp_path / "models/melception").mkdir(parents=True)
    (tmp_path / "models/melception/config.json").touch()
    weights = {entry.name: entry.weights for entry in entries()}
    assert weights["everyday"] == "shipped"
    assert weights["melception"] == "fetched"
    assert weights["vggishish"] == weights["vggsound-class"] == "to fetch"
    assert weights["vas-212-bninception-class"] == "never published"


def test_describe_reads_a_bundle(tiny_bundle):
    text = describe(str(tiny_bundle))
    assert "licence of weights: none needed" in text
    assert f"weights: {tiny_bundle}" in text


def test_describe_has_scores_file_and_licence_of_a_published_model():
    text = describe("vggsound-5-resnet50")
    assert "paper: FID 11.3, MKL 7.0" in text
    assert "image network: resnet50" in text
    assert "2021-07-30T21-34-25_vggsound_transformer.tar.gz" in text
    assert "digest: MD5 f4d7105811589d441b69f00d7d0b8dc8" in text
    assert "licence: MIT" in text
    assert "weights: to fetch" in text


def test_describe_names_all_classes(monkeypatch, tmp_path, tiny_parts):
    monkeypatch.setenv("UNSILENT_CACHE", str(tmp_path))
    save_bundle(tmp_path / "models/vas-class", "vas-class", tiny_parts, {"classes": list(labels.classes("vas"))})
    text = describe("vas-class")
    assert "classes: baby; cough; dog; drum; fireworks; gun; hammer; sneeze" in text
    assert f"weights: {tmp_path / 'models/vas-class'}" in text


def test_describe_reads_a_checkpoint_folder(tiny_parts):
    text = describe(str(tiny_parts["codebook"]))
    assert text.startswith(f"{tiny_parts['codebook']}: codebook")
    assert "made: seed 0" in text


def test_describe_names_classes_without_weights():
    assert "classes: air conditioning noise; air horn; " in describe("vggsound-class")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("melception", "paper table 5: top-1 44.49 %"),
        ("vggishish", "MD5 197040c524a07ccacf7715d7080a80bd"),
        ("resnet50", "(103 MB)"),
        ("bninception", "used by: vggsound-1-bninception"),
        ("melgan", "vocoder"),
    ],
)
def test_describe_has_the_facts_of_networks(name, words):
    text = describe(name)
    assert words in text
    assert "licence: " in text


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("melceptoin", "did you mean .*melception"),
        ("vggsound-5-resnet", "did you mean .*vggsound-5-resnet50"),
        ("x", "`unsilent models` lists all"),
    ],
)
def test_describe_suggests_models_and_networks(name, hint):
    with pytest.raises(ParameterError, match=f"there is no model '{name}'; {hint}"):
        describe(name)


def test_describe_says_that_the_default_model_is_shipped():
    assert f"weights: {folders.SHIPPED / 'everyday'}" in describe("everyday")
