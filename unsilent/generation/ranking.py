"""Ranking: keeps the best candidate of each take, and sorts takes, the best first.

A listener, a classifier of sounds trained on other material than the model, scores how well a candidate fits the recognised or named class,
or the reference. With cues, the score is the agreement of onsets with the cues.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unsilent.codec.codec import Codec
from unsilent.cues import Cue
from unsilent.generation.sampling import ENDED, Audition
from unsilent.models.code_order import to_grid
from unsilent.models.listener import Ranker
from unsilent.models.sampler import AnySampler
from unsilent.request import AUDITION_SECONDS, FINALISTS, Request
from unsilent.signal.landing import REACH_SECONDS
from unsilent.signal.mel import to_mel01
from unsilent.signal.onsets import find_onsets


class Ranked(NamedTuple):
    """A chosen candidate.

    Attributes:
        take: number of the candidate among all sampled sounds.
        score: see `agreement` and `onset_agreement`; None without ranking.
    """

    take: int
    score: float | None


@torch.inference_mode()
def agreement(
    codec: Codec,
    ranker: Ranker,
    grids: Int[Tensor, "sounds rows columns"],
    expected: Mapping[str, float],
    avoided: Sequence[str] = (),
    reference: Float[Tensor, "dim"] | None = None,
) -> Float[Tensor, "sounds"]:
    """The listener's mean log-probability of the expected classes, in nats; classes that it does not know are left out.

    Args:
        codec: decodes the codes.
        ranker: the model's listener and its classes.
        grids: codes of each sound.
        expected: probability of each class.
        avoided: class names; the log-probability that the sound is none of them is added.
        reference: the listener's features of a reference; their cosine similarity replaces the term of expected classes.
    """
    known = {name: share for name, share in expected.items() if name in ranker.classes}
    shares = torch.tensor([known.get(name, 0.0) for name in ranker.classes]) / max(sum(known.values()), 1e-9)
    is_avoided = torch.tensor([name in avoided for name in ranker.classes])
    with codec.autocast():
        features = torch.cat([ranker.listener.features(to_mel01(codec.decode(grid))[None]) for grid in grids])
        likely = ranker.listener.fc(features).float().log_softmax(1).cpu()
    fits = (likely * shares).sum(1) if reference is None else (features.float() @ reference).cpu()
    return fits + torch.where(is_avoided, -torch.inf, likely).logsumexp(1) if avoided else fits


@torch.inference_mode()
def likelihood_after(
    sampler: AnySampler,
    known: Int[Tensor, "draws known"],
    after: Int[Tensor, "codes"],
    condition: Float[Tensor, "1 condition width"],
) -> Float[Tensor, "draws"]:
    """Mean log-likelihood, in nats per code, of the same codes after each of several prefixes.

    Args:
        sampler: the model's sampler.
        known: codes of each prefix from the start of a window, whole columns in the order of `code_order`.
        after: codes of the following columns in the same window, at least one.
        condition: condition of the window.

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


def onset_agreement(codec: Codec, grids: Int[Tensor, "sounds rows columns"], cues: Sequence[Cue]) -> list[float]:
    """F1 score of each sound's onsets against the cues, with the tolerance `landing.REACH_SECONDS`."""
    from unsilent.metrics import onset_f1  # here, because most requests have no cues

    wanted = np.array([cue.seconds for cue in cues])
    return [onset_f1(find_onsets(to_mel01(codec.decode(grid)), codec.clip), wanted, REACH_SECONDS).f1 for grid in grids]


@dataclass(frozen=True)
class Judge:
    """Chooses among the candidates of a request.

    Attributes:
        codec: the model's codec.
        ranker: the model's listener; None for a model without one, which can rank by cues only.
        expected: probability of each recognised or named class.
        request: resolved; without cues, nothing is ranked if only one sound is sampled or `candidates` is None.
        reference: the listener's features of the reference; None without one.
    """

    codec: Codec
    ranker: Ranker | None
    expected: Mapping[str, float]
    request: Request
    reference: Float[Tensor, "dim"] | None = None

    @property
    def audition(self) -> Audition | None:
        """Ends all candidates of a take after their first seconds, except the few that the listener rates highest.

        None if no take has more candidates than these few, and for a model without a listener. None also with cues, because they may
        lie after the first seconds.
        """
        if self.ranker is None or self.request.cues is not None or (self.request.candidates or 1) <= FINALISTS:
            return None
        return Audition(max(1, round(AUDITION_SECONDS / self.codec.clip.column_seconds)), self._finalists)

    def rank(self, grids: Int[Tensor, "candidates rows columns"]) -> list[Ranked]:
        """Choose one candidate for each take, by cues if there are any, else by the listener; the best take comes first.

        Args:
            grids: codes of all candidates, those of one take after another; the first clip of each is rated.
        """
        if self.request.cues is not None:
            return best_of(onset_agreement(self.codec, grids, self.request.cues), self.request.candidates)
        if self.ranker is None or self.request.candidates is None or len(grids) == 1:
            return [Ranked(take, None) for take in range(len(grids))]
        whole, scores = (grids[:, 0, -1] != ENDED).cpu(), torch.full((len(grids),), -torch.inf)
        scores[whole] = self._rate(grids[whole][:, :, : self.codec.clip.columns])
        return best_of(scores.tolist(), self.request.candidates)

    def _rate(self, grids: Int[Tensor, "sounds rows columns"]) -> Float[Tensor, "sounds"]:
        return agreement(self.codec, self.ranker, grids, self.expected, self.request.avoid or (), self.reference)

    def _finalists(self, known: Int[Tensor, "candidates known"]) -> Int[Tensor, "left"]:
        block = self.ranker.listener.block_frames // self.codec.clip.downsampling
        rated = to_grid(known, self.codec.clip.rows)[:, :, -block:]  # one block, because a second one would double the time
        by_take = self._rate(rated).unflatten(0, (-1, self.request.candidates))
        first = torch.arange(0, len(known), self.request.candidates)
        return (by_take.topk(FINALISTS, 1).indices.sort(1).values + first[:, None]).flatten()


def best_of(scores: Sequence[float], candidates: int) -> list[Ranked]:
    """The candidate with the highest score of each take; the best take comes first.

    Args:
        scores: scores of all sounds, grouped by take.
        candidates: number of candidates per take.
    """
    takes = [range(first, first + candidates) for first in range(0, len(scores), candidates)]
    best = [max(take, key=scores.__getitem__) for take in takes]
    return [Ranked(take, scores[take]) for take in sorted(best, key=scores.__getitem__, reverse=True)]
