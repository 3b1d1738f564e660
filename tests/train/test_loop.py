"""The loop: resuming equals never stopping, losses fall, failed trainings keep their last good state."""

import itertools
import json
import multiprocessing
import os
import re
import signal

import lightning_fabric
import pytest
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from safetensors.torch import load_file

from unsilent.checkpoints.folders import read_config
from unsilent.checkpoints.store import load_checkpoint, weights_digest
from unsilent.clip import Clip
from unsilent.errors import CheckpointError, ParameterError
from unsilent.files import locked
from unsilent.models.configs import CodebookConfig, ConditionConfig, SamplerConfig, TransformerConfig, VocosConfig
from unsilent.models.sampler import Sampler
from unsilent.train.codebook import CodebookTrainer
from unsilent.train.config import CodebookRun, SamplerRun, VocoderRun
from unsilent.train.loop import fit, rate_factor
from unsilent.train.run import train as train_run
from unsilent.train.sampler import SamplerTrainer, decay_groups
from unsilent.train.steps import TrainingDivergedError
from unsilent.train.vocoder import VocoderTrainer

CLIP = Clip(frames=64)
CONFIGS = {
    "codebook": CodebookConfig(clip=CLIP, n_codes=8, dim=8, channels=8, multipliers=(1, 1, 1, 1, 2), n_blocks=1),
    "vocoder": VocosConfig(clip=CLIP, width=16, hidden=32, n_blocks=1),
    "sampler": SamplerConfig(
        clip=CLIP,
        codes=8,
        transformer=TransformerConfig(layers=1, heads=2, width=16, dropout=0.1),
        condition=ConditionConfig(kind="features", n_features=4, feature_dim=6),
    ),
}
TRAINERS = {"codebook": CodebookTrainer, "vocoder": VocoderTrainer, "sampler": SamplerTrainer}
KINDS = {"codebook": CodebookRun, "vocoder": VocoderRun, "sampler": SamplerRun}
SIZES = {"codebook": {"crop_columns": 2, "revive_every": 2}, "vocoder": {"crop_frames": 16}, "sampler": {}}


@pytest.fixture
def train(fit_recorded):
    def train(kind, shards, out, steps, resume=False, stop_at=None, metrics=None, **more):
        settings = {"warmup_steps": 0, "learning_rate": 3e-3, "batch": 2, "save_every": 1, "log_every": 1, **SIZES[kind], **more}
        run = KINDS[kind](kind=kind, preset="everyday", shards=shards, out=out, steps=steps, **settings)
        fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1)
        fabric.seed_everything(run.seed, verbose=False)
        return fit_recorded(run, TRAINERS[kind](run, CONFIGS[kind], fabric), fabric, resume, stop_at, metrics)

    return train


def test_a_checkpoint_without_its_state_is_not_overwritten(train, shards, tmp_path):
    """Except by the same run, which may have been killed between the two files."""
    train("vocoder", shards, tmp_path, 2)
    (tmp_path / "last.pt").unlink()
    before = (tmp_path / "checkpoint/model.safetensors").read_bytes()
    for resume, steps in ((False, 2), (True, 3)):
        with pytest.raises(CheckpointError, match=r"checkpoint would be overwritten, because there is no last\.pt to continue from"):
            train("vocoder", shards, tmp_path, steps, resume=resume)
    assert (tmp_path / "checkpoint/model.safetensors").read_bytes() == before
    train("vocoder", shards, tmp_path, 2, resume=True)
    assert (tmp_path / "checkpoint/model.safetensors").read_bytes() == before


@pytest.mark.parametrize("kind", TRAINERS)
def test_resuming_equals_never_stopping(train, kind, shards, tmp_path):
    whole = train(kind, shards, tmp_path / "whole", 6)
    with pytest.raises(KeyboardInterrupt):
        train(kind, shards, tmp_path / "parts", 6, stop_at=3)
    parts = train(kind, shards, tmp_path / "parts", 6, resume=True)
    expected, found = (load_file(folder / "model.safetensors") for folder in (whole, parts))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


@pytest.mark.parametrize(("kind", "name"), [("codebook", "reconstruction"), ("vocoder", "log_magnitude"), ("sampler", "next_code")])
def test_losses_fall(train, kind, name, shards, tmp_path):
    seen = []
    train(kind, shards, tmp_path, 40, batch=4, learning_rate=5e-3, save_every=40, metrics=seen)
    losses = [one[name] for one in seen]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5]), losses


def test_result_is_a_checkpoint(train, shards, tmp_path):
    folder = train("vocoder", shards, tmp_path, 2)
    assert load_checkpoint(folder, "vocos").config == CONFIGS["vocoder"]


@pytest.mark.parametrize("kind", TRAINERS)
def test_initial_weights_are_loaded(train, kind, shards, tmp_path):
    """Also the codes, which are otherwise initialised from latents. One step at a tiny rate hardly changes them."""
    initial = train(kind, shards, tmp_path / "first", 3, average=0.0)
    folder = train(kind, shards, tmp_path / "second", 1, initial=initial, average=0.0, learning_rate=1e-9)
    before, after = (load_file(one / "model.safetensors") for one in (initial, folder))
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, atol=1e-6, rtol=0, msg=name)
    assert read_config(folder)["record"]["initial"] == weights_digest(initial)
    other = "codebook" if kind == "sampler" else "sampler"
    unfit = train(other, shards, tmp_path / "other", 1)
    with pytest.raises(CheckpointError, match=f"holds a {other} instead of a"):
        train(kind, shards, tmp_path / "third", 1, initial=unfit)


@pytest.mark.parametrize("losses", [[1.0, 2.0, 3.0], [2.0, 3.0, 1.0]], ids=["worse", "better"])
def test_initial_weights_are_validated_and_kept_where_nothing_is_better(train, make_shards, tmp_path, losses, monkeypatch, caplog):
    shards = make_shards(tmp_path / "shards", ("train", "valid"))
    initial, left = train("vocoder", shards, tmp_path / "first", 1, average=0.0), list(losses)
    monkeypatch.setattr(VocoderTrainer, "validate", lambda self, fabric: {"loss": left.pop(0)})
    caplog.set_level("INFO", logger="unsilent")
    folder = train("vocoder", shards, tmp_path / "second", 2, initial=initial, valid_every=1, average=0.0)
    assert "step 0 validation" in caplog.text
    before, after = (load_file(one / "model.safetensors") for one in (initial, folder))
    is_kept = all(torch.equal(before[name], after[name]) for name in before)
    assert is_kept == (losses[0] == min(losses))
    assert read_config(folder)["record"]["steps"] == losses.index(min(losses))
    assert not left


def test_initial_weights_of_other_sizes_are_refused(train, shards, tmp_path, monkeypatch):
    initial = train("vocoder", shards, tmp_path / "first", 1)
    monkeypatch.setitem(CONFIGS, "vocoder", VocosConfig(clip=CLIP, width=24, hidden=32, n_blocks=1))
    with pytest.raises(CheckpointError, match="has a vocos of other sizes than this run"):
        train("vocoder", shards, tmp_path / "second", 1, initial=initial)


def test_resuming_another_kind_is_refused(train, shards, tmp_path):
    train("vocoder", shards, tmp_path, 1)
    with pytest.raises(CheckpointError, match="is a vocoder of 'everyday', but the run is of a codebook"):
        train("codebook", shards, tmp_path, 2, resume=True)


def test_a_damaged_or_unfit_state_is_named(train, shards, tmp_path, monkeypatch):
    train("vocoder", shards, tmp_path, 1)
    whole = (tmp_path / "last.pt").read_bytes()
    (tmp_path / "last.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"last\.pt is damaged"):
        train("vocoder", shards, tmp_path, 2, resume=True)
    (tmp_path / "last.pt").write_bytes(whole)
    monkeypatch.setitem(CONFIGS, "vocoder", VocosConfig(clip=CLIP, width=24, hidden=32, n_blocks=1))
    with pytest.raises(CheckpointError, match="has a network of other sizes"):
        train("vocoder", shards, tmp_path, 2, resume=True)


def test_a_training_is_not_overwritten_without_resume(train, shards, tmp_path):
    train("vocoder", shards, tmp_path, 1)
    with pytest.raises(CheckpointError, match="already has a training; continue it with --resume"):
        train("vocoder", shards, tmp_path, 1)


def test_a_nan_loss_stops_and_keeps_the_last_state(train, shards, tmp_path):
    train("vocoder", shards, tmp_path, 1)
    before = (tmp_path / "last.pt").read_bytes()

    class Broken(VocoderTrainer):
        def draw(self, rngs):
            batch = super().draw(rngs)
            batch.sound[1] *= float("nan")
            return batch._replace(names=["good", "bad"])

    run = VocoderRun(kind="vocoder", preset="everyday", shards=shards, out=tmp_path, steps=3, batch=2, learning_rate=1e-3)
    fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1)
    with pytest.raises(TrainingDivergedError, match="step 1 has a loss that is not finite, from the clips good, bad; the last good"):
        fit(run, Broken(run, CONFIGS["vocoder"], fabric), fabric, resume=True)
    assert (tmp_path / "last.pt").read_bytes() == before


def die_while_writing(*arguments):
    """Replaces `torch.save` or `save_file`: writes part of the file, then kills the process."""
    with arguments[1] if hasattr(arguments[1], "write") else open(arguments[1], "wb") as file:
        file.write(b"PK half of it")
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_renaming(number, rename=os.replace):
    """Replaces `os.replace`: kills the process at the `number`th call."""
    calls = itertools.count(1)
    return lambda *paths: os.kill(os.getpid(), signal.SIGKILL) if next(calls) == number else rename(*paths)


@pytest.mark.skipif(os.name != "posix", reason="signals as on Unix")
@pytest.mark.parametrize(
    ("place", "death"),
    [
        ("unsilent.checkpoints.store.save_file", die_while_writing),
        ("os.replace", die_at_renaming(1)),  # neither weights nor record are new
        ("os.replace", die_at_renaming(2)),  # new weights, old record
        ("torch.save", die_while_writing),
        ("os.replace", die_at_renaming(3)),  # new checkpoint, old last.pt
    ],
    ids=["weights", "weights-renamed", "record-renamed", "state", "state-renamed"],
)
def test_a_kill_while_saving_leaves_a_usable_checkpoint(train, place, death, shards, tmp_path, monkeypatch):
    expected = load_file(train("vocoder", shards, tmp_path / "whole", 4) / "model.safetensors")
    train("vocoder", shards, tmp_path / "killed", 2)

    def die():
        monkeypatch.setattr(place, death)
        train("vocoder", shards, tmp_path / "killed", 4, resume=True)

    process = multiprocessing.get_context("fork").Process(target=die)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    load_checkpoint(tmp_path / "killed/checkpoint", "vocos")
    found = load_file(train("vocoder", shards, tmp_path / "killed", 4, resume=True) / "model.safetensors")
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    states = [torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "killed")]
    torch.testing.assert_close(*({name: state[name] for name in ("module", "optimizers", "others")} for state in states), rtol=0, atol=0)


def test_the_state_has_the_same_bytes_again(train, shards, tmp_path):
    """No random name of a temporary file is in it."""
    for name in ("first", "second"):
        train("vocoder", shards, tmp_path / name, 2)
    assert (tmp_path / "first/last.pt").read_bytes() == (tmp_path / "second/last.pt").read_bytes()


def test_a_full_disk_keeps_the_last_state(train, shards, tmp_path, monkeypatch):
    train("vocoder", shards, tmp_path, 1)
    before = (tmp_path / "last.pt").read_bytes()

    def full(state, file):
        file.write(b"PK")
        raise RuntimeError("PytorchStreamWriter failed writing file")

    monkeypatch.setattr("unsilent.train.state.torch.save", full)
    with pytest.raises(CheckpointError, match=r"last\.pt cannot be written: PytorchStreamWriter failed writing file, \d+ MB are free"):
        train("vocoder", shards, tmp_path, 2, resume=True)
    assert (tmp_path / "last.pt").read_bytes() == before
    assert not [path.name for path in tmp_path.iterdir() if "part" in path.name]


def test_two_trainings_in_one_folder_are_refused(shards, tmp_path):
    run = VocoderRun(kind="vocoder", preset="everyday", shards=shards, out=tmp_path, steps=1, batch=1, learning_rate=1e-3)
    with locked(tmp_path / ".lock", CheckpointError), pytest.raises(CheckpointError, match="another process is writing"):
        train_run(run, resume=False)


@pytest.mark.parametrize("place", [0.2, 0.5, 0.8])
def test_a_flipped_bit_in_the_state_is_found(train, shards, tmp_path, place):
    train("vocoder", shards, tmp_path, 1)
    content = bytearray((tmp_path / "last.pt").read_bytes())
    content[int(place * len(content))] ^= 4
    (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"last\.pt is damaged"):
        train("vocoder", shards, tmp_path, 2, resume=True)


@pytest.mark.parametrize("content", [b"", b"text", b"PK", bytes(1000)])
def test_what_is_no_state_is_refused(train, shards, tmp_path, content):
    (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"last\.pt is damaged"):
        train("vocoder", shards, tmp_path, 2, resume=True)


@pytest.mark.parametrize("part", ["record", "module", "average", "memory", "others", "optimizers", "validation"])
@pytest.mark.parametrize("value", [None, 5, [], {}, {"a": None}])
def test_parts_of_a_state_of_another_kind_are_refused(train, shards, tmp_path, part, value):
    train("vocoder", shards, tmp_path, 1)
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    if state[part] == value:
        pytest.skip("as it is")
    torch.save(state | {part: value}, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match=r"last\.pt"):
        train("vocoder", shards, tmp_path, 2, resume=True)


@pytest.mark.parametrize("kind", TRAINERS)
def test_best_validation_is_kept(train, kind, make_shards, tmp_path, caplog):
    shards = make_shards(tmp_path / "shards", splits=("train", "valid"))
    folder = train(kind, shards, tmp_path / "out", 6, learning_rate=1e-2, valid_every=2, valid_items=3, patience=1, save_every=6)
    record = json.loads((folder / "config.json").read_text())["record"]
    assert 0 < record["valid"]["loss"] < 100
    assert record["valid"] == pytest.approx(validate(kind, shards, folder), rel=1e-5)


def validate(kind, shards, folder):
    """Validation metrics of the kept weights by a new trainer."""
    settings = {"learning_rate": 1e-2, "batch": 2, "valid_every": 2, "valid_items": 3, **SIZES[kind]}
    run = KINDS[kind](kind=kind, preset="everyday", shards=shards, out=folder, steps=6, **settings)
    fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1)
    trainer = TRAINERS[kind](run, CONFIGS[kind], fabric)
    trainer.module.load_state_dict(load_file(folder / "model.safetensors"))
    trainer.module.eval()
    with torch.no_grad():
        return trainer.validate(fabric)


@pytest.mark.parametrize("kind", TRAINERS)
def test_weight_decay_applies_also_after_resuming(train, kind, shards, tmp_path):
    plain = load_file(train(kind, shards, tmp_path / "plain", 3) / "model.safetensors")
    decayed = load_file(train(kind, shards, tmp_path / "decayed", 3, weight_decay=10.0) / "model.safetensors")
    train(kind, shards, tmp_path / "late", 2)
    late = load_file(train(kind, shards, tmp_path / "late", 3, resume=True, weight_decay=10.0) / "model.safetensors")
    for changed in (decayed, late):
        assert any(not torch.equal(value, changed[name]) for name, value in plain.items())


def test_processes_at_different_steps_are_stopped(train, shards, tmp_path, monkeypatch):
    monkeypatch.setattr(lightning_fabric.Fabric, "all_gather", lambda self, step: torch.stack([step, step + 2]))
    with pytest.raises(CheckpointError, match=r"processes would resume from different steps, \[0, 2\]; .* must be the same folder for all"):
        train("vocoder", shards, tmp_path, 1)


def test_too_many_devices_are_refused(shards, tmp_path, monkeypatch):
    def refuse(**_):
        raise MisconfigurationException("You requested gpu: [0, 1]\n But your machine only has: [0]")

    monkeypatch.setattr(lightning_fabric, "Fabric", refuse)
    run = VocoderRun(kind="vocoder", preset="everyday", shards=shards, out=tmp_path, steps=1, batch=1, learning_rate=1e-3, devices=2)
    with pytest.raises(ParameterError, match=r"devices is 2, which this machine does not have: You requested gpu: \[0, 1\] But your"):
        train_run(run, resume=False)


def test_a_state_of_another_program_is_refused(train, shards, tmp_path):
    torch.save({"epoch": 3}, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match="is not a training of this program"):
        train("vocoder", shards, tmp_path, 1, resume=True)


def test_state_records_settings_data_and_source(train, shards, tmp_path):
    train("sampler", shards, tmp_path, 1)
    record = torch.load(tmp_path / "last.pt", weights_only=True)["record"]
    assert record.keys() >= {"steps", "run", "data", "source"}
    assert record["run"]["batch"] == 2


@pytest.mark.parametrize("kind", TRAINERS)
def test_bfloat16_lowers_the_loss(train, kind, shards, tmp_path):
    seen = []
    train(kind, shards, tmp_path, 30, precision="bf16-mixed", learning_rate=1e-2, metrics=seen, save_every=30)
    name = {"codebook": "reconstruction", "vocoder": "mel", "sampler": "next_code"}[kind]
    assert sum(one[name] for one in seen[-5:]) < 0.9 * sum(one[name] for one in seen[:5])


def test_resuming_with_other_data_is_logged(train, shards, make_shards, tmp_path, caplog):
    train("vocoder", shards, tmp_path / "out", 1)
    other = make_shards(tmp_path / "other", splits=("train", "valid"))
    train("vocoder", other, tmp_path / "out", 2, resume=True)
    assert "the data waveforms differs from that" in caplog.text


def test_batches_do_not_depend_on_worker_threads(train, shards, tmp_path):
    one, three = (load_file(train("sampler", shards, tmp_path / str(n), 5, workers=n) / "model.safetensors") for n in (1, 3))
    assert all(torch.equal(value, three[name]) for name, value in one.items())


def test_rate_factor_rises_stays_and_falls(tmp_path):
    run = VocoderRun(
        kind="vocoder", preset="x", shards=tmp_path, out=tmp_path, steps=100, batch=1, learning_rate=1, warmup_steps=9, decay_steps=19
    )
    factors = [rate_factor(step, run) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[50] == 1.0
    assert factors[-1] == pytest.approx(0.05)
    assert all(a >= b for a, b in itertools.pairwise(factors[50:]))


def test_decay_groups_are_those_of_the_released_sampler():
    """Its feature embedding is a convolution, which its rule for linear layers leaves out."""
    module = Sampler(CONFIGS["sampler"])
    decayed, others = decay_groups(module, 0.1)
    names = {id(p): name for name, p in module.named_parameters()}
    matrices = ("query", "key", "value", "proj", "mlp.0", "mlp.2")
    found = {re.sub(r"transformer.blocks.\d+.(attn.)?", "", names[id(p)]) for p in decayed["params"]}
    assert found == {f"{name}.weight" for name in matrices} | {"head.weight"}
    assert len(decayed["params"]) + len(others["params"]) == len(names)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0)
