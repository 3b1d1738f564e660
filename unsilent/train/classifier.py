"""Training of the sound classifiers: VGGish-ish, behind the perceptual distance, and Melception, behind the metrics. Paper 6.1.3, 6.1.6."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning_fabric
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unsilent.checkpoints.store import save_checkpoint
from unsilent.clip import Clip
from unsilent.data.datasets import LabelledBatch, LabelledCrops, generators, mel01_of
from unsilent.models.band_statistics import BandStatistics
from unsilent.models.melception import Melception, MelceptionConfig
from unsilent.models.vggishish import VGGishish, VGGishishConfig
from unsilent.signal.griffin_lim import vocode
from unsilent.train.config import ClassifierRun
from unsilent.train.report import Examples
from unsilent.train.state import begin
from unsilent.train.steps import Learning, share_statistics

_MEASURED = 256  # crops that band statistics are measured on
_LEAST_STD = 0.01  # of a band, 1 dB: the noise of one that hardly moves must not be blown up


class ClassifierTrainer:
    """Owns the classifier, its optimizer and its data; what it is told of the preset is the grid of mels.

    Classes are the labels of the split `train`, sorted; validation leaves out sounds of others.
    """

    def __init__(self, run: ClassifierRun, clip: Clip, fabric: lightning_fabric.Fabric) -> None:
        self.run, self.clip = run, clip
        samples = (run.crop_frames or clip.frames) * clip.hop
        self.crops = LabelledCrops(run.shards, "train", samples, balance=run.balance, augmentation=run.augmentation)
        self.data = {self.crops.crops.kind: self.crops.crops.shard.digest}
        self.valid = LabelledCrops(run.shards, "valid", samples, self.crops.classes) if run.valid_every else None
        module = begin(
            run, run.network, self._build(BandStatistics() if run.bands == "vggsound" else measure_bands(self.crops, clip, run.seed))
        )
        self.config = module.config
        weights = [p for p in module.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(weights, lr=run.learning_rate, betas=run.betas, weight_decay=run.weight_decay)
        self.module, optimizer = fabric.setup(share_statistics(fabric, module), optimizer)
        if run.hears_auxiliary:
            self.module.mark_forward_method("forward_with_aux")
        self.optimizers = [optimizer]
        self.memory: dict[str, Tensor] = {}
        self.others: dict[str, nn.Module] = {}
        self.replaced: dict[str, list[Tensor]] = {}

    def _build(self, bands: BandStatistics) -> nn.Module:
        run, labels = self.run, len(self.crops.classes)
        if run.network == "vggishish":
            return VGGishish(VGGishishConfig(bands=bands, labels=labels, width=run.width, grid=run.grid, hidden=run.hidden))
        module = Melception(MelceptionConfig(bands=bands, labels=labels, width=run.melception_width, dropout=run.dropout))
        module.AuxLogits.requires_grad_(run.hears_auxiliary)  # processes would wait for gradients of weights without any
        return module

    def draw(self, rngs: Sequence[np.random.Generator]) -> LabelledBatch:
        """Random crops of training sounds, each with the number of its label."""
        return self.crops.batch(rngs)

    def step(self, learning: Learning, batch: LabelledBatch) -> dict[str, Tensor]:
        """One step on one batch of crops."""
        mel01 = mel01_of(batch.sound, self.clip)
        losses = {}
        if self.run.hears_auxiliary:
            logits, auxiliary = self.module.forward_with_aux(mel01)
            losses["auxiliary"] = self.run.auxiliary_weight * F.cross_entropy(auxiliary.float(), batch.labels)
        else:
            logits = self.module(mel01)
        losses["cross_entropy"] = F.cross_entropy(logits.float(), batch.labels)
        learning.learn(torch.stack(list(losses.values())).sum(), self.module, self.optimizers[0])
        return losses | {"top1": _hits(logits, batch.labels, 1) / len(batch.labels)}

    def examples(self, batch: LabelledBatch) -> Examples:
        """A mel that it hears, the sound of it, and the classes that it finds likeliest."""
        mel01 = mel01_of(batch.sound, self.clip)
        counts = {"classes/true": batch.labels, "classes/likeliest": self.module.module(mel01).argmax(1)}
        sound = batch.sound[0] if batch.sound.ndim == 2 else vocode(mel01[:1], self.clip)[0]
        return Examples({"mel": mel01[0]}, {"sound": sound}, counts, self.clip.sample_rate)

    def validate(self, fabric: lightning_fabric.Fabric) -> dict[str, float]:
        """Mean cross-entropy, which is the `loss`, and shares of sounds whose class is the likeliest or among the five likeliest."""
        sums = {"loss": 0.0, "top1": 0.0, "top5": 0.0}
        network = self.module.module  # without what makes processes wait for each other, as only one validates
        for batch in self.valid.in_order(self.run.batch):
            labels = batch.labels.to(fabric.device)
            mel01 = mel01_of(batch.sound.to(fabric.device), self.clip)
            with fabric.autocast():
                logits = network(mel01).float()
            sums["loss"] += F.cross_entropy(logits, labels, reduction="sum").item()
            sums["top1"] += _hits(logits, labels, 1).item()
            sums["top5"] += _hits(logits, labels, 5).item()
        return {name: value / len(self.valid) for name, value in sums.items()}

    def save(self, folder: Path, weights: dict[str, Tensor], record: dict[str, Any]) -> None:
        """Write the classifier's checkpoint folder, with the names of its classes in the order of their numbers."""
        named = {"classes": self.crops.classes}
        save_checkpoint(folder, self.run.network, self.run.preset, self.config, weights, record | named)


def measure_bands(crops: LabelledCrops, clip: Clip, seed: int) -> BandStatistics:
    """Mean and standard deviation of every mel band over training crops.

    Args:
        crops: that are trained on.
        clip: the grid of mels.
        seed: the same crops are measured whenever a training goes on.

    Returns:
        Numbers of six digits, which other machines find too; no deviation below 0.01.
    """
    moments = torch.zeros(2, clip.mels, dtype=torch.float64)
    for start in range(0, _MEASURED, 16):
        mel01 = mel01_of(crops.batch(generators(seed, 0, range(start, start + 16))).sound, clip).double()
        moments += torch.stack([mel01.mean(dim=(0, 2)), (mel01**2).mean(dim=(0, 2))]) * 16 / _MEASURED
    mean, square = moments
    std = (square - mean**2).clamp(min=0).sqrt().clamp(min=_LEAST_STD)
    return BandStatistics(mean=tuple(round(x, 6) for x in mean.tolist()), std=tuple(round(x, 6) for x in std.tolist()))


def _hits(logits: Tensor, labels: Tensor, n: int) -> Tensor:
    """How many sounds have their class among the `n` likeliest."""
    best = logits.topk(min(n, logits.shape[1]), dim=1).indices
    return (best == labels.unsqueeze(1)).any(dim=1).float().sum()
