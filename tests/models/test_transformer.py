"""The transformer: attention equal to torch's, causality, KV cache, dropout, size."""

import pytest
import torch
from torch import nn

from unsilent.errors import ParameterError
from unsilent.models.configs import TransformerConfig
from unsilent.models.transformer import Attention, KeyValueCache, Look, Transformer

CONFIG = TransformerConfig(layers=3, heads=4, width=32)


@pytest.fixture
def transformer():
    torch.manual_seed(0)
    return Transformer(CONFIG).eval()


def hidden(sequence, batch=2):
    return torch.randn(batch, sequence, CONFIG.width, generator=torch.Generator().manual_seed(sequence))


@torch.inference_mode()
def continued(transformer, x, pieces):
    """`x` through a KV cache, in pieces of the given lengths, and the cache."""
    cache = KeyValueCache(CONFIG, len(x), x.shape[1], x)
    return torch.cat([transformer(piece, cache) for piece in x.split(pieces, dim=1)], dim=1), cache


def test_attention_equals_torch_multihead_attention():
    torch.manual_seed(0)
    ours, theirs = Attention(CONFIG), nn.MultiheadAttention(CONFIG.width, CONFIG.heads, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key.bias, ours.value.bias]))
        theirs.out_proj.load_state_dict(ours.proj.state_dict())
    x, later = hidden(7), torch.ones(7, 7, dtype=torch.bool).triu(1)
    torch.testing.assert_close(ours(x), theirs(x, x, x, attn_mask=later, need_weights=False)[0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("layer", "head"), [(None, None), (1, None), (None, 2), (2, 3)])
@pytest.mark.parametrize("pieces", [[12], [1] * 12, [5, 1, 1, 5]])
def test_recorded_weights_are_those_of_torch(transformer, pieces, layer, head):
    """Of one layer and head, or their mean; recorded in any pieces, with the results unchanged."""
    x, inputs = hidden(12), []
    for block in transformer.blocks:
        block.attn.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    with torch.inference_mode():
        plain, later = transformer(x), torch.ones(12, 12, dtype=torch.bool).triu(1)
        weights = []
        for block, given in zip(transformer.blocks, list(inputs), strict=True):
            theirs, ours = nn.MultiheadAttention(CONFIG.width, CONFIG.heads, batch_first=True), block.attn
            theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
            theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key.bias, ours.value.bias]))
            weights.append(theirs(given, given, given, attn_mask=later, average_attn_weights=False)[1])
        chosen = weights if layer is None else [weights[layer]]
        heads = torch.cat(chosen, 1) if head is None else torch.stack([one[:, head] for one in chosen], 1)
        cache = transformer.cache(2, 14, x, Look(layer, head))
        found = torch.cat([transformer(piece, cache) for piece in x.split(pieces, dim=1)], dim=1)
    torch.testing.assert_close(found, plain, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(cache.looked.weights[:, :12, :12], heads.mean(1), atol=1e-6, rtol=1e-4)
    assert not cache.looked.weights[:, 12:].any()


def test_weights_of_a_shared_prefix_are_repeated(transformer):
    x = hidden(8, batch=3)
    x[:, :5] = x[:1, :5]
    with torch.inference_mode():
        whole, cache = transformer.cache(3, 9, x, Look()), transformer.cache(1, 5, x, Look())
        transformer(x, whole)
        transformer(x[:1, :5], cache)
        cache.repeat(3, 9)
        transformer(x[:, 5:], cache)
    torch.testing.assert_close(cache.looked.weights, whole.looked.weights, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("look", [Look(layer=3), Look(head=4), Look(layer=-1)])
def test_absent_layers_and_heads_are_refused(transformer, look):
    with pytest.raises(ParameterError, match=r"(layer is (3|-1)|head is 4), but this sampler has 0 to [23]"):
        transformer.cache(1, 9, hidden(9), look)


@pytest.mark.parametrize("position", [0, 4, 8])
def test_attention_is_causal(transformer, position):
    x = hidden(9).requires_grad_()
    # one channel only, because the sum over channels is constant after LayerNorm
    transformer(x)[:, position, 0].sum().backward()
    reached = x.grad.abs().sum((0, 2)) > 0
    assert reached[: position + 1].all()
    assert not reached[position + 1 :].any()


@pytest.mark.parametrize("pieces", [[12], [1] * 12, [5, 1, 1, 5], [3, 4, 5], [11, 1]])
def test_cached_pieces_equal_one_pass(transformer, pieces):
    x = hidden(12)
    through_cache, cache = continued(transformer, x, pieces)
    torch.testing.assert_close(through_cache, transformer(x), atol=1e-5, rtol=1e-5)
    assert cache.length == 12


@torch.inference_mode()
def test_cache_contents_past_its_length_are_ignored(transformer):
    """The KV cache is allocated without clearing it."""
    x = hidden(6)
    cache = KeyValueCache(CONFIG, 2, 10, x)
    cache.memory.fill_(torch.nan)
    pieces = [transformer(piece, cache) for piece in x.split([3, 1, 2], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), transformer(x), atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_cache_is_allocated_once(transformer):
    x = hidden(8)
    cache = KeyValueCache(CONFIG, 2, 8, x)
    address = cache.memory.data_ptr()
    for piece in x.split(1, dim=1):
        transformer(piece, cache)
    assert cache.memory.data_ptr() == address
    assert cache.memory.shape == (3, 2, 2, 4, 8, 8)


@torch.inference_mode()
def test_positions_beyond_the_capacity_are_refused(transformer):
    x = hidden(5)
    cache = KeyValueCache(CONFIG, 2, 4, x)
    transformer(x[:, :4], cache)
    with pytest.raises(ParameterError, match="5 positions do not fit into a KV cache of 4"):
        transformer(x[:, 4:], cache)


def test_dropout_is_active_in_training_only():
    torch.manual_seed(0)
    transformer, x = Transformer(CONFIG.model_copy(update={"dropout": 0.5})), hidden(6)
    assert not torch.equal(transformer(x), transformer(x))
    transformer.eval()
    assert torch.equal(transformer(x), transformer(x))


def test_number_of_parameters_is_the_papers():
    """24 layers of width 1024 and the final LayerNorm; per layer 12 width² weights, 13 width biases and norm parameters."""
    with torch.device("meta"):
        transformer = Transformer(TransformerConfig(layers=24, heads=16, width=1024))
    assert sum(p.numel() for p in transformer.parameters()) == 24 * (12 * 1024**2 + 13 * 1024) + 2 * 1024
