"""Training of the codebook: paper section 3.1 with its reconstruction and codebook losses."""

from pathlib import Path
from typing import Any

import lightning_fabric
import numpy as np
import torch
from torch import Tensor, nn

from unsilent.checkpoints.store import save_checkpoint
from unsilent.data.datasets import WaveformCrops
from unsilent.losses import codebook_loss
from unsilent.models.codebook import Codebook, CodebookConfig
from unsilent.signal.mel import from_mel01, log_mel01
from unsilent.train.config import CodebookRun


class CodebookTrainer:
    """Owns the codebook, its optimizer and its data.

    Codes that nothing used for `run.revive_every` steps are moved onto latents of the current batch; the first such move, right at the
    start, also serves as a data-driven initialisation.
    """

    def __init__(self, run: CodebookRun, config: CodebookConfig, fabric: lightning_fabric.Fabric) -> None:
        self.run, self.config = run, config
        clip = config.clip
        self.crops = WaveformCrops(run.shards, "train", run.crop_columns * clip.column_samples, gain_db=run.gain_db)
        module = Codebook(config)
        optimizer = torch.optim.Adam(module.parameters(), lr=run.learning_rate, betas=run.betas)
        self.module, optimizer = fabric.setup(module, optimizer)
        self.module.mark_forward_method("latents")  # reviving codes looks at latents outside of a training step
        self.optimizers = [optimizer]
        self.uses = torch.zeros(config.n_codes, device=fabric.device)  # since codes were last revived
        self.memory = {"uses": self.uses}
        self.others: dict[str, nn.Module] = {}

    def step(self, fabric: lightning_fabric.Fabric, rng: np.random.Generator, step: int) -> dict[str, Tensor]:
        """One step on one batch of crops."""
        waveform = self.crops.batch(self.run.batch, rng).to(fabric.device)
        mel = from_mel01(log_mel01(waveform, self.config.clip))
        if step == 0:
            self._revive(fabric, mel, rng)
        result = self.module(mel)
        losses = codebook_loss(mel, result, self.run.beta)
        fabric.backward(sum(losses.values()))
        fabric.clip_gradients(self.module, self.optimizers[0], max_norm=self.run.clip_norm)
        self.optimizers[0].step()
        self.optimizers[0].zero_grad()
        counts = torch.bincount(result.quantized.grid.flatten(), minlength=self.config.n_codes)
        self.uses += fabric.all_reduce(counts.float(), reduce_op="sum")
        losses["codes_used"] = (self.uses > 0).float().mean()
        if (step + 1) % self.run.revive_every == 0 and step + 1 < self.run.steps - self.run.decay_steps:
            self._revive(fabric, mel, rng)
        return losses

    @torch.no_grad()
    def _revive(self, fabric: lightning_fabric.Fabric, mel: Tensor, rng: np.random.Generator) -> None:
        unused = torch.nonzero(self.uses == 0).flatten()
        latents = self.module.latents(mel).movedim(1, -1).flatten(0, 2).float()
        chosen = torch.from_numpy(rng.integers(len(latents), size=len(unused))).to(fabric.device)
        vectors = fabric.broadcast(latents[chosen])  # every process must move the same codes to the same places
        self.module.quantize.replace(unused, vectors)
        self.uses.zero_()

    def save(self, folder: Path, weights: dict[str, Tensor], record: dict[str, Any]) -> None:
        """Write the codebook's checkpoint folder."""
        save_checkpoint(folder, "codebook", self.run.preset, self.config, weights, record)
