"""Training of the sampler: paper section 3.2, cross-entropy of every code given the pictures and the codes before it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning_fabric
import numpy as np
import torch
from torch import Tensor, nn

from unsilent.checkpoints.store import load_checkpoint, save_checkpoint, weights_digest
from unsilent.data.pairs import PairedCodes, SamplerBatch
from unsilent.errors import ParameterError
from unsilent.models.code_order import to_grid
from unsilent.models.condition import condition_rows
from unsilent.models.configs import SamplerConfig
from unsilent.models.sampler import Sampler
from unsilent.train.config import SamplerRun
from unsilent.train.losses import next_code_loss
from unsilent.train.report import Examples
from unsilent.train.state import begin
from unsilent.train.steps import Learning, mean_figures


class SamplerTrainer:
    """Owns the sampler, its optimizer and its data."""

    def __init__(self, run: SamplerRun, config: SamplerConfig, fabric: lightning_fabric.Fabric) -> None:
        self.run, self.config = run, config
        is_named = bool(config.condition.n_classes)
        if is_named and run.cut_share:
            raise ParameterError(f"a class speaks for a whole clip, but cut_share is {run.cut_share}; set it to 0.")
        moves = bool(config.condition.motion)
        if run.motion_dropout and not moves:
            raise ParameterError(f"{run.preset!r} is told of no motion, but motion_dropout is {run.motion_dropout}; leave it out.")
        self.pairs = PairedCodes(run.shards, "train", config.clip, run.real_share, run.cut_share, named_only=is_named, motion=moves)
        if is_named and config.condition.n_classes != len(self.pairs.labels):
            raise ParameterError(
                f"{run.preset!r} knows {config.condition.n_classes} classes, the shards {run.shards} have {len(self.pairs.labels)} labels."
            )
        available = config.clip.columns * self.pairs.rows_per_column
        if config.condition.kind != "none" and config.condition.n_features > available:
            raise ParameterError(
                f"{run.preset!r} is told of {config.condition.n_features} features, a clip of {run.shards} has {available}."
            )
        self.valid = None
        if run.valid_every:
            self.valid = PairedCodes(run.shards, "valid", config.clip, run.real_share, run.cut_share, is_named, self.pairs.labels, moves)
        shards = [self.pairs.codes, self.pairs.features, *([self.pairs.motion] if moves else [])]
        self.data = {shard.name: shard.digest for shard in shards}
        module = Sampler(config)
        if run.codebook is not None:
            module.init_from_codebook(load_checkpoint(run.codebook, "codebook").quantize.embedding.weight)
            self.data["codebook"] = weights_digest(run.codebook)
        module = begin(run, "sampler", module)
        optimizer = torch.optim.AdamW(decay_groups(module, run.weight_decay), lr=run.learning_rate, betas=run.betas)
        self.module, optimizer = fabric.setup(module, optimizer)
        self.optimizers = [optimizer]
        self.memory: dict[str, Tensor] = {}
        self.others: dict[str, nn.Module] = {}
        self.replaced: dict[str, list[Tensor]] = {}

    def draw(self, rngs: Sequence[np.random.Generator]) -> SamplerBatch:
        """Codes, and what this kind of condition is told of their pictures and names."""
        batch = self._told(self.pairs, rngs, self.run.feature_noise)
        if dropout := self.run.condition_dropout:
            batch = batch._replace(keep=torch.tensor([rng.random() >= dropout for rng in rngs]))
        if dropout := self.run.motion_dropout:
            moves = torch.tensor([rng.random() >= dropout for rng in rngs])
            batch = batch._replace(motion=batch.motion * moves[:, None, None])
        return batch

    def _told(self, source: PairedCodes, rngs: Sequence[np.random.Generator], feature_noise: float) -> SamplerBatch:
        pairs, condition = source.batch(rngs), self.config.condition
        features = None
        if condition.kind == "none":
            features = np.stack([rng.random((condition.n_features, condition.feature_dim), dtype=np.float32) for rng in rngs])
        elif condition.n_features:
            features = pairs.features.numpy()[:, condition_rows(condition, pairs.features.shape[1], self.config.clip.columns)]
            if feature_noise:
                noise = np.stack([rng.standard_normal(features.shape[1:], dtype=np.float32) for rng in rngs])
                features = features + feature_noise * features.std(axis=(1, 2), keepdims=True) * noise
        features = None if features is None else torch.from_numpy(features)
        return pairs._replace(features=features, labels=pairs.labels if condition.n_classes else None)

    def step(self, learning: Learning, batch: SamplerBatch) -> dict[str, Tensor]:
        """One step on one batch of pairs."""
        read = batch.codes
        if self.run.code_noise:
            wrong = torch.rand(read.shape, device=read.device) < self.run.code_noise
            read = torch.where(wrong, torch.randint_like(read, self.config.codes), read)
        logits = self.module(read, batch.features, batch.labels, batch.motion, batch.keep)
        loss = next_code_loss(logits, batch.codes)
        learning.learn(loss, self.module, self.optimizers[0])
        return {"next_code": loss, "accuracy": (logits.argmax(-1) == batch.codes).float().mean()}

    def validate(self, fabric: lightning_fabric.Fabric) -> dict[str, float]:
        """Cross-entropy of the next code, which is the `loss`, and how often the likeliest is the true one."""

        def judge(batch: SamplerBatch) -> dict[str, Tensor]:
            logits = self.module.module(batch.codes, batch.features, batch.labels, batch.motion)
            return {"loss": next_code_loss(logits, batch.codes), "accuracy": (logits.argmax(-1) == batch.codes).float().mean()}

        return mean_figures(fabric, self.run, lambda rngs: self._told(self.valid, rngs, feature_noise=0.0), judge)

    def examples(self, batch: SamplerBatch) -> Examples:
        """Grids of true codes and of the likeliest after each true past, and how often each code is in both."""
        codes = {"true": batch.codes, "likeliest": self.module.module(batch.codes, batch.features, batch.labels, batch.motion).argmax(-1)}
        pictures = {f"codes/{name}": to_grid(one[:1], self.config.clip.rows)[0] / self.config.codes for name, one in codes.items()}
        return Examples(pictures, counts={f"codes/{name}": one for name, one in codes.items()})

    def save(self, folder: Path, weights: dict[str, Tensor], record: dict[str, Any]) -> None:
        """Write the sampler's checkpoint folder; one that is told classes keeps their names."""
        named = {"classes": self.pairs.labels} if self.config.condition.n_classes else {}
        save_checkpoint(folder, "sampler", self.run.preset, self.config, weights, record | named)


def decay_groups(module: Sampler, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters in two groups: matrices of the transformer and the head decay, all else (biases, norms, embeddings, positions) does not.

    Source:
        The released sampler's optimizer (minGPT's rule), for which what embeds features is a convolution, and no matrix.
    """
    decaying = [*module.transformer.modules(), module.head]
    matrices = {id(layer.weight) for layer in decaying if isinstance(layer, nn.Linear)}
    decayed = [p for p in module.parameters() if id(p) in matrices]
    others = [p for p in module.parameters() if id(p) not in matrices]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
