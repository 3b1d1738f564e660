"""Ranking: of several candidates for each take the one that fits best what is seen or named, and takes in order of that.

The sampler rates its own sounds, as a generative classifier: how much likelier are the codes with their condition than without?
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unsilent.models.code_order import to_sequence
from unsilent.models.residual_sampler import AnySampler
from unsilent.request import Request

_NAMED = 5  # classes that `likeliest` names


class Ranked(NamedTuple):
    """A chosen candidate.

    Attributes:
        take: its number among all that were sampled.
        score: see `agreement`; None if nothing was ranked.
    """

    take: int
    score: float | None


class Chosen(NamedTuple):
    """What is left of all candidates, the best first.

    Attributes:
        grids: codes of each take.
        ranked: number and score of each.
        expected: probability of each class, seen or named; None for a model that does not see.
    """

    grids: Int[Tensor, "takes rows columns"]
    ranked: list[Ranked]
    expected: Float[Tensor, "classes"] | None


@torch.inference_mode()
def agreement(
    sampler: AnySampler, grids: Int[Tensor, "draws rows columns"], condition: Float[Tensor, "1 condition width"]
) -> Float[Tensor, "draws"]:
    """Mean over codes of the logarithm of `p(code | condition) / p(code)`, in nats; positive where the condition explains the sound.

    Args:
        sampler: trained with condition dropout.
        grids: codes of one window.
        condition: of that window.
    """
    codes = to_sequence(grids)
    likely = [sampler.logits(codes, one.expand(len(codes), -1, -1)).log_softmax(2) for one in (condition, torch.zeros_like(condition))]
    known, free = (one.gather(2, codes[:, :, None])[:, :, 0] for one in likely)
    return (known - free).mean(1)


def rank(
    sampler: AnySampler,
    grids: Int[Tensor, "draws rows columns"],
    condition: Float[Tensor, "1 condition width"],
    expected: Float[Tensor, "classes"] | None,
    request: Request,
) -> Chosen:
    """Choose one candidate for each take; the best take comes first.

    Args:
        sampler: of the model.
        grids: codes of all candidates, those of one take after another.
        condition: of the first window, by which sounds are rated.
        expected: probability of each class, to be passed on.
        request: resolved; without `candidates` nothing is ranked, and the order stays.
    """
    if request.candidates is None:
        return Chosen(grids, [Ranked(draw, None) for draw in range(len(grids))], expected)
    scores = agreement(sampler, grids[:, :, : sampler.config.clip.columns], condition).tolist()
    takes = [range(first, first + request.candidates) for first in range(0, len(grids), request.candidates)]
    best = [max(take, key=scores.__getitem__) for take in takes]
    best.sort(key=scores.__getitem__, reverse=True)
    return Chosen(grids[best], [Ranked(draw, scores[draw]) for draw in best], expected)


def likeliest(expected: Float[Tensor, "classes"] | None, classes: tuple[str, ...]) -> dict[str, float]:
    """The likeliest classes with their probabilities, in falling order, without those below 1 %; empty for None."""
    if expected is None:
        return {}
    values, indices = expected.topk(min(_NAMED, len(classes)))
    return {classes[index]: round(value, 3) for value, index in zip(values.tolist(), indices.tolist(), strict=True) if value >= 0.01}
