"""The sampler's step on a GPU as five kernels a block: everything that is small happens inside the products, which read each weight once.

Written in Triton, which comes with torch for GPUs; only `graphs` knows this file, and only where Triton is there.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor, nn

from unsilent.models.transformer import Transformer

MOST_ROWS = 64  # sequences; of more, products are no longer bound by reading weights, and torch's own are as good
_ROWS = 16  # of a tile, the fewest that tensor cores multiply
_OUTPUTS = 16  # of a tile: so few that all multiprocessors have some
_SEEN = 256  # positions of a cache that are looked at together
_STAGES = 3  # of a product's steps, two of which are loaded ahead: with steps of 256 in the 99 kB of shared memory that small GPUs have


def fits(transformer: Transformer, batch: int) -> bool:
    """Whether the kernels can take steps of so many sequences, and are worth it."""
    width, head = transformer.config.width, transformer.config.width // transformer.config.heads
    is_fused = all(block.attn.fused is not None for block in transformer.blocks)
    return is_fused and width % 64 == 0 and head >= 16 and head & (head - 1) == 0 and batch <= MOST_ROWS


class Steps:
    """Sends single positions of `batch` sequences through all blocks; all but the products, whose numbers are the weights', is in float32.

    Args:
        transformer: that `fits`, on its device.
        batch: sequences side by side.
    """

    def __init__(self, transformer: Transformer, batch: int) -> None:
        config, weight = transformer.config, transformer.blocks[0].attn.proj.weight
        self._blocks = [
            (_Normed(block.ln1, block.attn.fused), block.attn.proj, _Normed(block.ln2, block.mlp[0]), block.mlp[2])
            for block in transformer.blocks
        ]
        self._projected = weight.new_empty(batch, 3 * config.width, dtype=torch.float32)
        # these are read by products only, which round them so
        self._attended, self._hidden = (weight.new_empty(batch, n * config.width) for n in (1, 4))

    def __call__(self, x: Float[Tensor, "batch sequence width"], memory: Tensor, known: Int[Tensor, "1"]) -> None:
        """Change `x`, float32, whose sequence is one position, into what comes out of the last block.

        Args:
            x: contiguous.
            memory: of a `KeyValueCache`; keys and values are written where `known` says.
            known: positions before this one, on the device.
        """
        for layer, (to_attention, proj, to_hidden, down) in zip(memory, self._blocks, strict=True):
            _, batch, heads, capacity, size = layer.shape
            to_attention(x, self._projected, False)
            _attend[(batch, heads)](
                self._projected, layer, self._attended, known, size**-0.5, capacity, batch * heads * capacity * size, heads, size,
                _SEEN, num_warps=8,
            )  # fmt: skip
            _added(self._attended, proj, x)
            to_hidden(x, self._hidden, True)
            _added(self._hidden, down, x)


class _Normed:
    """A layer norm and the linear layer behind it, as one pass over the inputs.

    With mean m and scale s of a row x, gains g and shifts h: W (s (x - m) g + h) + b = s (W (x g) - m W g) + W h + b, of which all but the
    row's own is computed once. Rounding grows with the mean of a row over its spread; in a residual stream that is a tenth or so.
    """

    def __init__(self, norm: nn.LayerNorm, linear: nn.Linear) -> None:
        self._eps, self._weight = norm.eps, linear.weight
        with torch.no_grad(), torch.autocast(linear.weight.device.type, enabled=False):  # which would round what is computed once
            weight, self._gain = linear.weight.float(), norm.weight.float()
            self._pull = weight @ self._gain
            self._offset = weight @ norm.bias.float() + linear.bias.float()

    def __call__(self, x: Tensor, out: Tensor, is_hidden: bool) -> None:
        outputs, inputs = self._weight.shape
        _normed_product[(triton.cdiv(outputs, _OUTPUTS), triton.cdiv(len(out), _ROWS))](
            x, self._gain, self._weight, self._pull, self._offset, out, len(out), inputs, outputs, self._eps, _ROWS, _OUTPUTS,
            _step(inputs), is_hidden, num_stages=_STAGES,
        )  # fmt: skip


def _added(x: Tensor, linear: nn.Linear, out: Tensor) -> None:
    outputs, inputs = linear.weight.shape
    _added_product[(triton.cdiv(outputs, _OUTPUTS), triton.cdiv(len(out), _ROWS))](
        x, linear.weight, linear.bias, out, len(out), inputs, outputs, _ROWS, _OUTPUTS, _step(inputs), num_stages=_STAGES
    )


def _step(inputs: int) -> int:
    """How many inputs are multiplied at once."""
    return next(step for step in (256, 128, 64) if inputs % step == 0)


@triton.jit
def _normed_product(
    x, gain, weight, pull, offset, out, n_rows, INPUTS: tl.constexpr, n_outputs, eps, ROWS: tl.constexpr, OUTPUTS: tl.constexpr,
    STEP: tl.constexpr, HIDDEN: tl.constexpr,
):  # fmt: skip
    """Layer norm, product, and the exact GELU where what comes out is hidden."""
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    part = tl.arange(0, STEP)
    is_row, is_output = (row < n_rows)[:, None], output < n_outputs
    totals, squares = tl.zeros((ROWS, STEP), tl.float32), tl.zeros((ROWS, STEP), tl.float32)
    sums = tl.zeros((ROWS, OUTPUTS), tl.float32)
    for first in range(0, INPUTS, STEP):
        value = tl.load(x + row[:, None] * INPUTS + first + part[None, :], mask=is_row, other=0.0)
        totals += value
        squares += value * value
        scaled = value * tl.load(gain + first + part)[None, :]
        columns = tl.load(weight + output[None, :] * INPUTS + first + part[:, None], mask=is_output[None, :], other=0.0)
        sums = tl.dot(scaled.to(columns.dtype), columns, sums, input_precision="ieee")
    mean = tl.sum(totals, 1) / INPUTS
    scale = 1 / tl.sqrt(tl.maximum(tl.sum(squares, 1) / INPUTS - mean * mean, 0.0) + eps)
    sums -= mean[:, None] * tl.load(pull + output, mask=is_output, other=0.0)[None, :]
    sums = sums * scale[:, None] + tl.load(offset + output, mask=is_output, other=0.0)[None, :]
    if HIDDEN:
        sums = 0.5 * sums * (1 + tl.erf(sums * 0.7071067811865476))
    place = out + row[:, None] * n_outputs + output[None, :]
    tl.store(place, sums.to(out.dtype.element_ty), mask=is_row & is_output[None, :])


@triton.jit
def _added_product(
    x, weight, bias, out, n_rows, INPUTS: tl.constexpr, n_outputs, ROWS: tl.constexpr, OUTPUTS: tl.constexpr, STEP: tl.constexpr
):
    """A product that is added to what is there."""
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    part = tl.arange(0, STEP)
    is_row, is_output = (row < n_rows)[:, None], output < n_outputs
    sums = tl.zeros((ROWS, OUTPUTS), tl.float32)
    for first in range(0, INPUTS, STEP):
        value = tl.load(x + row[:, None] * INPUTS + first + part[None, :], mask=is_row, other=0.0)
        columns = tl.load(weight + output[None, :] * INPUTS + first + part[:, None], mask=is_output[None, :], other=0.0)
        sums = tl.dot(value.to(columns.dtype), columns, sums, input_precision="ieee")
    place = out + row[:, None] * n_outputs + output[None, :]
    is_there = is_row & is_output[None, :]
    sums += tl.load(place, mask=is_there, other=0.0) + tl.load(bias + output, mask=is_output, other=0.0).to(tl.float32)[None, :]
    tl.store(place, sums, mask=is_there)


@triton.jit
def _attend(
    projected, memory, out, known, scale, capacity, values_after, HEADS: tl.constexpr, SIZE: tl.constexpr, SEEN: tl.constexpr
):  # fmt: skip
    """One head of one sequence: keep its new key and value, and look at all so far, `SEEN` at a time, as flash attention does."""
    sequence, head = tl.program_id(0), tl.program_id(1)
    number = tl.arange(0, SIZE)
    new = projected + sequence * 3 * HEADS * SIZE + head * SIZE + number
    query, key, value = tl.load(new) * scale, tl.load(new + HEADS * SIZE), tl.load(new + 2 * HEADS * SIZE)
    n_known = tl.load(known).to(tl.int32)
    keys = memory + (sequence * HEADS + head) * capacity * SIZE
    values = keys + values_after
    tl.store(keys + n_known * SIZE + number, key.to(memory.dtype.element_ty))
    tl.store(values + n_known * SIZE + number, value.to(memory.dtype.element_ty))
    highest, total, sums = tl.sum(query * key), 1.0, value
    for first in range(0, n_known, SEEN):
        position = first + tl.arange(0, SEEN)
        is_known = position < n_known
        place = position[:, None] * SIZE + number[None, :]
        score = tl.sum(tl.load(keys + place, mask=is_known[:, None], other=0.0).to(tl.float32) * query[None, :], 1)
        score = tl.where(is_known, score, float("-inf"))
        higher = tl.maximum(highest, tl.max(score, 0))
        share, kept = tl.exp(score - higher), tl.exp(highest - higher)
        seen = tl.load(values + place, mask=is_known[:, None], other=0.0).to(tl.float32)
        sums = sums * kept + tl.sum(share[:, None] * seen, 0)
        total, highest = total * kept + tl.sum(share, 0), higher
    tl.store(out + sequence * HEADS * SIZE + head * SIZE + number, (sums / total).to(out.dtype.element_ty))
