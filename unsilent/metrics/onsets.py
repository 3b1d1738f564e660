"""Timing: whether sounds begin when they should."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from unsilent.errors import ParameterError

TOLERANCE_SECONDS = 0.1  # about as late as a sound may be before people notice


@dataclass(frozen=True)
class OnsetScore:
    """How found onsets fit true ones; scores add up to that of all onsets together.

    Attributes:
        hits: found onsets that have a true one of their own.
        found, true: how many there are.
    """

    hits: int
    found: int
    true: int

    @property
    def precision(self) -> float:
        """Share of the found that are true; 0 if none were found."""
        return self.hits / max(1, self.found)

    @property
    def recall(self) -> float:
        """Share of the true that were found; 0 if there are none."""
        return self.hits / max(1, self.true)

    @property
    def f1(self) -> float:
        """Harmonic mean of both, 0 to 1; 0 if there are no onsets."""
        return 2 * self.hits / max(1, self.found + self.true)

    def __add__(self, other: "OnsetScore") -> "OnsetScore":
        return OnsetScore(self.hits + other.hits, self.found + other.found, self.true + other.true)


def onset_f1(
    found_seconds: Float[np.ndarray, "found"], true_seconds: Float[np.ndarray, "true"], tolerance_seconds: float = TOLERANCE_SECONDS
) -> OnsetScore:
    """Pair found onsets with true ones, each with one at most, so that as many as possible have a partner.

    Args:
        found_seconds: in any order.
        true_seconds: in any order.
        tolerance_seconds: how far apart partners may be, 0 or more.

    Raises:
        ParameterError: if the tolerance is negative, or some onsets are not finite.

    Source:
        `mir_eval.onset.f_measure`. Differs: two sorted lists are walked side by side, which pairs as many as its matching of a graph does
        where all tolerances are the same; the tolerance is twice its 50 ms, as pictures are less exact than ears.
    """
    if not tolerance_seconds >= 0:
        raise ParameterError(f"a tolerance of {tolerance_seconds} s was asked for; give 0 or more.")
    if bad := int((~np.isfinite(np.concatenate([found_seconds, true_seconds]))).sum()):
        raise ParameterError(f"{bad} of {len(found_seconds)} found and {len(true_seconds)} true onsets are NaN or infinite.")
    found, true = np.sort(found_seconds), np.sort(true_seconds)
    return OnsetScore(_pairs(found, true, tolerance_seconds), len(found), len(true))


def interval_rows(scores: list[OnsetScore]) -> tuple[Float[np.ndarray, "clips"], Int[np.ndarray, "clips"]]:
    """What `resampling.interval_of_mean` takes for the F1 of all onsets of some clips: it is twice the hits over all onsets."""
    return np.array([2.0 * score.hits for score in scores]), np.array([score.found + score.true for score in scores])


def _pairs(found: Float[np.ndarray, "found"], true: Float[np.ndarray, "true"], tolerance: float) -> int:
    pairs = i = j = 0
    while i < len(found) and j < len(true):
        if abs(found[i] - true[j]) <= tolerance:
            pairs, i, j = pairs + 1, i + 1, j + 1
        elif found[i] < true[j]:
            i += 1
        else:
            j += 1
    return pairs
