"""Training of the sampler: paper section 3.2, cross-entropy of every code given the pictures and the codes before it."""

from pathlib import Path
from typing import Any

import lightning_fabric
import numpy as np
import torch
from torch import Tensor, nn

from unsilent.checkpoints.store import save_checkpoint
from unsilent.data.datasets import PairedCodes, Pairs
from unsilent.errors import ParameterError
from unsilent.features import pick_rows
from unsilent.losses import next_code_loss
from unsilent.models.sampler import Sampler, SamplerConfig
from unsilent.train.config import SamplerRun
from unsilent.train.steps import update


class SamplerTrainer:
    """Owns the sampler, its optimizer and its data."""

    def __init__(self, run: SamplerRun, config: SamplerConfig, fabric: lightning_fabric.Fabric) -> None:
        self.run, self.config = run, config
        is_named = bool(config.condition.n_classes)
        if is_named and run.cut_share:
            raise ParameterError(f"a class speaks for a whole clip, but cut_share is {run.cut_share}; set it to 0.")
        self.pairs = PairedCodes(run.shards, "train", config.clip, run.real_share, run.cut_share, named_only=is_named)
        if is_named and config.condition.n_classes != len(self.pairs.labels):
            raise ParameterError(
                f"{run.preset!r} knows {config.condition.n_classes} classes, the shards {run.shards} have {len(self.pairs.labels)} labels."
            )
        available = config.clip.columns * self.pairs.rows_per_column
        if config.condition.kind != "none" and config.condition.n_features > available:
            raise ParameterError(
                f"{run.preset!r} is told of {config.condition.n_features} features, a clip of {run.shards} has {available}."
            )
        module = Sampler(config)
        optimizer = torch.optim.AdamW(decay_groups(module, run.weight_decay), lr=run.learning_rate, betas=run.betas)
        self.module, optimizer = fabric.setup(module, optimizer)
        self.optimizers = [optimizer]
        self.memory: dict[str, Tensor] = {}
        self.others: dict[str, nn.Module] = {}

    def step(self, fabric: lightning_fabric.Fabric, rng: np.random.Generator, step: int) -> dict[str, Tensor]:
        """One step on one batch of pairs."""
        batch = Pairs(*(tensor.to(fabric.device) for tensor in self.pairs.batch(self.run.batch, rng)))
        keep = torch.rand(len(batch.codes), device=fabric.device) >= self.run.condition_dropout if self.run.condition_dropout else None
        labels = batch.labels if self.config.condition.n_classes else None
        loss = next_code_loss(self.module(batch.codes, self._features(batch), labels, keep), batch.codes)
        fabric.backward(loss)
        update(fabric, self.module, self.optimizers[0], self.run.clip_norm)
        return {"next_code": loss}

    def _features(self, batch: Pairs) -> Tensor | None:
        """What this kind of condition is told of the pictures."""
        condition = self.config.condition
        if condition.kind == "none":
            return torch.rand(len(batch.codes), condition.n_features, condition.feature_dim, device=batch.codes.device)
        if not condition.n_features:
            return None
        features = batch.features[:, pick_rows(condition.n_features, batch.features.shape[1])]
        return features + self.run.feature_noise * features.std() * torch.randn_like(features)

    def save(self, folder: Path, weights: dict[str, Tensor], record: dict[str, Any]) -> None:
        """Write the sampler's checkpoint folder; one that is told classes keeps their names."""
        named = {"classes": self.pairs.labels} if self.config.condition.n_classes else {}
        save_checkpoint(folder, "sampler", self.run.preset, self.config, weights, record | named)


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters in two groups: matrices of linear layers decay, everything else (biases, norms, embeddings, positions) does not.

    Source:
        The released sampler's optimizer (minGPT's rule).
    """
    matrices = {id(layer.weight) for layer in module.modules() if isinstance(layer, nn.Linear)}
    decayed = [p for p in module.parameters() if id(p) in matrices]
    others = [p for p in module.parameters() if id(p) not in matrices]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
