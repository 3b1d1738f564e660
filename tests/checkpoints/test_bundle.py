"""Bundles: three checkpoints that form one model, and errors about them."""

import json
import shutil

import pytest
import torch

from unsilent import presets
from unsilent.checkpoints import folders
from unsilent.checkpoints.assemble import assemble
from unsilent.checkpoints.bundle import load_parts, save_bundle
from unsilent.checkpoints.folders import ROLES, find_bundle, present, read_bundle, sampler_config
from unsilent.checkpoints.store import load_checkpoint, save_checkpoint
from unsilent.errors import CheckpointError, ParameterError
from unsilent.evaluation.classifier import load_classifier
from unsilent.models.codebook import Codebook
from unsilent.models.exemplars import Exemplars, ExemplarsConfig
from unsilent.models.sampler import Sampler


@pytest.fixture
def copy(tiny_bundle, tmp_path):
    """A bundle that a test may damage."""
    return shutil.copytree(tiny_bundle, tmp_path / "copy")


@pytest.fixture
def nothing_shipped(monkeypatch, tmp_path):
    monkeypatch.setattr(folders, "SHIPPED", tmp_path / "weights")


def test_load_parts_returns_the_weights_rounded_to_float16(tiny_bundle, tiny_parts):
    loaded = load_parts(tiny_bundle)
    assert loaded.name == "everyday"
    assert loaded.backbone_row is not None
    assert loaded.backbone_row.dim == 1280
    for role, kind in (("codebook", "codebook"), ("sampler", "sampler"), ("vocoder", "vocos")):
        original, back = load_checkpoint(tiny_parts[role], kind).state_dict(), getattr(loaded, role).state_dict()
        assert all(torch.equal(back[name], value.half().float()) for name, value in original.items())


def test_load_parts_returns_networks_for_inference(parts):
    for module in (parts.codebook, parts.sampler, parts.vocoder):
        assert not any(inner.training for inner in module.modules())
        assert not any(weight.requires_grad for weight in module.parameters())


def test_find_bundle_finds_a_shipped_one_by_name_and_any_by_path(copy, monkeypatch):
    monkeypatch.setattr(folders, "SHIPPED", copy.parent)
    assert find_bundle("copy") == copy
    assert find_bundle(str(copy)) == copy
    assert present() == []  # not the name of a preset


def test_find_bundle_finds_a_fetched_one_by_name(copy, monkeypatch, tmp_path):
    monkeypatch.setenv("UNSILENT_CACHE", str(tmp_path))
    shutil.copytree(copy, tmp_path / "models/vggsound-class")
    assert find_bundle("vggsound-class") == tmp_path / "models/vggsound-class"
    assert present() == ["everyday", "vggsound-class"]


def test_find_bundle_suggests_similar_names():
    with pytest.raises(ParameterError, match=r"there is no model 'everday'; did you mean everyday.*`unsilent models` lists all"):
        find_bundle("everday")


def test_find_bundle_names_the_command_that_fetches_weights():
    with pytest.raises(CheckpointError, match=r"'vggsound-class' are not installed; fetch them with: unsilent models fetch vggsound-class"):
        find_bundle("vggsound-class")


@pytest.mark.usefixtures("nothing_shipped")
def test_find_bundle_lists_installed_models_for_an_unpublished_one():
    with pytest.raises(CheckpointError, match="of 'vas-212-bninception-class' were never published; installed models: none"):
        find_bundle("vas-212-bninception-class")


@pytest.mark.parametrize("make", [False, True], ids=["missing folder", "folder of something else"])
def test_find_bundle_refuses_other_paths(tmp_path, make):
    if make:
        (tmp_path / "mine").mkdir()
    with pytest.raises(CheckpointError, match=r"mine' is not a bundle folder: it has no bundle\.json"):
        find_bundle(str(tmp_path / "mine"))


@pytest.mark.parametrize("role", ROLES)
def test_load_parts_names_a_missing_part(copy, role):
    shutil.rmtree(copy / role)
    with pytest.raises(CheckpointError, match=rf"cannot read .*{role}/config\.json: No such file"):
        load_parts(copy)


@pytest.mark.parametrize(
    "about",
    [{}, {"preset": "everyday"}, {"preset": "everyday", "parts": list(ROLES)}, {"preset": "nothing", "parts": dict.fromkeys(ROLES, ".")}],
)
def test_read_bundle_refuses_incomplete_ones(copy, about):
    (copy / "bundle.json").write_text(json.dumps(about))
    with pytest.raises(
        CheckpointError, match=r"is not a bundle of this project: it must name a known preset and codebook, sampler, vocoder"
    ):
        read_bundle(copy)


def test_load_parts_refuses_swapped_parts(copy):
    (copy / "codebook").rename(copy / "was")
    (copy / "sampler").rename(copy / "codebook")
    with pytest.raises(CheckpointError, match="codebook holds a sampler instead of a codebook"):
        load_parts(copy)
    (copy / "was").rename(copy / "sampler")
    with pytest.raises(CheckpointError, match="sampler holds a codebook instead of a sampler"):
        sampler_config(copy)


def test_sampler_config_needs_no_weights(copy, tiny_configs):
    (copy / "sampler/model.safetensors").unlink()
    assert sampler_config(copy) == tiny_configs["sampler"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_codes": 64}, "the sampler has 32 codes, the codebook 64"),
        ({"clip": {"frames": 320}}, "the sampler has 53 code columns in a clip, the codebook 20"),
    ],
)
def test_load_parts_refuses_a_codebook_that_does_not_fit_the_sampler(copy, tiny_configs, change, message):
    config = type(tiny_configs["codebook"])(**(tiny_configs["codebook"].model_dump() | change))
    save_checkpoint(copy / "codebook", "codebook", "everyday", config, Codebook(config).state_dict(), {})
    with pytest.raises(CheckpointError, match=f"copy do not fit together: {message}"):
        load_parts(copy)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (
            {"kind": "features", "n_features": 53, "feature_dim": 2048},
            "the sampler has 2048 feature dimensions, the image network 1280",
        ),
        ({"kind": "features+class", "n_features": 53, "feature_dim": 1280, "n_classes": 8}, "the sampler has 8 classes, the bundle 0"),
    ],
)
def test_load_parts_refuses_a_sampler_with_another_condition(copy, tiny_configs, condition, message):
    config = type(tiny_configs["sampler"])(**(tiny_configs["sampler"].model_dump() | {"condition": condition}))
    save_checkpoint(copy / "sampler", "sampler", "everyday", config, Sampler(config).state_dict(), {})
    with pytest.raises(CheckpointError, match=message):
        load_parts(copy)


def test_save_bundle_names_an_unwritable_file(tiny_parts, tmp_path):
    (tmp_path / "out" / "bundle.json").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"out/bundle\.json cannot be written: it is a folder; name a file"):
        save_bundle(tmp_path / "out", "everyday", tiny_parts, {})


def sampler_of(folder, tiny_configs, kind, classes=(), **sizes):
    """A trained sampler's checkpoint: `kind` of condition, with the classes of its training."""
    condition = {"kind": kind, "n_classes": len(classes), **sizes}
    config = type(tiny_configs["sampler"])(**(tiny_configs["sampler"].model_dump() | {"condition": condition}))
    save_checkpoint(folder, "sampler", "everyday", config, Sampler(config).state_dict(), {"classes": list(classes)} if classes else {})
    return folder


FEATURES = {"n_features": 53, "feature_dim": 1280}


@pytest.mark.parametrize(
    ("kind", "sizes", "classes"),
    [
        ("class", {}, ("bark", "meow")),
        ("features+class", FEATURES, ("bark", "meow")),
        ("features", FEATURES, ()),
        ("none", {"n_features": 1, "feature_dim": 2048}, ()),
        ("coordinates", {}, ()),
        ("columns", FEATURES | {"n_features": 27, "motion": 8}, ()),
    ],
)
def test_assembled_parts_of_every_condition_load(tmp_path, tiny_parts, tiny_configs, kind, sizes, classes):
    sampler = sampler_of(tmp_path / "sampler", tiny_configs, kind, classes, **sizes)
    sources = {**{role: str(folder) for role, folder in tiny_parts.items()}, "sampler": str(sampler)}
    parts = assemble(tmp_path / "model", sources, defaults={"top_k": 7, "guidance": None})
    loaded = load_parts(tmp_path / "model")
    assert (loaded.classes, loaded.top_k, loaded.guidance) == (classes, 7, presets.get("everyday").guidance)
    assert (loaded.backbone is not None) == (kind in ("features", "features+class", "columns"))
    assert [part.role for part in parts] == list(sources)
    network = {part.role: part.n_parameters for part in parts}
    assert network["sampler"] == sum(parameter.numel() for parameter in loaded.sampler.parameters())


def test_assemble_takes_parts_of_models_and_a_classifier(tmp_path, tiny_bundle, tiny_parts, tiny_classifier):
    sources = {role: str(tiny_bundle) for role in ROLES}
    (tmp_path / "about.json").write_text('{"summary": "mine", "licences": {"clips": ["CC0"]}}')
    assemble(tmp_path / "model", {**sources, "classifier": str(tiny_classifier)}, about=tmp_path / "about.json")
    assert read_bundle(tmp_path / "model")["licences"] == {"clips": ["CC0"]}
    assert load_classifier(str(tmp_path / "model")).classes == ("high", "low", "noise")
    again = assemble(tmp_path / "again", {**sources, "codebook": str(tiny_parts["codebook"]), "classifier": str(tmp_path / "model")})
    assert [part.kind for part in again] == ["codebook", "sampler", "vocos", "vggishish"]
    with pytest.raises(CheckpointError, match=r"model is a bundle already; choose another folder"):
        assemble(tmp_path / "model", sources)
    with pytest.raises(CheckpointError, match="has no classifier; give a checkpoint folder instead"):
        assemble(tmp_path / "third", {**sources, "classifier": str(tiny_bundle)})


def test_assemble_refuses_exemplars_for_another_condition(tmp_path, tiny_parts):
    sources = {role: str(folder) for role, folder in tiny_parts.items()}
    exemplars = Exemplars(ExemplarsConfig(classes=3, each=1, rows=5, columns=2))
    save_checkpoint(tmp_path / "exemplars", "exemplars", "everyday", exemplars.config, exemplars.state_dict(), {})
    with pytest.raises(CheckpointError, match="exemplars are for a condition of kind sight, the sampler has"):
        assemble(tmp_path / "model", {**sources, "exemplars": str(tmp_path / "exemplars")})
    assert not (tmp_path / "model").exists()


def test_assemble_refuses_parts_that_do_not_fit_and_writes_nothing(tmp_path, tiny_parts, tiny_configs):
    sources = {role: str(folder) for role, folder in tiny_parts.items()}
    other = type(tiny_configs["codebook"])(**(tiny_configs["codebook"].model_dump() | {"n_codes": 64}))
    save_checkpoint(tmp_path / "codebook", "codebook", "everyday", other, Codebook(other).state_dict(), {})
    for wrong, message in (
        ({"codebook": str(tmp_path / "codebook")}, "the parts do not fit together: the sampler has 32 codes, the codebook 64"),
        ({"codebook": sources["sampler"]}, r"sampler holds a sampler, which cannot be the codebook of a model"),
        ({"vocoder": sources["codebook"]}, r"codebook holds a codebook, which cannot be the vocoder of a model"),
    ):
        with pytest.raises(CheckpointError, match=message):
            assemble(tmp_path / "model", sources | wrong)
    with pytest.raises(CheckpointError, match="the sampler has 53 features, but the preset has no image network"):
        assemble(tmp_path / "model", sources, preset_name="vggsound-nofeats")
    with pytest.raises(ParameterError, match="top_k 33 was given; the model 'everyday' has 32 codes, choose 1 to 32"):
        assemble(tmp_path / "model", sources, defaults={"top_k": 33})
    assert not (tmp_path / "model").exists()
