"""The sampler's conditions: visual features, a class, both, nothing, time coordinates, or the class recognised from features.

batch      windows
features   visual features of one clip
columns    code columns of one clip
dim        width of one feature
motion     motion values per column
condition  positions (or columns) of the embedded condition
width      width of the transformer
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from unsilent.clip import Clip
from unsilent.errors import ParameterError
from unsilent.models.configs import ConditionConfig, SightConfig

_CONTEXT_COLUMNS = 2  # columns on each side that influence the vector of a column, for kind `columns`
_NEVER = -1e4  # logit of an avoided class
_DOUBT = (0.1, 0.3)  # probabilities of the likeliest class at which ambience has weight 1 and 0 (LOG.md)
_SIGHT_FEATURES = 5  # features on each side over which the logits of sight are averaged: about two seconds for `everyday`


class Condition(nn.Module):
    """Embeds features and class as vectors of the sampler's width: a prefix, or for kinds by column one vector per code column."""

    def __init__(self, config: ConditionConfig, width: int, clip: Clip) -> None:
        super().__init__()
        self.config = config
        sees = config.kind == "sight"
        self.feature_embedder = nn.Linear(config.feature_dim, width) if config.n_features and not sees else None
        self.class_embedder = nn.Embedding(config.n_classes, width) if config.n_classes else None
        sizes = {"feature_dim": config.feature_dim, "n_classes": config.n_classes, "ambience": config.ambience}
        self.sight = Sight(SightConfig(**sizes)) if sees else None
        self.columns = Columns(config.motion, width, clip.columns) if config.by_column else None

    def forward(
        self,
        features: Float[Tensor, "batch features dim"] | None,
        labels: Int[Tensor, "batch *features"] | None,
        motion: Float[Tensor, "batch columns motion"] | None = None,
        avoided: Sequence[int] = (),
    ) -> Float[Tensor, "batch condition width"]:
        """Embed a condition.

        Args:
            features: `n_features` per item; None for kinds without features.
            labels: class indices; None for kinds without classes. For kind `sight`, each feature may have its own, and -1 or None takes
                the class recognised from the features.
            motion: motion of each code column; None for kinds without motion, or for no motion.
            avoided: class indices that kind `sight` must not recognise.

        Raises:
            ParameterError: if an input is missing, superfluous or of a wrong size; the message has both sizes.
        """
        if self.sight is not None and labels is None:
            labels = torch.full((len(features),), -1, device=features.device)
        self._check(features, labels)
        if self.sight is not None:
            return self.columns(self._seen(features, labels, avoided), motion)
        tokens = []
        if self.feature_embedder is not None:
            tokens.append(self.feature_embedder(features))
        if self.class_embedder is not None:
            tokens.append(self.class_embedder(labels)[:, None])
        embedded = torch.cat(tokens, dim=1)
        if self.columns is not None:
            return self.columns(embedded, motion)
        if motion is not None:
            raise ParameterError(f"a sampler with a condition of kind {self.config.kind!r} was given motion.")
        return embedded

    def _seen(
        self, features: Float[Tensor, "batch features dim"], labels: Int[Tensor, "batch *features"], avoided: Sequence[int]
    ) -> Float[Tensor, "batch features width"]:
        """Class embedding of each feature: of its label, or else the mean of all classes weighted by their probabilities."""
        shares, labels = self.sight.shares(features, avoided), labels if labels.ndim == 2 else labels[:, None]
        named = F.one_hot(labels.clamp(min=0), self.config.n_classes).to(shares)
        shares = torch.where((labels >= 0)[:, :, None], named, shares)
        return shares @ self.class_embedder.weight.to(shares)

    def _check(self, features: Float[Tensor, "batch features dim"] | None, labels: Int[Tensor, "batch *features"] | None) -> None:
        kind, config = self.config.kind, self.config
        if (features is not None) != bool(config.n_features) or (labels is not None) != bool(config.n_classes):
            given = " and ".join(name for name, value in (("features", features), ("a class", labels)) if value is not None) or "nothing"
            raise ParameterError(f"a sampler with a condition of kind {kind!r} was given {given}.")
        if features is not None and features.shape[1:] != (config.n_features, config.feature_dim):
            raise ParameterError(
                f"{features.shape[1]} features of width {features.shape[2]} were given; this sampler takes {config.n_features} of width "
                f"{config.feature_dim}."
            )
        lowest = 0 if self.sight is None else -1
        if labels is not None and not lowest <= int(labels.min()) <= int(labels.max()) < config.n_classes:
            wrong = int(labels.min()) if int(labels.min()) < lowest else int(labels.max())
            raise ParameterError(f"class {wrong} was given; this sampler has 0 to {config.n_classes - 1}.")


class Sight(nn.Module):
    """Linear classifier of visual features: the class of sound that a frame suggests.

    Attributes:
        weight, bias: parameters of the classifier; classes without training pictures have a large negative bias.
        mean, std: statistics of the training features, which standardise the input.
    """

    def __init__(self, config: SightConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(config.feature_dim))
        self.register_buffer("std", torch.ones(config.feature_dim))
        self.register_buffer("weight", torch.zeros(config.n_classes, config.feature_dim))
        self.register_buffer("bias", torch.zeros(config.n_classes))

    def forward(self, features: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows classes"]:
        """Logits of each class."""
        return F.linear((features - self.mean) / self.std, self.weight, self.bias)

    def shares(self, features: Float[Tensor, "batch features dim"], avoided: Sequence[int] = ()) -> Float[Tensor, "batch features classes"]:
        """Probability of each class at each feature. Logits are averaged over neighbouring features, because single frames mislead.

        The lower the largest probability is, the more of it goes to ambience. Avoided classes get probability 0.
        """
        logits, width = self(features).transpose(1, 2), 2 * _SIGHT_FEATURES + 1
        logits = logits.index_fill(1, torch.tensor(avoided, dtype=torch.long, device=logits.device), _NEVER)
        shares = F.avg_pool1d(logits, width, 1, _SIGHT_FEATURES, count_include_pad=False).softmax(1).transpose(1, 2)
        if self.config.ambience is None:
            return shares
        nothing, certain = _DOUBT
        sure = ((shares.amax(2, keepdim=True) - nothing) / (certain - nothing)).clamp(0, 1)
        if self.config.ambience in avoided:
            return shares
        ambience = F.one_hot(torch.tensor(self.config.ambience, device=shares.device), self.config.n_classes)
        return sure * shares + (1 - sure) * ambience


class Columns(nn.Module):
    """One vector per code column, from feature and motion of the column and of two columns on each side.

    Later columns matter because motion precedes its sound, earlier ones because sounds decay.
    """

    def __init__(self, motion: int, width: int, columns: int) -> None:
        super().__init__()
        self.motion, self.n_columns = motion, columns
        # a convolution, because the sampler's initialisation of linear layers is too small for so few inputs
        self.motion_embedder = nn.Conv1d(motion, width, 1) if motion else None
        self.around = nn.Conv1d(width, width, 2 * _CONTEXT_COLUMNS + 1, padding=_CONTEXT_COLUMNS, groups=width)
        self.out = nn.Linear(width, width)

    def forward(
        self, features: Float[Tensor, "batch features width"], motion: Float[Tensor, "batch columns motion"] | None
    ) -> Float[Tensor, "batch columns width"]:
        """Embed each column; column `c` gets feature `c * features // columns`.

        Args:
            features: embedded features, evenly spaced over the clip.
            motion: motion of each column; None for no motion.

        Raises:
            ParameterError: for motion of a wrong size.
        """
        wanted = (self.n_columns, self.motion)
        if motion is not None and motion.shape[1:] != wanted:
            raise ParameterError(
                f"motion of {motion.shape[1]} columns x {motion.shape[2]} values was given; this sampler takes {wanted[0]} x {wanted[1]}."
            )
        hidden = features[:, torch.arange(self.n_columns, device=features.device) * features.shape[1] // self.n_columns].transpose(1, 2)
        if self.motion_embedder is not None:
            motion = features.new_zeros(len(features), *wanted) if motion is None else motion
            hidden = hidden + self.motion_embedder(motion.transpose(1, 2))
        return self.out(self.around(F.gelu(hidden)).transpose(1, 2))


def pick_rows(n_wanted: int, n_total: int) -> list[int]:
    """Choose rows for a model with fewer features than a clip has.

    Args:
        n_wanted: from 1 to `n_total`.
        n_total: features of the whole clip.

    Returns:
        Increasing indices: evenly spaced from the first row, all shifted towards the middle; 5 of 212 gives 35, 77, 119, 162, 204.

    Raises:
        ParameterError: if `n_wanted` is below 1 or above `n_total`.

    Source:
        Released ResampleFrames. Differs: integer arithmetic. In floating point, some rows are too small by one for a few numbers of
        features, such as 38, but not for the published 1, 5, 53 and 212.
    """
    if not 1 <= n_wanted <= n_total:
        raise ParameterError(f"n_wanted is {n_wanted}, but must be 1 to {n_total}.")
    return [index * n_total // n_wanted + n_total // (n_wanted + 1) for index in range(n_wanted)]


def condition_rows(condition: ConditionConfig, n_total: int, n_columns: int) -> list[int]:
    """Rows of a clip's features that form a condition.

    Args:
        condition: configuration of a kind with features.
        n_total: features of the whole clip, the same number for each column.
        n_columns: code columns of the clip.

    Returns:
        The result of `pick_rows`. For kinds by column, the last row of the first column that gets each feature, so that windows half a clip
        apart share frames.
    """
    n_wanted = condition.n_features
    if not condition.by_column:
        return pick_rows(n_wanted, n_total)
    each = n_total // n_columns
    return [(-(-index * n_columns // n_wanted) + 1) * each - 1 for index in range(n_wanted)]


def coordinates(clip: Clip, codes: int) -> Int[Tensor, "1 sequence"]:
    """Coordinate of each cell of a clip's grid, from 0 to `codes - 1`, in the order of the codes.

    Coordinates increase with time and, within a column, slightly with frequency.

    Source:
        Paper supplement 6.1.4. The released data set numbers the bins of a mel frame by frame, and divides by their count. The coordinate
        stage averages each cell, multiplies by `codes` and rounds. Neither a checkpoint with this condition nor the order in which the
        released model reads it was published.
    """
    bins = torch.arange(clip.frames * clip.mels, dtype=torch.float64).reshape(1, clip.frames, clip.mels) / (clip.frames * clip.mels)
    return (F.avg_pool2d(bins, clip.downsampling) * codes).round().long().reshape(1, -1)
