"""Makes a loaded model fast on this machine: the precision that suits it, blocks packed for a CPU while they are read, threads."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch
from torch import nn

from unsilent.errors import ParameterError
from unsilent.models.sampler import Sampler, SamplerConfig
from unsilent.models.transformer import Block
from unsilent.speed import cpu_transformer as stepper
from unsilent.speed.gpu_graphs import Recorder

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["float32", "bfloat16", "int8"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_MOST_KEPT = 2**26  # bytes of one piece; larger ones would take more room in what is kept than asking for them takes time

SMALL_WEIGHTS = 20_000_000  # weights below this are read from memory faster than torch's threads agree on who reads what


@contextmanager
def stepping(sampler: Sampler, precision: Precision) -> Iterator[None]:
    """What a sampler steps under, put back afterwards: threads, and lower precision where torch is to take care of it.

    All threads are the packed transformer's, if it is one; what torch does beside it, or a small network all in torch, is done by one: it
    is hundreds of tiny operations, after each of which threads would wait for one another, and on a machine that is busy otherwise the
    waiting takes many times longer than the work.
    """
    is_packed = isinstance(sampler.transformer, stepper.Stepper)
    if is_packed:
        sampler.transformer.threads = torch.get_num_threads()
    in_torch = torch.autocast(sampler.pos_emb.device.type, torch.bfloat16, enabled=precision == "bfloat16" and not is_packed)
    with one_thread(is_packed or sampler.config.transformer.n_weights < SMALL_WEIGHTS), in_torch:
        yield


@contextmanager
def some_threads(n: int) -> Iterator[None]:
    """Compute with `n` threads, or one if that is less."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, n))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_thread(applies: bool = True) -> AbstractContextManager[None]:
    """Compute with one thread, as sums over several are rounded otherwise: the bytes shall not depend on how work is spread.

    Args:
        applies: whether it does; if not, nothing changes.
    """
    return some_threads(1) if applies else nullcontext()


def all_but_one_thread() -> AbstractContextManager[None]:
    """Leave a thread to whoever reads while others compute: more than there are processors would wait for one another."""
    return some_threads(torch.get_num_threads() - 1)


def choose_device(asked: Device) -> torch.device:
    """Where to compute; `auto` takes a GPU if there is one.

    Raises:
        ParameterError: for a device that is not there.
    """
    if asked == "cuda" and not torch.cuda.is_available():
        raise ParameterError("device cuda was asked for, but no CUDA device is here; use cpu or auto.")
    return torch.device("cuda" if torch.cuda.is_available() and asked != "cpu" else "cpu")


def choose_precision(asked: Literal["auto"] | Precision, device: torch.device, config: SamplerConfig) -> Precision:
    """The precision to compute in.

    A step of a sampler lasts as long as reading its matrices from memory, so a CPU gets them as small as it can multiply them.

    Args:
        asked: `auto` is bfloat16 on a GPU; on a CPU int8 where the processor has instructions for it, else float32.
        device: to compute on.
        config: of the sampler.

    Raises:
        ParameterError: for int8 where it cannot be computed.
    """
    can_pack = is_packed(config, device)
    if asked == "auto":
        if device.type == "cuda":
            return "bfloat16"
        return "int8" if can_pack and stepper.is_fast() else "float32"
    if asked == "int8" and not can_pack:
        why = "this is a GPU" if device.type == "cuda" else "unsilent was installed without a C compiler" if not stepper.is_built() else ""
        width = config.transformer.width
        raise ParameterError(
            f"precision int8 cannot be computed: {why or f'a width of {width} is no multiple of 64'}; use float32 or auto."
        )
    return asked


def is_packed(config: SamplerConfig, device: torch.device) -> bool:
    """Whether a sampler's transformer is packed for C when it is loaded, rather than left to torch."""
    return device.type == "cpu" and stepper.is_built() and stepper.fits(config.transformer)


def convolutions(precision: Precision) -> torch.dtype:
    """What picture-like networks compute in, but where whole numbers are faster: bfloat16 where that is asked for or costs nothing."""
    halves = precision == "bfloat16" or (precision == "int8" and torch.cpu._is_avx512_bf16_supported())
    return torch.bfloat16 if halves else torch.float32


def lighten(part: nn.Module, precision: Precision, is_packed: bool) -> nn.Module:
    """What a part of a sampler becomes for inference as soon as its weights are there.

    A block of the transformer is packed, with matrices in a quarter of their memory as int8, or its three projections are joined for torch;
    anything else stays.
    """
    if not isinstance(part, Block):
        return part
    if not is_packed:
        part.attn.fuse()
        return part
    packed = stepper.PackedBlock(part, precision)
    for layer in part.modules():
        layer._parameters.clear()  # whoever still holds the block must not hold its weights
    return_memory()
    return packed


def hasten(sampler: Sampler, precision: Precision, device: torch.device) -> None:
    """Let a sampler take its turns in as few calls as its device allows: in C if its blocks have been packed, by a graph on a GPU."""
    if device.type == "cuda":
        sampler.turn = Recorder(sampler)
    elif all(isinstance(block, stepper.PackedBlock) for block in sampler.transformer.blocks):
        sampler.transformer = stepper.Stepper(sampler.transformer, precision)
        if sampler.config.codes % stepper.LANES == 0:
            sampler.head = stepper.Scorer(sampler.head, sampler.transformer, "float32" if precision == "float32" else "bfloat16")


def return_memory() -> None:
    """Give freed memory back to the system: what the matrices took before would else stay with the process, 0.5 GB in the end."""
    if (glibc := _glibc()) is not None:
        glibc.malloc_trim(0)


@contextmanager
def keeping_memory() -> Iterator[None]:
    """Keep what is freed for what comes next; give it back at the end. To ask for it anew, page by page, is a tenth of a decoder's time."""
    glibc = _glibc()
    if glibc is not None:
        glibc.mallopt(_M_MMAP_THRESHOLD, _MOST_KEPT) or glibc.mallopt(_M_MMAP_THRESHOLD, 2**25)  # before 2.35 no more is taken
        glibc.mallopt(_M_TRIM_THRESHOLD, 2**30)
    try:
        yield
    finally:
        if glibc is not None:  # the most that it chooses by itself, which it does no more once it was told
            glibc.mallopt(_M_MMAP_THRESHOLD, 2**25)
            glibc.mallopt(_M_TRIM_THRESHOLD, 2**26)
            return_memory()


def _glibc() -> ctypes.CDLL | None:
    """The C library, where it is the one that can be told what to keep."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    return library if hasattr(library, "malloc_trim") else None
