"""The uint8 input of an int8 convolution: GroupNorm, swish and quantisation in two passes, by `_groupnorm.c`.

torch needs seven passes for the same, which cost as much time as int8 saves in the convolution that follows.
"""

import ctypes
from functools import lru_cache
from importlib.util import find_spec
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from unsilent.errors import ParameterError, ResourceError

_BLOCK = 16  # channels in one AVX-512 register


class Quantised(NamedTuple):
    """A tensor quantised with one scale: `scale * (values - zero_point)`."""

    values: UInt8[Tensor, "1 dim height width"]  # channels last
    scale: float
    zero_point: int


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    found = find_spec("unsilent.speed._groupnorm")
    if found is None or found.origin is None:
        return None
    library = ctypes.CDLL(found.origin)
    if not library.unsilent_can_round():
        return None
    numbers = (ctypes.c_int32, ctypes.c_int64, ctypes.c_int32, ctypes.c_int32)
    given = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_float)
    results = (ctypes.c_void_p, ctypes.POINTER(ctypes.c_float), ctypes.POINTER(ctypes.c_int32))
    library.unsilent_round.argtypes = [ctypes.c_void_p, *numbers, *given, *results, ctypes.c_void_p, ctypes.c_int32]
    library.team = _team()
    return library


def _team() -> ctypes.c_void_p | None:
    """`GOMP_parallel` of the OpenMP runtime that torch has loaded; None if it is another runtime, and then one thread computes.

    torch's own threads spin for a while after each operation, so threads beside them would compete for the processors.
    """
    parallel = getattr(ctypes.CDLL(None), "GOMP_parallel", None)
    return None if parallel is None else ctypes.cast(parallel, ctypes.c_void_p)


def is_available() -> bool:
    """Whether the C extension is built and this processor has AVX-512."""
    return _library() is not None


def fits(channels: int) -> bool:
    """Whether tensors of so many channels can be quantised."""
    return channels % _BLOCK == 0


def norm_swish_quantise(
    x: Float[Tensor, "batch dim height width"], groups: int, weight: Float[Tensor, "dim"], bias: Float[Tensor, "dim"], epsilon: float
) -> Quantised:
    """`swish(group_norm(x))`, quantised to the nearest of 256 levels from the minimum of swish (-0.278) to the largest value.

    Args:
        x: float32 or bfloat16; batch 1, because the scale of a batch would depend on all its members.
        groups: of channels that are normalised together.
        weight: of the norm, float32.
        bias: of the norm, float32.
        epsilon: added to the variance.

    Raises:
        ParameterError: for another batch or dtype.
        ResourceError: if there is no memory to work in.
    """
    batch, channels, height, width = x.shape
    if batch != 1:
        raise ParameterError(f"{batch} images given; one is quantised at a time.")
    if x.dtype not in (torch.float32, torch.bfloat16):
        raise ParameterError(f"an image of {x.dtype} given; float32 and bfloat16 can be quantised.")
    x = x.contiguous(memory_format=torch.channels_last)
    values = torch.empty_like(x, dtype=torch.uint8)
    scale, zero_point = ctypes.c_float(), ctypes.c_int32()
    sizes = (x.dtype == torch.bfloat16, height * width, channels, groups)
    norm = (weight.data_ptr(), bias.data_ptr(), epsilon)
    results = (values.data_ptr(), ctypes.byref(scale), ctypes.byref(zero_point))
    library = _library()
    if library.unsilent_round(x.data_ptr(), *sizes, *norm, *results, library.team, torch.get_num_threads()):
        raise ResourceError(f"there is no memory to quantise an image of {height} x {width} with {channels} channels.")
    return Quantised(values, scale.value, zero_point.value)
