"""The transformer in C equals the transformer in torch: in every dtype, however positions, sequences and threads are split."""

import copy
import multiprocessing

import pytest
import torch
from torch import nn

from unsilent.errors import ParameterError, ResourceError
from unsilent.models.configs import TransformerConfig
from unsilent.models.transformer import Block, KeyValueCache, Look, Transformer
from unsilent.speed import cpu_transformer
from unsilent.speed.cpu_transformer import KERNELS, PackedBlock, PackedHead, PackedMatrix, PackedTransformer

pytestmark = pytest.mark.skipif(not cpu_transformer.is_built(), reason="installed without a C compiler")

CONFIG = TransformerConfig(layers=2, heads=4, width=128)
X = torch.randn(3, 24, CONFIG.width, generator=torch.Generator().manual_seed(1))


def uneven(config):
    torch.manual_seed(0)
    made = Transformer(config).eval().requires_grad_(False)
    for weight in made.parameters():  # also biases and norms, which start as zeros and ones
        weight += 0.1 * torch.randn(weight.shape)
    return made


@pytest.fixture(scope="module")
def transformer():
    return uneven(CONFIG)


def packed(transformer, kind):
    made = copy.deepcopy(transformer)
    for number, block in enumerate(made.blocks):
        made.blocks[number] = PackedBlock(block, kind)
    return PackedTransformer(made, kind)


def feed(module, x, *lengths):
    """Results for `x`, fed in pieces of these lengths, then one position at a time."""
    cache = module.cache(len(x), x.shape[1], x)
    lengths = [*lengths, *[1] * (x.shape[1] - sum(lengths))]
    return torch.cat([module(piece, cache) for piece in x.split(lengths, dim=1)], dim=1)


@pytest.mark.parametrize(("kind", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.02), ("int8", 0.03)])
@pytest.mark.parametrize("lengths", [(24,), (7, 10), ()])
def test_packed_transformer_equals_transformer(transformer, kind, tolerance, lengths):
    expected, found = transformer(X), feed(packed(transformer, kind), X, *lengths)
    assert (found - expected).norm() < tolerance * expected.norm()


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
def test_results_do_not_depend_on_threads_pieces_and_batch(transformer, kind):
    """A take must not depend on other takes of any magnitude, nor on the number of threads: to the bit."""
    module = packed(transformer, kind)
    results = []
    for threads in (1, 2, 5):
        module.threads = threads
        results += [feed(module, X), feed(module, X, 9, 4), feed(module, torch.cat([X, 1000 * X]), 24)[:3]]
        results.append(torch.cat([feed(module, one[None], 5) for one in X]))
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("heads", [16, 2, 1])
@pytest.mark.parametrize(("kind", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.02), ("int8", 0.03)])
def test_heads_of_any_width(kind, tolerance, heads):
    """8 elements, less than a register; 64, as in the paper; 128."""
    made = uneven(TransformerConfig(layers=2, heads=heads, width=128))
    expected, found = made(X), feed(packed(made, kind), X, 9, 4)
    assert (found - expected).norm() < tolerance * expected.norm()


def looked(module, x, look, *lengths):
    """Attention weights for `x`, fed as by `feed`."""
    cache = module.cache(len(x), x.shape[1] + 2, x, look)
    for piece in x.split([*lengths, *[1] * (x.shape[1] - sum(lengths))], dim=1):
        module(piece, cache)
    return cache.looked.weights


@pytest.fixture(params=KERNELS)
def kernels(request):
    """Each set of kernels that the processor supports."""
    chosen = KERNELS.index(request.param)
    used = cpu_transformer.library().unsilent_use_kernels(chosen)
    yield request.param if used == chosen else pytest.skip(f"this processor has no {request.param}")
    cpu_transformer.library().unsilent_use_kernels(len(KERNELS) - 1)


# of weights that add up to 1 in each row, by their largest difference from float32
@pytest.mark.parametrize(("kind", "tolerance"), [("float32", 1e-6), ("bfloat16", 0.01), ("int8", 0.03)])
@pytest.mark.parametrize("look", [Look(), Look(layer=1), Look(head=2), Look(layer=0, head=3)], ids=str)
def test_recorded_attention_is_that_of_torch(transformer, kernels, kind, tolerance, look):
    expected = looked(transformer, X, look, 24)
    module, results = packed(transformer, kind), []
    for threads, lengths in ((1, ()), (2, (24,)), (5, (9, 4))):
        module.threads = threads
        results.append(looked(module, X, look, *lengths))
    assert all(torch.equal(result, results[0]) for result in results)
    assert (results[0] - expected).abs().max() < tolerance
    torch.testing.assert_close(results[0][:, :24].sum(2), torch.ones(3, 24), atol=1e-5, rtol=0)
    assert not results[0][:, 24:].any()


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
def test_recording_attention_changes_no_result(transformer, kind):
    module = packed(transformer, kind)
    cache = module.cache(3, 24, X, Look())
    recorded = torch.cat([module(piece, cache) for piece in X.split([9, *[1] * 15], dim=1)], dim=1)
    assert torch.equal(recorded, feed(module, X, 9))


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_kernels_are_equal(transformer, kernels, kind, batch):
    """int8 products are exact in all; float sums differ in their last bits, which quantisation may turn into one level."""
    module = packed(transformer, kind)
    found, library = feed(module, X[:batch], 9, 4), cpu_transformer.library()
    library.unsilent_use_kernels(KERNELS.index("plain"))
    torch.testing.assert_close(found, feed(module, X[:batch], 9, 4), atol=1e-5 if kind == "float32" else 2e-2, rtol=0)


@pytest.mark.parametrize("bias", [3.0, -0.75])
@pytest.mark.parametrize("weight", [0.01, -0.01])
def test_largest_int8_products_do_not_saturate(transformer, kernels, bias, weight):
    """All hidden values and weights have the largest size; AVX2 adds pairs of their products in int16."""
    made = copy.deepcopy(transformer)
    for block in made.blocks:
        up, _, down = block.mlp
        nn.init.zeros_(up.weight), nn.init.constant_(up.bias, bias), nn.init.constant_(down.weight, weight)
    expected, found = made(X), feed(packed(made, "int8"), X, 9, 4)
    assert (found - expected).norm() < 0.03 * expected.norm()


def test_workers_do_not_read_freed_weights(transformer):
    """Regression: with more threads than processors, late workers read weights that were freed after the call.

    It crashed within a hundred samplers.
    """
    expected = feed(packed(transformer, "int8"), X)
    for _ in range(100):
        module = packed(transformer, "int8")
        module.threads = 5
        assert torch.equal(feed(module, X), expected)


@pytest.mark.parametrize(("kind", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.02), ("int8", 0.03)])
def test_repeated_cache_continues_from_a_shared_prefix(transformer, kind, tolerance):
    module = packed(transformer, kind)
    cache = module.cache(1, 24, X)
    module(X[:1, :10], cache)
    cache.repeat(3, 24)
    together = torch.cat([X[:1, :10].expand(3, -1, -1), X[:, 10:]], dim=1)
    expected = transformer(together)[:, 10:]
    assert (module(X[:, 10:], cache) - expected).norm() < tolerance * expected.norm()


@pytest.mark.parametrize(("kind", "tolerance"), [("float32", 1e-6), ("bfloat16", 3e-3)])
def test_packed_head_equals_linear_layer(transformer, kind, tolerance):
    """Each row to the bit the same in any batch and with any number of threads."""
    head, module, rows = nn.Linear(128, 192, bias=False).requires_grad_(False), packed(transformer, "int8"), X[:, 0]
    scorer, expected = PackedHead(head, module, kind), head(rows)
    found = scorer(rows)
    assert (found - expected).norm() < tolerance * expected.norm()
    for threads in (1, 2, 5):
        module.threads = threads
        assert torch.equal(scorer(torch.cat([rows, 1000 * rows]))[:3], found)
        assert torch.equal(torch.cat([scorer(row[None]) for row in rows]), found)


def test_input_is_not_modified(transformer):
    x = X.clone()
    feed(packed(transformer, "int8"), x, 24)
    assert torch.equal(x, X)


def test_caches_that_do_not_fit_are_refused(transformer):
    module = packed(transformer, "float32")
    with pytest.raises(ParameterError, match="24 positions do not fit into a KV cache of 23"):
        module(X, module.cache(3, 23, X))
    with pytest.raises(ParameterError, match=r"needs a cache of torch\.float32 on cpu, .* but was given torch\.bfloat16 on cpu"):
        module(X, KeyValueCache(CONFIG, 3, 24, X.bfloat16()))
    with pytest.raises(ParameterError, match=r"for 3 sequences, 32 numbers a head, but was given .* for 2 sequences, 32 numbers a head"):
        module(X, module.cache(2, 24, X))
    with pytest.raises(ParameterError, match=r"for 3 sequences, 36 numbers a head, but was given .* for 3 sequences, 32 numbers a head"):
        packed(transformer, "int8")(X, KeyValueCache(CONFIG, 3, 24, X.to(torch.int8)))


def test_no_memory_is_a_resource_error(transformer, monkeypatch):
    class Exhausted:
        unsilent_forward = unsilent_linear = staticmethod(lambda *arguments: 1)

    module = packed(transformer, "int8")
    head, cache = PackedHead(nn.Linear(128, 192, bias=False).requires_grad_(False), module, "float32"), module.cache(3, 24, X)
    monkeypatch.setattr(cpu_transformer, "library", Exhausted)
    with pytest.raises(ResourceError, match="no memory to compute 3 x 24 positions at once; ask for fewer takes"):
        module(X, cache)
    with pytest.raises(ResourceError, match="no memory for the logits of 3 sequences at once; ask for fewer takes"):
        head(X[:, 0])


def test_weights_of_any_magnitude_are_quantised(transformer):
    """Zeros, very large and very small weights, to half a level of each output."""
    block = copy.deepcopy(transformer.blocks[0])
    block.mlp[0].weight[:64] = 0
    block.mlp[0].weight[64:128] *= 1e6
    block.mlp[0].weight[128:192] *= 1e-6
    made = PackedMatrix(block.mlp[0].weight, block.mlp[0].bias, "int8")
    assert made.scale.isfinite().all()
    assert made.weight.abs().max() == 127
    dequantised = made.weight.transpose(1, 2).flatten(2).flatten(0, 1) * made.scale[:, None]
    assert ((dequantised - block.mlp[0].weight).abs().amax(1) <= 0.51 * made.scale).all()
    assert made.offset.equal(128 * made.weight.transpose(1, 2).flatten(2).flatten(0, 1).sum(1, dtype=torch.int32))


def _run_in_a_child(kind, results):
    torch.manual_seed(3)
    module = packed(Transformer(CONFIG).eval().requires_grad_(False), kind)
    module.threads = 2
    results.put(feed(module, X).numpy())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_child_spawns_its_own_workers():
    """A forked child has no threads of its parent, and would wait for them forever."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    _run_in_a_child("int8", results)  # so that the parent has workers
    expected = results.get(timeout=10)
    child = context.Process(target=_run_in_a_child, args=("int8", results), daemon=True)
    child.start()
    found = results.get(timeout=60)
    child.join(10)
    assert (found == expected).all()


def test_fits_requires_a_multiple_of_the_lanes():
    assert cpu_transformer.fits(CONFIG)
    assert not cpu_transformer.fits(CONFIG.model_copy(update={"width": 96}))
    assert isinstance(Transformer(CONFIG).blocks[0], Block)
