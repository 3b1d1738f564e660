"""The sampler: causal, the same with and without its cache, every kind of condition, and the authors' numbers at full size."""

import pytest
import torch

from unsilent.clip import Clip
from unsilent.errors import ParameterError
from unsilent.models.condition import ConditionConfig
from unsilent.models.sampler import Sampler, SamplerConfig
from unsilent.models.transformer import KeyValueCache, TransformerConfig

CLIP = Clip(frames=160)  # ten columns
TRANSFORMER = TransformerConfig(layers=2, heads=2, width=16)
CONDITIONS = {
    "none": ConditionConfig(kind="none", n_features=1, feature_dim=6),
    "features": ConditionConfig(kind="features", n_features=3, feature_dim=6),
    "class": ConditionConfig(kind="class", n_classes=4),
    "features+class": ConditionConfig(kind="features+class", n_features=3, feature_dim=6, n_classes=4),
    "coordinates": ConditionConfig(kind="coordinates"),
    "columns": ConditionConfig(kind="columns", n_features=3, feature_dim=6),
    "columns+motion": ConditionConfig(kind="columns", n_features=10, feature_dim=6, motion=8),
}


def build(kind="features"):
    torch.manual_seed(0)
    sampler = Sampler(SamplerConfig(clip=CLIP, codes=32, transformer=TRANSFORMER, condition=CONDITIONS[kind])).eval()
    torch.nn.init.normal_(sampler.pos_emb)  # zero at the start of training; a test should see positions
    return sampler


def condition(sampler, batch=1):
    config, generator = sampler.config.condition, torch.Generator().manual_seed(1)
    kind = config.kind
    return sampler.condition(
        features=torch.randn(batch, config.n_features, 6, generator=generator) if kind != "none" and config.n_features else None,
        labels=torch.arange(batch) % 4 if "class" in kind else None,
        motion=torch.rand(batch, CLIP.columns, config.motion, generator=generator) if config.motion else None,
        generator=generator if kind == "none" else None,
    )


CODES = torch.randint(32, (3, CLIP.n_codes), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("kind", CONDITIONS)
def test_scores_for_every_code(kind):
    sampler = build(kind)
    logits = sampler.logits(CODES[:1], condition(sampler))
    assert logits.shape == (1, CLIP.n_codes, 32)
    assert condition(sampler).shape == (1, CLIP.columns if kind.startswith("columns") else sampler.n_condition, 16)


@pytest.mark.parametrize("kind", CONDITIONS)
def test_cached_equals_uncached(kind):
    sampler = build(kind)
    expected = sampler.logits(CODES[:1], condition(sampler))
    for known in (0, 1, 23):
        logits, cache = sampler.start(CODES[:1, :known], condition(sampler))
        torch.testing.assert_close(logits, expected[:, known], atol=1e-5, rtol=0)
        for position in range(known, CLIP.n_codes - 1):
            logits = sampler.step(CODES[:1, position], cache)
            torch.testing.assert_close(logits, expected[:, position + 1], atol=1e-5, rtol=0)


def test_a_score_sees_earlier_codes_only():
    """By gradients: the score of code 20 depends on every code before it and on none from it on."""
    sampler = build()
    embedded = sampler.tok_emb(CODES[:1]).detach().requires_grad_()
    hidden = torch.cat([condition(sampler), embedded], dim=1) + sampler.pos_emb
    sampler.head(sampler.transformer(hidden))[0, sampler.n_condition - 1 + 20].sum().backward()
    seen = embedded.grad[0].abs().sum(1) > 0
    assert seen[:20].all()
    assert not seen[20:].any()


@pytest.mark.parametrize("column", [0, 3, 9])
def test_a_score_sees_what_is_beside_it(column):
    """By gradients: the first code of a column is told of features and motion up to two columns ahead, of all before, and of none after."""
    sampler = build("columns+motion")
    features, motion = torch.randn(1, 10, 6, requires_grad=True), torch.rand(1, 10, 8, requires_grad=True)
    logits = sampler.logits(CODES[:1], sampler.condition(features=features, motion=motion))
    logits[0, column * CLIP.rows].sum().backward()
    for seen in (features, motion):
        assert (seen.grad[0].abs().sum(1) > 0).tolist() == [other <= column + 2 for other in range(10)]


def test_without_codes_a_position_is_told_of_its_own_time_only():
    """What is added at a position is that of the column whose code it predicts, and two columns on each side of that."""
    sampler = build("columns+motion")
    motion = torch.zeros(1, 10, 8)
    still, moved = (
        sampler._positions(sampler.condition(torch.ones(1, 10, 6), motion=one))
        for one in (motion, motion.index_fill(1, torch.tensor([4]), 1.0))
    )
    differ = (still - moved).abs().amax((0, 2)) > 0
    assert differ.tolist() == [2 * CLIP.rows <= position < 7 * CLIP.rows for position in range(CLIP.n_codes + 1)]


def test_a_new_sampler_can_learn_from_what_is_told_nothing():
    """A first position of all zeros would be blown up by the normalisation of every layer, and its gradient out of all numbers."""
    torch.manual_seed(0)
    deep = TransformerConfig(layers=12, heads=2, width=16)
    sampler = Sampler(SamplerConfig(clip=CLIP, codes=32, transformer=deep, condition=CONDITIONS["columns+motion"]))
    sampler(CODES, torch.randn(3, 10, 6), keep=torch.zeros(3, dtype=torch.bool)).log_softmax(-1)[..., 0].mean().backward()
    assert sampler.pos_emb.grad.abs().max() < 1


def test_no_motion_is_stillness():
    sampler, features = build("columns+motion"), torch.ones(1, 10, 6)
    assert torch.equal(sampler.condition(features), sampler.condition(features, motion=torch.zeros(1, 10, 8)))


@pytest.mark.parametrize("kind", ["features", "columns+motion"])
@pytest.mark.parametrize("known", [0, 7])
def test_sequences_go_on_from_their_own_condition(kind, known):
    """Two conditions with two sequences from each, as if each pair stood alone."""
    sampler = build(kind)
    told, codes = condition(sampler, 2), torch.cat([CODES[:2], CODES[1:3]])
    logits, reading = sampler.start(codes[:, :known], told)
    logits = torch.stack([logits, sampler.step(codes[:, known], reading)], dim=1)
    for half, one in enumerate(told.split(1)):
        mine = codes[2 * half : 2 * half + 2]
        torch.testing.assert_close(logits[2 * half : 2 * half + 2], sampler.logits(mine, one)[:, known : known + 2], atol=1e-5, rtol=0)


def test_no_more_features_than_columns_stand_beside_them():
    with pytest.raises(ParameterError, match="11 features do not fit beside 10 code columns; one each at most"):
        SamplerConfig(clip=CLIP, codes=32, transformer=TRANSFORMER, condition=ConditionConfig(kind="columns", n_features=11, feature_dim=6))


def test_the_condition_is_seen_from_the_first_code_on():
    sampler = build()
    features = torch.randn(1, 3, 6, requires_grad=True)
    sampler.logits(CODES[:1], sampler.condition(features=features))[0, 0].sum().backward()
    assert (features.grad.abs().sum(2) > 0).all()


def test_rows_of_a_batch_do_not_touch():
    sampler = build()
    whole = sampler.logits(CODES, condition(sampler, 3))
    alone = sampler.logits(CODES[1:2], condition(sampler, 3)[1:2])
    torch.testing.assert_close(whole[1:2], alone, atol=1e-5, rtol=0)


def test_no_more_codes_than_positions():
    sampler = build()
    with pytest.raises(ParameterError, match="51 codes given, this sampler reads 50 at once; use windows"):
        sampler.start(torch.zeros(1, 51, dtype=torch.long), condition(sampler))


def test_a_full_cache_says_so():
    cache = KeyValueCache(TRANSFORMER, 1, 4, torch.empty(()))
    cache.grow(4)
    with pytest.raises(ParameterError, match="5 positions do not fit into a cache of 4"):
        cache.grow(1)


@pytest.mark.parametrize(
    ("kind", "given", "words"),
    [
        ("features", {}, "'features' was given nothing"),
        ("features", {"features": torch.zeros(1, 5, 6)}, "5 features of 6 numbers given, this sampler wants 3 of 6"),
        ("class", {"features": torch.zeros(1, 3, 6)}, "'class' was given features"),
        ("class", {"labels": torch.tensor([4])}, "class number 4 given, this sampler knows 0 to 3"),
        ("features+class", {"labels": torch.tensor([1])}, r"'features\+class' was given a class"),
        ("none", {}, "wants a generator"),
        ("features", {"features": torch.zeros(1, 3, 6), "motion": torch.zeros(1, 10, 8)}, "'features' was given motion"),
        (
            "columns+motion",
            {"features": torch.zeros(1, 10, 6), "motion": torch.zeros(1, 12, 8)},
            "motion of 12 columns of 8 numbers given, this sampler wants 10 of 8",
        ),
        (
            "columns",
            {"features": torch.zeros(1, 3, 6), "motion": torch.zeros(1, 10, 8)},
            "motion of 10 columns of 8 numbers given, this sampler wants 10 of 0",
        ),
    ],
)
def test_conditions_that_do_not_fit_are_named(kind, given, words):
    with pytest.raises(ParameterError, match=words):
        build(kind).condition(**given)


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "features", "n_features": 3},
        {"kind": "class"},
        {"kind": "class", "n_classes": 3, "n_features": 2, "feature_dim": 4},
        {"kind": "coordinates", "n_classes": 2},
        {"kind": "columns"},
        {"kind": "features", "n_features": 2, "feature_dim": 4, "motion": 8},
    ],
)
def test_sizes_must_fit_the_kind(fields):
    with pytest.raises(ParameterError, match="do not fit a condition of kind"):
        ConditionConfig(**fields)


def test_heads_must_divide_the_width():
    with pytest.raises(ParameterError, match="a width of 16 does not split into 3 heads"):
        TransformerConfig(layers=1, heads=3, width=16)


def test_the_vector_that_stands_for_nothing_is_the_generators():
    sampler = build("none")
    first, second, other = (sampler.condition(generator=torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_like_codes_begin_alike():
    sampler, vectors = build("columns"), torch.randn(build("columns").config.codes, 32, generator=torch.Generator().manual_seed(1))
    vectors[1] = vectors[0] + 0.05 * torch.randn(32, generator=torch.Generator().manual_seed(2))
    sampler.begin_as(vectors)
    for begun in (sampler.tok_emb.weight, sampler.head.weight):
        alike = torch.nn.functional.cosine_similarity(begun[:1], begun)
        assert alike[1:].argmax() == 0
        assert alike[1] > 0.7
        assert alike[1] > alike[2:].max() + 0.1


def test_positions_begin_told_apart_only_where_that_is_ours():
    configs = [SamplerConfig(clip=CLIP, codes=32, transformer=TRANSFORMER, condition=CONDITIONS[kind]) for kind in ("features", "columns")]
    assert not Sampler(configs[0]).pos_emb.any()
    places = Sampler(configs[1]).pos_emb[0]
    distances = torch.cdist(places, places)
    assert (distances + torch.eye(len(places)) > 0.1).all()
    assert distances[0, CLIP.rows] < distances[0, 1]  # the same row of the next column is nearer than another row
