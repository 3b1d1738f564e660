"""F1 score of onsets: whether sounds begin at the right time."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from unsilent.errors import ParameterError

TOLERANCE_SECONDS = 0.1  # about the delay that people notice


@dataclass(frozen=True)
class OnsetScore:
    """Counts of matched onsets; adding scores pools their onsets.

    Attributes:
        hits: number of matched pairs of a found and a true onset.
        found, true: number of found and of true onsets.
    """

    hits: int
    found: int
    true: int

    @property
    def precision(self) -> float:
        """Share of found onsets that match a true one; 0 without found onsets."""
        return self.hits / max(1, self.found)

    @property
    def recall(self) -> float:
        """Share of true onsets that match a found one; 0 without true onsets."""
        return self.hits / max(1, self.true)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, 0 to 1; 0 without any onsets."""
        return 2 * self.hits / max(1, self.found + self.true)

    def __add__(self, other: "OnsetScore") -> "OnsetScore":
        return OnsetScore(self.hits + other.hits, self.found + other.found, self.true + other.true)


def onset_f1(
    found_seconds: Float[np.ndarray, "found"], true_seconds: Float[np.ndarray, "true"], tolerance_seconds: float = TOLERANCE_SECONDS
) -> OnsetScore:
    """Largest one-to-one matching of found and true onsets within a tolerance.

    Args:
        found_seconds: times in any order.
        true_seconds: times in any order.
        tolerance_seconds: largest distance of a pair, 0 or more.

    Raises:
        ParameterError: if the tolerance is negative, or some onsets are not finite.

    Source:
        `mir_eval.onset.f_measure`. Differs: a greedy merge of the two sorted lists instead of bipartite matching; the number of matches is
        equal, because the tolerance is constant. The tolerance is twice mir_eval's 50 ms, because video frames are less exact in time.
    """
    if not tolerance_seconds >= 0:
        raise ParameterError(f"the tolerance is {tolerance_seconds} s; give 0 or more.")
    if bad := int((~np.isfinite(np.concatenate([found_seconds, true_seconds]))).sum()):
        raise ParameterError(f"{bad} of {len(found_seconds)} found and {len(true_seconds)} true onsets are NaN or infinite.")
    found, true = np.sort(found_seconds), np.sort(true_seconds)
    return OnsetScore(_pairs(found, true, tolerance_seconds), len(found), len(true))


def interval_rows(scores: list[OnsetScore]) -> tuple[Float[np.ndarray, "clips"], Int[np.ndarray, "clips"]]:
    """Sums and counts for `resampling.interval_of_mean`, because F1 is twice the hits divided by the number of all onsets."""
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
