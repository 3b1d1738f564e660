"""Training of vocoders with a discriminator: losses, resuming, the start of the discriminator."""

from functools import partial

import lightning_fabric
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from unsilent.checkpoints.store import load_checkpoint
from unsilent.clip import Clip
from unsilent.data.datasets import WaveformCrops, generators
from unsilent.data.rows import ItemRow
from unsilent.data.shards import write_shard
from unsilent.errors import CheckpointError, ParameterError
from unsilent.models.configs import MelGANConfig, VocosConfig
from unsilent.models.discriminators import MelGANDiscriminatorConfig
from unsilent.models.melgan import MelGAN
from unsilent.train import vocoder
from unsilent.train.config import VocoderRun
from unsilent.train.run import train as train_run
from unsilent.train.steps import StepContext, frozen
from unsilent.train.vocoder import VocoderTrainer

CONFIGS = {"melgan": MelGANConfig(width=2, residual_blocks=1), "vocos": VocosConfig(clip=Clip(frames=64), width=16, hidden=32, n_blocks=1)}
SPECTRAL = {"melgan": {"stft_weight": 0.0, "mel_weight": 0.0}, "vocos": {"stft_weight": 1.0, "mel_weight": 15.0}}


@pytest.fixture(autouse=True)
def shallow(monkeypatch):
    """A shallow discriminator for speed: at full depth it ends in 1024 channels at any width."""
    monkeypatch.setattr(vocoder, "MelGANDiscriminatorConfig", partial(MelGANDiscriminatorConfig, strides=2))


def settings(kind, shards, out, steps, **more):
    return {
        "kind": "vocoder", "preset": "everyday", "shards": shards, "out": out, "steps": steps, "batch": 2, "learning_rate": 1e-3,
        "betas": (0.5, 0.9),
        "warmup_steps": 0, "save_every": 1, "log_every": 1, "crop_frames": 8, "adversarial_weight": 1.0, "discriminator_width": 4,
        **SPECTRAL[kind], **more,
    }  # fmt: skip


@pytest.fixture
def train(fit_recorded):
    def train(kind, shards, out, steps, resume=False, stop_at=None, metrics=None, **more):
        run = VocoderRun(**settings(kind, shards, out, steps, **more))
        fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1)
        fabric.seed_everything(run.seed, verbose=False)
        trainer = VocoderTrainer(run, CONFIGS[kind], fabric)
        fit_recorded(run, trainer, fabric, resume, stop_at, metrics)
        return trainer

    return train


def tensors(value):
    """All tensors of a state in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
    return [tensor for part in parts for tensor in tensors(part)]


def state(out):
    return torch.load(out / "last.pt", weights_only=True)


def ends(losses, *names):
    """Sums of losses over the first and the last five steps."""
    return tuple(sum(loss[name] for loss in part for name in names) for part in (losses[:5], losses[-5:]))


@pytest.mark.parametrize("kind", CONFIGS)
def test_losses_fall_with_the_discriminator(train, kind, shards, tmp_path):
    more = {"mel_weight": 15.0, "adversarial_weight": 0.1, "learning_rate": 2e-3, "batch": 4, "save_every": 40}
    losses = []
    train(kind, shards, tmp_path, 40, metrics=losses, **more)
    assert ("log_magnitude" in losses[0]) == (kind == "vocos")
    # MelGAN and its discriminator compete, so the next test trains each alone
    for name in ("mel", "discriminator") if kind == "vocos" else ("mel",):
        first, last = ends(losses, name)
        assert last < 0.9 * first, (name, first, last)


@pytest.mark.parametrize("learner", ["vocoder", "discriminator"])
def test_each_network_lowers_its_loss_alone(train, learner, shards, tmp_path, monkeypatch):
    """Without spectral losses the two compete, and neither loss need fall while both learn."""
    optimise, losses = StepContext.optimise, []

    def optimise_learner(self, loss, module, optimizer):
        if isinstance(module.module, MelGAN) == (learner == "vocoder"):
            optimise(self, loss, module, optimizer)

    monkeypatch.setattr(StepContext, "optimise", optimise_learner)
    train("melgan", shards, tmp_path, 25, metrics=losses, save_every=25)
    first, last = ends(losses, *(("adversarial", "feature_matching") if learner == "vocoder" else ("discriminator",)))
    assert last < 0.9 * first, (first, last)


@pytest.mark.parametrize("kind", CONFIGS)
def test_resuming_equals_never_stopping(train, kind, shards, tmp_path):
    start = 2 if kind == "vocos" else 0  # interrupted once before and once after the start of the discriminator
    train(kind, shards, tmp_path / "whole", 4, adversarial_start=start)
    for stop in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            train(kind, shards, tmp_path / "parts", 4, resume=True, stop_at=stop, adversarial_start=start)
    train(kind, shards, tmp_path / "parts", 4, resume=True, adversarial_start=start)
    whole, parts = state(tmp_path / "whole"), state(tmp_path / "parts")
    assert len(whole["optimizers"]) == 2
    assert whole["optimizers"][1]["state"]
    for part in ("module", "average", "others", "optimizers"):
        expected, found = tensors(whole[part]), tensors(parts[part])
        assert len(expected) == len(found) > 0
        assert all(map(torch.equal, expected, found)), part


def test_discriminator_changes_nothing_before_its_start(train, shards, tmp_path):
    without, late = [], []
    trainer = train("vocos", shards, tmp_path / "without", 3, metrics=without, adversarial_weight=0.0)
    train("vocos", shards, tmp_path / "late", 4, metrics=late, adversarial_start=3)
    assert without == late[:3]
    assert "discriminator" not in late[2]
    assert "discriminator" in late[3]
    assert trainer.others == {}
    assert len(trainer.optimizers) == 1


def test_discriminator_changes_both_networks_from_its_start(train, shards, tmp_path):
    without, late = (
        train("vocos", shards, tmp_path / name, 2, **more)
        for name, more in (("without", {"adversarial_weight": 0.0}), ("late", {"adversarial_start": 1}))
    )
    assert not all(map(torch.equal, tensors(without.module.state_dict()), tensors(late.module.state_dict())))
    assert all(p.requires_grad for p in late.others["discriminator"].parameters())
    steps = [slot["step"].item() for slot in late.optimizers[1].state_dict()["state"].values()]
    assert steps
    assert set(steps) == {1.0}


def test_each_step_gives_gradients_to_one_network(shards, tmp_path):
    run = VocoderRun(**settings("melgan", shards, tmp_path, 1))
    fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1)
    trainer = VocoderTrainer(run, CONFIGS["melgan"], fabric)
    discriminator = trainer.others["discriminator"]
    waveform = torch.randn(2, 4096).mul(0.1).requires_grad_()
    with frozen(fabric, discriminator) as network:
        scales = network(waveform)
    fabric.backward(torch.stack([maps[-1].mean() for maps in scales]).sum())
    assert waveform.grad.abs().sum() > 0
    assert all(p.grad is None for p in discriminator.parameters())
    before = [value.clone() for value in trainer.module.state_dict().values()]
    loss, real = trainer.discriminate(StepContext(fabric, run), waveform.detach(), torch.zeros(2, 4096))
    assert not loss.requires_grad
    assert not any(maps.requires_grad for scale in real for maps in scale)
    assert all(map(torch.equal, before, trainer.module.state_dict().values()))


@pytest.mark.parametrize("kind", CONFIGS)
def test_result_is_a_checkpoint(train, kind, shards, tmp_path):
    trainer = train(kind, shards, tmp_path, 1, average=0.0)
    network = load_checkpoint(tmp_path / "checkpoint", kind)
    assert network.config == CONFIGS[kind]
    assert any("parametrizations" in name for name in network.state_dict()) == (kind == "melgan")
    mel01 = torch.rand(1, 80, 16)
    with torch.no_grad():
        torch.testing.assert_close(network(mel01), trainer.module.eval()(mel01))


def test_resuming_a_discriminator_of_other_sizes_is_refused(train, shards, tmp_path):
    train("vocos", shards, tmp_path, 1)
    with pytest.raises(CheckpointError, match="has a network of other sizes"):
        train("vocos", shards, tmp_path, 2, resume=True, discriminator_width=8)


def test_a_paper_preset_trains_its_melgan(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(vocoder, "MelGAN", lambda _: torch.nn.Sequential(torch.nn.Conv1d(80, 256, 1), _Fold()))
    run = VocoderRun(**settings("melgan", shards, tmp_path, 1) | {"preset": "vas-5-resnet50"})
    folder = train_run(run, resume=False)
    assert load_file(folder / "model.safetensors").keys() == {"0.weight", "0.bias"}
    assert '"kind": "melgan"' in (folder / "config.json").read_text()


class _Fold(torch.nn.Module):
    def forward(self, x):
        return x.transpose(1, 2).flatten(1).tanh()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"stft_weight": 0.0, "mel_weight": 0.0, "adversarial_weight": 0.0}, "are all 0, so nothing would be learnt"),
        ({"adversarial_start": 5}, "adversarial_start 5 is not below steps 5"),
        ({"stft_weight": 0.0, "mel_weight": 0.0, "adversarial_start": 2}, "nothing would be learnt before adversarial_start 2"),
        ({"discriminator_width": 6}, "discriminator_width is 6, but must be a multiple of 4"),
        ({"adversarial_weight": -1.0}, r"adversarial_weight is -1\.0, but must be 0 or more"),
        ({"peak": (0.9, 0.3)}, r"peak is \[0.9, 0.3\], but must be a range within 0 to 1"),
    ],
)
def test_conflicting_settings_are_named(more, words, tmp_path):
    with pytest.raises(ParameterError, match=words):
        VocoderRun(**settings("vocos", tmp_path, tmp_path, 5, **more))


def test_peaks_are_drawn_evenly_from_the_range(tmp_path):
    row = ItemRow("", "sound", "", "train", 22050)
    loud, silent = np.zeros(600, np.int16), np.zeros(600, np.int16)
    loud[300] = -32768
    write_shard(tmp_path / "loud", "waveforms", [(loud // 3, row)], {})
    write_shard(tmp_path / "silent", "waveforms", [(silent, row)], {})
    crops = WaveformCrops(tmp_path / "loud", "train", 600, peak=(0.285, 0.95))
    peaks = crops.batch(generators(0, 0, range(400))).sound.abs().amax(dim=1)
    assert 0.285 <= peaks.min() < 0.3
    assert 0.93 < peaks.max() <= 0.95
    assert peaks.mean().item() == pytest.approx(0.6175, abs=0.03)
    assert WaveformCrops(tmp_path / "silent", "train", 600, peak=(0.285, 0.95)).batch(generators(0, 0, range(1))).sound.abs().max() == 0


def test_peak_is_that_of_the_whole_recording(tmp_path):
    ramp = np.linspace(0, 16000, 4000).astype(np.int16)
    write_shard(tmp_path, "waveforms", [(ramp, ItemRow("", "sound", "", "train", 22050))], {})
    crops = WaveformCrops(tmp_path, "train", 100, peak=(0.5, 0.5)).batch(generators(0, 0, range(200))).sound.amax(dim=1)
    assert crops.min() < 0.1
    assert crops.max() == pytest.approx(0.5, abs=0.02)
