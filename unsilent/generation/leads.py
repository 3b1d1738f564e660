"""Leads: columns that the sampler continues in each window but that are not output, from a reference or an exemplar of the window's class.

The codes of one recording determine the sound more closely than its class does. A lead before the first window alone is soon forgotten.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unsilent.checkpoints.bundle import Parts
from unsilent.clip import Clip
from unsilent.generation.conditions import Plan, WindowFrames, class_shares
from unsilent.generation.priming import GivenSounds, reference_columns
from unsilent.models.exemplars import Exemplars
from unsilent.request import Request
from unsilent.vision.scene import Observation


class Known(NamedTuple):
    """Codes that the sampler continues.

    Attributes:
        prime: codes of the sound's first columns.
        leads: codes of the first columns of each led window: first those to continue, then silence for the unconditional rows.
        favoured: how often a reference has each code in each row.
    """

    prime: Int[Tensor, "rows known"] | None = None
    leads: Sequence[Int[Tensor, "2 sounds rows lead"]] = ()
    favoured: Float[Tensor, "rows codes"] | None = None


def lead_columns(request: Request, clip: Clip, exemplars: Exemplars | None) -> int:
    """Columns of a lead. 0 (no lead) with a prime, with a prompt track, and for models without exemplars."""
    if request.like is not None:
        return reference_columns(clip)
    if exemplars is None or request.prime is not None or request.prompt_track is not None:
        return 0
    return min(clip.hop_columns, exemplars.config.columns)


@torch.inference_mode()
def known_codes(parts: Parts, plan: Plan, observation: Observation | None, request: Request, given: GivenSounds = GivenSounds()) -> Known:
    """Codes that each candidate continues: a prime, a reference or exemplars.

    Each candidate continues a different exemplar of the likeliest class in each window, and the same one as long as the class stays the
    same. If candidates outnumber exemplars, exemplars repeat. The choice depends only on the seed and the candidate's number.

    Args:
        parts: the model.
        plan: windows and frames of the sound.
        observation: features of the frames; may be None if the request has a label.
        request: resolved.
        given: prime and reference of the request.
    """
    # models without features have no frames
    led = [(window.led, frames) for window, frames in zip(plan.windows, plan.frames, strict=False) if window.led]
    if given.reference is not None:
        leads = [given.reference.codes[:, None, :, -n:].expand(-1, request.n_sampled, -1, -1) for n, _ in led]
        return Known(None, leads, given.reference.shares)

    @cache  # windows share the memory of their leads
    def exemplars_of(number: int, n: int) -> Int[Tensor, "2 sounds rows lead"]:
        chosen = parts.exemplars.codes[number, choose_exemplars(parts.exemplars, request), :, -n:].long()
        return torch.stack([chosen, parts.exemplars.silence[:, :n].long().expand_as(chosen)])

    leads = [exemplars_of(_likeliest(parts, frames, observation, request), n) for n, frames in led]
    return Known(given.prime and given.prime.codes, leads)


@torch.inference_mode()
def continue_shots(parts: Parts, plan: Plan, observation: Observation | None, request: Request) -> Plan:
    """The plan with first windows of shots that also continue the shot before, where the likeliest class stays the same.

    A cut within one subject is then no seam. As inside a shot, the lead keeps two thirds of the known columns.

    Args:
        parts: the model.
        plan: windows and frames of the sound, in which each shot continues only its lead.
        observation: features of the frames; may be None if the request has a label.
        request: resolved.
    """
    windows = list(plan.windows)
    for number in range(1, len(windows)):
        one = windows[number]
        if not one.led or not one.is_fresh:
            continue
        before, after = (_likeliest(parts, frames, observation, request) for frames in plan.frames[number - 1 : number + 1])
        if before == after:
            windows[number] = replace(one, led=max(one.led * 2 // 3, -one.start))
    return Plan(windows, plan.frames)


def _likeliest(parts: Parts, frames: WindowFrames, observation: Observation | None, request: Request) -> int:
    return int(class_shares(parts.sampler, [frames], observation, request, parts.classes).argmax())


def choose_exemplars(exemplars: Exemplars, request: Request) -> Int[Tensor, "sounds"]:
    """The number of an exemplar for each candidate of a request: a random permutation of all exemplars, repeated."""
    # a random stream independent of the one that draws codes
    order = np.random.default_rng(np.random.SeedSequence(request.seed, spawn_key=(0, 1))).permutation(exemplars.config.each)
    return torch.from_numpy(np.resize(order, request.n_sampled))
