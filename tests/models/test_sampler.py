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
}


def build(kind="features"):
    torch.manual_seed(0)
    sampler = Sampler(SamplerConfig(clip=CLIP, codes=32, transformer=TRANSFORMER, condition=CONDITIONS[kind])).eval()
    torch.nn.init.normal_(sampler.pos_emb)  # zero at the start of training; a test should see positions
    return sampler


def condition(sampler, batch=1):
    kind = sampler.config.condition.kind
    generator = torch.Generator().manual_seed(1)
    return sampler.condition(
        features=torch.randn(batch, 3, 6, generator=generator) if "features" in kind else None,
        labels=torch.arange(batch) % 4 if "class" in kind else None,
        generator=generator if kind == "none" else None,
    )


CODES = torch.randint(32, (3, CLIP.n_codes), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("kind", CONDITIONS)
def test_scores_for_every_code(kind):
    sampler = build(kind)
    logits = sampler.logits(CODES[:1], condition(sampler))
    assert logits.shape == (1, CLIP.n_codes, 32)
    assert condition(sampler).shape == (1, sampler.n_condition, 16)


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
