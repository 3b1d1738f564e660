"""What a convolution of whole numbers is given: a picture that has been normalised, swished and rounded, whole in `_rounding.c`.

In torch these are seven passes through a picture, which take as long as whole numbers save in the convolution behind them.
"""

import ctypes
from functools import lru_cache
from importlib.util import find_spec
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from unsilent.errors import ParameterError

_BLOCK = 16  # channels that are taken together


class Quantised(NamedTuple):
    """Numbers that stand for `step * (whole - zero)`."""

    whole: Tensor  # uint8, as large as what was rounded, channels last
    step: float
    zero: int


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
    """What lets torch's own threads take part, which look for work for a while after each operation and would be in the way of others."""
    parallel = getattr(ctypes.CDLL(None), "GOMP_parallel", None)  # of the OpenMP that torch has brought, or was linked with
    return None if parallel is None else ctypes.cast(parallel, ctypes.c_void_p)


def is_available() -> bool:
    """Whether the C part is there, and this processor has its instructions (AVX-512)."""
    return _library() is not None


def fits(channels: int) -> bool:
    """Whether pictures of so many channels can be rounded."""
    return channels % _BLOCK == 0


def norm_swish_quantise(
    x: Float[Tensor, "batch dim height width"], groups: int, weight: Float[Tensor, "dim"], bias: Float[Tensor, "dim"], epsilon: float
) -> Quantised:
    """`swish(group_norm(x))`, rounded to the nearest of 256 numbers that reach from the least of swish to the largest here.

    Args:
        x: in float32 or bfloat16, channels last.
        groups: of channels that are normalised together.
        weight: of the norm, float32.
        bias: of the norm, float32.
        epsilon: added to the variance.

    Raises:
        ParameterError: for more than one picture, whose numbers would not be those that each has alone; for other numbers; for no memory
            to work in.
    """
    batch, channels, height, width = x.shape
    if batch != 1:
        raise ParameterError(f"{batch} pictures given; one is rounded at a time.")
    if x.dtype not in (torch.float32, torch.bfloat16):
        raise ParameterError(f"a picture of {x.dtype} given; those of float32 and bfloat16 can be rounded.")
    x = x.contiguous(memory_format=torch.channels_last)
    whole = torch.empty_like(x, dtype=torch.uint8)
    step, zero = ctypes.c_float(), ctypes.c_int32()
    numbers = (x.dtype == torch.bfloat16, height * width, channels, groups)
    given = (weight.data_ptr(), bias.data_ptr(), epsilon)
    results = (whole.data_ptr(), ctypes.byref(step), ctypes.byref(zero))
    library = _library()
    if library.unsilent_round(x.data_ptr(), *numbers, *given, *results, library.team, torch.get_num_threads()):
        raise ParameterError(f"there is no memory to round a picture of {height} x {width}.")
    return Quantised(whole, step.value, zero.value)
