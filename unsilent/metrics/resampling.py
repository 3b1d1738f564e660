"""95 % confidence intervals by resampling clips, each together with all its samples."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

Interval = tuple[float, float]
MEAN_RESAMPLES = 1000  # bootstrap resamples, for means over samples
SET_RESAMPLES = 50  # random halves, for metrics of whole sets; they estimate the standard deviation to 10 %
_NORMAL_95 = 1.96
_BLOCK = 100  # resamples at once
MIN_CLIPS = 4  # so that a half has two clips


def interval_of_mean(sums: Float[np.ndarray, "clips"], counts: Int[np.ndarray, "clips"], seed: int) -> Interval:
    """Bootstrap interval of a mean: percentiles over resamples of clips with replacement.

    Args:
        sums: sum over the samples of each clip.
        counts: number of samples of each clip. Samples of a clip are drawn together, because they are correlated.
        seed: seed of the resamples.
    """
    rng, means = np.random.default_rng(seed), []
    for _ in range(MEAN_RESAMPLES // _BLOCK):
        drawn = rng.integers(len(sums), size=(_BLOCK, len(sums)))
        means.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


def interval_of_sets(statistic: Callable[..., float], value: float, sets: Sequence[Sequence[np.ndarray]], seed: int) -> Interval:
    """The value ± 1.96 times its standard deviation over random halves of the clips.

    The mean of a half drawn without replacement has the variance of a bootstrap mean, but no row is repeated. Repeated rows would increase
    FID and KID, whose kernel is largest for a row with itself. Halves have a larger FID too, so only their deviation is used. The interval
    shows the variation over other clips, for this number of clips. It does not correct the bias of FID for small sets.

    Args:
        statistic: function of one array of row numbers for each set. It may return NaN; such draws are left out.
        value: the statistic of the whole sets.
        sets: for each set, the row numbers of each of its clips, 4 clips or more. Sets are drawn independently.
        seed: seed of the draws.

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
