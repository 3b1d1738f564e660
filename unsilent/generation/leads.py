"""Leads: hidden columns before a sound, which it continues: those of a reference, or exemplars of the class that is seen or named.

Codes of one recording determine the sound more closely than the name of its class does.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from unsilent.checkpoints.bundle import Parts
from unsilent.clip import Clip
from unsilent.generation.conditions import Plan, class_shares
from unsilent.generation.priming import GivenSounds, reference_columns
from unsilent.models.exemplars import Exemplars
from unsilent.request import Request
from unsilent.vision.scene import Observation


class Known(NamedTuple):
    """Codes that a sound continues.

    Attributes:
        prime: of its own first columns.
        leads: for each led window, codes of the columns before it: those to continue, then those of silence for the unconditional rows.
    """

    prime: Int[Tensor, "rows known"] | None = None
    leads: Sequence[Int[Tensor, "2 sounds rows lead"]] = ()


def lead_columns(request: Request, clip: Clip, exemplars: Exemplars | None) -> int:
    """Columns of a lead; 0 where there is none: for a prime, for classes that change over time, and for models without exemplars."""
    if request.like is not None:
        return reference_columns(clip)
    if exemplars is None or request.prime is not None or request.prompt_track is not None:
        return 0
    return min(clip.hop_columns, exemplars.config.columns)


@torch.inference_mode()
def known_codes(parts: Parts, plan: Plan, observation: Observation | None, request: Request, given: GivenSounds = GivenSounds()) -> Known:
    """Codes that each candidate continues: a prime, a reference or exemplars.

    Each candidate continues a different exemplar of the likeliest class in the first window of its shot; exemplars repeat if candidates
    outnumber them. The choice depends on the seed and the number of the candidate alone.

    Args:
        parts: the model.
        plan: of the sound.
        observation: of its frames; may be None where a class is named.
        request: resolved.
        given: sounds that it gives.
    """
    led = [(window, frames) for window, frames in zip(plan.windows, plan.frames, strict=False) if window.is_led]  # without sight, no frames
    if given.reference is not None:
        return Known(None, [given.reference.codes[:, None].expand(-1, request.n_sampled, -1, -1)] * len(led))
    leads, order = [], None if parts.exemplars is None else choose_exemplars(parts.exemplars, request)
    for window, frames in led:
        likeliest = class_shares(parts.sampler, [frames], observation, request, parts.classes).argmax()
        chosen = parts.exemplars.codes[likeliest.cpu(), order, :, -window.primed :].long()
        leads.append(torch.stack([chosen, parts.exemplars.silence[:, : window.primed].long().expand_as(chosen)]))
    return Known(given.prime and given.prime.codes, leads)


def choose_exemplars(exemplars: Exemplars, request: Request) -> Int[Tensor, "sounds"]:
    """The number of an exemplar for each candidate of a request: a shuffled order of all, again and again."""
    # another source than that of the numbers that codes are drawn with
    order = np.random.default_rng(np.random.SeedSequence(request.seed, spawn_key=(0, 1))).permutation(exemplars.config.each)
    return torch.from_numpy(np.resize(order, request.n_sampled))
