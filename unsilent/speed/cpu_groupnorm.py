"""GroupNorm, swish and quantisation to the uint8 input of an int8 convolution in two passes, by `_groupnorm.c`.

torch needs seven passes, which take as long as int8 saves in the following convolution.
"""

import ctypes
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from unsilent.errors import ParameterError, ResourceError
from unsilent.speed.library import load_library

_BLOCK = 16  # channels in one AVX-512 register


class Quantised(NamedTuple):
    """A tensor quantised with one scale: `scale * (values - zero_point)`."""

    values: UInt8[Tensor, "1 dim height width"]  # channels last
    scale: float
    zero_point: int


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The C extension; None without AVX-512 or if it is not built. Errors: see `load_library`."""
    loaded = load_library("_groupnorm", [1])
    if loaded is None or not loaded.unsilent_has_avx512():
        return None
    sizes = (ctypes.c_int32, ctypes.c_int64, ctypes.c_int32, ctypes.c_int32)
    norm = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_float)
    results = (ctypes.c_void_p, ctypes.POINTER(ctypes.c_float), ctypes.POINTER(ctypes.c_int32))
    loaded.unsilent_norm_swish_quantise.argtypes = [ctypes.c_void_p, *sizes, *norm, *results, ctypes.c_void_p, ctypes.c_int32]
    loaded.team = _team()
    return loaded


def _team() -> ctypes.c_void_p | None:
    """`GOMP_parallel` of the OpenMP runtime that torch has loaded; None for another runtime, for which one thread computes.

    torch's threads spin for a while after each operation, so additional threads would compete with them for the processors.
    """
    parallel = getattr(ctypes.CDLL(None), "GOMP_parallel", None)
    return None if parallel is None else ctypes.cast(parallel, ctypes.c_void_p)


def is_available() -> bool:
    """Whether the C extension is built and this processor has AVX-512."""
    return library() is not None


def fits(channels: int) -> bool:
    """Whether tensors with this number of channels can be quantised."""
    return channels % _BLOCK == 0


def norm_swish_quantise(
    x: Float[Tensor, "batch dim height width"], groups: int, weight: Float[Tensor, "dim"], bias: Float[Tensor, "dim"], epsilon: float
) -> Quantised:
    """`swish(group_norm(x))`, quantised to the nearest of 256 levels from the minimum of swish (-0.278) to the largest value.

    Args:
        x: float32 or bfloat16; batch 1, because the scale of a batch would depend on all its images.
        groups: number of groups of the norm.
        weight: the norm's weight, float32.
        bias: the norm's bias, float32.
        epsilon: added to the variance.

    Raises:
        ParameterError: for another batch or dtype.
        ResourceError: if memory cannot be allocated.
    """
    batch, channels, height, width = x.shape
    if batch != 1:
        raise ParameterError(f"{batch} images were given; quantise one at a time.")
    if x.dtype not in (torch.float32, torch.bfloat16):
        raise ParameterError(f"an image of {x.dtype} was given; float32 and bfloat16 can be quantised.")
    x = x.contiguous(memory_format=torch.channels_last)
    values = torch.empty_like(x, dtype=torch.uint8)
    scale, zero_point = ctypes.c_float(), ctypes.c_int32()
    sizes = (x.dtype == torch.bfloat16, height * width, channels, groups)
    norm = (weight.data_ptr(), bias.data_ptr(), epsilon)
    results = (values.data_ptr(), ctypes.byref(scale), ctypes.byref(zero_point))
    loaded = library()
    if loaded.unsilent_norm_swish_quantise(x.data_ptr(), *sizes, *norm, *results, loaded.team, torch.get_num_threads()):
        raise ResourceError(f"there is no memory to quantise an image of {height} x {width} with {channels} channels.")
    return Quantised(values, scale.value, zero_point.value)
