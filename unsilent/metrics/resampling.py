"""How sure a figure is: 95 % intervals from drawing the clips again (bootstrap), whole clips with all their samples."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

Interval = tuple[float, float]
MEAN_RESAMPLES = 1000  # of what is a mean over samples
SET_RESAMPLES = 50  # halves, for what has to be computed anew from all rows; the deviation found is itself uncertain by a tenth
_NORMAL_95 = 1.96
_BLOCK = 100  # resamples at a time
LEAST_CLIPS = 4  # whose halves are two clips


def interval_of_mean(sums: Float[np.ndarray, "clips"], counts: Int[np.ndarray, "clips"], seed: int) -> Interval:
    """The middle 95 % of the means of resamples: as many clips, drawn with replacement.

    Args:
        sums: over the samples of each clip.
        counts: samples of each clip; those of one clip are alike, so they are drawn together.
        seed: of the draws.
    """
    rng, means = np.random.default_rng(seed), []
    for _ in range(MEAN_RESAMPLES // _BLOCK):
        drawn = rng.integers(len(sums), size=(_BLOCK, len(sums)))
        means.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


def interval_of_sets(statistic: Callable[..., float], value: float, sets: Sequence[Sequence[np.ndarray]], seed: int) -> Interval:
    """The value plus and minus 1.96 standard deviations of it over random halves of the clips.

    A half drawn without replacement moves a mean as much as a resample with replacement does, but repeats no rows: repeated ones make FID
    and KID larger than those of the sets, and a kernel of a row with itself drowns the others. Halves have a larger FID as well, so only
    the spread is taken, and centred on the value itself. The interval tells how much the value would move with other clips; it does not
    heal the bias of FID in small sets, and holds for this number of clips only.

    Args:
        statistic: of one array of row numbers for each set; NaN for a draw that it cannot be counted of, which is then left out.
        value: of the sets as they are.
        sets: for each set, the row numbers of each clip, 4 or more clips; each set is drawn from apart.
        seed: of the draws.

    Source:
        Half-sampling (Politis and Romano 1994, subsampling): of n clips, a mean over n/2 drawn without replacement varies by σ²/n.
    """
    rng = np.random.default_rng(seed)
    values = [statistic(*(_half(clips, rng) for clips in sets)) for _ in range(SET_RESAMPLES)]
    reach = _NORMAL_95 * float(np.nanstd(values, ddof=1))
    return value - reach, value + reach


def _half(clips: Sequence[np.ndarray], rng: np.random.Generator) -> Int[np.ndarray, "rows"]:
    drawn = np.sort(rng.permutation(len(clips))[: len(clips) // 2])
    return np.concatenate([clips[number] for number in drawn])
