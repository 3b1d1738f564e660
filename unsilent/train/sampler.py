"""Training of samplers: cross-entropy of each code given the condition and the codes before it (paper section 3.2)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning_fabric
import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from unsilent.checkpoints.folders import read_config
from unsilent.checkpoints.store import load_checkpoint, load_codebook, save_checkpoint, weights_digest
from unsilent.data.datasets import generators
from unsilent.data.pairs import PairedCodes, SamplerBatch
from unsilent.errors import ParameterError
from unsilent.models.code_order import select_columns, to_grid
from unsilent.models.condition import condition_rows
from unsilent.models.configs import AnySamplerConfig, ConditionConfig, ConditionKind, ResidualSamplerConfig
from unsilent.models.residual_codebook import AnyCodebook, ResidualCodebook
from unsilent.models.residual_sampler import ResidualSampler
from unsilent.models.sampler import AnySampler, Sampler
from unsilent.train.config import SamplerRun
from unsilent.train.initialisation import initialise_as_released
from unsilent.train.losses import next_code_loss
from unsilent.train.report import Examples
from unsilent.train.state import load_initial
from unsilent.train.steps import StepContext, mean_metrics
from unsilent.train.trainer import StepResult, Trainer


class SamplerTrainer(Trainer):
    """Trains a sampler on codes, with the features, labels and motion that its condition needs."""

    def __init__(self, run: SamplerRun, config: AnySamplerConfig, fabric: lightning_fabric.Fabric) -> None:
        if run.condition and is_residual(config):
            raise ParameterError(f"{run.preset!r} has a sampler over columns, whose condition cannot be changed; use the preset 'small'.")
        condition = config.condition if run.condition is None else condition_of_kind(run.condition, config.condition, run.preset)
        has_labels, has_motion, sees = bool(condition.n_classes), bool(condition.motion), condition.kind == "sight"
        if run.sight and not sees:
            raise ParameterError(f"{run.preset!r} does not use a feature classifier; leave out the setting sight.")
        if sees and not (run.sight or run.initial):
            raise ParameterError(f"{run.preset!r} needs a feature classifier; set sight, or set initial to a sampler that has one.")
        codebook = None if run.codebook is None else load_codebook(run.codebook)
        if has_labels and run.cut_share:
            raise ParameterError(f"this condition has one label for the whole clip, but cut_share is {run.cut_share}; set it to 0.")
        if run.motion_dropout and not has_motion:
            raise ParameterError(f"{run.preset!r} is not conditioned on motion, but motion_dropout is {run.motion_dropout}; leave it out.")
        # composed sequences need features even if the condition does not use them
        kinds = {
            "motion": has_motion,
            "features": run.real_share < 1 or condition.kind in ("features", "features+class", "columns", "sight"),
        }
        kinds |= {"named_only": has_labels and not sees, "blind": sees}
        named = read_config(run.sight or run.initial)["record"]["classes"] if sees else None
        if run.ambience:
            if run.ambience not in (named or ()):
                raise ParameterError(f"ambience is {run.ambience!r}, but {run.preset!r} has no such class.")
            condition = condition.model_copy(update={"ambience": named.index(run.ambience)})
        pauses = {"silence": silent_column(codebook), "pause_share": run.pause_share} if run.pause_share else {}
        self.pairs = PairedCodes(run.shards, "train", config.clip, run.real_share, run.cut_share, labels=named, **kinds, **pauses)
        if has_labels and run.condition:
            condition = condition.model_copy(update={"n_classes": len(self.pairs.labels)})
        elif has_labels and condition.n_classes != len(self.pairs.labels):
            raise ParameterError(
                f"{run.preset!r} has {condition.n_classes} classes, but the shards {run.shards} have {len(self.pairs.labels)} labels."
            )
        available = config.clip.columns * self.pairs.rows_per_column
        if condition.kind != "none" and condition.n_features > available:
            raise ParameterError(f"{run.preset!r} needs {condition.n_features} features, but a clip of {run.shards} has {available}.")
        self.valid = None
        if run.valid_every:
            shares = run.real_share, run.cut_share
            self.valid = PairedCodes(run.shards, "valid", config.clip, *shares, labels=self.pairs.labels, **kinds)
        data = {shard.name: shard.digest for shard in (self.pairs.codes, self.pairs.features, self.pairs.motion) if shard is not None}
        self.run, self.config = run, config.model_copy(update={"condition": condition})
        residual = is_residual(config)
        self.kind, module = ("residual_sampler", ResidualSampler(self.config)) if residual else ("sampler", Sampler(self.config))
        if run.released_start:
            initialise_as_released(module)
        if codebook is not None:
            codes = codebook.quantize
            module.init_from_codebook(codes.codes if isinstance(codebook, ResidualCodebook) else codes.embedding.weight)
            data["codebook"] = weights_digest(run.codebook)
        if run.sight:
            module.embedder.sight.load_state_dict(load_checkpoint(run.sight, "sight").state_dict())
            data["sight"] = weights_digest(run.sight)
        module = load_initial(run, self.kind, module)
        optimizer = torch.optim.AdamW(decay_groups(module, run.weight_decay), lr=run.learning_rate, betas=run.betas)
        module, optimizer = fabric.setup(module, optimizer)
        super().__init__(module, [optimizer], data)

    def draw(self, rngs: Sequence[np.random.Generator]) -> SamplerBatch:
        """Codes with their conditions, after condition dropout and noise."""
        batch = self._conditioned(self.pairs.batch(rngs), rngs, self.run.feature_noise)
        if self.config.condition.kind == "sight":
            is_named = ~batch.seen | torch.tensor([rng.random() < self.run.label_share for rng in rngs])
            batch = batch._replace(labels=torch.where(is_named, batch.labels, -1))
        if dropout := self.run.condition_dropout:
            batch = batch._replace(keep=torch.tensor([rng.random() >= dropout for rng in rngs]))
        if dropout := self.run.motion_dropout:
            has_motion = torch.tensor([rng.random() >= dropout for rng in rngs])
            batch = batch._replace(motion=batch.motion * has_motion[:, None, None])
        return batch

    def _conditioned(self, pairs: SamplerBatch, rngs: Sequence[np.random.Generator], feature_noise: float) -> SamplerBatch:
        """The batch with only the features and labels that the condition uses."""
        condition = self.config.condition
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

    def step(self, context: StepContext, batch: SamplerBatch) -> StepResult:
        """Train on one part of a batch."""
        noisy = batch.codes
        if self.run.code_noise:
            wrong = torch.rand(noisy.shape, device=noisy.device) < self.run.code_noise
            noisy = torch.where(wrong, torch.randint_like(noisy, self.config.codes), noisy)
        clip, target, columns = self.config.clip, batch.codes, None
        if self.run.column_share < 1:
            columns = torch.randperm(clip.columns, device=target.device)[: max(1, round(self.run.column_share * clip.columns))]
            target = select_columns(target, columns, clip.rows)
        logits = self.module(batch.codes, batch.features, batch.labels, batch.motion, batch.keep, context=noisy, columns=columns)
        loss = next_code_loss(logits, target)
        context.optimise(loss, self.module, self.optimizers[0])
        return StepResult({"next_code": loss, "accuracy": (logits.argmax(-1) == target).float().mean()})

    def validate(self, fabric: lightning_fabric.Fabric) -> dict[str, float]:
        """Cross-entropy of the next code as `loss`, and its top-1 accuracy."""

        def measure(batch: SamplerBatch) -> dict[str, Float[Tensor, ""]]:
            logits = self.module.module(batch.codes, batch.features, batch.labels, batch.motion)
            return {"loss": next_code_loss(logits, batch.codes), "accuracy": (logits.argmax(-1) == batch.codes).float().mean()}

        def draw(rngs: list[np.random.Generator]) -> SamplerBatch:
            return self._conditioned(self.valid.batch(rngs), rngs, feature_noise=0.0)

        def in_order(size: int) -> Iterator[SamplerBatch]:
            first = 0
            for batch in self.valid.in_order(size):
                rngs = generators(self.run.seed, 0, range(first, first + len(batch.names)))  # for the random vectors of kind `none`
                yield self._conditioned(batch, rngs, feature_noise=0.0)
                first += len(batch.names)

        return mean_metrics(fabric, self.run, draw, in_order, measure)

    def examples(self, batch: SamplerBatch) -> Examples:
        """Grids and histograms of the true codes, and of the most probable code at each position given the true codes before it."""
        codes = {"true": batch.codes, "likeliest": self.module.module(batch.codes, batch.features, batch.labels, batch.motion).argmax(-1)}
        images = {f"codes/{name}": to_grid(one[:1], self.config.clip.rows)[0] / self.config.codes for name, one in codes.items()}
        return Examples(images, histograms={f"codes/{name}": one for name, one in codes.items()})

    def save(self, folder: Path, weights: dict[str, Tensor], record: dict[str, Any]) -> None:
        """Write the sampler's checkpoint folder, including class names if it has classes."""
        classes = {"classes": self.pairs.labels} if self.config.condition.n_classes else {}
        save_checkpoint(folder, self.kind, self.run.preset, self.config, weights, record | classes)


def condition_of_kind(kind: ConditionKind, own: ConditionConfig, preset: str) -> ConditionConfig:
    """Configuration of another kind of condition with the preset's features; the number of classes is a placeholder.

    Raises:
        ParameterError: if the kind needs features, but the preset has none.
    """
    if kind in ("none", "features", "features+class", "columns") and not own.n_features:
        raise ParameterError(f"{preset!r} has no features, which a condition of kind {kind!r} needs; choose another preset.")
    if kind == "none":
        return ConditionConfig(kind=kind, n_features=1, feature_dim=own.feature_dim)
    if kind in ("class", "coordinates"):
        return ConditionConfig(kind=kind, n_classes=int(kind == "class"))
    motion = own.motion if kind == "columns" else 0
    return ConditionConfig(
        kind=kind, n_features=own.n_features, feature_dim=own.feature_dim, n_classes=int(kind == "features+class"), motion=motion
    )


def is_residual(config: AnySamplerConfig) -> bool:
    """Whether a sampler predicts the levels of a residual codebook."""
    return isinstance(config, ResidualSamplerConfig)


@torch.inference_mode()
def silent_column(codebook: AnyCodebook) -> Int64[np.ndarray, "rows"]:
    """Codes of the middle column of a silent clip."""
    clip = codebook.config.clip
    silence = torch.full((1, clip.mels, clip.frames), -1.0)
    return codebook.encode(silence)[0, : clip.rows, clip.columns // 2].numpy()


def decay_groups(module: AnySampler, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups with weight decay (matrices of transformer and head) and without (all others).

    Source:
        The released sampler's optimizer (minGPT's rule). Its feature embedder is a convolution, which has no weight decay.
    """
    inner = [module.blocks, module.column, module.partial] if isinstance(module, ResidualSampler) else [module.head]
    decaying = [layer for part in (module.transformer, *inner) for layer in part.modules()]
    matrices = {id(layer.weight) for layer in decaying if isinstance(layer, nn.Linear)}
    decayed = [p for p in module.parameters() if id(p) in matrices]
    others = [p for p in module.parameters() if id(p) not in matrices]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
