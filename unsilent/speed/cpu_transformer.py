"""The sampler's transformer on a CPU, whole in `_stepper.c`: weights packed for it, and a module that stands for the one they are from.

A step of a large sampler lasts as long as its weights take to come from memory, a step of a small one as long as Python takes between its
operations. So weights are packed into as few bytes as asked for, in the order in which they are read, and nothing but C runs in between.
"""

import ctypes
import mmap
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unsilent.errors import ParameterError
from unsilent.models.transformer import Block, KeyValueCache, Transformer, TransformerConfig

Kind = Literal["float32", "bfloat16", "int8"]

_KINDS = ("float32", "bfloat16", "int8")  # in the order of their numbers in C
_KEPT = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}  # what keys and values are kept as
_STEP_BYTES = 4  # behind whole numbers: what they are multiplied by
LANES = 64  # outputs in a block of a packed matrix
_PAGE = 1 << 21  # bytes of a large page, if the system has such
_LEVELS = 127  # whole numbers on each side of zero
_MIDDLE = 128  # what is added to whole inputs, which have no sign


class _Matrix(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("weight", "scale", "offset", "bias")]


class _Block(ctypes.Structure):
    _fields_ = [
        *((name, _Matrix) for name in ("qkv", "proj", "up", "down")),
        *((name, ctypes.c_void_p) for name in ("norm1_weight", "norm1_bias", "norm2_weight", "norm2_bias")),
    ]


class _Stack(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("layers", "heads", "width", "kind")),
        ("blocks", ctypes.POINTER(_Block)),
        *((name, ctypes.c_void_p) for name in ("norm_weight", "norm_bias")),
    ]


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    found = find_spec("unsilent.speed._transformer")
    if found is None or found.origin is None:
        return None
    library = ctypes.CDLL(found.origin)
    library.unsilent_read.argtypes = [ctypes.POINTER(_Stack), *[ctypes.c_void_p] * 3, *[ctypes.c_int32] * 5]
    library.unsilent_score.argtypes = [ctypes.POINTER(_Matrix), ctypes.c_int32, *[ctypes.c_void_p] * 2, *[ctypes.c_int32] * 4]
    library.has_vnni = bool(library.unsilent_choose(1))
    return library


def is_built() -> bool:
    """Whether the C part is there; it is left out where the package was installed without a C compiler."""
    return _library() is not None


def has_vnni() -> bool:
    """Whether this processor has the instructions for whole numbers that the C part knows (AVX-512 VNNI)."""
    return is_built() and _library().has_vnni


def fits(config: TransformerConfig) -> bool:
    """Whether a transformer has sizes that can be packed."""
    return config.width % LANES == 0


class PackedMatrix:
    """One matrix with its bias, ready for C.

    Whole numbers are from -127 to 127, scaled for each output.

    Args:
        weight: `[outputs, inputs]`, outputs a multiple of 64, inputs of 4.
        bias: `[outputs]`.
        kind: of the numbers it is kept in.
    """

    def __init__(self, weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, "outputs"], kind: Kind) -> None:
        self.bias = bias.detach().float().contiguous()
        self.scale = self.offset = None
        blocks = weight.detach().float().unflatten(0, (-1, LANES))
        if kind == "int8":
            largest = blocks.abs().amax(2).clamp(min=torch.finfo(torch.float32).tiny)
            whole = (blocks * (_LEVELS / largest[..., None])).round().to(torch.int8)
            self.scale = (largest / _LEVELS).flatten()
            self.offset = _MIDDLE * whole.sum(2, dtype=torch.int32).flatten()
            self.weight = whole.unflatten(2, (-1, 4)).transpose(1, 2).contiguous()
        else:
            self.weight = blocks.transpose(1, 2).to(getattr(torch, kind)).contiguous()

    def move(self, memory: Iterator[Tensor]) -> None:
        """Let the weights lie in the next piece of memory, which is theirs."""
        self.weight = next(memory).view(self.weight.dtype).view(self.weight.shape).copy_(self.weight)

    def pointers(self) -> _Matrix:
        """Where everything lies, for as long as this object lives."""
        return _Matrix(*(None if part is None else part.data_ptr() for part in (self.weight, self.scale, self.offset, self.bias)))


def _large_pages(sizes: list[int]) -> Iterator[Tensor]:
    """Pieces of memory of so many bytes each, one after another in large pages: a quarter more of it can be read in a second so."""
    whole = mmap.mmap(-1, sum(sizes) + _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        whole.madvise(mmap.MADV_HUGEPAGE)
    memory = torch.frombuffer(whole, dtype=torch.uint8)
    first = -memory.data_ptr() % _PAGE
    yield from memory[first : first + sum(sizes)].split(sizes)


class PackedBlock(nn.Module):
    """All weights of a transformer's block, packed; it cannot be called, `PackedTransformer` reads it."""

    def __init__(self, block: Block, kind: Kind) -> None:
        super().__init__()
        attention, (up, _, down) = block.attn, block.mlp
        projections = (attention.query, attention.key, attention.value)
        joined = [torch.cat([getattr(one, name) for one in projections]) for name in ("weight", "bias")]
        others = [PackedMatrix(layer.weight, layer.bias, kind) for layer in (attention.proj, up, down)]
        self.matrices = [PackedMatrix(*joined, kind), *others]
        pieces = _large_pages([matrix.weight.nbytes for matrix in self.matrices])
        for matrix in self.matrices:
            matrix.move(pieces)
        self.norms = [value.detach().float() for norm in (block.ln1, block.ln2) for value in (norm.weight, norm.bias)]

    def pointers(self) -> _Block:
        """Where everything lies, for as long as this module lives."""
        return _Block(*(matrix.pointers() for matrix in self.matrices), *(value.data_ptr() for value in self.norms))


class PackedTransformer(nn.Module):
    """Stands for a `Transformer` whose blocks have been packed: the same numbers to rounding, on a CPU, for inference only.

    Each row is rounded by its own largest number and every output is summed by one thread, so what becomes of a sequence depends neither on
    those beside it nor on the number of threads.

    Args:
        transformer: all its blocks are `PackedBlock`s.
        kind: that they were packed as.

    Attributes:
        threads: to compute with; 0 takes as many as torch has when called.
    """

    def __init__(self, transformer: Transformer, kind: Kind) -> None:
        super().__init__()
        config = self.config = transformer.config
        self.threads = 0
        dim = config.width // config.heads
        self._cached, self._kept = _KEPT[kind], dim + _STEP_BYTES if kind == "int8" else dim
        self.blocks = transformer.blocks
        self._norm = [value.detach().float() for value in (transformer.ln_f.weight, transformer.ln_f.bias)]
        self._blocks = (_Block * config.layers)(*(block.pointers() for block in self.blocks))
        pointers = (value.data_ptr() for value in self._norm)
        self._stack = _Stack(config.layers, config.heads, config.width, _KINDS.index(kind), self._blocks, *pointers)

    def cache(self, batch: int, capacity: int, like: Tensor) -> KeyValueCache:
        """An empty cache that `forward` can be given, in the numbers that it reads; arguments as of `KeyValueCache`."""
        return KeyValueCache(self.config, batch, capacity, like.new_empty((), dtype=self._cached), self._kept)

    @property
    def n_threads(self) -> int:
        """How many threads compute."""
        return self.threads or torch.get_num_threads()

    def forward(self, x: Float[Tensor, "batch sequence width"], cache: KeyValueCache) -> Float[Tensor, "batch sequence width"]:
        """Causal; `x` continues what the cache holds, and is added to it.

        Raises:
            ParameterError: if the cache is of another kind or batch, there is no room in it, or no memory to work in.
        """
        batch, fresh, _ = x.shape
        memory = cache.memory
        wanted, found = (self._cached, "cpu", batch, self._kept), (memory.dtype, memory.device.type, memory.shape[2], memory.shape[5])
        if found != wanted:
            kinds = ("{} on {}, for {} sequences, {} numbers a head".format(*kind) for kind in (wanted, found))
            raise ParameterError("this packed transformer wants a cache of {}, found {}.".format(*kinds))
        x = x.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        output = torch.empty_like(x)
        known, capacity = cache.grow(fresh), cache.memory.shape[4]
        places = (x.data_ptr(), output.data_ptr(), cache.memory.data_ptr())
        if _library().unsilent_read(self._stack, *places, batch, fresh, known, capacity, self.n_threads):
            raise ParameterError(f"there is no memory to read {batch} x {fresh} positions at once; give fewer takes.")
        return output


class PackedHead(nn.Module):
    """Stands for the linear layer that scores codes, with a PackedTransformer's threads: its matrix comes from memory anew for each code.

    Args:
        head: the layer, without biases; as many outputs as `fits` wants of a width.
        transformer: whose threads it uses.
        kind: of the numbers that its weights are kept in; whole ones are too few for scores.
    """

    def __init__(self, head: nn.Linear, transformer: PackedTransformer, kind: Literal["float32", "bfloat16"]) -> None:
        super().__init__()
        self._transformer = [transformer]  # in a list, or it would become a submodule
        self._kind = _KINDS.index(kind)
        self._matrix = PackedMatrix(head.weight, torch.zeros(head.out_features), kind)
        self._sizes, self._pointers = (head.in_features, head.out_features), self._matrix.pointers()

    def forward(self, hidden: Float[Tensor, "rows width"]) -> Float[Tensor, "rows codes"]:
        """As the layer.

        Raises:
            ParameterError: if there is no memory to work in.
        """
        hidden = hidden.float().contiguous()
        logits = hidden.new_empty(len(hidden), self._sizes[1])
        places = (hidden.data_ptr(), logits.data_ptr())
        if _library().unsilent_score(self._pointers, self._kind, *places, len(hidden), *self._sizes, self._transformer[0].n_threads):
            raise ParameterError(f"there is no memory to score {len(hidden)} codes at once; give fewer takes.")
        return logits
