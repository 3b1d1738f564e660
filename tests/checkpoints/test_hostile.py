"""Folders that somebody else has written: values of any kind and size, and deep nesting, end with one sentence."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from unsilent.checkpoints.bundle import load_parts
from unsilent.checkpoints.folders import read_bundle, read_defaults
from unsilent.checkpoints.store import load_checkpoint
from unsilent.errors import CheckpointError
from unsilent.published.about import describe

DEEP = "[" * 100_000


@pytest.fixture
def bundle(tiny_bundle, tmp_path):
    return shutil.copytree(tiny_bundle, tmp_path / "bundle")


def edit(path, *keys, value):
    about = place = json.loads(path.read_text())
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path.write_text(json.dumps(about))


@pytest.mark.parametrize("name", ["bundle.json", "sampler/config.json"])
def test_deep_nesting_is_refused(bundle, name):
    (bundle / name).write_text(DEEP)
    for read in (read_defaults, load_parts, lambda folder: describe(str(folder))):
        with pytest.raises(CheckpointError, match=r"\.json is not JSON"):
            read(bundle)


@pytest.mark.parametrize("value", [5, None, [], {}, "../x", "\0", ""], ids=repr)
def test_parts_that_are_no_folders_are_refused(bundle, value):
    edit(bundle / "bundle.json", "parts", "sampler", value=value)
    with pytest.raises(CheckpointError):
        load_parts(bundle)


@pytest.mark.parametrize(
    ("key", "value"),
    [("classes", 5), ("classes", None), ("classes", [5]), ("classes", "dog"), ("licences", 5), ("licences", {"weights": 5}),
     ("licences", {"weights": [5]}), ("defaults", 5), ("defaults", {"top_k": "x"}), ("defaults", {"guidance": 1e999}),
     ("defaults", {"top_k": None}), ("defaults", {"classes": []}), ("preset", []), ("preset", None)],
)  # fmt: skip
def test_values_of_another_type_are_refused(bundle, key, value):
    edit(bundle / "bundle.json", key, value=value)
    with pytest.raises(CheckpointError, match="bundle"):
        read_bundle(bundle)


SIZES = [
    ("sampler", "codes"), ("sampler", "transformer", "layers"), ("sampler", "transformer", "width"),
    ("sampler", "condition", "n_features"), ("codebook", "channels"), ("codebook", "dim"),
    ("vocoder", "width"), ("vocoder", "hidden"), ("vocoder", "n_blocks"), ("vocoder", "rounds"),
]  # fmt: skip


@pytest.mark.parametrize("value", [10**9, 10**19, 1e300, float("inf"), float("nan"), -1, None], ids=repr)
@pytest.mark.parametrize("field", SIZES, ids=".".join)
def test_sizes_beyond_reason_are_refused_before_memory_is_taken(bundle, field, value):
    part, *keys = field
    edit(bundle / part / "config.json", "config", *keys, value=value)
    with pytest.raises(CheckpointError, match=r"config\.json does not describe"):
        load_parts(bundle)


@pytest.mark.parametrize("dtype", [torch.int16, torch.uint16, torch.bool, torch.complex64])
def test_weights_of_another_type_are_refused(bundle, dtype):
    path = bundle / "vocoder/model.safetensors"
    weights = load_file(path)
    name = next(iter(weights))
    save_file(weights | {name: torch.zeros(weights[name].shape).to(dtype)}, path)
    with pytest.raises(CheckpointError, match=f"weight {name}"):
        load_checkpoint(bundle / "vocoder", "vocos")


@pytest.mark.parametrize("value", [None, 5, [], "x"])
def test_a_record_of_another_type_is_refused(bundle, value):
    edit(bundle / "vocoder/config.json", "record", value=value)
    with pytest.raises(CheckpointError, match="config"):
        describe(str(bundle / "vocoder"))
