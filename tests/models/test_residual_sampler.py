"""The sampler of a residual codebook: causality, steps, prefill, guidance, the first values."""

import pytest
import torch

from unsilent.clip import Clip
from unsilent.errors import ParameterError
from unsilent.generation.sampling import sample_codes
from unsilent.generation.windows import plan_windows
from unsilent.models.configs import ConditionConfig, ResidualSamplerConfig, TransformerConfig
from unsilent.models.residual_sampler import ResidualSampler
from unsilent.request import Request
from unsilent.speed.prepare import accelerate, prepare_block

CLIP = Clip(frames=96, levels=3)  # 6 columns of 3 codes
SMALL = ResidualSamplerConfig(
    clip=CLIP,
    codes=64,
    dim=8,
    transformer=TransformerConfig(layers=2, heads=2, width=64),
    inner=16,
    inner_blocks=2,
    condition=ConditionConfig(kind="sight", n_features=3, feature_dim=4, n_classes=5, motion=8),
)


@pytest.fixture
def sampler():
    torch.manual_seed(0)
    module = ResidualSampler(SMALL).eval()
    module.init_from_codebook(torch.randn(4, 64, 8))
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    torch.nn.init.normal_(module.embedder.sight.weight)
    return module.requires_grad_(False)


def draw(*shape):
    return torch.randint(64, shape, generator=torch.Generator().manual_seed(1))


def condition_of(sampler, batch=2):
    generator = torch.Generator().manual_seed(2)
    features, motion = torch.randn(batch, 3, 4, generator=generator), torch.rand(batch, 6, 8, generator=generator)
    return sampler.condition(features, torch.arange(batch) - 1, motion)


def test_a_code_depends_only_on_those_before(sampler):
    codes, condition = draw(2, 18), condition_of(sampler)
    expected = sampler.logits(codes, condition)
    for place in (0, 4, 9, 17):
        changed = codes.clone()
        changed[:, place] = (changed[:, place] + 1) % 64
        differs = (sampler.logits(changed, condition) != expected).any(2).any(0)
        assert not differs[: place + 1].any()
        assert differs[place + 1 :].all()


@pytest.mark.parametrize("known", [0, 3, 15])
def test_steps_equal_teacher_forcing(sampler, known):
    codes, condition = draw(2, 18), condition_of(sampler)
    expected = sampler.logits(codes, condition)
    logits, state = sampler.start(codes[:, :known], condition)
    for place in range(known, 18):
        torch.testing.assert_close(logits, expected[:, place])
        if place < 17:
            logits = sampler.step(codes[:, place], state)


def test_wrong_codes_before_a_column_change_it_only_through_the_transformer(sampler):
    codes, condition = draw(1, 18), condition_of(sampler, 1)
    wrong = codes.clone()
    wrong[:, 6:9] = (wrong[:, 6:9] + 1) % 64
    differs = (sampler.logits(codes, condition, context=wrong) != sampler.logits(codes, condition)).any(2)[0]
    assert not differs[:9].any()
    assert differs[9:].all()


def test_chosen_columns_have_the_logits_of_all(sampler):
    codes, condition = draw(2, 18), condition_of(sampler)
    chosen = torch.tensor([4, 1])
    every = sampler.logits(codes, condition).unflatten(1, (6, 3))
    torch.testing.assert_close(sampler.logits(codes, condition, columns=chosen).unflatten(1, (2, 3)), every[:, chosen])


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_packed_transformer_samples_nearly_the_same(sampler, precision):
    torch.manual_seed(0)
    fast = ResidualSampler(SMALL).eval()
    fast.load_state_dict(sampler.state_dict())
    expected = fast.logits(draw(2, 18), condition_of(fast))
    for number, block in enumerate(fast.transformer.blocks):
        fast.transformer.blocks[number] = prepare_block(block, precision, packs=True)
    accelerate(fast, precision, torch.device("cpu"))
    logits, state = fast.start(draw(2, 18)[:, :0], condition_of(fast))
    for place in range(17):
        found = expected[:, place] if precision == "float32" else expected[:, place].softmax(1)
        close = logits if precision == "float32" else logits.softmax(1)
        torch.testing.assert_close(close, found, atol=1e-4 if precision == "float32" else 0.1, rtol=0)
        logits = fast.step(draw(2, 18)[:, place], state)


def test_takes_of_windows_do_not_depend_on_their_number(sampler):
    windows = plan_windows(10, CLIP.columns, CLIP.hop_columns)
    request = {"seed": 5, "top_k": 64, "temperature": 1.0, "guidance": 2.0}
    conditions = [condition_of(sampler, 1)] * len(windows)
    three = sample_codes(sampler, windows, conditions, Request(takes=3, **request))
    one = sample_codes(sampler, windows, conditions, Request(takes=1, **request))
    assert three.shape == (3, 30)
    assert torch.equal(three[:1], one)
    assert not torch.equal(three[1], three[2])


def test_a_named_label_replaces_what_is_seen(sampler):
    features, motion = torch.randn(2, 3, 4), torch.zeros(2, 6, 8)
    seen = sampler.condition(features, None, motion)
    named = sampler.condition(features, torch.tensor([3, 3]), motion)
    assert not torch.allclose(seen[0], seen[1])
    assert torch.equal(named[0], named[1])
    torch.testing.assert_close(sampler.condition(features, torch.tensor([-1, 3]), motion), torch.stack([seen[0], named[1]]))


def test_unknown_label_and_missing_features_are_refused(sampler):
    with pytest.raises(ParameterError, match="class 5 was given"):
        sampler.condition(torch.zeros(1, 3, 4), torch.tensor([5]))
    with pytest.raises(ParameterError, match="was given a class"):
        sampler.condition(None, torch.tensor([0]))


def test_codebook_of_fewer_levels_is_refused():
    with pytest.raises(ParameterError, match="vectors of shape 2 x 64 x 8, but the sampler needs 3 levels"):
        ResidualSampler(SMALL).init_from_codebook(torch.randn(2, 64, 8))


def test_part_of_a_column_cannot_be_known(sampler):
    with pytest.raises(ParameterError, match="4 codes were given"):
        sampler.start(draw(1, 4), condition_of(sampler, 1))
