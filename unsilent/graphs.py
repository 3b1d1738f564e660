"""The sampler's transformer on a GPU: one step is recorded as a CUDA graph and replayed for every further code.

A step of a transformer is hundreds of kernels that last microseconds each; launching them one by one takes longer than they do. Where
Triton is there, it is five a block (`kernels`).
"""

import importlib.util
import logging
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unsilent.models.transformer import KeyValueCache, Transformer

log = logging.getLogger(__name__)

_WARM_UPS = 3  # passes before recording, in which libraries choose their kernels and take their memory


class GraphedTransformer(nn.Module):
    """Stands for a `Transformer` in inference: reads single positions by a recorded graph, anything longer as it is.

    A graph knows places in memory, so it is recorded once for each number of sequences, and the keys and values of every window are copied
    to where it looks for them.

    Args:
        transformer: on any device; where that is no GPU, what would be recorded is computed instead.
    """

    def __init__(self, transformer: Transformer) -> None:
        super().__init__()
        self.transformer, self.config = transformer, transformer.config
        self._recorded: dict[tuple[int, ...], _Step] = {}

    def cache(self, batch: int, capacity: int, like: Tensor) -> KeyValueCache:
        """An empty cache, as of the transformer."""
        return self.transformer.cache(batch, capacity, like)

    def forward(self, x: Float[Tensor, "batch sequence width"], cache: KeyValueCache) -> Float[Tensor, "batch sequence width"]:
        """Causal; `x` continues what the cache holds, and is added to it. The result is overwritten by the next call."""
        if x.shape[1] != 1:
            return self.transformer(x, cache)
        key = tuple(cache.memory.shape)
        if key not in self._recorded:
            self._recorded[key] = _Step(self.transformer, x, cache.memory)
        return self._recorded[key](x, cache)


class _Step:
    """One position of so many sequences, always at the same places in memory."""

    def __init__(self, transformer: Transformer, x: Tensor, memory: Tensor) -> None:
        self.memory = torch.zeros_like(memory)
        self.x, self.known = x.new_zeros(x.shape), x.new_zeros(1, dtype=torch.long)  # of our own: what is recorded changes them
        self.result = x
        self.transformer = transformer
        self.kernels = self._kernels() if x.device.type == "cuda" else None
        if self.kernels is not None:
            self.x = self.x.float()
        self.replay = self._record() if x.device.type == "cuda" else self._compute

    def __call__(self, x: Tensor, cache: KeyValueCache) -> Tensor:
        if cache.memory is not self.memory:  # a window that has just begun
            known = slice(cache.length)  # what is behind was never written, and masks do not hide what is no number
            self.memory[..., known, :] = cache.memory[..., known, :]
            cache.memory = self.memory
        self.known.fill_(cache.grow(1))
        self.x.copy_(x)
        self.replay()
        return self.result

    def _kernels(self) -> Callable[[Tensor, Tensor, Tensor], None] | None:
        """Our own kernels, if they can take this step and be compiled, which is tried."""
        if importlib.util.find_spec("triton") is None:
            return None
        from unsilent import kernels

        if not kernels.fits(self.transformer, len(self.x)):
            return None
        steps = kernels.Steps(self.transformer, len(self.x))
        try:
            steps(self.x.float(), self.memory, self.known)
        except Exception as error:  # of many kinds: Triton wants a C compiler and Python's headers where it runs
            log.warning("Triton cannot compile here, so torch's own kernels take the sampler's steps, more slowly: %s", error)
            return None
        return steps

    def _compute(self) -> None:
        x = self.x
        if self.kernels is not None:
            self.kernels(x, self.memory, self.known)
        else:
            for layer, block in enumerate(self.transformer.blocks):
                x = block(x, self.memory[layer], self.known)
        self.result = self.transformer.ln_f(x)

    def _record(self) -> Callable[[], None]:
        # weights rounded by autocast must be rounded inside the graph: its cache is emptied between the calls
        kind = self.x.device.type
        halves = torch.autocast(kind, torch.get_autocast_dtype(kind), enabled=torch.is_autocast_enabled(kind), cache_enabled=False)
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with halves, torch.cuda.stream(beside):
            for _ in range(_WARM_UPS):
                self._compute()
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with halves, torch.cuda.graph(graph):
            self._compute()
        return graph.replay
