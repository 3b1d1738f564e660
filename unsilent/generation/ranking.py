"""Ranking: the candidate of each take that fits its condition best is kept, and the best take comes first.

The sampler rates its own sounds: how much likelier are the codes with their condition than without it?
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unsilent.models.code_order import to_sequence
from unsilent.models.sampler import AnySampler
from unsilent.request import Request


class Ranked(NamedTuple):
    """A chosen candidate.

    Attributes:
        take: its number among all that were sampled.
        score: see `agreement`; None if nothing was ranked.
    """

    take: int
    score: float | None


@torch.inference_mode()
def agreement(
    sampler: AnySampler, grids: Int[Tensor, "sounds rows columns"], condition: Float[Tensor, "1 condition width"]
) -> Float[Tensor, "sounds"]:
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


@torch.inference_mode()
def likelihood_after(
    sampler: AnySampler,
    known: Int[Tensor, "draws known"],
    after: Int[Tensor, "codes"],
    condition: Float[Tensor, "1 condition width"],
) -> Float[Tensor, "draws"]:
    """Mean log-likelihood of the codes that follow, in nats a code: how well each of several beginnings leads to them.

    Args:
        sampler: of the model.
        known: codes from the start of a window on, in the order of `code_order`, whole columns.
        after: codes of the columns after them in the same window, at least one.
        condition: of the window.

    Source:
        Sampling-importance resampling: for a gap M between P and F, p(M | P, F) is proportional to p(M | P) p(F | P, M).
    """
    logits, state = sampler.start(known, condition)
    total = torch.zeros(len(known), dtype=torch.float64, device=known.device)
    for position, code in enumerate(after):
        total += logits.float().log_softmax(1)[:, code]
        if position + 1 < len(after):
            logits = sampler.step(code.expand(len(known)), state)
    return total / len(after)


def rank(
    sampler: AnySampler,
    grids: Int[Tensor, "sounds rows columns"],
    condition: Float[Tensor, "1 condition width"],
    request: Request,
) -> list[Ranked]:
    """Choose one candidate for each take; the best take comes first.

    Args:
        sampler: of the model.
        grids: codes of all candidates, those of one take after another.
        condition: of the first window, by which sounds are rated.
        request: resolved; without `candidates` nothing is ranked, and the order stays.
    """
    if request.candidates is None:
        return [Ranked(take, None) for take in range(len(grids))]
    return best_of(agreement(sampler, grids[:, :, : sampler.config.clip.columns], condition).tolist(), request.candidates)


def best_of(scores: Sequence[float], candidates: int) -> list[Ranked]:
    """The candidate of each take with the highest score; the best take comes first.

    Args:
        scores: of all sounds, the `candidates` of one take after those of another.
        candidates: of each take.
    """
    takes = [range(first, first + candidates) for first in range(0, len(scores), candidates)]
    best = [max(take, key=scores.__getitem__) for take in takes]
    return [Ranked(take, scores[take]) for take in sorted(best, key=scores.__getitem__, reverse=True)]
