"""The sampler's step on a GPU as five Triton kernels per block. Each loads its weights while the kernel before it still computes.

A step for a small batch is limited by reading weights and launching kernels. So LayerNorm, bias, GELU and residuals are fused into the
GEMMs. On Hopper and later, programmatic dependent launch (PDL) lets a kernel start early and load data that no other kernel writes.

Triton comes with torch for GPUs. Only `gpu_graphs` imports this file, and only if Triton is installed.

Kernels of a block, in order: `_multiply` (norm, qkv), `_attend`, `_multiply` (proj, residual), `_multiply` (norm, up, GELU), `_multiply`
(down, residual). `_embed` comes before the first block, `_multiply` (norm, logits) after the last.

Pointers, all contiguous with the last axis the fastest; "weights' dtype" is that of the sampler's matrices:

| pointer | shape | dtype | content |
| --- | --- | --- | --- |
| codes | [batch] | int64 | code to process |
| tokens | [codes, width] | weights' | token embedding |
| positions | [1 or batch, capacity, width] | any float | added to the token; `each` is the stride of the batch, 0 for one |
| known | [1] | int64 | positions in the KV cache before this one |
| stream | [batch, width] | float32 | residual stream |
| gain | [width] | weights' | weight of the next LayerNorm |
| scaled | [batch, width] | weights' | residual stream times the next LayerNorm's weight: input of the following GEMM |
| sums | [batch, 2, n_parts] | float32 | sums and sums of squares of the stream, one part per tile of outputs |
| x | [batch, inputs] | weights' | input of a GEMM: `scaled`, `attended` or `hidden` |
| weight, bias | [outputs, inputs], [outputs] | weights', float32 | parameters of a GEMM; `bias` includes the norm's, see `_Normed` |
| pull | [outputs] | float32 | W g of `_Normed` |
| out | [batch, outputs] | weights' or float32 | `projected`, `scaled`, `hidden` or the logits |
| projected | [batch, 3 * width] | float32 | queries, keys, values |
| memory | [2, batch, heads, capacity, head] | the cache's | KV cache of one block, keys then values; `values_after` is their distance |
| looked | [batch, heads, capacity] | float32 | attention weights of one block, 0 after the new position; only written if `LOOKS` |
| attended, hidden | [batch, width], [batch, 4 * width] | weights' | result of attention, of GELU |
"""

import math

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor, nn
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from unsilent.models.transformer import Looked, Transformer

MAX_BATCH = 64  # sequences; larger batches use torch's GEMMs, because each tile of rows reads all weights again
_OUTPUTS = (16, 8)  # outputs per tile; the first that fits into shared memory is used. Few, so that every multiprocessor gets tiles
_ROWS = 8  # rows per tile
_STEP = 256  # largest number of inputs that a warp multiplies at once
_ATTENDED, _ATTEND_WARPS = 256, 8  # cached positions that a program of `_attend` processes at a time, and its warps


def fits(transformer: Transformer, batch: int) -> bool:
    """Whether the kernels support this transformer and batch, and are faster than torch's."""
    width, head = transformer.config.width, transformer.config.width // transformer.config.heads
    is_fused = all(block.attn.fused is not None for block in transformer.blocks)
    has_sizes = width % 64 == 0 and head >= 16 and head & (head - 1) == 0 and batch <= MAX_BATCH
    return is_fused and has_sizes and _outputs(transformer) > 0


def _outputs(transformer: Transformer) -> int:
    """Outputs per tile; 0 if even the smallest tile does not fit into shared memory.

    Shared memory holds all weights of a tile, and the part of its rows that the warps multiply at once.
    """
    weight = transformer.blocks[0].mlp[2].weight
    inputs = weight.shape[1]
    for outputs in _OUTPUTS:
        needed = weight.element_size() * (outputs * inputs + _ROWS * min(inputs, _shares(inputs) * _STEP))
        if weight.device.type != "cuda" or needed <= torch.cuda.get_device_properties(weight.device).shared_memory_per_block_optin:
            return outputs
    return 0


class StepKernels:
    """One step of the sampler for `batch` sequences: from one code of each to the logits of the next.

    Operands of GEMMs have the weights' dtype, everything else is float32. The result of a sequence does not depend on other sequences or on
    the batch size.

    Args:
        tokens: embedding of codes.
        transformer: a transformer that `fits`.
        head: linear layer of the logits.
        batch: number of sequences.
    """

    def __init__(self, tokens: nn.Embedding, transformer: Transformer, head: nn.Linear, batch: int) -> None:
        config, weight = transformer.config, head.weight
        norms = [norm for block in transformer.blocks for norm in (block.ln1, block.ln2)]
        self._batch, self._early, self._outputs = batch, _can_start_early(weight.device), _outputs(transformer)
        self._tokens, self._gains = tokens.weight, [norm.weight for norm in (*norms, transformer.ln_f)]
        self._blocks = [
            (_Normed(block.ln1, block.attn.fused), block.attn.proj, _Normed(block.ln2, block.mlp[0]), block.mlp[2])
            for block in transformer.blocks
        ]
        self._head = _Normed(transformer.ln_f, head)
        self._stream, self._projected = (weight.new_empty(batch, n * config.width, dtype=torch.float32) for n in (1, 3))
        self._sums = weight.new_empty(batch, 2, config.width // self._outputs, dtype=torch.float32)
        # inputs of GEMMs, rounded to the weights' dtype by the kernel that writes them
        self._scaled, self._attended, self._hidden = (weight.new_empty(batch, n * config.width) for n in (1, 1, 4))

    def __call__(
        self, codes: Int[Tensor, "batch"], positions: Float[Tensor, "#batch capacity width"], memory: Tensor, known: Int[Tensor, "1"],
        logits: Float[Tensor, "batch codes"], looked: Looked | None = None,
    ) -> None:  # fmt: skip
        """Process one code of each sequence, and write the logits of the next.

        Args:
            codes: codes to process.
            positions: position embeddings, added to the token embeddings.
            memory: memory of a `KeyValueCache`; the new keys and values are written at position `known`.
            known: number of positions before this one, on the device.
            logits: float32, overwritten.
            looked: gets the attention weights; None where they are not wanted.
        """
        _, _, batch, heads, capacity, size = memory.shape
        weights = None if looked is None else memory.new_empty((len(looked.layers), batch, heads, capacity), dtype=torch.float32)
        gains, width = iter(self._gains), self._tokens.shape[1]
        _embed[(self._batch,)](
            codes, self._tokens, positions, known, next(gains), self._stream, self._scaled, self._sums,
            positions.stride(0) if len(positions) > 1 else 0, self._sums.shape[2], width, triton.next_power_of_2(width),
            triton.next_power_of_2(self._sums.shape[2]), self._early, launch_pdl=self._early,
        )  # fmt: skip
        for number, (layer, (to_attention, proj, to_hidden, down)) in enumerate(zip(memory, self._blocks, strict=True)):
            self._multiply(self._scaled, to_attention, self._projected)
            looks = looked is not None and number in looked.layers
            _attend[(batch, heads)](
                self._projected, layer, self._attended, weights[number - looked.layers.start] if looks else self._sums, known, size**-0.5,
                capacity, batch * heads * capacity * size, heads, size, _ATTENDED, looks, self._early, num_warps=_ATTEND_WARPS,
                launch_pdl=self._early,
            )  # fmt: skip
            self._multiply(self._attended, proj, self._scaled, next(gains))
            self._multiply(self._scaled, to_hidden, self._hidden, is_hidden=True)
            self._multiply(self._hidden, down, self._scaled, next(gains))
        self._multiply(self._scaled, self._head, logits)
        if looked is not None:
            looked.add(weights.sum(0)[:, :, None], known)

    def _multiply(self, x: Tensor, layer: "_Normed | nn.Linear", out: Tensor, gain: Tensor | None = None, is_hidden: bool = False) -> None:
        """A GEMM with its norm, if any. With `gain`, the result is added to the stream, and `out` is the stream times `gain`."""
        is_normed = isinstance(layer, _Normed)
        outputs, inputs = layer.weight.shape
        shares = _shares(inputs)
        step = math.gcd(inputs // shares, _STEP)
        _multiply[(triton.cdiv(outputs, self._outputs), triton.cdiv(self._batch, _ROWS))](
            x, layer.weight, layer.bias, out, layer.pull if is_normed else x, layer.eps if is_normed else 0.0, self._stream,
            x if gain is None else gain, self._sums, self._batch, outputs, inputs, self._sums.shape[2], shares, step, self._outputs, _ROWS,
            triton.next_power_of_2(self._sums.shape[2]), is_normed, is_hidden, gain is not None, self._early,
            num_warps=shares, launch_pdl=self._early,
        )  # fmt: skip


class _Normed:
    """A LayerNorm and the following linear layer as one matrix product with the input times the norm's gains.

    With mean m and scale s of a row x, gains g and shifts h: W (s (x - m) g + h) + b = s (W (x g) - m W g) + W h + b. W g and W h + b are
    computed once. Rounding errors grow with a row's mean relative to its deviation, about 0.1 in a residual stream.

    Attributes:
        weight: W.
        pull: W g.
        bias: W h + b.
        eps: epsilon of the norm.
    """

    def __init__(self, norm: nn.LayerNorm, linear: nn.Linear) -> None:
        self.eps, self.weight = norm.eps, linear.weight
        with torch.no_grad(), torch.autocast(linear.weight.device.type, enabled=False):  # autocast would round these constants
            weight = linear.weight.float()
            self.pull = weight @ norm.weight.float()
            self.bias = weight @ norm.bias.float() + (0 if linear.bias is None else linear.bias.float())


def _shares(inputs: int) -> int:
    """Number of warps that share the inputs of a GEMM."""
    return 8 if inputs > 2048 else 4


def _can_start_early(device: torch.device) -> bool:
    """Whether the GPU has programmatic dependent launch: a kernel starts before its predecessor ends, and waits inside."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


@triton.jit
def _embed(
    codes, tokens, positions, known, gain, stream, scaled, sums, each, n_parts, WIDTH: tl.constexpr, PADDED: tl.constexpr,
    PARTS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Token plus position embedding: writes the stream, and scaled input and sums of the first norm."""
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    sequence, number, part = tl.program_id(0), tl.arange(0, PADDED), tl.arange(0, PARTS)
    is_there = number < WIDTH
    token = tl.load(tokens + tl.load(codes + sequence) * WIDTH + number, mask=is_there, other=0.0).to(tl.float32)
    place = tl.load(positions + sequence * each + tl.load(known) * WIDTH + number, mask=is_there, other=0.0).to(tl.float32)
    value = token + place
    tl.store(stream + sequence * WIDTH + number, value, mask=is_there)
    value_scaled = value * tl.load(gain + number, mask=is_there, other=0.0).to(tl.float32)
    tl.store(scaled + sequence * WIDTH + number, value_scaled.to(scaled.dtype.element_ty), mask=is_there)
    first = sums + sequence * 2 * n_parts + part
    tl.store(first, tl.where(part == 0, tl.sum(value, 0), 0.0), mask=part < n_parts)
    tl.store(first + n_parts, tl.where(part == 0, tl.sum(value * value, 0), 0.0), mask=part < n_parts)


@triton.jit
def _multiply(
    x, weight, bias, out, pull, eps, stream, gain, sums, n_rows, n_outputs, INPUTS: tl.constexpr, n_parts, SHARES: tl.constexpr,
    STEP: tl.constexpr, OUTPUTS: tl.constexpr, ROWS: tl.constexpr, PARTS: tl.constexpr, NORMED: tl.constexpr, HIDDEN: tl.constexpr,
    ADDED: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """A GEMM, split over the warps of a program along the inputs (split K).

    `NORMED`: a norm precedes it, whose statistics are in `sums`. `HIDDEN`: exact GELU follows. `ADDED`: the result is added to the stream;
    `out` is the stream times the next norm's gains, and `sums` gets that norm's statistics.
    """
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    is_output = output < n_outputs
    share = tl.arange(0, SHARES)[:, None] * (INPUTS // SHARES) + tl.arange(0, STEP)[None, :]
    columns = ()
    for n in tl.static_range(INPUTS // SHARES // STEP):
        place = weight + output[None, :, None] * INPUTS + n * STEP + share[:, None, :]
        columns = columns + (tl.load(place, mask=is_output[None, :, None], other=0.0),)  # noqa: RUF005 - Triton does not support unpacking
    offset = tl.load(bias + output, mask=is_output, other=0.0).to(tl.float32)
    if NORMED:
        pulled = tl.load(pull + output, mask=is_output, other=0.0)
    if ADDED:
        gains = tl.load(gain + output, mask=is_output, other=0.0).to(tl.float32)
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    is_row = row < n_rows
    place_out, is_there = row[None, :] * n_outputs + output[:, None], is_row[None, :] & is_output[:, None]
    if NORMED:  # loaded before the product, to hide the latency
        part = tl.arange(0, PARTS)
        place_sums, is_part = sums + row[:, None] * 2 * n_parts + part[None, :], is_row[:, None] & (part < n_parts)[None, :]
        totals, squares = tl.load(place_sums, mask=is_part, other=0.0), tl.load(place_sums + n_parts, mask=is_part, other=0.0)
    if ADDED:
        before = tl.load(stream + place_out, mask=is_there, other=0.0)
    product = tl.zeros((SHARES, OUTPUTS, ROWS), tl.float32)
    for n in tl.static_range(INPUTS // SHARES // STEP):
        place = x + row[None, None, :] * INPUTS + n * STEP + share[:, :, None]
        product = tl.dot(columns[n], tl.load(place, mask=is_row[None, None, :], other=0.0), product, input_precision="ieee")
    value = tl.sum(product, 0)
    if NORMED:
        mean = tl.sum(totals, 1) / INPUTS
        scale = 1 / tl.sqrt(tl.maximum(tl.sum(squares, 1) / INPUTS - mean * mean, 0.0) + eps)
        value = (value - pulled[:, None] * mean[None, :]) * scale[None, :]
    value += offset[:, None]
    if HIDDEN:
        value = 0.5 * value * (1 + tl.erf(value * 0.7071067811865476))
    if ADDED:
        value += before
        tl.store(stream + place_out, value, mask=is_there)
        first = sums + row * 2 * n_parts + tl.program_id(0)
        tl.store(first, tl.sum(value, 0), mask=is_row)
        tl.store(first + n_parts, tl.sum(value * value, 0), mask=is_row)
        value = value * gains[:, None]
    tl.store(out + place_out, value.to(out.dtype.element_ty), mask=is_there)


@triton.jit
def _attend(
    projected, memory, out, looked, known, scale, capacity, values_after, HEADS: tl.constexpr, SIZE: tl.constexpr, ATTENDED: tl.constexpr,
    LOOKS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """One head of one sequence: store its new key and value, then attend to all, `ATTENDED` at a time, as flash attention does.

    The attention weights are normalised only at the end, so recording them needs a second pass over all keys.
    """
    sequence, head = tl.program_id(0), tl.program_id(1)
    number, position = tl.arange(0, SIZE), tl.arange(0, ATTENDED)
    n_known = tl.load(known).to(tl.int32)
    keys = memory + (sequence * HEADS + head) * capacity * SIZE
    values = keys + values_after
    is_known, place = (position < n_known)[:, None], position[:, None] * SIZE + number[None, :]
    known_keys = tl.load(keys + place, mask=is_known, other=0.0)
    known_values = tl.load(values + place, mask=is_known, other=0.0)
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    new = projected + sequence * 3 * HEADS * SIZE + head * SIZE + number
    query, key, value = tl.load(new) * scale, tl.load(new + HEADS * SIZE), tl.load(new + 2 * HEADS * SIZE)
    tl.store(keys + n_known * SIZE + number, key.to(memory.dtype.element_ty))
    tl.store(values + n_known * SIZE + number, value.to(memory.dtype.element_ty))
    own = tl.sum(query * key)
    highest, total, sums = own, 1.0, value
    for first in range(0, n_known, ATTENDED):
        if first > 0:
            is_known, place = (first + position < n_known)[:, None], (first + position)[:, None] * SIZE + number[None, :]
            known_keys = tl.load(keys + place, mask=is_known, other=0.0)
            known_values = tl.load(values + place, mask=is_known, other=0.0)
        score = tl.sum(known_keys.to(tl.float32) * query[None, :], 1)
        score = tl.where(first + position < n_known, score, float("-inf"))
        higher = tl.maximum(highest, tl.max(score, 0))
        share, kept = tl.exp(score - higher), tl.exp(highest - higher)
        sums = sums * kept + tl.sum(share[:, None] * known_values.to(tl.float32), 0)
        total, highest = total * kept + tl.sum(share, 0), higher
    tl.store(out + sequence * HEADS * SIZE + head * SIZE + number, (sums / total).to(out.dtype.element_ty))
    if LOOKS:
        weights = looked + (sequence * HEADS + head) * capacity
        for first in range(0, capacity, ATTENDED):
            at = first + position
            again = tl.load(keys + at[:, None] * SIZE + number[None, :], mask=(at < n_known)[:, None], other=0.0)
            score = tl.where(at == n_known, own, tl.sum(again.to(tl.float32) * query[None, :], 1))
            weight = tl.where(at <= n_known, tl.exp(score - highest) / total, 0.0)
            tl.store(weights + at, weight, mask=at < capacity)
