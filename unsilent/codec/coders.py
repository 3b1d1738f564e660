"""How the codes of a block become bytes: bits side by side, or a range coder with the probabilities of a sampler.

columns  of a block, which is coded alone
rows     codes of a column
levels   rows whose codes the sampler predicts, the first ones

All machines must compute the same probabilities. The sampler computes in float64, where two machines differ by some 1e-12. Its logits
are rounded to a grid of 1/8; where one is within 1e-9 of the border between two of its steps, the block takes a shifted grid, whose number
is in its first byte. From then on all numbers are whole. A block that would become larger than with plain codes keeps these.
"""

import copy
from dataclasses import dataclass, field
from decimal import Decimal
from importlib.util import find_spec

import numpy as np
import torch
from jaxtyping import Float64, Int, UInt32

from unsilent.errors import ParameterError
from unsilent.models.residual_sampler import ResidualSampler
from unsilent.models.sampler import AnySampler

_STEPS = 8  # of the grid of logits, per nat
_TEMPERATURE = 1.2  # of the sampler; held-out sounds take 1.5 % less than at 1
_SHIFTS, _PLAIN = 16, 255  # of the grid; in place of a shift: the codes are plain
_MARGIN = 1e-9  # from a border, in nats; a thousand times the differences between machines
_FLOOR = 12 * _STEPS  # steps below the likeliest code from which all are equally unlikely
# whole weights of a code so many steps less likely than the likeliest; by decimals, whose last digits are the same everywhere
_WEIGHTS = np.array([max(1, int((Decimal(-step) / _STEPS).exp() * (1 << 20))) for step in range(_FLOOR + 1)], np.float64)


@dataclass(frozen=True)
class PlainCoder:
    """Each code in as few bits as its codebook needs, most significant bit first, side by side; zeros fill the last byte.

    Attributes:
        rows: codes of a column.
        bits: of a code.
        name: number in the header of a file.
        digest: of what a decoder must have besides the codebook, 16 bytes; zeros for nothing.
    """

    rows: int
    bits: int
    name: int = field(default=0, init=False)
    digest: bytes = field(default=bytes(16), init=False)

    def encode(self, codes: Int[np.ndarray, "columns rows"]) -> bytes:
        """Bytes of a block."""
        return np.packbits((codes.reshape(-1, 1) >> np.arange(self.bits - 1, -1, -1)) & 1).tobytes()

    def decode(self, data: bytes, n_columns: int) -> Int[np.ndarray, "columns rows"] | None:
        """Codes of a block."""
        n_bits = n_columns * self.rows * self.bits
        if len(data) != -(-n_bits // 8):
            return None
        each = np.unpackbits(np.frombuffer(data, np.uint8), count=n_bits).reshape(n_columns, self.rows, self.bits)
        return each.astype(np.int64) @ (1 << np.arange(self.bits - 1, -1, -1))


class SamplerCoder:
    """A range coder with the probabilities of a sampler without condition; rows that it does not predict are coded evenly.

    Args:
        sampler: in evaluation mode; a copy in float64 is made.
        plain: coder of blocks that it would make larger.
        digest: first 16 bytes of the SHA-256 of the sampler's weights.

    Raises:
        ParameterError: for a sampler that predicts codes one by one, or without the package `constriction`.
    """

    name = 1

    def __init__(self, sampler: AnySampler, plain: PlainCoder, digest: bytes) -> None:
        if not isinstance(sampler, ResidualSampler):
            raise ParameterError("entropy coding needs a sampler over columns, as that of everyday; leave out --entropy.")
        if find_spec("constriction") is None:
            raise ParameterError("entropy coding needs the package constriction: pip install 'unsilent[codec]'.")
        self._sampler, self._plain, self._rows, self.digest = copy.deepcopy(sampler).double().eval(), plain, plain.rows, digest
        self._levels, self._n_codes, _ = sampler.vectors.shape

    def encode(self, codes: Int[np.ndarray, "columns rows"]) -> bytes:
        """Bytes of a block; at most a clip of the sampler."""
        from constriction import stream

        predicted = codes[:, : self._levels]
        logits = self._logits(predicted)
        shift = next((shift for shift in range(_SHIFTS) if _is_safe(logits, shift)), 0)
        coder = stream.queue.RangeEncoder()
        coder.encode(predicted.reshape(-1).astype(np.int32), stream.model.Categorical(perfect=False), _probabilities(logits, shift))
        if self._levels < self._rows:
            coder.encode(codes[:, self._levels :].reshape(-1).astype(np.int32), stream.model.Uniform(self._n_codes))
        coded, plain = bytes([shift]) + coder.get_compressed().astype("<u4").tobytes(), bytes([_PLAIN]) + self._plain.encode(codes)
        return min(coded, plain, key=len)

    def decode(self, data: bytes, n_columns: int) -> Int[np.ndarray, "columns rows"] | None:
        """Codes of a block."""
        if data[:1] == bytes([_PLAIN]):
            return self._plain.decode(data[1:], n_columns)
        if len(data) % 4 != 1 or data[0] >= _SHIFTS or n_columns > self._sampler.config.clip.columns:
            return None
        return self._decode(np.frombuffer(data, "<u4", offset=1).astype(np.uint32), data[0], n_columns)

    @torch.inference_mode()
    def _decode(self, words: UInt32[np.ndarray, "words"], shift: int, n_columns: int) -> Int[np.ndarray, "columns rows"]:
        from constriction import stream

        coder, codes = stream.queue.RangeDecoder(words), np.empty((n_columns, self._rows), np.int64)
        logits, state = self._sampler.start(torch.zeros(1, 0, dtype=torch.long), self._condition())
        for number in range(n_columns * self._levels):
            code = int(coder.decode(stream.model.Categorical(_probabilities(logits.numpy(), shift)[0], perfect=False)))
            codes[number // self._levels, number % self._levels] = code
            if number + 1 < n_columns * self._levels:
                logits = self._sampler.step(torch.tensor([code]), state)
        if self._levels < self._rows:
            rest = coder.decode(stream.model.Uniform(self._n_codes), n_columns * (self._rows - self._levels))
            codes[:, self._levels :] = rest.reshape(n_columns, -1)
        return codes

    @torch.inference_mode()
    def _logits(self, codes: Int[np.ndarray, "columns levels"]) -> Float64[np.ndarray, "codes n_codes"]:
        sequence = torch.from_numpy(np.ascontiguousarray(codes, dtype=np.int64).reshape(1, -1))
        return self._sampler.logits(sequence, self._condition())[0].numpy()

    def _condition(self) -> torch.Tensor:
        return torch.zeros_like(self._sampler.pos_emb)


BlockCoder = PlainCoder | SamplerCoder


def _is_safe(logits: Float64[np.ndarray, "codes n_codes"], shift: int) -> bool:
    """Whether no logit is so near to a border of the grid that another machine might round it elsewhere."""
    steps = _steps(logits, shift)
    return not (np.abs(steps - steps.round()) < _MARGIN * _STEPS)[steps < _FLOOR + 0.5].any()


def _steps(logits: Float64[np.ndarray, "codes n_codes"], shift: int) -> Float64[np.ndarray, "codes n_codes"]:
    return (logits.max(1, keepdims=True) - logits) * (_STEPS / _TEMPERATURE) + (shift + 0.5) / _SHIFTS


def _probabilities(logits: Float64[np.ndarray, "codes n_codes"], shift: int) -> Float64[np.ndarray, "codes n_codes"]:
    """Quotients of integers, which are the same on all machines."""
    weights = _WEIGHTS[np.minimum(_steps(logits, shift), _FLOOR).astype(np.int64)]
    return weights / weights.sum(1, keepdims=True)
