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


@pytest.mark.filterwarnings("ignore:Conversion of an array")  # which the interpreter does, and NumPy 2.4 refuses
@pytest.mark.parametrize(("width", "heads", "batch", "n"), [(64, 4, 3, 270), (128, 2, 1, 6), (192, 3, 17, 6)])
def test_steps_are_those_of_torch(width, heads, batch, n):
    """As near to double precision as torch's own float32: over more positions than are looked at together, widths that are no powers of two,
    and more sequences than a tile has.
    """
    torch.manual_seed(0)
    transformer = Transformer(TransformerConfig(layers=2, heads=heads, width=width)).eval().requires_grad_(False)
    for parameter in transformer.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    for block in transformer.blocks:
        block.attn.fuse()
    assert kernels.fits(transformer, batch)
    x = torch.randn(batch, n, width)
    expected, exact = x, x.double()
    for block in transformer.blocks:
        expected, exact = block(expected), copy.deepcopy(block).double()(exact)
    memory = torch.full((2, 2, batch, heads, n, width // heads), torch.nan)
    steps, found = kernels.Steps(transformer, batch), []
    for i in range(n):
        found.append(x[:, i : i + 1].clone())
        steps(found[-1], memory, torch.tensor([i]))
    assert (torch.cat(found, dim=1) - exact).abs().max() < 2 * (expected - exact).abs().max()


def test_what_does_not_fit_is_left_to_torch():
    transformer = Transformer(TransformerConfig(layers=1, heads=2, width=64))
    assert not kernels.fits(transformer, 1)
    transformer.blocks[0].attn.fuse()
    assert kernels.fits(transformer, 64)
    assert not kernels.fits(transformer, 65)
    odd = Transformer(TransformerConfig(layers=1, heads=2, width=48))
    odd.blocks[0].attn.fuse()
    assert not kernels.fits(odd, 1)
