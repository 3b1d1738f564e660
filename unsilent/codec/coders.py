"""Coders of blocks of codes: a fixed number of bits per code, or a range coder with the probabilities of a sampler.

columns  columns of a block; blocks are coded independently
rows     codes per column
levels   the first rows, whose codes the sampler predicts

All machines must compute the same probabilities. The sampler computes in float64, in which machines differ by about 1e-12. Its logits are
quantised in steps of 1/8. If a logit is within 1e-9 of a decision border, the block uses a shifted quantiser; the number of the shift is
its first byte. All later computations are in integers. A block that range coding would make larger is stored with plain coding.
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

_STEPS = 8  # quantisation steps of logits per nat
_TEMPERATURE = 1.2  # temperature of the probabilities; held-out sounds take 1.5 % fewer bytes than at 1
_SHIFTS, _PLAIN = 16, 255  # number of shifts of the quantiser; first byte of a block of plain codes
_MARGIN = 1e-9  # minimum distance from a decision border, in nats; a thousand times the difference between machines
_FLOOR = 12 * _STEPS  # codes this many steps or more below the likeliest code have equal probabilities
# integer weight of a code by its steps below the likeliest; computed in decimals, which are the same on all machines
_WEIGHTS = np.array([max(1, int((Decimal(-step) / _STEPS).exp() * (1 << 20))) for step in range(_FLOOR + 1)], np.float64)


@dataclass(frozen=True)
class PlainCoder:
    """Packs each code in the fewest bits that its codebook needs, most significant bit first; zeros fill the last byte.

    Attributes:
        rows: codes per column.
        bits: bits per code.
        name: number of the coder in the header of a file.
        digest: digest, 16 bytes, of the model that a decoder needs besides the codebook; zeros for none.
    """

    rows: int
    bits: int
    name: int = field(default=0, init=False)
    digest: bytes = field(default=bytes(16), init=False)

    def encode(self, codes: Int[np.ndarray, "columns rows"]) -> bytes:
        """Encode a block."""
        return np.packbits((codes.reshape(-1, 1) >> np.arange(self.bits - 1, -1, -1)) & 1).tobytes()

    def decode(self, data: bytes, n_columns: int) -> Int[np.ndarray, "columns rows"] | None:
        """Decode a block; None if the data is damaged."""
        n_bits = n_columns * self.rows * self.bits
        if len(data) != -(-n_bits // 8):
            return None
        each = np.unpackbits(np.frombuffer(data, np.uint8), count=n_bits).reshape(n_columns, self.rows, self.bits)
        return each.astype(np.int64) @ (1 << np.arange(self.bits - 1, -1, -1))


class SamplerCoder:
    """A range coder with the unconditional probabilities of a sampler. Rows that it does not predict are coded as uniformly distributed.

    Args:
        sampler: in evaluation mode; it is copied in float64.
        plain: coder of blocks that range coding would make larger.
        digest: first 16 bytes of the SHA-256 of the sampler's weights.

    Raises:
        ParameterError: for a sampler that predicts codes one by one, or without the package `constriction`.
    """

    name = 1

    def __init__(self, sampler: AnySampler, plain: PlainCoder, digest: bytes) -> None:
        if not isinstance(sampler, ResidualSampler):
            raise ParameterError("entropy coding needs a sampler over columns, as in everyday; leave out --entropy.")
        if find_spec("constriction") is None:
            raise ParameterError("entropy coding needs the package constriction: pip install 'unsilent[codec]'.")
        self._sampler, self._plain, self._rows, self.digest = copy.deepcopy(sampler).double().eval(), plain, plain.rows, digest
        self._levels, self._n_codes, _ = sampler.vectors.shape

    def encode(self, codes: Int[np.ndarray, "columns rows"]) -> bytes:
        """Encode a block, which has at most the columns of a clip."""
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
        """Decode a block; None if the data is damaged."""
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
    """Whether every logit is far enough from a decision border to be quantised equally on all machines."""
    steps = _steps(logits, shift)
    return not (np.abs(steps - steps.round()) < _MARGIN * _STEPS)[steps < _FLOOR + 0.5].any()


def _steps(logits: Float64[np.ndarray, "codes n_codes"], shift: int) -> Float64[np.ndarray, "codes n_codes"]:
    return (logits.max(1, keepdims=True) - logits) * (_STEPS / _TEMPERATURE) + (shift + 0.5) / _SHIFTS


def _probabilities(logits: Float64[np.ndarray, "codes n_codes"], shift: int) -> Float64[np.ndarray, "codes n_codes"]:
    """Probabilities as quotients of integers, which are equal on all machines."""
    weights = _WEIGHTS[np.minimum(_steps(logits, shift), _FLOOR).astype(np.int64)]
    return weights / weights.sum(1, keepdims=True)
