"""The kernels of a GPU's steps against torch; `test_graphs` runs them on a GPU.

Here they are interpreted, where Triton is installed: `TRITON_INTERPRET=1 pytest tests/test_kernels.py`.
"""

import copy
import os

import pytest
import torch

from unsilent.models.transformer import Transformer, TransformerConfig

pytest.importorskip("triton", reason="Triton comes with torch for GPUs")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("Triton interprets only if it was told so when it was imported", allow_module_level=True)

from unsilent import kernels

pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array")  # which the interpreter does, and NumPy 2.4 refuses


def made_up(width: int, heads: int) -> Transformer:
    torch.manual_seed(0)
    transformer = Transformer(TransformerConfig(layers=2, heads=heads, width=width)).eval().requires_grad_(False)
    for parameter in transformer.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    for block in transformer.blocks:
        block.attn.fuse()
    return transformer


def through(blocks, x):
    for block in blocks:
        x = block(x)
    return x


def step_by_step(steps: kernels.Steps, x: torch.Tensor, heads: int, dtype: torch.dtype) -> torch.Tensor:
    memory, found = torch.full((2, 2, len(x), heads, x.shape[1], x.shape[2] // heads), torch.nan, dtype=dtype), []
    for i in range(x.shape[1]):
        found.append(x[:, i : i + 1].clone())
        steps(found[-1], memory, torch.tensor([i]))
    return torch.cat(found, dim=1)


@pytest.mark.parametrize("mean", [0.0, 1.0])
@pytest.mark.parametrize(("width", "heads", "batch", "n"), [(64, 4, 3, 40), (128, 2, 1, 6), (192, 3, 17, 6)])
def test_steps_are_those_of_torch(width, heads, batch, n, mean, monkeypatch):
    """As near to double precision as torch's own float32 is, to a factor.

    Over more positions than are looked at together, widths that are no powers of two, more sequences than a tile has, and rows whose mean
    is as large as their spread, where one pass rounds more than two.
    """
    monkeypatch.setattr(kernels, "_SEEN", 16)
    transformer, x = made_up(width, heads), torch.randn(batch, n, width) + mean
    assert kernels.fits(transformer, batch)
    expected, exact = through(transformer.blocks, x), through(copy.deepcopy(transformer).double().blocks, x.double())
    found = step_by_step(kernels.Steps(transformer, batch), x, heads, torch.float32)
    assert (found - exact).abs().max() < (2 + 2 * mean) * (expected - exact).abs().max()


def test_half_weights_cost_what_they_are_rounded_by():
    """float16, as the interpreter does not know bfloat16: what is between two products is kept in the weights' numbers."""
    transformer, x = made_up(64, 4).half(), torch.randn(3, 12, 64)
    exact = through(copy.deepcopy(transformer).double().blocks, x.double())
    rounded = through(transformer.blocks, x.half())
    found = step_by_step(kernels.Steps(transformer, 3), x, 4, torch.float16)
    assert (found - exact).abs().max() < 2 * (rounded - exact).abs().max()


def test_autocast_does_not_round_what_is_computed_once():
    transformer, x = made_up(64, 4), torch.randn(2, 6, 64)
    plain = step_by_step(kernels.Steps(transformer, 2), x, 4, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        steps = kernels.Steps(transformer, 2)
    assert torch.equal(step_by_step(steps, x, 4, torch.float32), plain)


def test_what_does_not_fit_is_left_to_torch():
    transformer = Transformer(TransformerConfig(layers=1, heads=2, width=64))
    assert not kernels.fits(transformer, 1)
    transformer.blocks[0].attn.fuse()
    assert kernels.fits(transformer, 64)
    assert not kernels.fits(transformer, 65)
    odd = Transformer(TransformerConfig(layers=1, heads=2, width=48))
    odd.blocks[0].attn.fuse()
    assert not kernels.fits(odd, 1)
