"""The GPU kernels of a sampling step against torch, interpreted: `make test-kernels`. `test_gpu_graphs` runs them on a GPU."""

import copy
import os

import pytest
import torch

from unsilent.clip import Clip
from unsilent.models.configs import ConditionConfig, SamplerConfig, TransformerConfig
from unsilent.models.sampler import Sampler
from unsilent.models.transformer import Look, Looked, Transformer

pytest.importorskip("triton", reason="Triton comes with torch for GPUs")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("TRITON_INTERPRET=1 must be set when Triton is imported", allow_module_level=True)

from unsilent.speed import gpu_kernels

pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array")  # which the interpreter does, and NumPy 2.4 refuses


def random_sampler(width: int, heads: int, kind: str = "features") -> Sampler:
    torch.manual_seed(0)
    condition = ConditionConfig(kind=kind, n_features=1, feature_dim=4)
    transformer = TransformerConfig(layers=2, heads=heads, width=width)
    sampler = Sampler(SamplerConfig(clip=Clip(frames=128), codes=24, transformer=transformer, condition=condition))
    for parameter in sampler.eval().requires_grad_(False).parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    for block in sampler.transformer.blocks:
        block.attn.fuse()
    return sampler


def scores(sampler: Sampler, codes: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Logits by torch, of a sequence that begins with a code."""
    x = sampler.tok_emb(codes) + positions[:, : codes.shape[1]]
    return sampler.head(sampler.transformer(x))


def step_by_step(
    sampler: Sampler, codes: torch.Tensor, positions: torch.Tensor, dtype: torch.dtype, looked: Looked | None = None
) -> torch.Tensor:
    config, (batch, n) = sampler.config.transformer, codes.shape
    steps, found = gpu_kernels.StepKernels(sampler.tok_emb, sampler.transformer, sampler.head, batch), []
    memory = torch.full((2, 2, batch, config.heads, n, config.width // config.heads), torch.nan, dtype=dtype)
    for i in range(n):
        found.append(torch.full((batch, 24), torch.nan))
        steps(codes[:, i].contiguous(), positions, memory, torch.tensor([i]), found[-1], looked)
    return torch.stack(found, dim=1)


def drawn(batch: int, n: int) -> torch.Tensor:
    return torch.randint(24, (batch, n), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("mean", [0.0, 1.0])
@pytest.mark.parametrize(
    ("width", "heads", "batch", "n", "outputs"), [(64, 4, 3, 40, (16, 8)), (128, 2, 1, 6, (8,)), (192, 3, 17, 6, (16, 8))]
)
def test_kernels_equal_torch(width, heads, batch, n, outputs, mean, monkeypatch):
    """As near to double precision as torch's own float32 is, to a factor.

    Over more positions than are looked at together, widths that are no powers of two, more sequences than a tile has, places that differ
    between sequences or not, tiles of either size, several steps of a share, and rows whose mean is as large as their spread, where one
    pass rounds more than two.
    """
    monkeypatch.setattr(gpu_kernels, "_ATTENDED", 16)
    monkeypatch.setattr(gpu_kernels, "_OUTPUTS", outputs)
    monkeypatch.setattr(gpu_kernels, "_STEP", 32)
    sampler, codes = random_sampler(width, heads), drawn(batch, n)
    assert gpu_kernels.fits(sampler.transformer, batch)
    positions = torch.randn(1 if batch == 1 else batch, n, width) + mean
    expected, exact = scores(sampler, codes, positions), scores(copy.deepcopy(sampler).double(), codes, positions.double())
    found = step_by_step(sampler, codes, positions, torch.float32)
    assert (found - exact).abs().max() < (2 + 2 * mean) * (expected - exact).abs().max()
    if batch > 1:
        alone = step_by_step(sampler, codes[1:2], positions[1:2], torch.float32)
        torch.testing.assert_close(alone, found[1:2], atol=1e-4, rtol=0)  # to the bit on a GPU, see `test_gpu_graphs`


def test_float16_errors_are_those_of_rounding():
    """In float16, because the interpreter does not support bfloat16; results between two products have the weights' dtype."""
    sampler, codes, positions = random_sampler(64, 4).half(), drawn(3, 12), torch.randn(1, 12, 64).half()
    exact = scores(copy.deepcopy(sampler).double(), codes, positions.double())
    rounded = scores(sampler, codes, positions)
    found = step_by_step(sampler, codes, positions, torch.float16)
    assert (found - exact).abs().max() < 2 * (rounded - exact).abs().max()


@pytest.mark.parametrize(("look", "attended"), [(Look(), 4), (Look(layer=1), 16), (Look(layer=0, head=3), 4)], ids=str)
def test_recorded_attention_is_that_of_torch(look, attended, monkeypatch):
    """Over one or several tiles of positions, with the logits to the bit as without."""
    monkeypatch.setattr(gpu_kernels, "_ATTENDED", attended)
    sampler, codes, positions = random_sampler(64, 4), drawn(2, 7), torch.randn(1, 7, 64)
    cache = sampler.transformer.cache(2, 7, positions, look)
    sampler.transformer(sampler.tok_emb(codes) + positions, cache)
    looked = Looked(sampler.config.transformer, look, 2, 7, positions.device)
    recorded = step_by_step(sampler, codes, positions, torch.float32, looked)
    torch.testing.assert_close(looked.weights, cache.looked.weights, atol=1e-6, rtol=1e-4)
    assert torch.equal(recorded, step_by_step(sampler, codes, positions, torch.float32))


def test_autocast_does_not_round_precomputed_constants():
    sampler, codes, positions = random_sampler(64, 4), drawn(2, 6), torch.randn(1, 6, 64)
    plain = step_by_step(sampler, codes, positions, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(step_by_step(sampler, codes, positions, torch.float32), plain)


def test_fits_refuses_sizes_that_kernels_cannot_compute():
    transformer = Transformer(TransformerConfig(layers=1, heads=2, width=64))
    assert not gpu_kernels.fits(transformer, 1)
    transformer.blocks[0].attn.fuse()
    assert gpu_kernels.fits(transformer, 64)
    assert not gpu_kernels.fits(transformer, 65)
    odd = Transformer(TransformerConfig(layers=1, heads=2, width=48))
    odd.blocks[0].attn.fuse()
    assert not gpu_kernels.fits(odd, 1)
