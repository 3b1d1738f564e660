"""Training of classifiers: overfitting, best validation, patience, resuming, band statistics."""

import json
import logging

import lightning_fabric
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from unsilent.checkpoints.store import load_checkpoint
from unsilent.clip import Clip
from unsilent.data.datasets import generators
from unsilent.data.rows import ItemRow
from unsilent.data.shards import write_shard
from unsilent.errors import DataError, ParameterError
from unsilent.evaluation.classifier import load_classifier
from unsilent.models.band_statistics import BandStatistics
from unsilent.models.melception import Melception, MelceptionConfig
from unsilent.signal.mel import log_mel01
from unsilent.train.classifier import ClassifierTrainer
from unsilent.train.config import ClassifierRun
from unsilent.train.initialisation import initialise_as_released
from unsilent.train.loop import fit
from unsilent.train.steps import StepContext, TrainingDivergedError

CLIP = Clip(frames=32)
LABELS = {"bee": 300, "ant": 700, "dog": 1500, "cat": 3400}  # tones in Hz
TINY = {"width": 4, "grid": (2, 1), "hidden": 16}


def tone(hz, samples=12000, sample_rate=22050):
    return (np.sin(2 * np.pi * hz / sample_rate * np.arange(samples)) * 8000).astype(np.int16)


def write_sounds(folder, sounds):
    items = [(wave, ItemRow(f"{label}{i}", "sound", label, split, 22050)) for i, (wave, label, split) in enumerate(sounds)]
    write_shard(folder, "waveforms", items, {})
    return folder


@pytest.fixture
def small_melception(every_trainer, monkeypatch):
    monkeypatch.setattr("unsilent.train.classifier.Melception", every_trainer.SmallMelception)


@pytest.fixture
def shards(tmp_path):
    """Four tones with a label each, for training and validation; one more label for validation only, one unlabelled sound."""
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


@pytest.fixture
def train(fit_recorded):
    def train(shards, out, resume=False, stop_at=None, losses=None, metrics=None, **settings):
        """Train; `losses` replace the results of validations."""
        run, trainer, fabric = build(shards, out, **settings)
        if losses is not None:
            trainer.validate = lambda fabric: {"loss": losses.pop(0)}
        return fit_recorded(run, trainer, fabric, resume, stop_at, metrics)

    return train


def record_of(folder):
    return json.loads((folder / "config.json").read_text())["record"]


def test_four_tones_are_learnt(train, shards, tmp_path):
    losses = []
    folder = train(shards, tmp_path / "out", metrics=losses, steps=176, batch=8, valid_every=22, save_every=176, average=0.9)
    first, last = (sum(one["cross_entropy"] for one in part) for part in (losses[:5], losses[-5:]))
    assert last < 0.5 * first
    record = record_of(folder)
    assert record["classes"] == sorted(LABELS)  # not the label of the valid split only
    assert record["valid"]["top1"] == record["valid"]["top5"] == 1.0
    classifier = load_checkpoint(folder, "vggishish")
    assert classifier.config.labels == 4
    waveforms = torch.from_numpy(np.stack([tone(LABELS[label], CLIP.n_samples) for label in sorted(LABELS)])).float() / 32768
    assert classifier(log_mel01(waveforms, CLIP)).argmax(1).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("network", ["vggishish", "melception"])
def test_resuming_equals_never_stopping(train, network, shards, tmp_path, small_melception):
    settings = {"network": network, "valid_every": 2, "save_every": 3, "steps": 5, "patience": 9}
    whole = train(shards, tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
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


def test_validation_does_not_change_training(train, shards, tmp_path, small_melception):
    settings = {"network": "melception", "steps": 3}
    train(shards, tmp_path / "with", valid_every=1, **settings)
    train(shards, tmp_path / "without", **settings)
    states = [torch.load(tmp_path / name / "last.pt", weights_only=True)["module"] for name in ("with", "without")]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_best_weights_are_kept_and_patience_stops(train, shards, tmp_path, caplog):
    out, steps = tmp_path / "out", []
    with caplog.at_level(logging.INFO, "unsilent"):
        folder = train(shards, out, losses=[2.0, 1.0, 1.5, 1.0, 0.1], metrics=steps, steps=20, valid_every=2, patience=2)
    assert len(steps) == 8
    assert record_of(folder)["steps"] == 4
    assert record_of(folder)["valid"] == {"loss": 1.0}
    assert "stopped before step 9: 2 validations without improvement on 1.0000" in caplog.text
    best = train(shards, tmp_path / "short", steps=4, losses=[1.0], valid_every=4)
    expected, found = (load_file(path / "model.safetensors") for path in (best, folder))
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    train(shards, out, resume=True, metrics=steps, steps=20, valid_every=2, patience=2)
    assert len(steps) == 8, "resuming after patience is exhausted must not train"


def test_patience_continues_after_resuming(train, shards, tmp_path):
    settings = {"steps": 20, "valid_every": 2, "patience": 3}
    with pytest.raises(KeyboardInterrupt):
        train(shards, tmp_path, losses=[1.0, 2.0], stop_at=4, **settings)
    steps = []
    folder = train(shards, tmp_path, resume=True, losses=[3.0, 4.0, 0.0], metrics=steps, **settings)
    assert len(steps) == 4
    assert record_of(folder)["steps"] == 2


def test_validation_uses_averaged_weights_in_evaluation_mode(shards, tmp_path, small_melception):
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


def test_a_nan_validation_stops(train, shards, tmp_path):
    with pytest.raises(TrainingDivergedError, match=r"validation after step 1 gave .*nan"):
        train(shards, tmp_path, losses=[float("nan")], valid_every=1)


def test_bands_are_measured_or_those_of_the_paper(shards, tmp_path):
    bands = build(shards, tmp_path)[1].config.bands
    assert bands == build(shards, tmp_path)[1].config.bands
    assert bands != BandStatistics()
    assert build(shards, tmp_path, bands="vggsound")[1].config.bands == BandStatistics()


def test_deviation_of_constant_bands_is_limited(tmp_path):
    write_sounds(tmp_path, [(np.zeros(9000, np.int16), label, "train") for label in "ab"])
    bands = build(tmp_path, tmp_path / "out")[1].config.bands
    assert bands == BandStatistics(mean=(0.0,) * 80, std=(0.01,) * 80)


def test_measured_bands_are_those_of_the_crops(tmp_path):
    """Stationary noise, so that a few crops have the statistics of the whole."""
    noise = (np.random.default_rng(0).standard_normal(200_000) * 3000).astype(np.int16)
    write_sounds(tmp_path, [(noise, label, "train") for label in "ab"])
    bands = build(tmp_path, tmp_path / "out", gain_db=(0.0, 0.0))[1].config.bands
    mel01 = log_mel01(torch.from_numpy(noise[None].astype(np.float32) / 32768), CLIP)[0]
    assert np.allclose(bands.mean, mel01.mean(1), atol=3e-3)
    assert np.allclose(bands.std, mel01.std(1), rtol=0.1)


@pytest.mark.parametrize(("weight", "trained"), [(0.4, True), (0.0, False)])
def test_auxiliary_classifier_is_trained_if_it_has_weight(weight, trained, shards, tmp_path, small_melception):
    run, trainer, fabric = build(shards, tmp_path, network="melception", auxiliary_weight=weight)
    before = trainer.module.AuxLogits.weight.clone()
    losses = trainer.step(StepContext(fabric, run), trainer.draw(generators(0, 0, range(4)))).metrics
    assert torch.equal(before, trainer.module.AuxLogits.weight) is not trained
    assert ("auxiliary" in losses) is trained


def test_melception_is_trained_and_loads(train, shards, tmp_path):
    settings = {"melception_width": 0.25, "steps": 1, "batch": 2, "valid_every": 1}
    folder = train(shards, tmp_path / "out", network="melception", clip=Clip(frames=80), **settings)
    classifier = load_checkpoint(folder, "melception")
    assert (classifier.config.labels, classifier.dim) == (4, 512)
    assert record_of(folder)["classes"] == sorted(LABELS)


def test_settings_of_the_other_network_and_single_labels_are_refused(shards, tmp_path):
    with pytest.raises(ParameterError, match="grid, hidden, width would have no effect on melception"):
        build(shards, tmp_path, network="melception", **TINY)
    with pytest.raises(ParameterError, match="auxiliary_weight, melception_width would have no effect on vggishish"):
        build(shards, tmp_path, auxiliary_weight=0.4, melception_width=0.5)
    write_sounds(tmp_path / "one", [(tone(300), "bee", "train")])
    with pytest.raises(DataError, match="have 1 labels; a classifier needs 2 or more"):
        build(tmp_path / "one", tmp_path)


def test_classifiers_start_as_in_the_released_code_where_asked(shards, tmp_path):
    _, trainer, _ = build(shards, tmp_path, released_start=True, hidden=64)
    first = trainer.module.module.classifier[0]
    assert first.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert not first.bias.any()
    module = Melception(MelceptionConfig(bands=BandStatistics(), labels=4, width=0.125))
    initialise_as_released(module)
    assert module.fc.weight.std().item() == pytest.approx(0.1, rel=0.1)
    assert module.AuxLogits.fc.weight.std().item() == pytest.approx(0.001, rel=0.1)


def test_checkpoints_say_the_loudness_that_they_learnt_from(train, tmp_path):
    for loudness in (-23.0, None):
        folder = tmp_path / str(loudness)
        items = [(tone(hz), ItemRow(label, "sound", label, "train", 22050)) for label, hz in LABELS.items()]
        write_shard(folder, "waveforms", items, {"clip": CLIP.model_dump(), "loudness_lufs": loudness})
        out = train(folder, folder / "out", steps=1)
        assert record_of(out)["loudness_lufs"] == loudness
        assert load_classifier(str(out)).preprocesses == (loudness is not None)
