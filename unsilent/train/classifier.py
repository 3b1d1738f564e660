"""Training of the sound classifiers: VGGish-ish for the perceptual distance and Melception for metrics (paper 6.1.3, 6.1.6)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning_fabric
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from unsilent.checkpoints.store import save_checkpoint
from unsilent.clip import Clip
from unsilent.data.datasets import LabelledBatch, LabelledCrops, generators, mel01_of
from unsilent.models.band_statistics import BandStatistics
from unsilent.models.melception import Melception, MelceptionConfig
from unsilent.models.vggishish import VGGishish, VGGishishConfig
from unsilent.signal.griffin_lim import vocode
from unsilent.signal.loudness import LOUDNESS
from unsilent.train.config import ClassifierRun
from unsilent.train.initialisation import initialise_as_released
from unsilent.train.report import Examples
from unsilent.train.state import load_initial
from unsilent.train.steps import StepContext, synchronise_batch_norms
from unsilent.train.trainer import StepResult, Trainer

_MEASURED = 256  # crops over which band statistics are measured
_MIN_STD = 0.01  # smallest standard deviation of a mel band, 1 dB; a smaller divisor would amplify the noise of constant bands


class ClassifierTrainer(Trainer):
    """Trains a classifier on mels of the preset's clip.

    Classes are the sorted labels of the split `train`; validation leaves out sounds of other labels.
    """

    def __init__(self, run: ClassifierRun, clip: Clip, fabric: lightning_fabric.Fabric) -> None:
        self.run, self.clip = run, clip
        samples = (run.crop_frames or clip.frames) * clip.hop
        self.crops = LabelledCrops(run.shards, "train", samples, balance=run.balance, augmentation=run.augmentation)
        self.valid = LabelledCrops(run.shards, "valid", samples, self.crops.classes) if run.valid_every else None
        bands = BandStatistics() if run.bands == "vggsound" else measure_bands(self.crops, clip, run.seed)
        module = self._build(bands)
        if run.released_start:
            initialise_as_released(module)
        module = load_initial(run, run.network, module)
        self.config = module.config
        weights = [p for p in module.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(weights, lr=run.learning_rate, betas=run.betas, weight_decay=run.weight_decay)
        module, optimizer = fabric.setup(synchronise_batch_norms(fabric, module), optimizer)
        if run.has_auxiliary:
            module.mark_forward_method("forward_with_aux")
        super().__init__(module, [optimizer], {self.crops.crops.kind: self.crops.crops.shard.digest})

    def _build(self, bands: BandStatistics) -> nn.Module:
        run, labels = self.run, len(self.crops.classes)
        if run.network == "vggishish":
            return VGGishish(VGGishishConfig(bands=bands, labels=labels, width=run.width, grid=run.grid, hidden=run.hidden))
        module = Melception(MelceptionConfig(bands=bands, labels=labels, width=run.melception_width, dropout=run.dropout))
        module.AuxLogits.requires_grad_(run.has_auxiliary)  # DDP would wait for gradients of unused weights
        return module

    def draw(self, rngs: Sequence[np.random.Generator]) -> LabelledBatch:
        """Random crops of training sounds with class indices."""
        return self.crops.batch(rngs)

    def step(self, context: StepContext, batch: LabelledBatch) -> StepResult:
        """Train on one part of a batch."""
        mel01 = mel01_of(batch.sound, self.clip)
        losses = {}
        if self.run.has_auxiliary:
            logits, auxiliary = self.module.forward_with_aux(mel01)
            losses["auxiliary"] = self.run.auxiliary_weight * F.cross_entropy(auxiliary.float(), batch.labels)
        else:
            logits = self.module(mel01)
        losses["cross_entropy"] = F.cross_entropy(logits.float(), batch.labels)
        context.optimise(torch.stack(list(losses.values())).sum(), self.module, self.optimizers[0])
        return StepResult(losses | {"top1": _hits(logits, batch.labels, 1) / len(batch.labels)})

    def examples(self, batch: LabelledBatch) -> Examples:
        """A mel, its sound, and the true and the most probable classes."""
        mel01 = mel01_of(batch.sound, self.clip)
        classes = {"classes/true": batch.labels, "classes/likeliest": self.module.module(mel01).argmax(1)}
        sound = batch.sound[0] if batch.sound.ndim == 2 else vocode(mel01[:1], self.clip)[0]
        return Examples({"mel": mel01[0]}, {"sound": sound}, classes, self.clip.sample_rate)

    def validate(self, fabric: lightning_fabric.Fabric) -> dict[str, float]:
        """Mean cross-entropy as `loss`, and the top-1 and top-5 accuracy, over all sounds."""
        sums = {"loss": 0.0, "top1": 0.0, "top5": 0.0}
        network = self.module.module  # without DDP's wrapper, because only one process validates
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
        """Write the checkpoint folder. The record includes class names by index, and the loudness of training sounds."""
        about = {"classes": self.crops.classes, LOUDNESS: self.crops.crops.loudness_lufs}
        save_checkpoint(folder, self.run.network, self.run.preset, self.config, weights, record | about)


def measure_bands(crops: LabelledCrops, clip: Clip, seed: int) -> BandStatistics:
    """Mean and standard deviation of every mel band over random training crops.

    Args:
        crops: training data.
        clip: mel settings.
        seed: seed of the crops, so that a resumed training measures the same values.

    Returns:
        Values rounded to six decimals, so that they are equal on all machines; deviations are at least 0.01.
    """
    moments = torch.zeros(2, clip.mels, dtype=torch.float64)
    for start in range(0, _MEASURED, 16):
        mel01 = mel01_of(crops.batch(generators(seed, 0, range(start, start + 16))).sound, clip).double()
        moments += torch.stack([mel01.mean(dim=(0, 2)), (mel01**2).mean(dim=(0, 2))]) * 16 / _MEASURED
    mean, square = moments
    std = (square - mean**2).clamp(min=0).sqrt().clamp(min=_MIN_STD)
    return BandStatistics(mean=tuple(round(x, 6) for x in mean.tolist()), std=tuple(round(x, 6) for x in std.tolist()))


def _hits(logits: Float[Tensor, "batch classes"], labels: Int64[Tensor, "batch"], n: int) -> Float[Tensor, ""]:
    """Number of sounds whose true class is among the `n` most probable ones."""
    best = logits.topk(min(n, logits.shape[1]), dim=1).indices
    return (best == labels.unsqueeze(1)).any(dim=1).float().sum()
