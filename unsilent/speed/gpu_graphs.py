"""Sampling on a GPU: one turn, from scores to a code to the scores of the next, is recorded as a CUDA graph and replayed for every code.

A turn is hundreds of kernels that last microseconds each; launching them one by one takes longer than they do. Where Triton is there, the
transformer is five of them a block (`kernels`).
"""

import importlib.util
import logging
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unsilent.errors import ParameterError
from unsilent.models.sampler import ChooseCodes, Sampler, WindowState
from unsilent.models.transformer import KeyValueCache

log = logging.getLogger(__name__)

_WARM_UPS = 3  # turns before recording, in which libraries choose their kernels and take their memory


class GraphedAdvance:
    """Does what `Sampler.advance` says, by a recorded graph.

    A graph knows places in memory, so what was read of a window before its first turn is copied to where the graph looks for it. One graph
    is kept, with a cache of its own; another number of sequences, or another way to choose, is recorded anew, which takes 0.03 s for the
    paper's model.

    Args:
        sampler: on any device; where that is no GPU, what would be recorded is computed instead.
    """

    def __init__(self, sampler: Sampler) -> None:
        self._parts = _Parts(sampler)
        self.captured: _CapturedStep | None = None

    def __call__(
        self, choose: ChooseCodes, logits: Float[Tensor, "rows codes"], uniforms: Float[Tensor, "takes"], state: WindowState
    ) -> tuple[Int[Tensor, "takes"], Float[Tensor, "rows codes"]]:
        """As `Sampler.advance`, with the scores of the call before in all turns of a window but its first.

        Raises:
            ParameterError: if another window was begun since this one's last turn.
        """
        memory = state.cache.memory
        key = (choose, memory.shape, memory.dtype, state.positions.shape, uniforms.shape)
        if self.captured is None or self.captured.key != key:
            self.captured = None  # its memory is free for the next
            self.captured = _CapturedStep(self._parts, key, choose, logits, uniforms, state)
        return self.captured(logits, uniforms, state)


class _Parts:
    """What a step goes through; not the sampler itself, which holds its recorder."""

    def __init__(self, sampler: Sampler) -> None:
        self.tokens, self.transformer, self.head = sampler.tok_emb, sampler.transformer, sampler.head


class _CapturedStep:
    """A turn of so many sequences, always at the same places in memory."""

    def __init__(self, parts: _Parts, key: tuple, choose: ChooseCodes, logits: Tensor, uniforms: Tensor, state: WindowState) -> None:
        self.key, self._choose, self._parts = key, choose, parts
        self.memory, self.positions = torch.zeros_like(state.cache.memory), torch.zeros_like(state.positions)
        self.logits, self.uniforms = torch.zeros_like(logits, dtype=torch.float32), torch.zeros_like(uniforms)
        self.known = torch.zeros(1, dtype=torch.long, device=logits.device)
        self.codes = choose(self.logits, self.uniforms)
        self._window: KeyValueCache | None = None
        on_gpu = logits.device.type == "cuda"
        self.kernels = self._kernels() if on_gpu else None
        self.replay = self._record() if on_gpu else self._compute

    def __call__(self, logits: Tensor, uniforms: Tensor, state: WindowState) -> tuple[Tensor, Tensor]:
        cache = state.cache
        known = cache.grow(1)
        if cache.memory is not self.memory:  # a window that has just begun
            self.memory[..., :known, :] = cache.memory[..., :known, :]  # of what is behind, masks do not hide what is no number
            cache.memory = self.memory
            self.positions.copy_(state.positions)
            self.logits.copy_(logits)
            self._window = cache
        elif cache is not self._window:
            raise ParameterError("another window was begun before this one ended; a sampler on a GPU samples one at a time.")
        self.known.fill_(known)
        self.uniforms.copy_(uniforms)
        self.replay()
        return self.codes, self.logits

    def _kernels(self) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], None] | None:
        """Our own kernels, if they can take this step and be compiled, which is tried."""
        if importlib.util.find_spec("triton") is None or torch.version.cuda is None:
            return None
        parts, batch = self._parts, len(self.logits)
        try:
            from unsilent.speed import gpu_kernels

            if not gpu_kernels.fits(parts.transformer, batch):
                return None
            steps = gpu_kernels.Steps(parts.tokens, parts.transformer, parts.head, batch)
            steps(self._read(), self.positions, self.memory, self.known, self.logits)
        except Exception as error:  # of many kinds: Triton wants to be new enough, a C compiler and Python's headers where it runs
            log.warning("Triton cannot compile here, so torch's own kernels take the sampler's steps, more slowly: %s", error)
            return None
        return steps

    def _read(self) -> Int[Tensor, "rows"]:
        """What is chosen, for all sequences of each take."""
        return self.codes.repeat(len(self.logits) // len(self.codes))

    def _compute(self) -> None:
        self.codes.copy_(self._choose(self.logits, self.uniforms))
        if self.kernels is not None:
            self.kernels(self._read(), self.positions, self.memory, self.known, self.logits)
            return
        parts = self._parts
        x = parts.tokens(self._read()[:, None]) + self.positions.index_select(1, self.known)
        for layer, block in enumerate(parts.transformer.blocks):
            x = block(x, self.memory[layer], self.known)
        self.logits.copy_(parts.head(parts.transformer.ln_f(x))[:, 0])

    def _record(self) -> Callable[[], None]:
        # weights rounded by autocast must be rounded inside the graph: its cache is emptied between the calls
        kind = self.logits.device.type
        halves = torch.autocast(kind, torch.get_autocast_dtype(kind), enabled=torch.is_autocast_enabled(kind), cache_enabled=False)
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with halves, torch.cuda.stream(beside):
            for _ in range(_WARM_UPS):
                self._compute()
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with halves, torch.cuda.graph(graph, capture_error_mode="thread_local"):  # others may compute beside
            self._compute()
        return graph.replay
