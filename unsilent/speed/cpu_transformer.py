"""The sampler's transformer on a CPU: packed weights, and modules that replace torch's and call `_transformer.c`.

A step of a large sampler is limited by reading weights from memory, a step of a small one by Python's overhead per operation. So weights
are packed in the order of their use, in the model's precision, and one call into C computes all layers.
"""

import ctypes
import mmap
from collections.abc import Iterator
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unsilent.errors import ParameterError, ResourceError
from unsilent.models.configs import TransformerConfig
from unsilent.models.transformer import Block, KeyValueCache, Look, Transformer
from unsilent.speed.library import load_library

Kind = Literal["float32", "bfloat16", "int8"]

_KINDS = ("float32", "bfloat16", "int8")  # in the order of the enum in C
KERNELS = ("plain", "avx2", "vnni")  # instructions of the kernels, in the order of the enum in C
_CACHE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}  # dtypes of keys and values
_SCALE_BYTES = 4  # bytes of the float32 scale after each int8 key or value
LANES = 64  # outputs per block of a packed matrix
_ALL = -1  # stands for all layers or heads, whose weights are averaged
_HUGE_PAGE = 1 << 21  # bytes
_LEVELS = 127  # int8 weights are from -127 to 127
_ZERO_POINT = 128  # zero point of the uint8 activations


# Mirrors of the structs in `_transformer.c`


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


_ABI = (
    *(3, ctypes.sizeof(_Matrix), _Matrix.bias.offset),
    *(ctypes.sizeof(_Block), _Block.down.offset, _Block.norm2_bias.offset),
    *(ctypes.sizeof(_Stack), _Stack.kind.offset, _Stack.blocks.offset, _Stack.norm_bias.offset),
)


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The C extension, with the processor's fastest kernels; None if it is not built. Errors: see `load_library`."""
    loaded = load_library("_transformer", _ABI)
    if loaded is not None:
        loaded.unsilent_forward.argtypes = [ctypes.POINTER(_Stack), *[ctypes.c_void_p] * 4, *[ctypes.c_int32] * 7]
        loaded.unsilent_linear.argtypes = [ctypes.POINTER(_Matrix), ctypes.c_int32, *[ctypes.c_void_p] * 2, *[ctypes.c_int32] * 4]
        loaded.kernels = KERNELS[loaded.unsilent_use_kernels(len(KERNELS) - 1)]
    return loaded


def is_built() -> bool:
    """Whether the C extension is built; an installation without a C compiler leaves it out."""
    return library() is not None


def has_vnni() -> bool:
    """Whether this processor has AVX-512 VNNI, which multiplies int8 fastest."""
    return is_built() and library().kernels == "vnni"


def multiplies_int8() -> bool:
    """Whether int8 is the fastest precision of the transformer on this processor: it has AVX-512 VNNI, or AVX2 and FMA."""
    return is_built() and library().kernels != "plain"


def fits(config: TransformerConfig) -> bool:
    """Whether a transformer's width can be packed."""
    return config.width % LANES == 0


class PackedMatrix:
    """A matrix in the packed layout of `_transformer.c`, with its bias.

    int8 weights are symmetric, from -127 to 127, with one scale per output.

    Args:
        weight: `[outputs, inputs]`, outputs a multiple of 64, inputs of 4.
        bias: `[outputs]`.
        kind: dtype of the packed weights.
    """

    def __init__(self, weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, "outputs"], kind: Kind) -> None:
        self.bias = bias.detach().float().contiguous()
        self.scale = self.offset = None
        blocks = weight.detach().float().unflatten(0, (-1, LANES))
        if kind == "int8":
            largest = blocks.abs().amax(2).clamp(min=torch.finfo(torch.float32).tiny)
            quantised = (blocks * (_LEVELS / largest[..., None])).round().to(torch.int8)
            self.scale = (largest / _LEVELS).flatten()
            self.offset = _ZERO_POINT * quantised.sum(2, dtype=torch.int32).flatten()
            self.weight = quantised.unflatten(2, (-1, 4)).transpose(1, 2).contiguous()
        else:
            self.weight = blocks.transpose(1, 2).to(getattr(torch, kind)).contiguous()

    def move(self, memory: Iterator[Tensor]) -> None:
        """Move the weights into the next buffer of `memory`."""
        self.weight = next(memory).view(self.weight.dtype).view(self.weight.shape).copy_(self.weight)

    def pointers(self) -> _Matrix:
        """The struct for C; its pointers are valid while this object lives."""
        return _Matrix(*(None if part is None else part.data_ptr() for part in (self.weight, self.scale, self.offset, self.bias)))


def _huge_pages(sizes: list[int]) -> Iterator[Tensor]:
    """Adjacent buffers of these sizes in bytes, in huge pages, from which reading is a quarter faster.

    Raises:
        ResourceError: if memory cannot be allocated.
    """
    try:
        mapped = mmap.mmap(-1, sum(sizes) + _HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError:
        raise ResourceError(f"there is no memory for {sum(sizes) / 1e6:.0f} MB of weights.") from None
    if hasattr(mmap, "MADV_HUGEPAGE"):
        mapped.madvise(mmap.MADV_HUGEPAGE)
    memory = torch.frombuffer(mapped, dtype=torch.uint8)
    first = -memory.data_ptr() % _HUGE_PAGE
    yield from memory[first : first + sum(sizes)].split(sizes)


class PackedBlock(nn.Module):
    """The packed weights of a transformer block; not callable, because `PackedTransformer` computes all blocks in one call."""

    def __init__(self, block: Block, kind: Kind) -> None:
        super().__init__()
        attention, (up, _, down) = block.attn, block.mlp
        projections = (attention.query, attention.key, attention.value)
        joined = [torch.cat([getattr(one, name) for one in projections]) for name in ("weight", "bias")]
        others = [PackedMatrix(layer.weight, layer.bias, kind) for layer in (attention.proj, up, down)]
        self.matrices = [PackedMatrix(*joined, kind), *others]
        pieces = _huge_pages([matrix.weight.nbytes for matrix in self.matrices])
        for matrix in self.matrices:
            matrix.move(pieces)
        self.norms = [value.detach().float() for norm in (block.ln1, block.ln2) for value in (norm.weight, norm.bias)]

    def pointers(self) -> _Block:
        """The struct for C; its pointers are valid while this module lives."""
        return _Block(*(matrix.pointers() for matrix in self.matrices), *(value.data_ptr() for value in self.norms))


class PackedTransformer(nn.Module):
    """Replaces a `Transformer` whose blocks are packed, for inference on a CPU. Results are equal up to rounding.

    Each row is quantised by its own maximum, and every output is summed by one thread. So the result of a sequence is bit by bit
    independent of other sequences in the batch and of the number of threads.

    Args:
        transformer: a transformer whose blocks are all `PackedBlock`s.
        kind: dtype of the packed weights.

    Attributes:
        threads: number of threads; 0 takes torch's count at each call.
    """

    def __init__(self, transformer: Transformer, kind: Kind) -> None:
        super().__init__()
        config = self.config = transformer.config
        self.threads = 0
        dim = config.width // config.heads
        self._cache_dtype, self._cache_dim = _CACHE_DTYPES[kind], dim + _SCALE_BYTES if kind == "int8" else dim
        self.blocks = transformer.blocks
        self._norm = [value.detach().float() for value in (transformer.ln_f.weight, transformer.ln_f.bias)]
        self._blocks = (_Block * config.layers)(*(block.pointers() for block in self.blocks))
        pointers = (value.data_ptr() for value in self._norm)
        self._stack = _Stack(config.layers, config.heads, config.width, _KINDS.index(kind), self._blocks, *pointers)

    def cache(self, batch: int, capacity: int, like: Tensor, look: Look | None = None) -> KeyValueCache:
        """An empty KV cache of the dtype that `forward` needs; arguments as in `KeyValueCache`."""
        return KeyValueCache(self.config, batch, capacity, like.new_empty((), dtype=self._cache_dtype), self._cache_dim, look)

    @property
    def n_threads(self) -> int:
        """The number of threads of the next call."""
        return self.threads or torch.get_num_threads()

    def forward(self, x: Float[Tensor, "batch sequence width"], cache: KeyValueCache) -> Float[Tensor, "batch sequence width"]:
        """Process positions causally after those in the cache, and append them to it.

        Raises:
            ParameterError: if the cache has another dtype or batch, or too little capacity.
            ResourceError: if memory cannot be allocated.
        """
        batch, fresh, _ = x.shape
        memory = cache.memory
        wanted = (self._cache_dtype, "cpu", batch, self._cache_dim)
        found = (memory.dtype, memory.device.type, memory.shape[2], memory.shape[5])
        if found != wanted:
            kinds = ("{} on {}, for {} sequences, {} numbers a head".format(*kind) for kind in (wanted, found))
            raise ParameterError("this packed transformer needs a cache of {}, but was given {}.".format(*kinds))
        x = x.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        output = torch.empty_like(x)
        known, capacity = cache.grow(fresh), cache.memory.shape[4]
        places = (x.data_ptr(), output.data_ptr(), cache.memory.data_ptr())
        looked, whose = None, (_ALL, _ALL)
        if cache.looked is not None:
            looked = cache.looked.weights.data_ptr()
            whose = tuple(_ALL if asked is None else asked for asked in (cache.looked.look.layer, cache.looked.look.head))
        if library().unsilent_forward(self._stack, *places, looked, batch, fresh, known, capacity, *whose, self.n_threads):
            raise ResourceError(f"there is no memory to compute {batch} x {fresh} positions at once; ask for fewer takes.")
        return output


class PackedHead(nn.Module):
    """Replaces the linear layer of the logits; computed in C because its matrix is read from memory for each code.

    Args:
        head: linear layer without bias; the number of outputs is a multiple of 64.
        transformer: determines the number of threads.
        kind: dtype of the packed weights; int8 is too coarse for logits.
    """

    def __init__(self, head: nn.Linear, transformer: PackedTransformer, kind: Literal["float32", "bfloat16"]) -> None:
        super().__init__()
        self._transformer = [transformer]  # in a list, or it would become a submodule
        self._kind = _KINDS.index(kind)
        self._matrix = PackedMatrix(head.weight, torch.zeros(head.out_features), kind)
        self._sizes, self._pointers = (head.in_features, head.out_features), self._matrix.pointers()

    def forward(self, hidden: Float[Tensor, "rows width"]) -> Float[Tensor, "rows codes"]:
        """Compute the layer.

        Raises:
            ResourceError: if memory cannot be allocated.
        """
        hidden = hidden.float().contiguous()
        logits = hidden.new_empty(len(hidden), self._sizes[1])
        places = (hidden.data_ptr(), logits.data_ptr())
        if library().unsilent_linear(self._pointers, self._kind, *places, len(hidden), *self._sizes, self._transformer[0].n_threads):
            raise ResourceError(f"there is no memory for the logits of {len(hidden)} sequences at once; ask for fewer takes.")
        return logits
