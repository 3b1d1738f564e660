"""The sampler's step on a GPU as five kernels a block, each of which has its weights before the one in front of it is done.

A step for few sequences takes as long as its weights take to come and its kernels to follow one another. So everything that is small
happens inside the products, and where a GPU can (from Hopper on), a kernel starts, and loads what no other kernel writes, while the one in
front of it still computes.

Written in Triton, which comes with torch for GPUs; only `graphs` knows this file, and only where Triton is there.
"""

import math

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor, nn
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from unsilent.models.transformer import Transformer

MOST_ROWS = 64  # sequences; more tiles of rows would read the weights too often, so torch's own products take those
_OUTPUTS = (16, 8)  # of a tile, by the memory there is for it: few, so that all multiprocessors have some
_ROWS = 8  # of a tile
_STEP = 256  # inputs that a warp multiplies at once, at most
_SEEN, _LOOKING = 256, 8  # positions of a cache that are looked at together, by so many warps


def fits(transformer: Transformer, batch: int) -> bool:
    """Whether the kernels can take steps of so many sequences, and are worth it."""
    width, head = transformer.config.width, transformer.config.width // transformer.config.heads
    is_fused = all(block.attn.fused is not None for block in transformer.blocks)
    has_sizes = width % 64 == 0 and head >= 16 and head & (head - 1) == 0 and batch <= MOST_ROWS
    return is_fused and has_sizes and _outputs(transformer) > 0


def _outputs(transformer: Transformer) -> int:
    """How many outputs a tile has; 0 where not even the least is possible.

    All of a tile's weights are in a multiprocessor's memory at once, and of its rows what all warps multiply in one go.
    """
    weight = transformer.blocks[0].mlp[2].weight
    inputs = weight.shape[1]
    for outputs in _OUTPUTS:
        needed = weight.element_size() * (outputs * inputs + _ROWS * min(inputs, _shares(inputs) * _STEP))
        if weight.device.type != "cuda" or needed <= torch.cuda.get_device_properties(weight.device).shared_memory_per_block_optin:
            return outputs
    return 0


class StepKernels:
    """Sends single codes of `batch` sequences through the parts of a sampler.

    All but the products, whose numbers are the weights', is in float32.

    What becomes of a sequence does not depend on those beside it, nor on how many they are.

    Args:
        tokens: embeddings of codes.
        transformer: that `fits`.
        head: scores of codes.
        batch: sequences side by side.
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
        # what only products read is rounded to their numbers by whoever writes it
        self._scaled, self._attended, self._hidden = (weight.new_empty(batch, n * config.width) for n in (1, 1, 4))

    def __call__(
        self, codes: Int[Tensor, "batch"], positions: Float[Tensor, "#batch capacity width"], memory: Tensor, known: Int[Tensor, "1"],
        logits: Float[Tensor, "batch codes"],
    ) -> None:  # fmt: skip
        """Read a code of each sequence and write the scores of the next.

        Args:
            codes: to read.
            positions: what is added to the code at each position.
            memory: of a `KeyValueCache`; keys and values are written where `known` says.
            known: positions before this one, on the device.
            logits: float32, written.
        """
        gains, width = iter(self._gains), self._tokens.shape[1]
        _embed[(self._batch,)](
            codes, self._tokens, positions, known, next(gains), self._stream, self._scaled, self._sums,
            positions.stride(0) if len(positions) > 1 else 0, self._sums.shape[2], width, triton.next_power_of_2(width),
            triton.next_power_of_2(self._sums.shape[2]), self._early, launch_pdl=self._early,
        )  # fmt: skip
        for layer, (to_attention, proj, to_hidden, down) in zip(memory, self._blocks, strict=True):
            self._multiply(self._scaled, to_attention, self._projected)
            _, batch, heads, capacity, size = layer.shape
            _attend[(batch, heads)](
                self._projected, layer, self._attended, known, size**-0.5, capacity, batch * heads * capacity * size, heads, size,
                _SEEN, self._early, num_warps=_LOOKING, launch_pdl=self._early,
            )  # fmt: skip
            self._multiply(self._attended, proj, self._scaled, next(gains))
            self._multiply(self._scaled, to_hidden, self._hidden, is_hidden=True)
            self._multiply(self._hidden, down, self._scaled, next(gains))
        self._multiply(self._scaled, self._head, logits)

    def _multiply(self, x: Tensor, layer: "_Normed | nn.Linear", out: Tensor, gain: Tensor | None = None, is_hidden: bool = False) -> None:
        """A product, behind a norm if the layer has one; with the next norm's gain it is added to the stream, and `out` is that scaled."""
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
    """A layer norm and the linear layer behind it, as one product of what is in front of both, scaled by the norm's gains.

    With mean m and scale s of a row x, gains g and shifts h: W (s (x - m) g + h) + b = s (W (x g) - m W g) + W h + b, of which all but the
    row's own is computed once. Rounding grows with the mean of a row over its spread; in a residual stream that is a tenth or so.

    Attributes:
        weight: W.
        pull: W g.
        bias: W h + b.
        eps: of the norm.
    """

    def __init__(self, norm: nn.LayerNorm, linear: nn.Linear) -> None:
        self.eps, self.weight = norm.eps, linear.weight
        with torch.no_grad(), torch.autocast(linear.weight.device.type, enabled=False):  # which would round what is computed once
            weight = linear.weight.float()
            self.pull = weight @ norm.weight.float()
            self.bias = weight @ norm.bias.float() + (0 if linear.bias is None else linear.bias.float())


def _shares(inputs: int) -> int:
    """How many warps share the inputs of a product."""
    return 8 if inputs > 2048 else 4


def _can_start_early(device: torch.device) -> bool:
    """Whether a kernel can start before the one in front of it is done, and wait for it inside."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


@triton.jit
def _embed(
    codes, tokens, positions, known, gain, stream, scaled, sums, each, n_parts, WIDTH: tl.constexpr, PADDED: tl.constexpr,
    PARTS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """A code and its place become the stream; beside it, what the first product and its norm read."""
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
    """A product, each warp of which sums its share of the inputs.

    `NORMED` is behind a norm, whose sums are in `sums`; `HIDDEN` is in front of the exact GELU; `ADDED` is added to the stream, scaled by
    the next norm's gains in `out`, and leaves that norm's sums.
    """
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    is_output = output < n_outputs
    share = tl.arange(0, SHARES)[:, None] * (INPUTS // SHARES) + tl.arange(0, STEP)[None, :]
    columns = ()
    for n in tl.static_range(INPUTS // SHARES // STEP):
        place = weight + output[None, :, None] * INPUTS + n * STEP + share[:, None, :]
        columns = columns + (tl.load(place, mask=is_output[None, :, None], other=0.0),)  # noqa: RUF005 - Triton knows no stars
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
    if NORMED:  # asked for before the product, so that it is there behind it
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
    projected, memory, out, known, scale, capacity, values_after, HEADS: tl.constexpr, SIZE: tl.constexpr, SEEN: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """One head of one sequence: keep its new key and value, and look at all so far, `SEEN` at a time, as flash attention does."""
    sequence, head = tl.program_id(0), tl.program_id(1)
    number, position = tl.arange(0, SIZE), tl.arange(0, SEEN)
    n_known = tl.load(known).to(tl.int32)
    keys = memory + (sequence * HEADS + head) * capacity * SIZE
    values = keys + values_after
    is_known, place = (position < n_known)[:, None], position[:, None] * SIZE + number[None, :]
    seen_keys = tl.load(keys + place, mask=is_known, other=0.0)
    seen_values = tl.load(values + place, mask=is_known, other=0.0)
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    new = projected + sequence * 3 * HEADS * SIZE + head * SIZE + number
    query, key, value = tl.load(new) * scale, tl.load(new + HEADS * SIZE), tl.load(new + 2 * HEADS * SIZE)
    tl.store(keys + n_known * SIZE + number, key.to(memory.dtype.element_ty))
    tl.store(values + n_known * SIZE + number, value.to(memory.dtype.element_ty))
    highest, total, sums = tl.sum(query * key), 1.0, value
    for first in range(0, n_known, SEEN):
        if first > 0:
            is_known, place = (first + position < n_known)[:, None], (first + position)[:, None] * SIZE + number[None, :]
            seen_keys = tl.load(keys + place, mask=is_known, other=0.0)
            seen_values = tl.load(values + place, mask=is_known, other=0.0)
        score = tl.sum(seen_keys.to(tl.float32) * query[None, :], 1)
        score = tl.where(first + position < n_known, score, float("-inf"))
        higher = tl.maximum(highest, tl.max(score, 0))
        share, kept = tl.exp(score - higher), tl.exp(highest - higher)
        sums = sums * kept + tl.sum(share[:, None] * seen_values.to(tl.float32), 0)
        total, highest = total * kept + tl.sum(share, 0), higher
    tl.store(out + sequence * HEADS * SIZE + head * SIZE + number, (sums / total).to(out.dtype.element_ty))
