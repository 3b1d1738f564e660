"""Makes a loaded model fast on this machine: the precision that suits it, matrices as whole numbers, steps without Python in between."""

import ctypes
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unsilent.errors import ParameterError
from unsilent.models.sampler import Sampler
from unsilent.models.transformer import Block, KeyValueCache

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["float32", "bfloat16", "int8"]

SMALL_WEIGHTS = 20_000_000  # weights below this are read from memory faster than threads agree on who reads what
_LEVELS = 127  # whole numbers on each side of zero
_MIDDLE = 128  # what stands for zero where they are stored without a sign


@contextmanager
def stepping_threads(n_weights: int) -> Iterator[None]:
    """Use one CPU thread for a network that is called for one position at a time, if it is small.

    A step of such a network is hundreds of tiny operations. Two threads gain little on each, and wait for one another after each: on a
    machine that is busy otherwise the waiting takes many times longer than the work.

    Args:
        n_weights: of the network; the number of threads is put back afterwards.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1 if n_weights < SMALL_WEIGHTS else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread, as sums over several are rounded otherwise: the bytes shall not depend on how work is spread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def choose_device(asked: Device) -> torch.device:
    """Where to compute; `auto` takes a GPU if there is one.

    Raises:
        ParameterError: for a device that is not there.
    """
    if asked == "cuda" and not torch.cuda.is_available():
        raise ParameterError("device cuda was asked for, but no CUDA device is here; use cpu or auto.")
    return torch.device("cuda" if torch.cuda.is_available() and asked != "cpu" else "cpu")


def choose_precision(asked: Literal["auto"] | Precision, device: torch.device, n_weights: int) -> Precision:
    """The precision to compute in.

    A step of a large sampler lasts as long as reading its matrices from memory, so a CPU gets them as small as it can multiply them.

    Args:
        asked: `auto` is bfloat16 on a GPU; on a CPU int8 for a large sampler where the processor has instructions for it, else float32.
        device: to compute on.
        n_weights: of the sampler.

    Raises:
        ParameterError: for int8 where it cannot be computed.
    """
    if asked == "auto":
        if device.type == "cuda":
            return "bfloat16"
        return "int8" if n_weights >= SMALL_WEIGHTS and can_int8(device) else "float32"
    if asked == "int8" and not can_int8(device):
        raise ParameterError(f"precision int8 was asked for, but this {device.type} has no AVX-512 VNNI; use float32 or auto.")
    return asked


def can_int8(device: torch.device) -> bool:
    """Whether matrices of whole numbers can be multiplied without loss: elsewhere sums of two products overflow."""
    return device.type == "cpu" and torch.cpu._is_vnni_supported() and "fbgemm" in torch.backends.quantized.supported_engines


def convolutions(precision: Precision) -> torch.dtype:
    """What picture-like networks compute in, which gain nothing from whole numbers: bfloat16 where that is asked for or costs nothing."""
    halves = precision == "bfloat16" or (precision == "int8" and torch.cpu._is_avx512_bf16_supported())
    return torch.bfloat16 if halves else torch.float32


class Int8Linear(nn.Module):
    """A linear layer whose weights are whole numbers from -127 to 127, scaled for each output; rows of the input likewise, as they come.

    Each row is scaled by its own largest number, so that what becomes of it does not depend on the rows beside it.

    Args:
        linear: the layer to stand for; it is not needed afterwards.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scales = weight.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / _LEVELS
        whole = (weight / scales[:, None]).round().to(torch.int8)
        with warnings.catch_warnings():  # torch announces another way to make such tensors, which packs no weights yet
            warnings.simplefilter("ignore")
            tensor = torch._make_per_channel_quantized_tensor(whole, scales, torch.zeros(len(whole), dtype=torch.long), 0)
            self._packed = torch.ops.quantized.linear_prepack(tensor, None)
        self.bias = linear.bias

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """As the linear layer, to about two decimal places."""
        largest = torch.linalg.vector_norm(x, torch.inf, -1, True).clamp_(min=torch.finfo(torch.float32).tiny)
        product = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(x / largest, 1 / _LEVELS, _MIDDLE, self._packed)
        return torch.addcmul(self.bias, product, largest)


def lighten(part: nn.Module, precision: Precision) -> None:
    """Make a block of a transformer ready for inference as soon as its weights are there; leave anything else alone.

    Its matrices take a quarter of their memory as int8; bfloat16 is a matter of how they are read.
    """
    if not isinstance(part, Block):
        return
    part.attn.fuse()
    if precision == "int8":
        for parent in (part.attn, part.mlp):
            for name, layer in parent.named_children():
                if isinstance(layer, nn.Linear):
                    setattr(parent, name, Int8Linear(layer))
        return_memory()


def return_memory() -> None:
    """Give freed memory back to the system: what the matrices took before would else stay with the process, 0.5 GB in the end."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):  # glibc has it
        trim(0)


class RecordedStep:
    """`Sampler.step` as a graph that is recorded at the first call and replayed by later ones: nothing of Python between operations.

    Args:
        sampler: in evaluation mode, on a CPU; called under the same autocast every time.
    """

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._graph: Callable[..., Tensor] | None = None

    def __call__(self, code: Int[Tensor, "batch"], cache: KeyValueCache) -> Float[Tensor, "batch codes"]:
        """Read one more code; score the next."""
        inputs = (code, cache.memory, torch.tensor(cache.grow(1)))
        if self._graph is None:
            with warnings.catch_warnings():  # torch would have its compiler used, which needs minutes and a C++ compiler
                warnings.simplefilter("ignore")
                self._graph = torch.jit.trace_module(self._sampler, {"read": inputs}, check_trace=False).read
        return self._graph(*inputs)
