"""Sampling on a GPU: one step, from logits through a code to the next logits, is captured as a CUDA graph and replayed for every code.

A step has hundreds of kernels of microseconds each; launching them one by one takes longer than running them. With Triton, a transformer
block has five kernels (`gpu_kernels`).
"""

import importlib.util
import logging
import subprocess
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unsilent.errors import ResourceError
from unsilent.models.sampler import ChooseCodes, Sampler, WindowState
from unsilent.models.transformer import KeyValueCache, Looked

log = logging.getLogger(__name__)

_WARM_UPS = 3  # steps before the capture, in which libraries choose kernels and allocate workspaces


class GraphedAdvance:
    """`Sampler.advance` as a captured CUDA graph.

    A graph reads fixed addresses, so the KV cache of a new window is copied to the graph's cache. One graph with one cache is kept. Another
    batch or another `choose` needs a new capture, which takes 0.03 s for the paper's model.

    Args:
        sampler: on any device; on a CPU the same step is computed without a graph.
    """

    def __init__(self, sampler: Sampler) -> None:
        self._networks = _Networks(sampler)
        self.captured: _CapturedStep | None = None

    def __call__(
        self, choose: ChooseCodes, logits: Float[Tensor, "rows codes"], uniforms: Float[Tensor, "takes"], state: WindowState
    ) -> tuple[Int[Tensor, "takes"], Float[Tensor, "rows codes"]]:
        """See `Sampler.advance`. In every step of a window except the first, `logits` must be the result of the call before.

        Raises:
            ResourceError: if another window has begun since the last step of this one.
        """
        memory, looked = state.cache.memory, state.cache.looked
        key = (choose, memory.shape, memory.dtype, state.positions.shape, uniforms.shape, looked and looked.look)
        if self.captured is None or self.captured.key != key:
            self.captured = None  # frees its memory before the next one allocates
            self.captured = _CapturedStep(self._networks, key, choose, logits, uniforms, state)
        return self.captured(logits, uniforms, state)


class _Networks:
    """The networks of a step; the sampler itself would be a reference cycle."""

    def __init__(self, sampler: Sampler) -> None:
        self.tokens, self.transformer, self.head = sampler.tok_emb, sampler.transformer, sampler.head


class _CapturedStep:
    """A step for a fixed batch at fixed addresses."""

    def __init__(self, networks: _Networks, key: tuple, choose: ChooseCodes, logits: Tensor, uniforms: Tensor, state: WindowState) -> None:
        self.key, self._choose, self._networks = key, choose, networks
        self.memory, self.positions = torch.zeros_like(state.cache.memory), torch.zeros_like(state.positions)
        self.logits, self.uniforms = torch.zeros_like(logits, dtype=torch.float32), torch.zeros_like(uniforms)
        self.known = torch.zeros(1, dtype=torch.long, device=logits.device)
        looked = state.cache.looked
        self.looked = looked and Looked(networks.transformer.config, looked.look, *looked.weights.shape[:2], logits.device)
        self.codes = choose(self.logits, self.uniforms)
        self._window: KeyValueCache | None = None
        on_gpu = logits.device.type == "cuda"
        self.kernels = self._compile_kernels() if on_gpu else None
        self.replay = self._capture() if on_gpu else self._compute

    def __call__(self, logits: Tensor, uniforms: Tensor, state: WindowState) -> tuple[Tensor, Tensor]:
        cache = state.cache
        known = cache.grow(1)
        if cache.memory is not self.memory:  # the first step of a window
            # only the valid prefix, because masked attention still multiplies the rest, and 0 x NaN is NaN
            self.memory[..., :known, :] = cache.memory[..., :known, :]
            cache.memory = self.memory
            if self.looked is not None:
                self.looked.weights.copy_(cache.looked.weights)
                cache.looked = self.looked
            self.positions.copy_(state.positions)
            self.logits.copy_(logits)
            self._window = cache
        elif cache is not self._window:
            raise ResourceError("the GPU graph holds one window at a time; finish this window before another one begins.")
        self.known.fill_(known)
        self.uniforms.copy_(uniforms)
        self.replay()
        return self.codes, self.logits

    def _compile_kernels(self) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Looked | None], None] | None:
        """Our Triton kernels; None if they do not support this step, or Triton cannot compile on this machine."""
        if importlib.util.find_spec("triton") is None or torch.version.cuda is None:
            return None
        networks, batch = self._networks, len(self.logits)
        try:
            from unsilent.speed import gpu_kernels

            if not gpu_kernels.fits(networks.transformer, batch):
                return None
            steps = gpu_kernels.StepKernels(networks.tokens, networks.transformer, networks.head, batch)
            steps(self._rows(), self.positions, self.memory, self.known, self.logits, self.looked)
        except Exception as error:
            if not is_compile_error(error):
                raise
            log.warning("Triton cannot compile on this machine, so torch computes the sampler's steps and is slower: %s", error)
            return None
        return steps

    def _rows(self) -> Int[Tensor, "rows"]:
        """The chosen codes, repeated for the conditional and unconditional rows of each take."""
        return self.codes.repeat(len(self.logits) // len(self.codes))

    def _compute(self) -> None:
        self.codes.copy_(self._choose(self.logits, self.uniforms))
        if self.kernels is not None:
            self.kernels(self._rows(), self.positions, self.memory, self.known, self.logits, self.looked)
            return
        networks = self._networks
        x = networks.tokens(self._rows()[:, None]) + self.positions.index_select(1, self.known)
        for layer, block in enumerate(networks.transformer.blocks):
            x = block(x, self.memory[layer], self.known, self.looked and self.looked.of(layer))
        self.logits.copy_(networks.head(networks.transformer.ln_f(x))[:, 0])

    def _capture(self) -> Callable[[], None]:
        # without autocast's cache, because weights that it cast outside the graph would be freed between replays
        kind = self.logits.device.type
        autocast = torch.autocast(kind, torch.get_autocast_dtype(kind), enabled=torch.is_autocast_enabled(kind), cache_enabled=False)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with autocast, torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                self._compute()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with autocast, torch.cuda.graph(graph, capture_error_mode="thread_local"):  # the decoder may run in another thread
            self._compute()
        return graph.replay


def is_compile_error(error: Exception) -> bool:
    """Whether an error means that Triton cannot compile on this machine: an old version, no C compiler, no Python headers.

    Other errors are bugs or faults of the GPU, which a fallback would hide.
    """
    is_of_triton = any(kind.__module__.split(".")[0] == "triton" for kind in type(error).__mro__)
    has_no_compiler = isinstance(error, RuntimeError) and "Failed to find C compiler" in str(error)
    return is_of_triton or has_no_compiler or isinstance(error, ImportError | subprocess.CalledProcessError)
