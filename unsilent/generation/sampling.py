"""From a sampler and conditions to codes: the choice of each next code, windows over any length, known beginnings.

Not here: what the codes sound like (`stitching`), what the condition is made of (`features`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unsilent.errors import ParameterError
from unsilent.models.code_order import to_sequence
from unsilent.models.sampler import Sampler


@dataclass(frozen=True)
class Window:
    """One stretch of code columns that a sampler sees at once: [start, start + columns), the first `primed` of them known before."""

    start: int
    primed: int
    columns: int


def plan_windows(n_columns: int, window_columns: int, hop_columns: int) -> list[Window]:
    """Cover `n_columns` so that every column is new in exactly one window.

    Windows start at multiples of the hop and know all their columns but the last `hop_columns`, so a window depends on nothing after it
    and a longer video begins with the windows of a shorter one. The last window may end early.

    Raises:
        ParameterError: if there are no columns, or the hop is not from 1 to the window.
    """
    if n_columns < 1:
        raise ParameterError(f"{n_columns} columns asked for; at least 1 can be sampled.")
    if not 1 <= hop_columns <= window_columns:
        raise ParameterError(f"a hop of {hop_columns} columns does not fit windows of {window_columns}.")
    windows = [Window(0, 0, min(n_columns, window_columns))]
    while (done := windows[-1].start + windows[-1].columns) < n_columns:
        start = windows[-1].start + hop_columns
        windows.append(Window(start, done - start, min(n_columns - start, window_columns)))
    return windows


def draw_uniforms(seed: int, take: int, n_codes: int) -> Float[np.ndarray, "n_codes"]:
    """The random numbers in [0, 1) behind one take; number `i` depends on seed, take and `i` alone."""
    # the take as a spawn key: as a second word of the entropy, a take of one seed would equal another take of a seed above 2**32
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(take,)))).random(n_codes)


def next_code(
    logits: Float[Tensor, "batch codes"], uniforms: Float[Tensor, "batch"], temperature: float, top_k: int
) -> Int[Tensor, "batch"]:
    """Choose a code for each row.

    Args:
        logits: scores.
        uniforms: one number in [0, 1) per row: where to cut the cumulative distribution.
        temperature: scores are divided by it; 0 takes the likeliest.
        top_k: codes that score less than the k-th are out (the paper's top-X); ties with it stay.

    Raises:
        ParameterError: if the temperature is negative, or top_k is not from 1 to the number of codes.

    Source:
        Released sampler: temperature, top-k, softmax, draw. Differs: the draw inverts the cumulative distribution at a given number, so a
        row depends on itself only.
    """
    check_choice(temperature, top_k, logits.shape[1])
    if temperature == 0:
        return logits.argmax(1)
    # below the highest before the division, which would overflow at temperatures near zero
    kept = (logits - logits.amax(1, keepdim=True).double()) / temperature
    if top_k < logits.shape[1]:
        kept = torch.where(logits < logits.topk(top_k, dim=1).values[:, -1:], -torch.inf, kept)
    cumulative = torch.softmax(kept, dim=1).cumsum(1)
    # scaled by the total, which rounding may leave a hair below one
    chosen = torch.searchsorted(cumulative, uniforms[:, None] * cumulative[:, -1:], right=True)
    return chosen[:, 0].clamp(max=logits.shape[1] - 1)


def guide(logits: Float[Tensor, "rows codes"], guidance: float) -> Float[Tensor, "batch codes"]:
    """Scores that go further than a condition asks for, away from what would be said without one.

    Args:
        logits: of sequences that are told their condition and, where `guidance` is not 1, behind them of the same that are told nothing.
        guidance: how far: at 1 as told, at 0 as if nothing had been.

    Source:
        Ho and Salimans, "Classifier-free diffusion guidance" (2022), for scores of codes.
    """
    if guidance == 1:
        return logits
    told, untold = logits.chunk(2)
    return untold + guidance * (told - untold)


@dataclass(frozen=True)
class NextCode:
    """How each next code is chosen; arguments as of `next_code` and `guide`."""

    temperature: float
    top_k: int
    guidance: float

    @property
    def n_rows(self) -> int:
        """Sequences for each take: told its condition and, where guided, nothing."""
        return 1 if self.guidance == 1 else 2

    def __call__(self, logits: Float[Tensor, "rows codes"], uniforms: Float[Tensor, "takes"]) -> Int[Tensor, "takes"]:
        """The code of each take."""
        return next_code(guide(logits, self.guidance), uniforms, self.temperature, self.top_k)


@torch.inference_mode()
def sample_codes(
    sampler: Sampler,
    condition_of: Callable[[Window], Float[Tensor, "batch condition width"]],
    n_columns: int,
    *,
    seed: int,
    takes: int = 1,
    temperature: float = 1.0,
    top_k: int | None = None,
    guidance: float = 1.0,
    hop_columns: int | None = None,
    prime: Int[Tensor, "rows known"] | None = None,
    on_column: Callable[[Int[Tensor, "takes known"], int], None] = lambda known, total: None,
) -> Int[Tensor, "takes sequence"]:
    """Sample the codes of a sound of any length.

    Args:
        sampler: in evaluation mode.
        condition_of: gives the condition of a window, batch 1, so that each window is told of its own time.
        n_columns: length of the sound.
        seed: of all randomness, not negative.
        takes: different sounds side by side; take `t` is the same however many there are: to the bit where steps are in C, and but for
            rounding where torch's own products read several at once.
        temperature: see `next_code`.
        top_k: see `next_code`; None keeps all codes.
        guidance: see `guide`; other than 1 it takes twice the work, and a sampler that has been trained to do without its condition.
        hop_columns: new columns per window after the first; None is half a clip.
        prime: codes of the first columns, kept as they are (the paper's priming).
        on_column: told after each column all codes that are known by then, and how many there will be.

    Returns:
        Codes in the order of `code_order`, `n_columns * rows` for each take.

    Raises:
        ParameterError: for a value out of range.
    """
    clip, codes = sampler.config.clip, sampler.config.codes
    top_k = codes if top_k is None else top_k
    check_takes(seed, takes)
    check_choice(temperature, top_k, codes)
    check_guidance(guidance)
    windows = plan_windows(n_columns, clip.columns, max(1, clip.columns // 2) if hop_columns is None else hop_columns)
    device = sampler.pos_emb.device
    total = n_columns * clip.rows
    uniforms = torch.from_numpy(np.stack([draw_uniforms(seed, take, total) for take in range(takes)])).to(device)
    sequence = torch.zeros(takes, total, dtype=torch.long, device=device)
    choose = NextCode(temperature, top_k, guidance)
    done = 0
    if prime is not None:
        known = _known_codes(prime, clip.rows, codes)[:, :total]
        done = known.shape[1]
        sequence[:, :done] = known
    for window in windows:
        first, stop = window.start * clip.rows, (window.start + window.columns) * clip.rows
        if done >= stop:
            continue
        told = condition_of(window)
        told = torch.cat([told, torch.zeros_like(told)][: choose.n_rows])
        logits, state = sampler.start(sequence[:, first:done].repeat(choose.n_rows, 1), told)
        for position in range(done, stop):
            if position + 1 < stop:
                sequence[:, position], logits = sampler.advance(choose, logits, uniforms[:, position], state)
            else:
                sequence[:, position] = choose(logits, uniforms[:, position])
            if (position + 1) % clip.rows == 0:
                on_column(sequence[:, : position + 1], total)
        done = stop
    return sequence


def _known_codes(prime: Int[Tensor, "rows known"], rows: int, codes: int) -> Int[Tensor, "1 sequence"]:
    if len(prime) != rows:
        raise ParameterError(f"{len(prime)} rows of known codes were given, this sampler writes columns of {rows}.")
    if prime.numel() and not 0 <= int(prime.min()) <= int(prime.max()) < codes:
        raise ParameterError(f"known codes from {int(prime.min())} to {int(prime.max())} were given, this sampler has 0 to {codes - 1}.")
    return to_sequence(prime[None])


def check_takes(seed: int, takes: int) -> None:
    """Refuse what `sample_codes` cannot do.

    Raises:
        ParameterError: for a seed below 0 or less than one take.
    """
    if seed < 0:
        raise ParameterError(f"a seed of {seed} was given; seeds are 0 or more.")
    if takes < 1:
        raise ParameterError(f"{takes} takes asked for; at least 1 can be made.")


def check_choice(temperature: float, top_k: int, codes: int) -> None:
    """Refuse what `next_code` cannot do.

    Raises:
        ParameterError: if the temperature is negative, or top_k is not from 1 to the number of codes.
    """
    if not temperature >= 0:
        raise ParameterError(f"a temperature of {temperature} was given; it is 0 or more.")
    if not 1 <= top_k <= codes:
        raise ParameterError(f"top_k {top_k} was given; this sampler has {codes} codes to choose among, so it is from 1 to {codes}.")


def check_guidance(guidance: float) -> None:
    """Refuse what `guide` cannot do.

    Raises:
        ParameterError: for a guidance below 0 or one that is no number.
    """
    if not 0 <= guidance < math.inf:
        raise ParameterError(f"a guidance of {guidance} was given; it is 0 or more, and 1 does without.")
