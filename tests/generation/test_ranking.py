"""Ranking of candidates: the best of each take, takes in order, classes that are seen."""

import contextlib

import pytest
import torch
from torch import nn

from unsilent.clip import Clip
from unsilent.codec.codec import Codec
from unsilent.cues import Cue
from unsilent.errors import ParameterError
from unsilent.generation.conditions import likeliest
from unsilent.generation.ranking import Judge, agreement
from unsilent.generation.sampling import ENDED
from unsilent.models.code_order import to_sequence
from unsilent.models.listener import Listener, ListenerConfig, Ranker
from unsilent.request import FINALISTS, Defaults, Request


class Loud(Codec):
    """Its mel is as loud as the mean code."""

    clip = Clip(frames=64)
    autocast = staticmethod(contextlib.nullcontext)

    def __init__(self):
        pass

    def decode(self, grid):
        return torch.full((80, 64), 2 * grid.float().mean().item() - 1)


class LoudIsDrum(Listener):
    """Classifies loud sounds as drums, quiet ones as rain."""

    def __init__(self):
        nn.Module.__init__(self)
        self.fc = nn.Identity()
        self.config = ListenerConfig(block=40, labels=3)  # five columns of 16 mel frames

    def features(self, mel01):
        loud = mel01.mean((1, 2))
        return torch.stack([loud, 1 - loud, torch.full_like(loud, -30.0)], dim=1)


def rank(grids, expected, request, reference=None, ranker=...):
    return Judge(CODEC, RANKER if ranker is ... else ranker, expected, request, reference).rank(grids)


CODEC = Loud()
RANKER = Ranker(LoudIsDrum(), ("drum", "rain", "train"))


def grids_of(*shares):
    """Grids of 20 codes, of which so many are ones."""
    return torch.stack([(torch.arange(20) < share).long().reshape(4, 5).T for share in shares])


def test_agreement_is_the_mean_log_probability_of_what_is_expected():
    grids = grids_of(20, 10, 0)
    loud = torch.tensor([1.0, 0.5, 0.0])
    drum, rain = (2 * loud - 1).sigmoid().log(), (1 - 2 * loud).sigmoid().log()
    torch.testing.assert_close(agreement(CODEC, RANKER, grids, {"drum": 1.0}), drum)
    torch.testing.assert_close(agreement(CODEC, RANKER, grids, {"drum": 0.6, "rain": 0.2, "ghost": 0.2}), 0.75 * drum + 0.25 * rain)
    assert agreement(CODEC, RANKER, grids, {"ghost": 1.0}).tolist() == [0, 0, 0]


def test_the_best_candidate_of_each_take_is_kept_and_the_best_take_comes_first():
    grids = grids_of(2, 6, 4, 3, 18, 1)  # three candidates for each of two takes
    best, second = rank(grids, {"drum": 1.0}, Request(takes=2, candidates=3))
    assert (best.take, second.take) == (4, 1)
    assert best.score > second.score
    assert [one.take for one in rank(grids, {"rain": 1.0}, Request(takes=2, candidates=3))] == [5, 0]


def test_an_audition_keeps_the_best_of_each_take_and_ranking_leaves_out_the_others():
    grids = grids_of(2, 6, 4, 3, 5, 18, 1, 9, 12, 0)
    judge = Judge(CODEC, RANKER, {"drum": 1.0}, Request(takes=2, candidates=5))
    left = judge.audition.choose(to_sequence(grids))
    assert left.tolist() == [1, 2, 4, 5, 7, 8]
    assert len(left) == 2 * FINALISTS
    ended = torch.ones(len(grids), dtype=torch.bool).index_fill(0, left, False)
    grids[ended, :, -1] = ENDED
    assert [one.take for one in judge.rank(grids)] == [5, 1]


def test_an_audition_rates_the_last_block():
    grids = torch.cat([grids_of(20, 20, 20, 10, 0), grids_of(0, 0, 2, 10, 20)], dim=2)
    judge = Judge(CODEC, RANKER, {"drum": 1.0}, Request(candidates=5))
    assert judge.audition.choose(to_sequence(grids)).tolist() == [2, 3, 4]


def test_few_candidates_and_candidates_for_cues_all_go_on():
    cues = (Cue(seconds=1.0),)
    for request in (Request(candidates=FINALISTS), Request(takes=9), Request(candidates=9, cues=cues)):
        assert Judge(CODEC, RANKER, {"drum": 1.0}, request).audition is None
    assert Judge(CODEC, None, {"drum": 1.0}, Request(candidates=9)).audition is None


def test_a_long_sound_is_rated_by_its_first_clip():
    grids = torch.cat([grids_of(3, 4), grids_of(20, 0)], dim=2)
    assert [one.take for one in rank(grids, {"drum": 1.0}, Request(candidates=2))] == [1]


def test_without_candidates_nothing_is_ranked():
    grids = torch.zeros(3, 5, 4, dtype=torch.long)
    assert rank(grids, {"drum": 1.0}, Request(takes=3)) == [(0, None), (1, None), (2, None)]
    assert rank(grids, {"drum": 1.0}, Request(takes=3, candidates=1), ranker=None) == [(0, None), (1, None), (2, None)]


def test_likeliest_classes_come_first():
    assert likeliest(torch.tensor([0.2, 0.005, 0.795]), ("cat", "dog", "train")) == {"train": 0.795, "cat": 0.2}


def test_candidates_are_the_models_or_refused():
    common = {"model": "m", "n_codes": 8, "top_k": 8, "temperature": 1.0, "guidance": 1.0}
    ranks, plain = Defaults(**common, classes=("a",), candidates=4, sees=True), Defaults(**common)
    assert Request().resolve(ranks).candidates == 4
    assert Request(candidates=2).resolve(ranks).candidates == 2
    assert Request().resolve(plain).candidates is None
    with pytest.raises(ParameterError, match="'m' does not rank its sounds"):
        Request(candidates=2).resolve(plain)


def test_a_label_may_be_left_to_a_model_that_sees():
    sees = Defaults("m", 8, 8, 1.0, 1.0, ("train", "frog"), sees=True)
    assert Request().resolve(sees).label is None
    assert Request(label="Frog").resolve(sees).label == "frog"
    with pytest.raises(ParameterError, match="needs one of its 2 classes"):
        Request().resolve(Defaults("m", 8, 8, 1.0, 1.0, ("train", "frog")))


def test_the_number_of_takes_is_part_of_the_recipe_where_they_are_ranked():
    assert "takes" not in Request(takes=3).describe()
    assert Request(takes=3, candidates=2).describe()["takes"] == 3


def test_what_is_heard_and_avoided_counts_against_a_candidate():
    grids = grids_of(20, 0)
    likely = torch.tensor([[1.0, 0.0, -30.0], [0.0, 1.0, -30.0]]).log_softmax(1)
    found = agreement(CODEC, RANKER, grids, {"train": 1.0}, avoided=("drum",))
    torch.testing.assert_close(found, likely[:, 2] + (1 - likely[:, 0].exp()).log(), rtol=1e-4, atol=1e-4)
    best = rank(grids, {"train": 1.0}, Request(candidates=2, avoid=("drum",)))
    assert [one.take for one in best] == [1]


def test_a_reference_takes_the_place_of_classes():
    grids = grids_of(20, 0)
    assert [one.take for one in rank(grids, {"drum": 1.0}, Request(candidates=2), torch.tensor([0.0, 1.0, 0.0]))] == [1]
