"""Sampling of codes: top-k and temperature, classifier-free guidance, windows over any length, priming with known codes."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unsilent.errors import ParameterError
from unsilent.generation.attention import AttentionRecord
from unsilent.generation.progress import Progress, quiet
from unsilent.generation.windows import Window
from unsilent.models.code_order import to_sequence
from unsilent.models.sampler import AnySampler
from unsilent.request import Request

Feed = Callable[[Int[Tensor, "sounds known"]], None]  # called after each column with all codes known so far
_FAVOUR = 0.5  # weight of a reference's codes, chosen by measurement; see LOG.md
ENDED = -1  # stands for all later codes of a candidate that an audition ended


def draw_uniforms(seed: int, take: int, n_codes: int) -> Float[np.ndarray, "n_codes"]:
    """The random numbers in [0, 1) that draw the codes of one take. Number `i` depends only on seed, take and `i`."""
    return uniform_stream(seed, take).random(n_codes)


def uniform_stream(seed: int, take: int) -> np.random.Generator:
    """Generator of the numbers of `draw_uniforms`, for any number of codes."""
    # the take is a spawn key, because as a second word of entropy it would collide with seeds above 2**32
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(take,))))


def next_code(
    logits: Float[Tensor, "batch codes"], uniforms: Float[Tensor, "batch"], temperature: float, top_k: int
) -> Int[Tensor, "batch"]:
    """Sample a code for each row.

    Args:
        logits: unnormalised log-probabilities of the next code.
        uniforms: one number in [0, 1) per row; the code is the inverse of the cumulative distribution at this number.
        temperature: divisor of the logits; 0 is greedy.
        top_k: codes below the k-th highest logit are left out (the paper's top-X); ties stay.

    Raises:
        ParameterError: if the temperature is negative, or top_k is not from 1 to the number of codes.

    Source:
        Released sampler: temperature, top-k, softmax, draw. Differs: the draw inverts the cumulative distribution at a given number, so
        that rows are independent.
    """
    if not temperature >= 0:
        raise ParameterError(f"temperature is {temperature}, but must be 0 or more.")
    if not 1 <= top_k <= logits.shape[1]:
        raise ParameterError(f"top_k is {top_k}, but must be 1 to {logits.shape[1]}, the number of codes of this sampler.")
    if temperature == 0:
        return logits.argmax(1)
    # subtract the maximum first, because the division overflows at temperatures near zero
    kept = (logits - logits.amax(1, keepdim=True).double()) / temperature
    if top_k < logits.shape[1]:
        kept = torch.where(logits < logits.topk(top_k, dim=1).values[:, -1:], -torch.inf, kept)
    cumulative = torch.softmax(kept, dim=1).cumsum(1)
    # scaled by the last value, which rounding may leave below 1
    chosen = torch.searchsorted(cumulative, uniforms[:, None] * cumulative[:, -1:], right=True)
    return chosen[:, 0].clamp(max=logits.shape[1] - 1)


def guide(logits: Float[Tensor, "rows codes"], guidance: float) -> Float[Tensor, "takes codes"]:
    """Classifier-free guidance: `unconditional + guidance * (conditional - unconditional)`.

    Args:
        logits: conditional rows; if `guidance` is not 1, followed by the unconditional rows of the same takes.
        guidance: scale; 1 is conditional, 0 unconditional.

    Source:
        Ho and Salimans, "Classifier-free diffusion guidance" (2022), applied to logits.
    """
    if guidance == 1:
        return logits
    conditional, unconditional = logits.chunk(2)
    return unconditional + guidance * (conditional - unconditional)


def guided_rows(condition: Float[Tensor, "sides condition width"], n_rows: int) -> Float[Tensor, "n_rows condition width"]:
    """The first `n_rows` of: the condition, its negative condition for guidance if it has one, and zeros for no condition."""
    return torch.cat([condition, torch.zeros_like(condition[:1])])[:n_rows]


@dataclass(frozen=True)
class NextCode:
    """Callable from logits to the next code of each take; fields as in `next_code` and `guide`."""

    temperature: float
    top_k: int
    guidance: float

    @classmethod
    def of(cls, request: Request) -> "NextCode":
        """The sampling settings of a resolved request."""
        if None in (request.temperature, request.top_k, request.guidance):
            raise ParameterError("temperature, top_k or guidance of this request is None; call `Request.resolve` first.")
        return cls(request.temperature, request.top_k, request.guidance)

    @property
    def n_rows(self) -> int:
        """Rows of logits per take: conditional, and with guidance also unconditional."""
        return 1 if self.guidance == 1 else 2

    def favour(self, logits: Float[Tensor, "rows codes"], shares: Float[Tensor, "codes"]) -> Float[Tensor, "rows codes"]:
        """Logits with which `__call__` samples from the mean of the guided distribution and `shares`.

        Source:
            Grave et al., "Improving neural language models with a continuous cache" (ICLR 2017): interpolation with a cache of codes.
            Differs: the cache is a reference; it has a fixed weight, and does not depend on the context.
        """
        scale = self.temperature or 1.0
        mixed = (1 - _FAVOUR) * (guide(logits, self.guidance).float() / scale).softmax(1) + _FAVOUR * shares
        return (mixed.clamp(min=1e-12).log() * scale).repeat(self.n_rows, 1)  # equal rows, so that guidance changes nothing

    def __call__(self, logits: Float[Tensor, "rows codes"], uniforms: Float[Tensor, "takes"]) -> Int[Tensor, "takes"]:
        """Sample the next code of each take."""
        return next_code(guide(logits, self.guidance), uniforms, self.temperature, self.top_k)


class Audition(NamedTuple):
    """Ends most candidates early, so that many beginnings can be tried at the cost of a few whole sounds.

    Attributes:
        columns: number of columns that are sampled before the choice.
        choose: gets all codes known by then, and returns the numbers of the candidates that go on.
    """

    columns: int
    choose: Callable[[Int[Tensor, "sounds known"]], Int[Tensor, "left"]]


def feed_all(feeds: Sequence[Feed], progress: Progress, n_codes: int) -> Feed:
    """A callback that reports the known share of `n_codes`, then calls each of `feeds`."""

    def on_column(known: Int[Tensor, "sounds known"]) -> None:
        progress(known.shape[1] / n_codes)
        for feed in feeds:
            feed(known)

    return on_column


@torch.inference_mode()
def sample_codes(
    sampler: AnySampler,
    windows: Sequence[Window],
    conditions: Iterable[Float[Tensor, "sides condition width"]],
    request: Request,
    *,
    prime: Int[Tensor, "rows known"] | None = None,
    leads: Sequence[Int[Tensor, "2 sounds rows lead"]] = (),
    favoured: Float[Tensor, "rows codes"] | None = None,
    keep: Int[Tensor, "rows columns"] | None = None,
    audition: Audition | None = None,
    on_column: Feed = quiet,
    attention: AttentionRecord | None = None,
) -> Int[Tensor, "sounds sequence"]:
    """Sample the codes of one or several sounds of any length.

    Args:
        sampler: in evaluation mode.
        windows: windows from `plan_windows`, for the sampler's clip.
        conditions: one for each window, in order.
        request: resolved; its seed, takes, candidates, top_k, temperature and guidance are used. A guidance other than 1 doubles the work,
            and needs a sampler trained with condition dropout. A sound does not depend on the number of sounds: bit by bit with the C step,
            with torch's matrix products, up to rounding.
        prime: codes of the first columns, which are kept (the paper's priming).
        leads: codes of the first columns of each led window: those to continue, and those of the unconditional rows.
        favoured: how often a reference has each code in each row; each row sums to 1. See `NextCode.favour`.
        keep: codes of all columns; -1 marks codes to sample, all others are kept. The transformer processes kept codes like sampled ones.
        audition: ends candidates after their first columns; None lets all go on.
        on_column: called after each column with all codes known so far.
        attention: records the attention of all codes while they are sampled; None records nothing.

    Returns:
        Codes of each sound in the order of `code_order`: all candidates of take 0, then those of take 1, and so on.
        Candidates that the audition ended have `ENDED` from there on.

    Raises:
        ParameterError: if the request is not resolved or its `top_k` exceeds the number of codes, if the prime does not fit, or for a layer
            or head that the sampler does not have.
    """
    rows, device = sampler.config.clip.rows, sampler.pos_emb.device
    choose = NextCode.of(request)
    total = windows[-1].stop * rows
    uniforms = torch.from_numpy(np.stack([draw_uniforms(request.seed, take, total) for take in range(request.n_sampled)])).to(device)
    sequence = torch.zeros(request.n_sampled, total, dtype=torch.long, device=device)
    done = 0
    if prime is not None:
        known = _known_codes(prime, rows, sampler.config.codes)[:, :total]
        done = known.shape[1]
        sequence[:, :done] = known
    if len(leads) != (n_led := sum(window.led > 0 for window in windows)):
        raise ParameterError(f"{len(leads)} leads were given for {n_led} led windows.")
    led = iter(leads)
    kept = None if keep is None else to_sequence(keep[None])[0].to(device)
    left, auditioned = torch.arange(len(sequence), device=device), total if audition is None else audition.columns * rows
    for window, condition in zip(windows, conditions, strict=True):
        first, stop = window.own * rows, window.stop * rows
        lead = to_sequence(next(led)[: choose.n_rows].flatten(0, 1)).to(device).unflatten(0, (-1, len(sequence))) if window.led else None
        if done >= stop:
            continue
        while done < stop:
            until = auditioned if done < auditioned < stop else stop
            known = sequence[left, first:done].repeat(choose.n_rows, 1)
            known = known if lead is None else torch.cat([lead[:, left].flatten(0, 1), known], 1)
            logits, state = sampler.start(known, guided_rows(condition, choose.n_rows), attention and attention.look)
            for position in range(done, until):
                if favoured is not None:
                    logits = choose.favour(logits, favoured[position % rows])
                if kept is not None or favoured is not None:  # not `advance`, which would process the code of the plain logits
                    chosen = choose(logits, uniforms[left, position])
                    sequence[left, position] = chosen if kept is None or kept[position] < 0 else kept[position]
                    if position + 1 < until:
                        logits = sampler.step(sequence[left, position].repeat(choose.n_rows), state)
                elif position + 1 < until:
                    sequence[left, position], logits = sampler.advance(choose, logits, uniforms[left, position], state)
                else:
                    sequence[left, position] = choose(logits, uniforms[left, position])
                if (position + 1) % rows == 0:
                    on_column(sequence[:, : position + 1])
            done = until
            if attention is not None and done == stop:
                attention.keep(sampler, window, left, state.cache.looked.weights[: len(left)])
            if audition is not None and done == auditioned < total:
                left = audition.choose(sequence[:, :done]).to(device)
                sequence[torch.isin(torch.arange(len(sequence), device=device), left, invert=True), done:] = ENDED
    return sequence


def _known_codes(prime: Int[Tensor, "rows known"], rows: int, codes: int) -> Int[Tensor, "1 sequence"]:
    if len(prime) != rows:
        raise ParameterError(f"{len(prime)} rows of known codes were given, this sampler writes columns of {rows}.")
    if prime.numel() and not 0 <= int(prime.min()) <= int(prime.max()) < codes:
        raise ParameterError(f"known codes from {int(prime.min())} to {int(prime.max())} were given, this sampler has 0 to {codes - 1}.")
    return to_sequence(prime[None])
