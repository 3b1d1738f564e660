"""A captured sampling step equals `Sampler.advance`; without a GPU the same code runs uncaptured."""

import copy
import gc
import weakref
from subprocess import CalledProcessError

import pytest
import torch

from unsilent.clip import Clip
from unsilent.errors import ResourceError
from unsilent.generation.attention import AttentionRecord
from unsilent.generation.sampling import NextCode
from unsilent.models.configs import ConditionConfig, SamplerConfig, TransformerConfig
from unsilent.models.sampler import Sampler
from unsilent.models.transformer import Look
from unsilent.speed.gpu_graphs import GraphedAdvance, is_compile_error

CLIP = Clip(frames=64)  # four columns
CONDITIONS = {
    "features": ConditionConfig(kind="features", n_features=3, feature_dim=6),
    "columns": ConditionConfig(kind="columns", n_features=3, feature_dim=6),
}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=[False, True], ids=["three projections", "one projection"])
def is_fused(request):
    """Our GPU kernels require fused projections."""
    return request.param


@pytest.fixture(params=CONDITIONS)
def kind(request):
    return request.param


@pytest.fixture(params=DEVICES)
def sampler(request, is_fused, kind):
    transformer = TransformerConfig(layers=2, heads=4, width=64)
    return random_sampler(SamplerConfig(clip=CLIP, codes=32, transformer=transformer, condition=CONDITIONS[kind]), is_fused, request.param)


def random_sampler(config, is_fused, device):
    torch.manual_seed(0)
    sampler = Sampler(config).eval().requires_grad_(False)
    for parameter in sampler.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    for block in sampler.transformer.blocks if is_fused else ():
        block.attn.fuse()
    return sampler.to(device)


def condition_of(sampler, batch=1):
    features = torch.randn(batch, 3, 6, generator=torch.Generator().manual_seed(batch))
    return sampler.condition(features.to(sampler.pos_emb))


def forced(logits, codes):
    """Choose the codes that are given in place of random numbers."""
    return codes.long()


def stepwise_logits(sampler, codes, condition, known):
    """Logits of every code but the first `known`, step by step."""
    logits, state = sampler.start(codes[:, :known], condition)
    found = [logits.clone()]
    for code in codes.double().unbind(1)[known:-1]:
        read, logits = sampler.advance(forced, logits, code, state)
        assert torch.equal(read, code.long())
        found.append(logits.clone())
    return torch.stack(found, dim=1)


def test_windows_in_sequence_and_in_a_batch_equal_teacher_forcing(sampler):
    """A second window must not read the first one's KV cache or positions."""
    sampler.fast_advance = GraphedAdvance(sampler)
    for batch, known in ((1, 0), (1, 7), (3, 2), (1, 4)):
        codes = torch.randint(32, (batch, CLIP.n_codes), generator=torch.Generator().manual_seed(batch + known)).to(sampler.pos_emb.device)
        condition = condition_of(sampler, batch)
        expected = sampler.logits(codes, condition)[:, known:]
        torch.testing.assert_close(stepwise_logits(sampler, codes, condition, known), expected, atol=2e-5, rtol=1e-4)


def test_cache_keeps_the_dtype_of_autocast(sampler, is_fused):
    codes = torch.randint(32, (2, CLIP.n_codes), generator=torch.Generator().manual_seed(1)).to(sampler.pos_emb.device)
    condition = condition_of(sampler)
    expected = sampler.logits(codes, condition)
    sampler.fast_advance = GraphedAdvance(sampler)
    with torch.autocast(codes.device.type, torch.bfloat16):
        found = stepwise_logits(sampler, codes, condition, 0)
    step = sampler.fast_advance.captured
    assert step.memory.dtype == torch.bfloat16
    assert (step.kernels is not None) == (codes.is_cuda and is_fused)
    torch.testing.assert_close(found.float(), expected, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_choice_inside_the_step_equals_choice_outside(sampler, guidance, sample_with):
    """For several settings in sequence, each of which is captured anew."""
    for temperature, top_k in ((1.0, 32), (0.5, 32), (1.0, 4), (0.0, 32), (1.0, 32)):
        options = {"seed": 1, "takes": 2, "temperature": temperature, "top_k": top_k, "guidance": guidance, "hop_columns": 2}
        found = []
        for advance in (None, sampler.fast_advance or GraphedAdvance(sampler)):
            sampler.fast_advance = advance
            found.append(sample_with(sampler, condition_of(sampler), 7, **options))
        assert torch.equal(*found)
    assert sampler.fast_advance.captured.key[0] == NextCode(1.0, 32, guidance)


@pytest.mark.parametrize("look", [Look(), Look(layer=1, head=2)], ids=str)
def test_recorded_attention_equals_that_of_torch(sampler, look, sample_with):
    """Of two windows, whose records share their memory; and none is recorded where none is asked for."""
    found, options = [], {"seed": 1, "takes": 2, "guidance": 2.0, "hop_columns": 2}
    for advance in (None, sampler.fast_advance or GraphedAdvance(sampler)):
        sampler.fast_advance, record = advance, AttentionRecord(look)
        sample_with(sampler, condition_of(sampler), 7, attention=record, **options)
        found.append([record.of(take) for take in range(2)])
    for ours, theirs in zip(*(sum(takes, ()) for takes in found), strict=True):
        torch.testing.assert_close(ours.codes, theirs.codes, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(ours.condition, theirs.condition, atol=1e-5, rtol=1e-4)
    sample_with(sampler, condition_of(sampler), 7, **options)
    assert sampler.fast_advance.captured.looked is None


def test_another_choice_continues_the_same_window(sampler):
    codes = torch.randint(32, (1, CLIP.n_codes), generator=torch.Generator().manual_seed(1)).to(sampler.pos_emb.device)
    expected = sampler.logits(codes, condition_of(sampler))
    sampler.fast_advance = GraphedAdvance(sampler)
    logits, state = sampler.start(codes[:, :0], condition_of(sampler))
    for i in range(10):
        # a new function in each step, unequal to the one before
        _, logits = sampler.advance(lambda logits, codes: codes.long(), logits, codes[:, i].double(), state)
        torch.testing.assert_close(logits, expected[:, i + 1], atol=2e-5, rtol=1e-4)


def test_second_window_is_refused(sampler):
    sampler.fast_advance, uniforms = GraphedAdvance(sampler), torch.zeros(1, device=sampler.pos_emb.device)
    first, second = (sampler.start(torch.zeros(1, 0, dtype=torch.long, device=uniforms.device), condition_of(sampler)) for _ in range(2))
    for logits, state in (first, second):
        sampler.advance(forced, logits, uniforms, state)
    with pytest.raises(ResourceError, match="one window at a time"):
        sampler.advance(forced, first[0], uniforms, first[1])


def test_sampler_is_freed_without_garbage_collection(sample_with):
    config = SamplerConfig(
        clip=CLIP, codes=32, transformer=TransformerConfig(layers=1, heads=1, width=16), condition=CONDITIONS["features"]
    )
    sampler = random_sampler(config, True, "cpu")
    sampler.fast_advance = GraphedAdvance(sampler)
    sample_with(sampler, condition_of(sampler), 2, seed=0)
    kept = weakref.ref(sampler)
    gc.disable()
    try:
        del sampler
        assert kept() is None
    finally:
        gc.enable()


def test_is_compile_error_is_true_only_where_triton_cannot_compile():
    """A bug of our kernels, or a fault of the GPU, must raise instead of falling back to torch."""
    of_triton = type("CompilationError", (Exception,), {"__module__": "triton.compiler.errors"})
    for error in (of_triton(), ImportError(), CalledProcessError(1, "gcc"), RuntimeError("Failed to find C compiler. Please ...")):
        assert is_compile_error(error)
    for error in (RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"), TypeError(), AssertionError()):
        assert not is_compile_error(error)


@pytest.mark.gpu
@pytest.mark.parametrize("outputs", [(16, 8), (8,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernel_errors_are_those_of_the_dtype(dtype, outputs, monkeypatch):
    """At most three times torch's own; with GEMMs of eight warps and several steps, and more positions than one attention tile."""
    from unsilent.speed import gpu_kernels

    monkeypatch.setattr(gpu_kernels, "_OUTPUTS", outputs)
    transformer = TransformerConfig(layers=2, heads=10, width=640)
    config = SamplerConfig(clip=Clip(), codes=100, transformer=transformer, condition=CONDITIONS["features"])
    sampler = random_sampler(config, True, "cuda").to(dtype)
    codes = torch.randint(100, (9, sampler.config.clip.n_codes), generator=torch.Generator().manual_seed(1)).cuda()
    condition = condition_of(sampler)
    exact = copy.deepcopy(sampler).double().logits(codes, condition.double())
    rounded = sampler.logits(codes, condition)
    sampler.fast_advance = GraphedAdvance(sampler)
    found = stepwise_logits(sampler, codes, condition, 0)
    assert sampler.fast_advance.captured.kernels is not None
    assert (found - exact).abs().max() < 3 * (rounded - exact).abs().max()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_takes_do_not_depend_on_the_batch(dtype, sample_with):
    condition = CONDITIONS["features"]
    config = SamplerConfig(clip=Clip(), codes=256, transformer=TransformerConfig(layers=3, heads=4, width=256), condition=condition)
    sampler = random_sampler(config, True, "cuda").to(dtype)
    sampler.fast_advance = GraphedAdvance(sampler)
    with torch.autocast("cuda", torch.bfloat16, enabled=dtype is torch.bfloat16):
        many = sample_with(sampler, condition_of(sampler), 40, seed=3, takes=40)
        for takes in (1, 2, 8, 9, 32):
            assert torch.equal(sample_with(sampler, condition_of(sampler), 40, seed=3, takes=takes), many[:takes]), takes
    assert sampler.fast_advance.captured.kernels is not None
