"""F1 of onsets: largest matching, precision and recall, sums over clips."""

from itertools import permutations

import numpy as np
import pytest

from unsilent.errors import ParameterError
from unsilent.metrics import OnsetScore, onset_f1
from unsilent.metrics.onsets import interval_rows


def most_pairs(found, true, tolerance):
    """Size of the largest matching, by brute force."""
    fewer, more = sorted([list(found), list(true)], key=len)
    return max(sum(bool(abs(a - b) <= tolerance) for a, b in zip(fewer, chosen, strict=True)) for chosen in permutations(more, len(fewer)))


@pytest.mark.parametrize("seed", range(60))
def test_onset_f1_finds_the_largest_matching(seed):
    rng = np.random.default_rng(seed)
    found, true = (rng.uniform(0, 1, rng.integers(0, 7)) for _ in range(2))
    assert onset_f1(found, true, 0.15) == OnsetScore(most_pairs(found, true, 0.15), len(found), len(true))


def test_onset_f1_has_known_precision_and_recall():
    score = onset_f1(np.array([1.05, 2.0, 5.0, 5.05]), np.array([1.0, 2.11, 5.02]))
    assert (score.hits, score.precision, score.recall) == (2, 2 / 4, 2 / 3)
    assert score.f1 == pytest.approx(2 * score.precision * score.recall / (score.precision + score.recall))


def test_onset_f1_matches_an_onset_once():
    assert onset_f1(np.array([1.0, 1.01, 1.02]), np.array([1.01])).hits == 1


def test_onset_f1_includes_the_tolerance():
    assert onset_f1(np.array([1.5]), np.array([1.0]), 0.5).f1 == 1
    assert onset_f1(np.array([1.5]), np.array([1.0]), 0.49).f1 == 0


def test_onset_f1_without_onsets_is_zero():
    nothing = np.array([])
    for found, true in ((nothing, nothing), (nothing, np.ones(1)), (np.ones(1), nothing)):
        score = onset_f1(found, true)
        assert score.precision == score.recall == score.f1 == 0


def test_scores_of_clips_add_up():
    scores = [onset_f1(np.array([1.0, 2.0]), np.array([1.0])), onset_f1(np.array([3.0]), np.array([3.0, 4.0, 5.0]))]
    total = scores[0] + scores[1]
    assert total == OnsetScore(2, 3, 4)
    sums, counts = interval_rows(scores)
    assert sums.sum() / counts.sum() == pytest.approx(total.f1)


def test_onset_f1_refuses_wrong_arguments():
    with pytest.raises(ParameterError, match=r"the tolerance is -0\.1 s"):
        onset_f1(np.ones(1), np.ones(1), -0.1)
    with pytest.raises(ParameterError, match="1 of 2 found and 1 true onsets are NaN or infinite"):
        onset_f1(np.array([1.0, np.nan]), np.ones(1))
