"""The sampler: causality, KV cache, every kind of condition, initialisation, validation."""

import pytest
import torch

from unsilent.clip import Clip
from unsilent.errors import ParameterError
from unsilent.models.configs import ConditionConfig, SamplerConfig, TransformerConfig
from unsilent.models.sampler import Sampler

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
    torch.nn.init.normal_(sampler.pos_emb)  # zero before training, which would hide errors
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
def test_logits_for_every_code(kind):
    sampler = build(kind)
    logits = sampler.logits(CODES[:1], condition(sampler))
    assert logits.shape == (1, CLIP.n_codes, 32)
    assert condition(sampler).shape == (1, CLIP.columns if kind.startswith("columns") else sampler.n_condition, 16)


@pytest.mark.parametrize("kind", CONDITIONS)
def test_cached_logits_equal_uncached_ones(kind):
    sampler = build(kind)
    expected = sampler.logits(CODES[:1], condition(sampler))
    for known in (0, 1, 23):
        logits, cache = sampler.start(CODES[:1, :known], condition(sampler))
        torch.testing.assert_close(logits, expected[:, known], atol=1e-5, rtol=0)
        for position in range(known, CLIP.n_codes - 1):
            logits = sampler.step(CODES[:1, position], cache)
            torch.testing.assert_close(logits, expected[:, position + 1], atol=1e-5, rtol=0)


def test_logits_depend_on_earlier_codes_only():
    """By gradients: those of code 20 depend on every code before it and on none from it on."""
    sampler = build()
    embedded = sampler.tok_emb(CODES[:1]).detach().requires_grad_()
    hidden = torch.cat([condition(sampler), embedded], dim=1) + sampler.pos_emb
    sampler.head(sampler.transformer(hidden))[0, sampler.n_condition - 1 + 20].sum().backward()
    reached = embedded.grad[0].abs().sum(1) > 0
    assert reached[:20].all()
    assert not reached[20:].any()


@pytest.mark.parametrize("column", [0, 3, 9])
def test_logits_depend_on_features_and_motion_up_to_two_columns_ahead(column):
    """By gradients, for the first code of a column: on all earlier columns, and on none further ahead."""
    sampler = build("columns+motion")
    features, motion = torch.randn(1, 10, 6, requires_grad=True), torch.rand(1, 10, 8, requires_grad=True)
    logits = sampler.logits(CODES[:1], sampler.condition(features=features, motion=motion))
    logits[0, column * CLIP.rows].sum().backward()
    for given in (features, motion):
        assert (given.grad[0].abs().sum(1) > 0).tolist() == [other <= column + 2 for other in range(10)]


def test_position_embeddings_depend_on_two_columns_on_each_side():
    """Motion of one column changes the positions that predict codes of that column and of two on each side."""
    sampler = build("columns+motion")
    motion = torch.zeros(1, 10, 8)
    still, moved = (
        sampler.position_embeddings(sampler.condition(torch.ones(1, 10, 6), motion=one))
        for one in (motion, motion.index_fill(1, torch.tensor([4]), 1.0))
    )
    differ = (still - moved).abs().amax((0, 2)) > 0
    assert differ.tolist() == [2 * CLIP.rows <= position < 7 * CLIP.rows for position in range(CLIP.n_codes + 1)]


def test_gradients_without_condition_are_bounded():
    """LayerNorm amplifies gradients at a position of all zeros, layer by layer; initial positions must not be zero."""
    torch.manual_seed(0)
    deep = TransformerConfig(layers=12, heads=2, width=16)
    sampler = Sampler(SamplerConfig(clip=CLIP, codes=32, transformer=deep, condition=CONDITIONS["columns+motion"]))
    sampler(CODES, torch.randn(3, 10, 6), keep=torch.zeros(3, dtype=torch.bool)).log_softmax(-1)[..., 0].mean().backward()
    assert sampler.pos_emb.grad.abs().max() < 1


def test_no_motion_equals_zero_motion():
    sampler, features = build("columns+motion"), torch.ones(1, 10, 6)
    assert torch.equal(sampler.condition(features), sampler.condition(features, motion=torch.zeros(1, 10, 8)))


@pytest.mark.parametrize("kind", ["features", "columns+motion"])
@pytest.mark.parametrize("known", [0, 7])
def test_consecutive_sequences_share_a_condition(kind, known):
    """Two conditions with two sequences each give the logits of each condition alone."""
    sampler = build(kind)
    conditions, codes = condition(sampler, 2), torch.cat([CODES[:2], CODES[1:3]])
    logits, reading = sampler.start(codes[:, :known], conditions)
    logits = torch.stack([logits, sampler.step(codes[:, known], reading)], dim=1)
    for half, one in enumerate(conditions.split(1)):
        mine = codes[2 * half : 2 * half + 2]
        torch.testing.assert_close(logits[2 * half : 2 * half + 2], sampler.logits(mine, one)[:, known : known + 2], atol=1e-5, rtol=0)


def test_more_features_than_columns_are_refused():
    with pytest.raises(ParameterError, match="11 features were given for 10 code columns; give at most one per column"):
        SamplerConfig(clip=CLIP, codes=32, transformer=TRANSFORMER, condition=ConditionConfig(kind="columns", n_features=11, feature_dim=6))


def test_first_logits_depend_on_the_condition():
    sampler = build()
    features = torch.randn(1, 3, 6, requires_grad=True)
    sampler.logits(CODES[:1], sampler.condition(features=features))[0, 0].sum().backward()
    assert (features.grad.abs().sum(2) > 0).all()


def test_batch_items_are_independent():
    sampler = build()
    whole = sampler.logits(CODES, condition(sampler, 3))
    alone = sampler.logits(CODES[1:2], condition(sampler, 3)[1:2])
    torch.testing.assert_close(whole[1:2], alone, atol=1e-5, rtol=0)


def test_more_codes_than_positions_are_refused():
    sampler = build()
    with pytest.raises(ParameterError, match="51 codes were given, but this sampler takes 50 at once; use windows"):
        sampler.start(torch.zeros(1, 51, dtype=torch.long), condition(sampler))


@pytest.mark.parametrize(
    ("kind", "given", "words"),
    [
        ("features", {}, "'features' was given nothing"),
        ("features", {"features": torch.zeros(1, 5, 6)}, "5 features of width 6 were given; this sampler takes 3 of width 6"),
        ("class", {"features": torch.zeros(1, 3, 6)}, "'class' was given features"),
        ("class", {"labels": torch.tensor([4])}, "class 4 was given; this sampler has 0 to 3"),
        ("features+class", {"labels": torch.tensor([1])}, r"'features\+class' was given a class"),
        ("none", {}, "give a generator"),
        ("features", {"features": torch.zeros(1, 3, 6), "motion": torch.zeros(1, 10, 8)}, "'features' was given motion"),
        (
            "columns+motion",
            {"features": torch.zeros(1, 10, 6), "motion": torch.zeros(1, 12, 8)},
            "motion of 12 columns x 8 values was given; this sampler takes 10 x 8",
        ),
        (
            "columns",
            {"features": torch.zeros(1, 3, 6), "motion": torch.zeros(1, 10, 8)},
            "motion of 10 columns x 8 values was given; this sampler takes 10 x 0",
        ),
    ],
)
def test_inputs_that_do_not_fit_the_condition_are_refused(kind, given, words):
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
def test_sizes_that_do_not_fit_the_kind_are_refused(fields):
    with pytest.raises(ParameterError, match="do not fit a condition of kind"):
        ConditionConfig(**fields)


def test_width_must_be_divisible_by_the_heads():
    with pytest.raises(ParameterError, match="a width of 16 is not divisible by 3 heads"):
        TransformerConfig(layers=1, heads=3, width=16)


def test_vector_of_kind_none_is_determined_by_the_generator():
    sampler = build("none")
    first, second, other = (sampler.condition(generator=torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_init_from_codebook_keeps_codes_similar():
    sampler, vectors = build("columns"), torch.randn(build("columns").config.codes, 32, generator=torch.Generator().manual_seed(1))
    vectors[1] = vectors[0] + 0.05 * torch.randn(32, generator=torch.Generator().manual_seed(2))
    sampler.init_from_codebook(vectors)
    for weight in (sampler.tok_emb.weight, sampler.head.weight):
        similarity = torch.nn.functional.cosine_similarity(weight[:1], weight)
        assert similarity[1:].argmax() == 0
        assert similarity[1] > 0.7
        assert similarity[1] > similarity[2:].max() + 0.1


def test_initial_positions_are_distinct_for_kind_columns_and_zero_otherwise():
    configs = [SamplerConfig(clip=CLIP, codes=32, transformer=TRANSFORMER, condition=CONDITIONS[kind]) for kind in ("features", "columns")]
    assert not Sampler(configs[0]).pos_emb.any()
    positions = Sampler(configs[1]).pos_emb[0]
    distances = torch.cdist(positions, positions)
    assert (distances + torch.eye(len(positions)) > 0.1).all()
    assert distances[0, CLIP.rows] < distances[0, 1]  # the same row of the next column is nearer than another row
