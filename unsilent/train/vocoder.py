"""Training of the iSTFT-head vocoder with multi-resolution STFT and mel losses."""

from pathlib import Path
from typing import Any

import lightning_fabric
import numpy as np
import torch
from torch import Tensor

from unsilent.checkpoints.store import save_checkpoint
from unsilent.data.datasets import WaveformCrops
from unsilent.losses import mel_loss, stft_loss
from unsilent.models.vocos import Vocos, VocosConfig
from unsilent.signal.mel import log_mel01
from unsilent.train.config import VocoderRun


class VocoderTrainer:
    """Owns the vocoder, its optimizer and its data."""

    def __init__(self, run: VocoderRun, config: VocosConfig, fabric: lightning_fabric.Fabric) -> None:
        self.run, self.config = run, config
        samples = run.crop_frames * config.clip.hop
        self.crops = WaveformCrops(run.shards, "train", samples, run.min_sample_rate, run.gain_db)
        module = Vocos(config)
        optimizer = torch.optim.AdamW(module.parameters(), lr=run.learning_rate, betas=run.betas, weight_decay=run.weight_decay)
        self.module, optimizer = fabric.setup(module, optimizer)
        self.optimizers = [optimizer]
        self.memory: dict[str, Tensor] = {}

    def step(self, fabric: lightning_fabric.Fabric, rng: np.random.Generator, step: int) -> dict[str, Tensor]:
        """One step on one batch of crops."""
        target = self.crops.batch(self.run.batch, rng).to(fabric.device)
        mel01 = log_mel01(target, self.config.clip)
        waveform = self.module(mel01)
        losses = stft_loss(waveform, target)
        losses["mel"] = mel_loss(waveform, mel01, self.config.clip)
        fabric.backward(losses["spectral_convergence"] + losses["log_magnitude"] + self.run.mel_weight * losses["mel"])
        fabric.clip_gradients(self.module, self.optimizers[0], max_norm=self.run.clip_norm)
        self.optimizers[0].step()
        self.optimizers[0].zero_grad()
        return losses

    def save(self, folder: Path, weights: dict[str, Tensor], record: dict[str, Any]) -> None:
        """Write the vocoder's checkpoint folder."""
        save_checkpoint(folder, "vocos", self.run.preset, self.config, weights, record)
