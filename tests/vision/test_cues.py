"""Cues that are seen: peaks of the impact curve, higher where they repeat."""

import numpy as np

from unsilent.clip import Clip
from unsilent.vision.cues import cues_of, peaks, rhythmic

PERIOD = 14  # frames


def curve(heights, first=10):
    """Peaks of two frames' width, one each period."""
    at, n = first + PERIOD * np.arange(len(heights)), first + PERIOD * len(heights)
    return (np.array(heights)[:, None] * np.exp(-0.5 * (np.arange(n) - at[:, None]) ** 2)).sum(0)


def test_a_weak_peak_among_repeated_ones_is_found():
    weak = curve([1.0, 1.0, 1.0, 0.2, 1.0, 1.0, 1.0])
    assert len(peaks(weak, 0.25)[0]) == 6
    found, _ = peaks(rhythmic(weak), 0.25)
    np.testing.assert_allclose(found, 10 + PERIOD * np.arange(7), atol=0.2)


def test_a_single_peak_gets_no_echo():
    found, _ = peaks(rhythmic(curve([1.0] + 6 * [0.0])), 0.25)
    np.testing.assert_allclose(found, [10], atol=0.2)


def test_short_and_still_curves_stay_the_same():
    for still in (np.zeros(100), np.ones(6), np.array([0.0, 1.0, 0.0])):
        assert np.array_equal(rhythmic(still), still)


def test_cues_come_from_the_best_place_at_their_times():
    place = 2 * curve([1.0, 0.5, 1.0])
    levels = np.stack([np.random.default_rng(0).uniform(0, 5, len(place)), place], 1)
    cues = cues_of(dict(enumerate(levels, start=100)), Clip())
    np.testing.assert_allclose([cue.seconds for cue in cues], (110 + PERIOD * np.arange(3)) / 21.5, atol=0.02)
    assert max(cue.strength for cue in cues) == 1
    assert cues_of({}, Clip()) == []
