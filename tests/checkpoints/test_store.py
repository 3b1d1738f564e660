"""Checkpoint folders: round trips, and errors for every kind of damage."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from unsilent.checkpoints.folders import KIND_NAMES, read_config
from unsilent.checkpoints.store import KINDS, load_checkpoint, save_checkpoint
from unsilent.errors import CheckpointError
from unsilent.models.configs import VocosConfig
from unsilent.models.vocos import Vocos

CONFIG = VocosConfig(width=8, hidden=16, n_blocks=1)


@pytest.fixture
def vocoder():
    torch.manual_seed(0)
    return Vocos(CONFIG)


@pytest.fixture
def folder(vocoder, tmp_path):
    save_checkpoint(tmp_path / "vocoder", "vocos", "everyday", CONFIG, vocoder.state_dict(), {"steps": 3})
    return tmp_path / "vocoder"


def edit(path, change):
    about = json.loads(path.read_text())
    change(about)
    path.write_text(json.dumps(about))


def test_float32_round_trip_is_exact(folder, vocoder):
    loaded = load_checkpoint(folder, "vocos")
    assert loaded.config == CONFIG
    assert not loaded.training
    for name, value in vocoder.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_record_round_trip(folder):
    about = read_config(folder)
    assert about["record"] == {"steps": 3}
    assert about["preset"] == "everyday"


def test_float16_halves_the_file_and_loads_as_float32(folder, vocoder, tmp_path):
    save_checkpoint(tmp_path / "half", "vocos", "everyday", CONFIG, vocoder.state_dict(), {}, torch.float16)
    sizes = [(path / "model.safetensors").stat().st_size for path in (tmp_path / "half", folder)]
    assert sizes[0] / sizes[1] == pytest.approx(0.5, abs=0.05)
    loaded = load_checkpoint(tmp_path / "half", "vocos").state_dict()
    for name, value in vocoder.state_dict().items():
        assert loaded[name].dtype == torch.float32
        assert torch.equal(loaded[name], value.half().float()), name


def test_save_leaves_only_the_two_files(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_load_keeps_the_random_state(folder):
    before = torch.get_rng_state()
    load_checkpoint(folder, "vocos")
    assert torch.equal(torch.get_rng_state(), before)


def test_load_does_not_import_a_compiler(tiny_parts):
    """Regression: random initialisation on the meta device imported torch's compiler, which takes two seconds."""
    code = (
        "import sys, pathlib; from unsilent.checkpoints.store import KINDS, load_checkpoint; root = pathlib.Path(sys.argv[1])\n"
        "for role, kind in (('codebook', 'codebook'), ('sampler', 'sampler'), ('vocoder', 'vocos')): load_checkpoint(root / role, kind)\n"
        "print('torch._dynamo' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tiny_parts["codebook"].parent)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "False"


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("model.safetensors", "vocoder has no model.safetensors; copy the whole folder"),
        ("config.json", "cannot read .*config.json: No such"),
    ],
)
def test_load_names_a_missing_file(folder, missing, message):
    (folder / missing).unlink()
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder, "vocos")


@pytest.mark.parametrize("keep", [0, 5, 300, -10], ids=["empty", "in the length", "in the header", "in the weights"])
def test_load_names_damaged_weights(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        load_checkpoint(folder, "vocos")


@pytest.mark.parametrize(("text", "message"), [("{", "is not JSON"), ("[1]", "is not a JSON object"), ("{}", r"is not a checkpoint of")])
def test_load_names_a_damaged_config(folder, text, message):
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json " + message):
        load_checkpoint(folder, "vocos")


def test_load_refuses_another_kind(folder):
    with pytest.raises(CheckpointError, match="vocoder holds a vocos instead of a codebook"):
        load_checkpoint(folder, "codebook")


def test_every_kind_of_network_is_known_without_torch():
    assert set(KINDS) == set(KIND_NAMES)


@pytest.mark.parametrize("kind", ["gpt", ["vocos"], None])
def test_read_config_refuses_an_unknown_kind(folder, kind):
    edit(folder / "config.json", lambda about: about.update(kind=kind))
    with pytest.raises(CheckpointError, match=re.escape(f"not a checkpoint of this project (kind {kind!r})")):
        read_config(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 3}, "there is no field 'colour'; known are clip, width"),
        ({"width": -1}, "width is -1, but must be above 0"),
        ({"width": "wide"}, "width is 'wide', but must be a whole number"),
    ],
)
def test_load_names_file_and_field_of_an_invalid_config(folder, change, message):
    edit(folder / "config.json", lambda about: about["config"].update(change))
    with pytest.raises(CheckpointError, match=r"config\.json does not describe a vocos of this version: .*" + message):
        load_checkpoint(folder, "vocos")


def test_load_refuses_a_config_that_is_not_a_mapping(folder):
    edit(folder / "config.json", lambda about: about.update(config=[1, 2]))
    with pytest.raises(CheckpointError, match="does not describe a vocos"):
        load_checkpoint(folder, "vocos")


def test_load_names_a_renamed_weight(folder):
    """The released system loads with strict=False, so it can train against random weights without an error."""
    weights = load_file(folder / "model.safetensors")
    weights["embed.wait"] = weights.pop("embed.weight")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"does not match its own config: weight embed\.wait is not expected"):
        load_checkpoint(folder, "vocos")


def test_load_names_a_missing_weight(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["head.bias"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"weight head\.bias is missing"):
        load_checkpoint(folder, "vocos")


def test_load_names_a_wrong_shape(folder):
    weights = load_file(folder / "model.safetensors")
    weights["norm_in.bias"] = torch.zeros(9)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"weight norm_in\.bias has shape \[9\] instead of \[8\]"):
        load_checkpoint(folder, "vocos")


def test_save_names_an_unwritable_folder(vocoder, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match=r"cannot write the checkpoint .*file/vocoder"):
        save_checkpoint(tmp_path / "file" / "vocoder", "vocos", "everyday", CONFIG, vocoder.state_dict(), {})


def test_save_keeps_the_old_version_after_a_failure(folder, vocoder, monkeypatch):
    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("unsilent.checkpoints.store.save_file", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save_checkpoint(folder, "vocos", "everyday", CONFIG, {name: value + 1 for name, value in vocoder.state_dict().items()}, {})
    assert torch.equal(load_checkpoint(folder, "vocos").head.weight, vocoder.head.weight)


def test_load_of_a_copied_folder_is_the_same(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    assert torch.equal(load_checkpoint(tmp_path / "copy", "vocos").head.weight, load_checkpoint(folder, "vocos").head.weight)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_load_checkpoint_refuses_a_weight_that_is_not_finite(folder, value):
    """The CPU kernels are compiled with the assumption that weights are finite."""
    weights = load_file(folder / "model.safetensors")
    name = next(name for name, weight in weights.items() if weight.ndim == 2)
    weights[name][1, 2] = value
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"is damaged: the weight {name} has values that are NaN or infinite\."):
        load_checkpoint(folder, "vocos")


def test_load_checkpoint_accepts_large_finite_weights_whose_sum_overflows(folder):
    weights = load_file(folder / "model.safetensors")
    name = next(name for name, weight in weights.items() if weight.ndim == 2)
    weights[name][:] = torch.finfo(torch.float32).max
    save_file(weights, folder / "model.safetensors")
    assert torch.equal(load_checkpoint(folder, "vocos").state_dict()[name], weights[name])


@pytest.mark.parametrize(("value", "dtype"), [(float("nan"), torch.float32), (1e6, torch.float16)])
def test_save_refuses_weights_that_are_not_finite(vocoder, tmp_path, value, dtype):
    weights = vocoder.state_dict()
    name = next(iter(weights))
    weights[name].flatten()[0] = value
    with pytest.raises(CheckpointError, match=f"the weight {name} of the vocos is not finite as {str(dtype)[6:]}; nothing was written"):
        save_checkpoint(tmp_path / "bad", "vocos", "everyday", CONFIG, weights, {}, dtype)
    assert not (tmp_path / "bad").exists()


def test_save_copies_weights_that_share_memory(vocoder, tmp_path):
    weights = vocoder.state_dict()
    one, other = [name for name, value in weights.items() if value.shape == (CONFIG.width,)][:2]
    weights[other] = weights[one]
    save_checkpoint(tmp_path / "shared", "vocos", "everyday", CONFIG, weights, {})
    loaded = load_checkpoint(tmp_path / "shared", "vocos").state_dict()
    assert torch.equal(loaded[one], loaded[other])


def test_load_keeps_matrices_in_the_given_dtype(folder, vocoder):
    loaded = load_checkpoint(folder, "vocos", torch.float16).state_dict()
    for name, value in vocoder.state_dict().items():
        wanted = value.half() if value.ndim == 2 else value
        assert loaded[name].dtype == wanted.dtype
        assert torch.equal(loaded[name], wanted), name
