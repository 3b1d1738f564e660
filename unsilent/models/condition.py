"""What the sampler is told before its first code: visual features, a class, both, nothing, or the time that passes."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from unsilent.clip import Clip
from unsilent.config import Config
from unsilent.errors import ParameterError

Kind = Literal["none", "features", "class", "features+class", "coordinates"]


class ConditionConfig(Config):
    """Kind and sizes of a condition.

    `none` is the published "no feats": one vector of random numbers in the place of a feature. `coordinates` are integers that grow with
    time, spoken in the sampler's own codes. Both stand for "nothing" in the paper's tables.
    """

    kind: Kind
    n_features: int = Field(default=0, ge=0)  # feature vectors for one clip
    feature_dim: int = Field(default=0, ge=0)  # numbers in each
    n_classes: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _fits_kind(self) -> "ConditionConfig":
        wants_features = self.kind in ("none", "features", "features+class")
        wants_classes = self.kind in ("class", "features+class")
        if wants_features != bool(self.n_features and self.feature_dim) or bool(self.n_features) != bool(self.feature_dim):
            raise ParameterError(f"{self.n_features} features of {self.feature_dim} numbers do not fit a condition of kind {self.kind!r}.")
        if wants_classes != bool(self.n_classes):
            raise ParameterError(f"{self.n_classes} classes do not fit a condition of kind {self.kind!r}.")
        return self

    def n_tokens(self, clip: Clip) -> int:
        """How many positions of the sequence the condition takes."""
        if self.kind == "coordinates":
            return clip.n_codes
        return self.n_features + bool(self.n_classes)


class Condition(nn.Module):
    """Embeds features and classes to the sampler's width, features first."""

    def __init__(self, config: ConditionConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.feature_embedder = nn.Linear(config.feature_dim, width) if config.n_features else None
        self.class_embedder = nn.Embedding(config.n_classes, width) if config.n_classes else None

    def forward(
        self, features: Float[Tensor, "batch features dim"] | None, labels: Int[Tensor, "batch"] | None
    ) -> Float[Tensor, "batch condition width"]:
        """Embed what the kind asks for.

        Args:
            features: exactly as many as the kind wants, else None.
            labels: class numbers, else None.

        Raises:
            ParameterError: if something is missing, too much, or of another size; says both numbers.
        """
        self._check(features, labels)
        tokens = []
        if self.feature_embedder is not None:
            tokens.append(self.feature_embedder(features))
        if self.class_embedder is not None:
            tokens.append(self.class_embedder(labels)[:, None])
        return torch.cat(tokens, dim=1)

    def _check(self, features: Tensor | None, labels: Tensor | None) -> None:
        wanted, config = self.config.kind, self.config
        if (features is not None) != bool(config.n_features) or (labels is not None) != bool(config.n_classes):
            given = " and ".join(name for name, value in (("features", features), ("a class", labels)) if value is not None) or "nothing"
            raise ParameterError(f"a sampler with a condition of kind {wanted!r} was given {given}.")
        if features is not None and features.shape[1:] != (config.n_features, config.feature_dim):
            raise ParameterError(
                f"{features.shape[1]} features of {features.shape[2]} numbers given, this sampler wants {config.n_features} of "
                f"{config.feature_dim}."
            )
        if labels is not None and not 0 <= int(labels.min()) <= int(labels.max()) < config.n_classes:
            wrong = int(labels.min()) if int(labels.min()) < 0 else int(labels.max())
            raise ParameterError(f"class number {wrong} given, this sampler knows 0 to {config.n_classes - 1}.")


def coordinates(clip: Clip, codes: int) -> Int[Tensor, "1 sequence"]:
    """Where each cell of a clip's grid lies, as integers from 0 to below `codes`, in the order of the codes that follow.

    They grow with time and, within a column, a little with frequency.

    Source:
        Paper supplement 6.1.4; the released data set numbers the bins of a mel frame after frame, divides by their number, and the
        coordinate stage averages each cell, multiplies by `codes` and rounds. No checkpoint with this condition was published, nor the
        setting that says in which order the released model read it.
    """
    bins = torch.arange(clip.frames * clip.mels, dtype=torch.float64).reshape(1, clip.frames, clip.mels) / (clip.frames * clip.mels)
    return (F.avg_pool2d(bins, clip.downsampling) * codes).round().long().reshape(1, -1)
