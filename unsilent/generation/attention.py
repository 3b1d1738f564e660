"""How much each sampled code attended to each position of the condition and to each earlier code, as in the interface of paper figure 19.

The weights are computed after the sampling, by torch in float32, from the sampled codes. Attention is causal, so one pass over a window
gives the weights of all its steps. Sampling in another precision differs from them by rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unsilent.errors import ParameterError
from unsilent.generation.conditions import Conditions
from unsilent.generation.windows import Window
from unsilent.models.code_order import to_sequence
from unsilent.models.sampler import AnySampler, Sampler
from unsilent.models.transformer import Attention


@dataclass(frozen=True)
class WindowAttention:
    """Attention of the codes of one window; the weights of a code add up to 1.

    Attributes:
        window: code columns; the first `primed` are known from the window before.
        condition: to the positions of the condition: features in the order of time, then the class. For a condition of kind `columns`,
            which is added to the codes, a single start position.
        codes: to the codes before, in the order of `code_order`; 0 from the code itself on.
    """

    window: Window
    condition: Float[np.ndarray, "codes positions"]
    codes: Float[np.ndarray, "codes codes"]


def weights_of(layer: Attention, x: Float[Tensor, "batch sequence width"]) -> Float[Tensor, "batch heads sequence sequence"]:
    """Causal attention weights of a layer, which `torch.nn.functional.scaled_dot_product_attention` does not give.

    Args:
        layer: with separate projections.
        x: its input.
    """
    query, key = (project(x).unflatten(2, (layer.heads, -1)).transpose(1, 2) for project in (layer.query, layer.key))
    scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
    later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
    return scores.masked_fill(later, -torch.inf).softmax(-1)


@torch.inference_mode()
def attention_of(
    sampler: AnySampler,
    windows: Sequence[Window],
    codes: Int[np.ndarray, "rows columns"],
    conditions: Conditions,
    layer: int | None = None,
    head: int | None = None,
) -> list[WindowAttention]:
    """Attention of the codes of a sound, window by window.

    Args:
        sampler: in float32 on the CPU, as trained.
        windows: of the sound.
        codes: of the whole sound.
        conditions: one for each window.
        layer: number of the layer; None takes the mean of all.
        head: number of the head; None takes the mean of all.

    Raises:
        ParameterError: for a layer or head that the sampler does not have, or a sampler over columns.
    """
    if not isinstance(sampler, Sampler):
        raise ParameterError("this model's sampler attends to columns, not to codes; attention is drawn for the other models.")
    sizes = sampler.config.transformer
    for name, given, n in (("layer", layer, sizes.layers), ("head", head, sizes.heads)):
        if given is not None and not 0 <= given < n:
            raise ParameterError(f"{name} {given} was asked for; this sampler has 0 to {n - 1}.")
    sequence, rows = to_sequence(torch.from_numpy(codes)[None]), sampler.config.clip.rows
    spans = [sequence[:, window.start * rows : window.stop * rows] for window in windows]
    each = zip(windows, spans, conditions, strict=True)
    return [_attention_in(sampler, window, span, condition.float().cpu(), layer, head) for window, span, condition in each]


def _attention_in(
    sampler: Sampler,
    window: Window,
    codes: Int[Tensor, "1 sequence"],
    condition: Float[Tensor, "1 condition width"],
    layer: int | None,
    head: int | None,
) -> WindowAttention:
    blocks = sampler.transformer.blocks if layer is None else [sampler.transformer.blocks[layer]]
    found: list[Tensor] = []

    def keep(module: Attention, arguments: tuple[Any, ...]) -> None:
        heads = weights_of(module, arguments[0])[0]
        found.append(heads.mean(0) if head is None else heads[head])

    hooks = [block.attn.register_forward_pre_hook(keep) for block in blocks]
    try:
        sampler.logits(codes, condition)
    finally:
        for hook in hooks:
            hook.remove()
    rows = torch.stack(found).mean(0)[sampler.n_condition - 1 :].cpu().numpy()  # the row of the position that predicts each code
    own = np.zeros((len(rows), len(rows)), rows.dtype)
    own[:, :-1] = rows[:, sampler.n_condition :]
    return WindowAttention(window, rows[:, : sampler.n_condition], own)


def over_time(windows: Sequence[WindowAttention], rows: int) -> tuple[Float[np.ndarray, "places columns"], str]:
    """Attention as an image: for each code column, the mean weights of its codes at each place; and the meaning of the places.

    Places are positions of the condition or, where there is a single one, distances in columns: 0 is the column itself.

    Args:
        windows: of a whole sound.
        rows: codes in a column.
    """
    is_condition = windows[0].condition.shape[1] > 1
    columns = []
    for one in windows:
        weights = one.condition if is_condition else _by_distance(one.codes, rows)
        columns.append(weights.reshape(-1, rows, weights.shape[1]).mean(1)[one.window.primed :])
    widest = max(part.shape[1] for part in columns)
    picture = np.concatenate([np.pad(part, ((0, 0), (0, widest - part.shape[1]))) for part in columns]).T
    return picture, "position of the condition" if is_condition else "columns before"


def _by_distance(weights: Float[np.ndarray, "codes codes"], rows: int) -> Float[np.ndarray, "codes columns"]:
    """Weights by their distance from the code, in columns."""
    n_codes = len(weights)
    own, column = np.arange(n_codes) // rows, weights.reshape(n_codes, -1, rows).sum(2)
    found = np.zeros_like(column)
    for number, before in enumerate(own):
        found[number, : before + 1] = column[number, before::-1]
    return found
