"""Classifiers learn tones by heart, keep the weights that validation liked best, stop when it likes no more, and resume bit for bit."""

import json
import logging

import lightning_fabric
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from unsilent.checkpoints.store import load_checkpoint
from unsilent.clip import Clip
from unsilent.data.datasets import generators
from unsilent.data.rows import ItemRow
from unsilent.data.shards import write_shard
from unsilent.errors import DataError, ParameterError
from unsilent.models.band_statistics import BandStatistics
from unsilent.signal.mel import log_mel01
from unsilent.train.classifier import ClassifierTrainer
from unsilent.train.config import ClassifierRun
from unsilent.train.loop import fit
from unsilent.train.steps import Learning, TrainingDivergedError

CLIP = Clip(frames=32)
LABELS = {"bee": 300, "ant": 700, "dog": 1500, "cat": 3400}  # tones in Hz
TINY = {"width": 4, "grid": (2, 1), "hidden": 16}


class PulledPlugError(Exception):
    """The machine goes away."""


def tone(hz, samples=12000, sample_rate=22050):
    return (np.sin(2 * np.pi * hz / sample_rate * np.arange(samples)) * 8000).astype(np.int16)


def write_sounds(folder, sounds):
    items = [(wave, ItemRow(f"{label}{i}", "sound", label, split, 22050)) for i, (wave, label, split) in enumerate(sounds)]
    write_shard(folder, "waveforms", items, {})
    return folder


class SmallMelception(nn.Module):
    """What makes Melception harder to resume than others: running statistics, dropout, two classifiers."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.body = nn.Sequential(nn.Conv2d(1, 4, 8, stride=8), nn.BatchNorm2d(4), nn.Dropout(config.dropout))
        self.fc, self.AuxLogits = nn.Linear(4, config.labels), nn.Linear(4, config.labels)

    def forward(self, mel01):
        return self.forward_with_aux(mel01)[0]

    def forward_with_aux(self, mel01):
        x = self.body(mel01.unsqueeze(1)).mean(dim=(2, 3))
        return self.fc(x), self.AuxLogits(x)


@pytest.fixture
def small_melception(monkeypatch):
    monkeypatch.setattr("unsilent.train.classifier.Melception", SmallMelception)


@pytest.fixture
def shards(tmp_path):
    """Four tones, each one label; validation hears the same, and something unheard of."""
    sounds = [(tone(hz), label, split) for split in ("train", "valid") for label, hz in LABELS.items()]
    return write_sounds(tmp_path / "shards", [*sounds, (tone(5000), "eel", "valid"), (tone(100), "", "train")])


def build(shards, out, steps=4, clip=CLIP, **settings):
    network = settings.get("network", "vggishish")
    sizes = TINY if network == "vggishish" else {}
    settings = {"network": network, "warmup_steps": 0, "learning_rate": 1e-3, "batch": 4, "save_every": 1, **sizes} | settings
    run = ClassifierRun(kind="classifier", preset="everyday", shards=shards, out=out, steps=steps, **settings)
    fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1)
    fabric.seed_everything(0, verbose=False)
    return run, ClassifierTrainer(run, clip, fabric), fabric


def train(shards, out, resume=False, stop_at=None, figures=None, watch=None, **settings):
    """Train; `figures` are losses that validation shall say instead of what it found."""
    run, trainer, fabric = build(shards, out, **settings)
    whole_step = trainer.step

    def step(learning, batch):
        if learning.step == stop_at:
            raise PulledPlugError
        losses = whole_step(learning, batch)
        if watch is not None:
            watch.append({name: value.item() for name, value in losses.items()})
        return losses

    trainer.step = step
    if figures is not None:
        trainer.validate = lambda fabric: {"loss": figures.pop(0)}
    return fit(run, trainer, fabric, resume)


def record_of(folder):
    return json.loads((folder / "config.json").read_text())["record"]


def test_four_tones_are_learnt_by_heart(shards, tmp_path):
    losses = []
    folder = train(shards, tmp_path / "out", watch=losses, steps=110, batch=8, valid_every=22, save_every=110, average=0.9)
    first, last = (sum(one["cross_entropy"] for one in part) for part in (losses[:5], losses[-5:]))
    assert last < 0.5 * first
    record = record_of(folder)
    assert record["classes"] == sorted(LABELS)  # neither the label of the valid split alone nor the nameless one
    assert record["valid"]["top1"] == record["valid"]["top5"] == 1.0
    classifier = load_checkpoint(folder, "vggishish")
    assert classifier.config.labels == 4
    waveforms = torch.from_numpy(np.stack([tone(LABELS[label], CLIP.n_samples) for label in sorted(LABELS)])).float() / 32768
    assert classifier(log_mel01(waveforms, CLIP)).argmax(1).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("network", ["vggishish", "melception"])
def test_resuming_equals_never_stopping(network, shards, tmp_path, small_melception):
    settings = {"network": network, "valid_every": 2, "save_every": 3, "steps": 5, "patience": 9}
    whole = train(shards, tmp_path / "whole", **settings)
    with pytest.raises(PulledPlugError):
        train(shards, tmp_path / "parts", stop_at=4, **settings)
    parts = train(shards, tmp_path / "parts", resume=True, **settings)
    expected, found = (load_file(folder / "model.safetensors") for folder in (whole, parts))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name
    assert record_of(whole)["valid"] == record_of(parts)["valid"]
    states = [torch.load(folder.parent / "last.pt", weights_only=True)["module"] for folder in (whole, parts)]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_validation_leaves_no_trace_in_the_training(shards, tmp_path, small_melception):
    settings = {"network": "melception", "steps": 3}
    train(shards, tmp_path / "with", valid_every=1, **settings)
    train(shards, tmp_path / "without", **settings)
    states = [torch.load(tmp_path / name / "last.pt", weights_only=True)["module"] for name in ("with", "without")]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_the_best_weights_are_kept_and_patience_ends(shards, tmp_path, caplog):
    out, steps = tmp_path / "out", []
    with caplog.at_level(logging.INFO, "unsilent"):
        folder = train(shards, out, figures=[2.0, 1.0, 1.5, 1.0, 0.1], watch=steps, steps=20, valid_every=2, patience=2)
    assert len(steps) == 8
    assert record_of(folder)["steps"] == 4
    assert record_of(folder)["valid"] == {"loss": 1.0}
    assert "stopped before step 9: 2 validations without improvement on 1.0000" in caplog.text
    best = train(shards, tmp_path / "short", steps=4, figures=[1.0], valid_every=4)
    expected, found = (load_file(path / "model.safetensors") for path in (best, folder))
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    train(shards, out, resume=True, watch=steps, steps=20, valid_every=2, patience=2)
    assert len(steps) == 8, "going on with what was stopped for lack of improvement trains no more"


def test_patience_counts_on_after_resuming(shards, tmp_path):
    settings = {"steps": 20, "valid_every": 2, "patience": 3}
    with pytest.raises(PulledPlugError):
        train(shards, tmp_path, figures=[1.0, 2.0], stop_at=4, **settings)
    steps = []
    folder = train(shards, tmp_path, resume=True, figures=[3.0, 4.0, 0.0], watch=steps, **settings)
    assert len(steps) == 4
    assert record_of(folder)["steps"] == 2


def test_averaged_weights_are_validated_without_dropout(shards, tmp_path, small_melception):
    run, trainer, fabric = build(shards, tmp_path, network="melception", valid_every=4, average=0.9)
    seen = []

    def validate(fabric):
        assert not trainer.module.training
        seen.append({name: value.clone() for name, value in trainer.module.state_dict().items()})
        return {"loss": 1.0}

    trainer.validate = validate
    kept = load_file(fit(run, trainer, fabric, resume=False) / "model.safetensors")
    assert all(torch.equal(value, seen[0][name]) for name, value in kept.items())
    assert any(not torch.equal(value, seen[0][name]) for name, value in trainer.module.state_dict().items())


def test_a_validation_that_is_no_number_stops(shards, tmp_path):
    with pytest.raises(TrainingDivergedError, match=r"validation after step 1 gave .*nan"):
        train(shards, tmp_path, figures=[float("nan")], valid_every=1)


def test_bands_are_measured_or_the_papers(shards, tmp_path):
    bands = build(shards, tmp_path)[1].config.bands
    assert bands == build(shards, tmp_path)[1].config.bands
    assert bands != BandStatistics()
    assert build(shards, tmp_path, bands="vggsound")[1].config.bands == BandStatistics()


def test_bands_that_never_move_are_not_blown_up(tmp_path):
    write_sounds(tmp_path, [(np.zeros(9000, np.int16), label, "train") for label in "ab"])
    bands = build(tmp_path, tmp_path / "out")[1].config.bands
    assert bands == BandStatistics(mean=(0.0,) * 80, std=(0.01,) * 80)


def test_measured_bands_are_those_of_the_crops(tmp_path):
    """Noise of one loudness: every crop has the same statistics, so few of them tell the truth."""
    noise = (np.random.default_rng(0).standard_normal(200_000) * 3000).astype(np.int16)
    write_sounds(tmp_path, [(noise, label, "train") for label in "ab"])
    bands = build(tmp_path, tmp_path / "out", gain_db=(0.0, 0.0))[1].config.bands
    mel01 = log_mel01(torch.from_numpy(noise[None].astype(np.float32) / 32768), CLIP)[0]
    assert np.allclose(bands.mean, mel01.mean(1), atol=3e-3)
    assert np.allclose(bands.std, mel01.std(1), rtol=0.1)


@pytest.mark.parametrize(("weight", "trained"), [(0.4, True), (0.0, False)])
def test_the_auxiliary_classifier_learns_if_it_has_weight(weight, trained, shards, tmp_path, small_melception):
    run, trainer, fabric = build(shards, tmp_path, network="melception", auxiliary_weight=weight)
    before = trainer.module.AuxLogits.weight.clone()
    losses = trainer.step(Learning(fabric, run), trainer.draw(generators(0, 0, range(4))))
    assert torch.equal(before, trainer.module.AuxLogits.weight) is not trained
    assert ("auxiliary" in losses) is trained


def test_melception_is_trained_and_loads(shards, tmp_path):
    settings = {"melception_width": 0.25, "steps": 1, "batch": 2, "valid_every": 1}
    folder = train(shards, tmp_path / "out", network="melception", clip=Clip(frames=80), **settings)
    classifier = load_checkpoint(folder, "melception")
    assert (classifier.config.labels, classifier.dim) == (4, 512)
    assert record_of(folder)["classes"] == sorted(LABELS)


def test_options_of_the_other_network_and_lonely_labels_are_refused(shards, tmp_path):
    with pytest.raises(ParameterError, match="grid, hidden, width would have no effect on melception"):
        build(shards, tmp_path, network="melception", **TINY)
    with pytest.raises(ParameterError, match="auxiliary_weight, melception_width would have no effect on vggishish"):
        build(shards, tmp_path, auxiliary_weight=0.4, melception_width=0.5)
    write_sounds(tmp_path / "one", [(tone(300), "bee", "train")])
    with pytest.raises(DataError, match="have 1 labels; telling apart takes two"):
        build(tmp_path / "one", tmp_path)
