"""Landing: events reach their cues, others are lowered, the length stays."""

import numpy as np
import pytest

from unsilent.clip import Clip
from unsilent.cues import Cue
from unsilent.signal.landing import land, onsets_of, pair

CLIP = Clip()
RATE = CLIP.sample_rate


def hits(seconds, length, seed=0):
    """Bursts of decaying noise."""
    rng, sound = np.random.default_rng(seed), 1e-4 * np.random.default_rng(1).standard_normal(round(length * RATE))
    for at in seconds:
        n = min(round(0.3 * RATE), len(sound) - round(at * RATE))
        sound[round(at * RATE) :][:n] += 0.3 * rng.standard_normal(n) * np.exp(-np.arange(n) / (0.06 * RATE))
    return sound.astype(np.float32)


def cues(seconds, **fields):
    return [Cue(seconds=at, **fields) for at in seconds]


def test_events_land_within_20_ms_of_their_cues():
    rng = np.random.default_rng(0)
    for seed in range(5):
        wanted = np.cumsum(rng.uniform(0.35, 0.9, 8))
        made = np.sort(wanted + rng.uniform(-0.15, 0.15, 8))
        found = onsets_of(land(hits(made, 8, seed), cues(wanted), CLIP), CLIP)
        assert len(pair(found, wanted, 0.02)) == 8
        assert len(found) <= 9


def test_cues_without_an_event_get_a_copy_and_events_without_a_cue_are_lowered():
    wanted = [0.5, 1.5, 3.0, 4.0]
    landed = land(hits([0.55, 1.4, 2.2, 4.05], 5), cues(wanted), CLIP)
    assert onsets_of(landed, CLIP) == pytest.approx(wanted, abs=0.02)


def test_nothing_changes_but_what_is_asked_for():
    sound = hits([0.5, 1.5], 3)
    landed = land(sound, cues([0.5 + 1 / RATE, 1.5]), CLIP)
    assert len(landed) == len(sound)
    assert landed.dtype == sound.dtype
    noise = np.random.default_rng(0).standard_normal(RATE).astype(np.float32) * 0.1
    assert np.array_equal(land(noise, [], CLIP), noise)
    assert np.array_equal(land(noise, cues([7.0]), CLIP), noise)


def test_strengths_and_lengths_are_obeyed():
    sound = hits([0.5, 1.5, 2.5], 4)
    landed = land(sound, [Cue(seconds=0.5), Cue(seconds=1.5, strength=0.25), Cue(seconds=2.5, length=0.1)], CLIP)
    peak = [np.abs(landed[round(at * RATE) : round((at + 0.2) * RATE)]).max() for at in (0.5, 1.5)]
    assert peak[1] / peak[0] == pytest.approx(0.25, rel=0.5)
    assert not landed[round(2.65 * RATE) :].any()


def test_silence_and_very_short_sounds_are_possible():
    assert not land(np.zeros(RATE, np.float32), cues([0.2]), CLIP).any()
    assert len(land(np.ones(30, np.float32), cues([0.0]), CLIP)) == 30


def test_pairs_are_as_many_as_possible_and_ordered():
    assert pair(np.array([1.0, 1.2]), np.array([0.9, 1.1]), 0.15) == [(0, 0), (1, 1)]
    assert pair(np.array([1.0]), np.array([0.9, 1.05]), 0.15) == [(0, 1)]
    assert pair(np.array([]), np.array([1.0]), 0.1) == []
    rng = np.random.default_rng(0)
    for _ in range(20):
        found, wanted = (np.sort(rng.uniform(0, 10, n)) for n in rng.integers(1, 12, 2))
        pairs = pair(found, wanted, 0.5)
        assert all(abs(found[i] - wanted[j]) <= 0.5 for i, j in pairs)
        assert pairs == sorted(pairs)
        from unsilent.metrics import onset_f1

        assert len(pairs) == onset_f1(found, wanted, 0.5).hits
