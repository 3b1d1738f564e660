"""A step whose shapes never change is the step; recorded on a GPU it is the same again."""

import pytest
import torch

from unsilent.graphs import GraphedTransformer
from unsilent.models.transformer import KeyValueCache, Transformer, TransformerConfig

CONFIG = TransformerConfig(layers=2, heads=4, width=64)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=[False, True], ids=["three projections", "one projection"])
def is_fused(request):
    """What is fused is read by kernels of our own on a GPU."""
    return request.param


@pytest.fixture(params=DEVICES)
def transformer(request, is_fused):
    torch.manual_seed(0)
    transformer = Transformer(CONFIG).eval().requires_grad_(False)
    for parameter in transformer.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    for block in transformer.blocks if is_fused else ():
        block.attn.fuse()
    return transformer.to(request.param)


def read(module, x, first):
    cache = KeyValueCache(CONFIG, len(x), x.shape[1], x)
    pieces = [first, *[1] * (x.shape[1] - first)]
    return torch.cat([module(piece, cache).clone() for piece in x.split(pieces, dim=1)], dim=1)


@torch.inference_mode()
def test_windows_one_after_another_and_side_by_side(transformer):
    """A second window must not see the first one's keys, nor may two sequences share the place of one."""
    graphed = GraphedTransformer(transformer)
    for batch, first in ((1, 1), (1, 7), (3, 2), (1, 4)):
        x = torch.randn(batch, 12, CONFIG.width, generator=torch.Generator().manual_seed(batch + first)).to(next(transformer.parameters()))
        torch.testing.assert_close(read(graphed, x, first), transformer(x), atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_a_cache_in_lower_precision_is_kept_in_it(transformer, is_fused):
    x = torch.randn(2, 8, CONFIG.width, generator=torch.Generator().manual_seed(1)).to(next(transformer.parameters()))
    with torch.autocast(x.device.type, torch.bfloat16):
        cache = KeyValueCache(CONFIG, 2, 8, x.bfloat16())
        graphed = GraphedTransformer(transformer)
        found = torch.cat([graphed(piece, cache).clone() for piece in x.split(1, dim=1)], dim=1)
    assert cache.memory.dtype == torch.bfloat16
    assert (graphed._recorded[cache.memory.shape].kernels is not None) == (x.is_cuda and is_fused)
    torch.testing.assert_close(found, transformer(x), atol=0.05, rtol=0.05)
