"""Attention weights of each sampled code over the condition and over earlier codes, as in the interface of paper figure 19.

The steps that sample the codes record the weights, in C, on a GPU and in torch alike.
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
    """Attention of the codes of one window; the weights of a code add up to 1. For a sampler over columns, of whole columns.

    Attributes:
        window: code columns; the first `primed` are known from the window before.
        condition: to the positions of the condition: features in the order of time, then the class. Where the condition is added to the
            codes, as for a sampler over columns, a single start position.
        codes: weights of earlier codes, in the order of `code_order`; 0 from the code itself on.
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
        look: whose weights.
    """

    look: Look
    _windows: list[tuple[Window, int, dict[int, Float[np.ndarray, "codes positions"]]]] = field(default_factory=list)

    def keep(
        self, sampler: AnySampler, window: Window, sounds: Int[Tensor, "sounds"], weights: Float[Tensor, "sounds capacity capacity"]
    ) -> None:
        """Keep a window's weights, from each position of the transformer to each, for the sounds of these numbers."""
        first = sampler.n_condition - 1  # the position that predicts the first code
        stop = first + window.columns * sampler.per_column
        kept = weights[:, first:stop, :stop].to("cpu", copy=True).numpy()
        self._windows.append((window, sampler.n_condition, dict(zip(sounds.tolist(), kept, strict=True))))

    def of(self, sound: int) -> tuple[WindowAttention, ...]:
        """The attention of one sound, which no audition ended."""
        found = []
        for window, n_condition, weights in self._windows:
            codes = np.pad(weights[sound][:, n_condition:], ((0, 0), (0, 1)))  # nothing attends to the last code
            found.append(WindowAttention(window, weights[sound][:, :n_condition], codes))
        return tuple(found)


def over_time(windows: Sequence[WindowAttention]) -> tuple[Float[np.ndarray, "places columns"], str]:
    """Attention as an image with one column of pixels for each code column, and the label of its vertical axis.

    Places are positions of the condition or, where there is a single one, distances in columns: 0 is the column itself. Columns of
    windows that a prime fills are 0.

    Args:
        windows: windows of a whole sound.
    """
    is_condition = windows[0].condition.shape[1] > 1
    found = [one.condition if is_condition else _by_distance(one.codes, one.each) for one in windows]
    picture = np.zeros((max(weights.shape[1] for weights in found), windows[-1].window.stop), np.float32)
    for one, weights in zip(windows, found, strict=True):
        window, columns = one.window, weights.reshape(-1, one.each, weights.shape[1]).mean(1)
        picture[: columns.shape[1], window.start + window.primed : window.stop] = columns[window.primed :].T
    return picture, "position of the condition" if is_condition else "columns before"


def _by_distance(weights: Float[np.ndarray, "codes codes"], each: int) -> Float[np.ndarray, "codes columns"]:
    """Weights summed by distance from the code, in columns."""
    n_codes = len(weights)
    own, column = np.arange(n_codes) // each, weights.reshape(n_codes, -1, each).sum(2)
    found = np.zeros_like(column)
    for number, before in enumerate(own):
        found[number, : before + 1] = column[number, before::-1]
    return found
