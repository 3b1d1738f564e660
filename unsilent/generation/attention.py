"""Attention weights of each sampled code over the condition and over earlier codes, as in the interface of paper figure 19.

The weights are recorded during sampling itself, by the C kernels, on a GPU, and in torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from unsilent.generation.windows import Window
from unsilent.models.sampler import AnySampler
from unsilent.models.transformer import Look


@dataclass(frozen=True)
class WindowAttention:
    """Attention of the codes of one window; the weights of each code sum to 1. For a sampler over columns, rows are whole columns.

    Attributes:
        window: its code columns; the first `primed` were not sampled in this window.
        condition: weights on the positions of the condition: features in the order of time, then the class. A sampler over columns adds
            the condition to its inputs, so it has a single start position.
        codes: weights on earlier codes, in the order of `code_order`; 0 for the code itself and all later ones.
    """

    window: Window
    condition: Float[np.ndarray, "codes positions"]
    codes: Float[np.ndarray, "codes codes"]

    @property
    def each(self) -> int:
        """Codes in a column; 1 for a sampler over columns."""
        return len(self.codes) // self.window.columns


@dataclass
class AttentionRecord:
    """Attention of several sounds, kept window by window while they are sampled.

    Attributes:
        look: layer and head whose weights are recorded.
    """

    look: Look
    _windows: list[tuple[Window, int, dict[int, Float[np.ndarray, "codes positions"]]]] = field(default_factory=list)

    def keep(
        self, sampler: AnySampler, window: Window, sounds: Int[Tensor, "sounds"], weights: Float[Tensor, "sounds capacity capacity"]
    ) -> None:
        """Store the attention matrices of one window, one for each sound number in `sounds`."""
        first = sampler.n_condition - 1  # the position that predicts the first code
        stop = first + window.columns * sampler.per_column
        kept = weights[:, first:stop, :stop].to("cpu", copy=True).numpy()
        self._windows.append((window, sampler.n_condition, dict(zip(sounds.tolist(), kept, strict=True))))

    def of(self, sound: int) -> tuple[WindowAttention, ...]:
        """The attention of one sound. The sound must have been sampled to its end, not ended by an audition."""
        found = []
        for window, n_condition, weights in self._windows:
            codes = np.pad(weights[sound][:, n_condition:], ((0, 0), (0, 1)))  # nothing attends to the last code
            found.append(WindowAttention(window, weights[sound][:, :n_condition], codes))
        return tuple(found)


def over_time(windows: Sequence[WindowAttention]) -> tuple[Float[np.ndarray, "places columns"], str]:
    """Attention as an image with one column of pixels for each code column, and the label of its vertical axis.

    Places are positions of the condition. If there is only one, they are distances in columns instead; 0 is the column itself. Columns
    of windows that a prime fills completely are 0.

    Args:
        windows: windows of a whole sound.
    """
    is_condition = windows[0].condition.shape[1] > 1
    found = [one.condition if is_condition else _by_distance(one.codes, one.each) for one in windows]
    picture = np.zeros((max(weights.shape[1] for weights in found), windows[-1].window.stop), np.float32)
    for one, weights in zip(windows, found, strict=True):
        window, columns = one.window, weights.reshape(-1, one.each, weights.shape[1]).mean(1)
        picture[: columns.shape[1], window.new : window.stop] = columns[window.primed :].T
    return picture, "position of the condition" if is_condition else "distance to earlier columns"


def _by_distance(weights: Float[np.ndarray, "codes codes"], each: int) -> Float[np.ndarray, "codes columns"]:
    """Weights on earlier codes, summed over the codes at each distance in columns."""
    n_codes = len(weights)
    own, column = np.arange(n_codes) // each, weights.reshape(n_codes, -1, each).sum(2)
    found = np.zeros_like(column)
    for number, before in enumerate(own):
        found[number, : before + 1] = column[number, before::-1]
    return found
