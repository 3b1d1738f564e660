"""What the sampler is told: visual features, a class, both, nothing, or the time that passes, before its first code or beside each."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from unsilent.clip import Clip
from unsilent.config import Config
from unsilent.errors import ParameterError

Kind = Literal["none", "features", "class", "features+class", "coordinates", "columns"]
_REACH = 2  # code columns ahead and behind that a column is told of, where features stand beside codes


class ConditionConfig(Config):
    """Kind and sizes of a condition.

    `none` is the published "no feats": one vector of random numbers in the place of a feature. `coordinates` are integers that grow with
    time, spoken in the sampler's own codes. Both stand for "nothing" in the paper's tables. All take positions before the codes but
    `columns`, which is ours and stands beside them: each position is told what is seen at the time of the code that it predicts.
    """

    kind: Kind
    n_features: int = Field(default=0, ge=0)  # feature vectors for one clip
    feature_dim: int = Field(default=0, ge=0)  # numbers in each
    n_classes: int = Field(default=0, ge=0)
    motion: int = Field(default=0, ge=0)  # numbers of `unsilent.vision.motion` for each code column

    @model_validator(mode="after")
    def _fits_kind(self) -> "ConditionConfig":
        wants_features = self.kind in ("none", "features", "features+class", "columns")
        wants_classes = self.kind in ("class", "features+class")
        if wants_features != bool(self.n_features and self.feature_dim) or bool(self.n_features) != bool(self.feature_dim):
            raise ParameterError(f"{self.n_features} features of {self.feature_dim} numbers do not fit a condition of kind {self.kind!r}.")
        if wants_classes != bool(self.n_classes):
            raise ParameterError(f"{self.n_classes} classes do not fit a condition of kind {self.kind!r}.")
        if self.motion and self.kind != "columns":
            raise ParameterError(f"{self.motion} numbers of motion do not fit a condition of kind {self.kind!r}.")
        return self

    def n_tokens(self, clip: Clip) -> int:
        """How many positions of the sequence the condition takes; one that stands beside the codes leaves a first one, to begin from."""
        if self.kind == "coordinates":
            return clip.n_codes
        if self.kind == "columns":
            return 1
        return self.n_features + bool(self.n_classes)


class Condition(nn.Module):
    """Embeds features and classes to the sampler's width, features first; those of kind `columns` for each code column."""

    def __init__(self, config: ConditionConfig, width: int, clip: Clip) -> None:
        super().__init__()
        self.config = config
        self.feature_embedder = nn.Linear(config.feature_dim, width) if config.n_features else None
        self.class_embedder = nn.Embedding(config.n_classes, width) if config.n_classes else None
        self.columns = Columns(config.motion, width, clip.columns) if config.kind == "columns" else None

    def forward(
        self,
        features: Float[Tensor, "batch features dim"] | None,
        labels: Int[Tensor, "batch"] | None,
        motion: Float[Tensor, "batch columns motion"] | None = None,
    ) -> Float[Tensor, "batch condition width"]:
        """Embed what the kind asks for.

        Args:
            features: exactly as many as the kind wants, else None.
            labels: class numbers, else None.
            motion: of each code column; None where nothing moves, or for a kind that is not told.

        Raises:
            ParameterError: if something is missing, too much, or of another size; says both numbers.
        """
        self._check(features, labels)
        tokens = []
        if self.feature_embedder is not None:
            tokens.append(self.feature_embedder(features))
        if self.class_embedder is not None:
            tokens.append(self.class_embedder(labels)[:, None])
        told = torch.cat(tokens, dim=1)
        if self.columns is not None:
            return self.columns(told, motion)
        if motion is not None:
            raise ParameterError(f"a sampler with a condition of kind {self.config.kind!r} was given motion.")
        return told

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


class Columns(nn.Module):
    """One vector for each code column: of the feature of its time and of its motion, and a little of what is ahead and behind.

    Ahead, because who hears a step has seen the foot come down before; behind, because sounds last.
    """

    def __init__(self, motion: int, width: int, columns: int) -> None:
        super().__init__()
        self.motion, self.n_columns = motion, columns
        # convolutions, not linear layers: they begin with weights large enough for a few numbers to count beside many features
        self.motion_embedder = nn.Conv1d(motion, width, 1) if motion else None
        self.around = nn.Conv1d(width, width, 2 * _REACH + 1, padding=_REACH, groups=width)
        self.out = nn.Linear(width, width)

    def forward(
        self, seen: Float[Tensor, "batch features width"], motion: Float[Tensor, "batch columns motion"] | None
    ) -> Float[Tensor, "batch columns width"]:
        """Column `c` is told embedded feature `c * features // columns`.

        Args:
            seen: embedded features, evenly spread over the clip.
            motion: of each column; None where nothing moves.

        Raises:
            ParameterError: for motion of another size.
        """
        wanted = (self.n_columns, self.motion)
        if motion is not None and motion.shape[1:] != wanted:
            raise ParameterError(
                f"motion of {motion.shape[1]} columns of {motion.shape[2]} numbers given, this sampler wants {wanted[0]} of {wanted[1]}."
            )
        hidden = seen[:, torch.arange(self.n_columns, device=seen.device) * seen.shape[1] // self.n_columns].transpose(1, 2)
        if self.motion_embedder is not None:
            moved = seen.new_zeros(len(seen), *wanted) if motion is None else motion
            hidden = hidden + self.motion_embedder(moved.transpose(1, 2))
        return self.out(self.around(F.gelu(hidden)).transpose(1, 2))


def pick_rows(n_wanted: int, n_total: int) -> list[int]:
    """Choose rows for a model with fewer features than a clip has.

    Args:
        n_wanted: from 1 to `n_total`.
        n_total: features of the whole clip.

    Returns:
        Increasing indices: evenly spaced from the first row, all shifted towards the middle; 5 of 212 gives 35, 77, 119, 162, 204.

    Raises:
        ParameterError: if there are fewer rows than wanted, or none is wanted.

    Source:
        Released ResampleFrames. Differs: integer arithmetic, where its floating point truncates a few spacings one row early (38 of
        212, but none of the published 1, 5, 53 and 212).
    """
    if not 1 <= n_wanted <= n_total:
        raise ParameterError(f"{n_wanted} features were asked of {n_total}; ask for 1 to {n_total}, or tile a short video first.")
    return [index * n_total // n_wanted + n_total // (n_wanted + 1) for index in range(n_wanted)]


def condition_rows(condition: ConditionConfig, n_total: int, n_columns: int) -> list[int]:
    """Rows of a clip's features that a condition consists of.

    Args:
        condition: of a kind with features.
        n_total: features of the whole clip, equally many for each column.
        n_columns: code columns of the clip.

    Returns:
        As `pick_rows`; for kind `columns`, the last row of the first column that gets each feature, so that windows half a clip apart
        share frames.
    """
    n_wanted = condition.n_features
    if condition.kind != "columns":
        return pick_rows(n_wanted, n_total)
    each = n_total // n_columns
    return [(-(-index * n_columns // n_wanted) + 1) * each - 1 for index in range(n_wanted)]


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
