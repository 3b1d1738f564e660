"""Ranking of candidates: the best of each take, takes in order, classes that are seen."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from unsilent.clip import Clip
from unsilent.errors import ParameterError
from unsilent.generation.conditions import likeliest
from unsilent.generation.ranking import agreement, rank
from unsilent.models.residual_sampler import ResidualSampler
from unsilent.request import Defaults, Request


class Follows(ResidualSampler):
    """Two codes; with a condition of ones the first is likelier by one nat, without they are equal."""

    def __init__(self):
        nn.Module.__init__(self)
        self.config = SimpleNamespace(clip=Clip(frames=64))

    def logits(self, codes, condition):
        first = condition.mean((1, 2))[:, None].expand(codes.shape)
        return torch.stack([first, torch.zeros_like(first)], dim=2)


ONES = torch.ones(1, 4, 8)


def grids_of(*shares):
    """Grids of 20 codes, of which so many are the first."""
    return torch.stack([(torch.arange(20) >= share).long().reshape(4, 5).T for share in shares])


def test_agreement_is_the_mean_log_ratio_with_and_without_the_condition():
    first, second = math.log(2 / (1 + math.exp(-1))), math.log(2 / (1 + math.exp(1)))
    expected = torch.tensor([first, second, (first + 3 * second) / 4])
    torch.testing.assert_close(agreement(Follows(), grids_of(20, 0, 5), ONES), expected)


def test_the_best_candidate_of_each_take_is_kept_and_the_best_take_comes_first():
    grids = grids_of(2, 6, 4, 3, 18, 1)  # three candidates for each of two takes
    best, second = rank(Follows(), grids, ONES, Request(takes=2, candidates=3))
    assert (best.take, second.take) == (4, 1)
    assert best.score > second.score


def test_a_long_sound_is_rated_by_its_first_window():
    grids = torch.cat([grids_of(3, 4), grids_of(20, 0)], dim=2)
    assert [one.take for one in rank(Follows(), grids, ONES, Request(candidates=2))] == [1]


def test_without_candidates_nothing_is_ranked():
    grids = torch.zeros(3, 5, 4, dtype=torch.long)
    assert rank(Follows(), grids, ONES, Request(takes=3)) == [(0, None), (1, None), (2, None)]


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
