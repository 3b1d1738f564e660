"""Conditions: positions of each kind, order of the embeddings, validation, time coordinates, feature rows."""

import pytest
import torch
import torch.nn.functional as F

from unsilent.clip import Clip
from unsilent.errors import ParameterError
from unsilent.models.condition import Condition, Sight, condition_rows, coordinates, pick_rows
from unsilent.models.configs import ConditionConfig, SightConfig

BOTH = ConditionConfig(kind="features+class", n_features=3, feature_dim=6, n_classes=4)


@pytest.fixture
def both():
    torch.manual_seed(0)
    return Condition(BOTH, 16, Clip())


@pytest.mark.parametrize(
    ("fields", "block"),
    [
        ({"kind": "none", "n_features": 1, "feature_dim": 2048}, 266),
        ({"kind": "features", "n_features": 5, "feature_dim": 2048}, 270),
        ({"kind": "features", "n_features": 53, "feature_dim": 2048}, 318),
        ({"kind": "features", "n_features": 212, "feature_dim": 2048}, 477),
        ({"kind": "class", "n_classes": 309}, 266),
        ({"kind": "features+class", "n_features": 212, "feature_dim": 2048, "n_classes": 8}, 478),
        ({"kind": "coordinates"}, 530),
        ({"kind": "columns", "n_features": 27, "feature_dim": 1280}, 266),
    ],
)
def test_sequence_lengths_are_the_published_block_sizes(fields, block):
    assert ConditionConfig(**fields).n_tokens(Clip()) + Clip().n_codes == block


def test_features_precede_the_class(both):
    features, labels = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(1)), torch.tensor([3, 0])
    embedded = both(features, labels)
    assert embedded.shape == (2, 4, 16)
    torch.testing.assert_close(embedded[:, :3], F.linear(features, both.feature_embedder.weight, both.feature_embedder.bias))
    assert torch.equal(embedded[:, 3], both.class_embedder.weight[labels])


def test_each_feature_affects_its_own_position_only(both):
    features = torch.randn(1, 3, 6, requires_grad=True)
    both(features, torch.tensor([1]))[0, 1].sum().backward()
    assert (features.grad[0].abs().sum(1) > 0).tolist() == [False, True, False]


@pytest.mark.parametrize("label", [-2, 4])
def test_class_out_of_range_is_refused(both, label):
    with pytest.raises(ParameterError, match=f"class {label} was given; this sampler has 0 to 3"):
        both(torch.zeros(2, 3, 6), torch.tensor([1, label]))


@pytest.mark.parametrize(("shape", "words"), [((1, 215, 6), "215 features of width 6"), ((1, 3, 7), "3 features of width 7")])
def test_features_of_wrong_sizes_are_refused(both, shape, words):
    with pytest.raises(ParameterError, match=f"{words} were given; this sampler takes 3 of width 6"):
        both(torch.zeros(shape), torch.tensor([1]))


@pytest.mark.parametrize("kind", ["none", "features", "class", "features+class", "coordinates"])
def test_sizes_that_do_not_fit_the_kind_are_refused(kind):
    wrong = {"n_classes": 3} if "class" not in kind else {}
    with pytest.raises(ParameterError, match="do not fit a condition of kind"):
        ConditionConfig(kind=kind, n_features=2, **wrong)


def test_coordinates_increase_with_time():
    tokens = coordinates(Clip(), 4096)[0]
    assert (tokens.diff() >= 0).all()
    assert tokens.reshape(53, 5).diff(dim=0).min() > 0
    assert 0 <= tokens.min() <= tokens.max() < 4096


def test_coordinates_equal_the_released_formula():
    """First and last cell of the paper's grid: mean index of 16 x 16 bins, counted frame by frame, over 67 840 bins, times 1024."""
    tokens = coordinates(Clip(), 1024)[0]
    assert tokens[0] == round((7.5 + 7.5 * 80) / 67840 * 1024) == 9
    assert tokens[-1] == round((64 + 7.5 + (832 + 7.5) * 80) / 67840 * 1024) == 1015


@pytest.mark.parametrize(
    ("n_wanted", "rows"),
    [(1, [106]), (5, [35, 77, 119, 162, 204]), (53, list(range(3, 212, 4))), (212, list(range(212)))],
)
def test_pick_rows_equals_the_published_models(n_wanted, rows):
    assert pick_rows(n_wanted, 212) == rows


def test_pick_rows_are_distinct_increasing_and_in_range():
    for n_total in (1, 2, 7, 212):
        for n_wanted in range(1, n_total + 1):
            rows = pick_rows(n_wanted, n_total)
            assert len(set(rows)) == n_wanted
            assert rows == sorted(rows)
            assert 0 <= rows[0] <= rows[-1] < n_total


@pytest.mark.parametrize(("kind", "rows"), [("features", pick_rows(27, 212)), ("columns", list(range(3, 212, 8)))])
def test_condition_rows(kind, rows):
    """For kind `columns`, every second column has a feature of its own: the last of its four."""
    condition = ConditionConfig(kind=kind, n_features=27, feature_dim=8)
    assert condition_rows(condition, 212, 53) == rows
    if kind == "columns":
        assert condition_rows(condition, 53, 53) == list(range(0, 53, 2))
        assert condition_rows(ConditionConfig(kind=kind, n_features=5, feature_dim=8), 12, 12) == [0, 3, 5, 8, 10]


@pytest.mark.parametrize(("n_wanted", "n_total"), [(53, 20), (0, 20), (1, 0)])
def test_pick_rows_refuses_more_rows_than_there_are(n_wanted, n_total):
    with pytest.raises(ParameterError, match=f"n_wanted is {n_wanted}, but must be 1 to {n_total}"):
        pick_rows(n_wanted, n_total)


def test_pictures_of_nothing_known_become_ambience():
    sight = Sight(SightConfig(feature_dim=1, n_classes=20, ambience=7))
    sight.weight[3] = 1.0
    shares = sight.shares(torch.tensor([0.0, 1.0, 20.0])[:, None, None])[:, 0]
    torch.testing.assert_close(shares.sum(1), torch.ones(3))
    assert shares[0].tolist() == [float(number == 7) for number in range(20)]  # all classes alike, at 1 in 20
    assert 0 < shares[1, 3] < 0.125 < shares[1, 7] < 1  # e / (e + 19) of doubt
    assert shares[2, 3] > 0.999


@pytest.mark.parametrize("fields", [{"kind": "columns", "ambience": 0}, {"kind": "sight", "n_classes": 3, "ambience": 3}])
def test_ambience_is_a_class_of_what_is_seen(fields):
    with pytest.raises(ParameterError, match="ambience"):
        ConditionConfig(n_features=27, feature_dim=8, **fields)
