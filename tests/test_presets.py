"""The table of models: consistency, and the paper's sizes and scores."""

import pytest
import torch

from unsilent import presets
from unsilent.checkpoints.store import KINDS
from unsilent.clip import Clip
from unsilent.errors import ParameterError
from unsilent.models.codebook import Codebook
from unsilent.models.sampler import Sampler

PAPER = [name for name in presets.names() if name != "everyday"]


def millions(network):
    return sum(weight.numel() for weight in network.parameters()) / 1e6


@pytest.mark.parametrize("name", presets.all_names())
def test_networks_of_a_row_fit_each_other(name):
    row = presets.get(name)
    assert row.name == name
    assert row.sampler.codes == row.codebook.n_codes
    assert row.sampler.clip == row.codebook.clip == row.clip
    assert 1 <= row.top_k <= row.codebook.n_codes
    assert (row.backbone is not None) == row.sampler.condition.kind.startswith(("features", "columns", "sight"))
    assert row.sampler.condition.n_features <= row.clip.n_features


@pytest.mark.parametrize("config", [Clip, *(config for config, _ in KINDS.values())])
def test_every_field_of_a_configuration_has_a_description(config):
    assert [name for name, field in config.model_fields.items() if not field.description] == []


def test_default_is_first():
    assert presets.names()[0] == "everyday"


def test_rows_for_trials_are_not_offered():
    assert presets.all_names() == [*presets.names(), "small", "smoke"]


def test_tables_of_the_paper_are_complete():
    """Table 3 has eight conditions in three settings; table 4 adds features and a class in the two settings on VAS.

    Without scores are the coordinates of the supplement, for each data set.
    """
    assert len(PAPER) == 3 * 8 + 2 + 2
    assert [name for name in PAPER if presets.get(name).fid is None] == ["vggsound-coordinates", "vas-coordinates"]


@pytest.mark.parametrize(
    ("condition", "length"),
    [("nofeats", 266), ("1-resnet50", 266), ("5-resnet50", 270), ("212-resnet50", 477), ("212-bninception", 477), ("class", 266)],
)
@pytest.mark.parametrize("setting", ["vggsound-{}", "vas-{}", "vas-{}-vggsound-codebook"])
def test_sequence_lengths_are_the_released_ones(setting, condition, length):
    """Condition positions and 265 codes, as in the released configurations."""
    row = presets.get(setting.format(condition))
    assert row.sampler.condition.n_tokens(row.clip) + row.clip.n_codes == length


def test_coordinates_are_as_many_as_codes():
    for name in ("vggsound-coordinates", "vas-coordinates"):
        row = presets.get(name)
        assert row.sampler.condition.n_tokens(row.clip) == row.clip.n_codes == 265


def test_features_with_a_class_have_one_more_position():
    row = presets.get("vas-212-bninception-class")
    assert row.sampler.condition.n_tokens(row.clip) + row.clip.n_codes == 478


@pytest.mark.parametrize(
    ("name", "total"),
    [("vggsound-5-resnet50", 306.8), ("vggsound-212-resnet50", 307.0), ("vas-212-resnet50", 305.2), ("vggsound-class", 305.0)],
)
def test_samplers_have_the_papers_size(name, total):
    with torch.device("meta"):
        sampler = Sampler(presets.get(name).sampler)
    assert millions(sampler) == pytest.approx(total, abs=0.1)


@pytest.mark.parametrize(("name", "total"), [("vggsound-class", 72.1), ("vas-class", 71.9)])
def test_codebooks_have_the_papers_size(name, total):
    with torch.device("meta"):
        codebook = Codebook(presets.get(name).codebook)
    assert millions(codebook) == pytest.approx(total, abs=0.1)


def test_transformers_have_the_papers_sizes():
    for name in PAPER:
        transformer = presets.get(name).sampler.transformer
        assert (transformer.layers, transformer.heads, transformer.width, transformer.dropout) == (24, 16, 1024, 0.0)


@pytest.mark.parametrize(
    ("name", "fid", "mkl"),
    [
        ("vggsound-nofeats", 13.5, 9.7),
        ("vggsound-1-bninception", 8.6, 7.7),
        ("vggsound-212-resnet50", 10.5, 6.9),
        ("vggsound-class", 7.8, 5.0),
        ("vas-1-bninception-vggsound-codebook", 38.6, 7.3),
        ("vas-212-bninception-vggsound-codebook", 20.5, 6.0),
        ("vas-212-bninception-class-vggsound-codebook", 20.2, 5.7),
        ("vas-5-resnet50", 20.9, 6.1),
        ("vas-212-resnet50", 22.6, 5.8),
        ("vas-class", 23.9, 5.5),
    ],
)
def test_scores_are_the_papers(name, fid, mkl):
    assert (presets.get(name).fid, presets.get(name).mkl) == (fid, mkl)


def test_codebook_of_a_row_matches_its_name():
    for name in PAPER:
        own_data = name.startswith("vggsound") or name.endswith("-vggsound-codebook")
        assert presets.get(name).codebook.n_codes == (1024 if own_data else 128)


def test_rows_are_frozen():
    with pytest.raises(AttributeError):
        presets.get("everyday").top_k = 3


@pytest.mark.parametrize(
    ("typed", "near"),
    [
        ("everyda", "did you mean everyday"),
        ("vggsound-5-resnet", "did you mean .*vggsound-5-resnet50"),
        ("qqq", "`unsilent models` lists all"),
    ],
)
def test_unknown_name_is_refused_with_suggestions(typed, near):
    with pytest.raises(ParameterError, match=f"there is no model '{typed}'; {near}"):
        presets.get(typed)
