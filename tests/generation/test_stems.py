"""Stems by label, whose sum is the sound."""

import numpy as np
import pytest

from unsilent.clip import Clip
from unsilent.cues import Cue, Stretch
from unsilent.errors import ParameterError
from unsilent.generation.stems import split_by_label
from unsilent.request import Request

CLIP = Clip()


def test_parts_sum_to_the_sound_and_sound_where_their_label_does():
    sound = np.random.default_rng(0).standard_normal((2, 5 * CLIP.sample_rate)).astype(np.float32)
    request = Request(prompt_track=(Stretch(start=1, stop=2, label="dog"), Stretch(start=3, stop=4, label="car horn")), label="rain")
    parts = split_by_label(sound, request, CLIP)
    assert set(parts) == {"dog", "car horn", "rain"}
    assert np.allclose(sum(parts.values()), sound, atol=1e-5)
    rate = CLIP.sample_rate
    assert not parts["dog"][:, : rate // 2].any()
    assert np.allclose(parts["dog"][:, round(1.3 * rate) : round(1.7 * rate)], sound[:, round(1.3 * rate) : round(1.7 * rate)])


def test_labels_of_cues_hold_until_the_next():
    sound = np.ones((1, 4 * CLIP.sample_rate), np.float32)
    parts = split_by_label(sound, Request(cues=(Cue(seconds=1, label="dog"), Cue(seconds=2))), CLIP)
    assert set(parts) == {"dog", "seen"}
    assert parts["dog"].sum() == pytest.approx(CLIP.sample_rate, rel=0.15)


def test_a_sound_without_labels_over_time_has_no_stems():
    with pytest.raises(ParameterError, match="stems need labels over time"):
        split_by_label(np.zeros((1, 22050), np.float32), Request(label="dog"), CLIP)
