"""From codes to sound, most of a long one while the codes to come are still being sampled.

Here is decided when `stitching` works, not what it does. A step of a large sampler waits for memory most of the time, and on a GPU for its
kernels to follow one another, so what is done beside it costs less than doing it afterwards.
"""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from types import TracebackType

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unsilent.codec.stitching import GrowingMel, GrowingSound, decode_grid, decoded_windows, vocode
from unsilent.models.code_order import to_grid
from unsilent.models.codebook import Codebook
from unsilent.signal.griffin_lim import vocode as griffin_lim_vocode
from unsilent.signal.mel import to_mel01
from unsilent.speed.memory import trim_memory


class Renderer:
    """The networks behind the codes.

    Args:
        codebook: in evaluation mode.
        vocoder: mel in [0, 1] to waveform; None estimates phases without a network, by Griffin-Lim.
        device: that they are on.
        halves: whether they compute in bfloat16.
    """

    def __init__(self, codebook: Codebook, vocoder: nn.Module | None, device: torch.device, halves: bool) -> None:
        self.codebook, self.vocoder, self.device, self.clip = codebook, vocoder, device, codebook.config.clip
        self._halves = halves

    def autocast(self) -> torch.autocast:
        """What the networks compute under."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._halves)

    def decode(self, grid: Int[Tensor, "rows columns"]) -> Float[Tensor, "mels frames"]:
        """A mel around [-1, 1] from codes of any length."""
        with self.autocast():
            return decode_grid(self.codebook, grid)

    def vocode(self, mel: Float[Tensor, "mels frames"]) -> Float[Tensor, "samples"]:
        """A waveform from a mel around [-1, 1] of any length."""
        if self.vocoder is None:
            return griffin_lim_vocode(to_mel01(mel)[None], self.clip)[0]
        with self.autocast():
            return vocode(self.vocoded, mel, self.vocoder.context_frames, self.clip.hop)

    def vocoded(self, mel: Float[Tensor, "batch mels frames"]) -> Float[Tensor, "batch samples"]:
        """What the vocoder makes of short mels around [-1, 1]."""
        return self.vocoder(to_mel01(mel))


class Rendering:
    """Mels and waveforms of several takes, begun while their codes become known; a context, which ends what goes on beside it.

    As soon as its codes are known, each window but the last is decoded by a Python thread of its own, on a GPU on a stream of its own, and
    the mel that is finished so vocoded in chunks. That thread has as many of torch's threads as whoever made this, so nothing is rounded
    otherwise than if all were left for the end.

    Args:
        renderer: what to compute with.
        n_columns: of the whole sound.
        takes: how many there are.
    """

    def __init__(self, renderer: Renderer, n_columns: int, takes: int) -> None:
        self._renderer, clip, vocoder, device = renderer, renderer.clip, renderer.vocoder, renderer.device
        *early, _ = decoded_windows(n_columns, clip)
        self._early = deque(window.stop for window in early)
        self._mels = [GrowingMel(renderer.codebook, n_columns, device) for _ in range(takes)]
        frames, context = n_columns * clip.downsampling, 0 if vocoder is None else vocoder.context_frames
        n_sounds = 0 if vocoder is None else takes
        self._sounds = {take: GrowingSound(renderer.vocoded, frames, context, clip.hop, device) for take in range(n_sounds)}
        # its count of threads is for good: put back while the sampler has its own, it would be the one of all threads to come
        self._beside = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(torch.get_num_threads(),))
        self._begun = deque[Future]()
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" and early else None

    def __enter__(self) -> "Rendering":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._beside.shutdown(cancel_futures=True)
        finally:
            if self._stream is not None:  # memory that is let go must not be taken while it is written
                self._stream.synchronize()

    def hear(self, sequences: Int[Tensor, "takes known"]) -> None:
        """Begin with what can be done, given all codes that are known so far, whole columns in the order of `code_order`.

        Raises:
            Exception: what went wrong beside since.
        """
        while self._begun and self._begun[0].done():
            self._begun.popleft().result()
        while self._early and self._early[0] * self._renderer.clip.rows <= sequences.shape[1]:
            known = sequences[:, : self._early.popleft() * self._renderer.clip.rows]
            there = None if self._stream is None else torch.cuda.current_stream().record_event()
            for take, grid in enumerate(to_grid(known, self._renderer.clip.rows)):
                self._begun.append(self._beside.submit(self._grow, take, grid, there))

    @torch.inference_mode()
    def _grow(self, take: int, grid: Int[Tensor, "rows columns"], there: "torch.cuda.Event | None") -> None:
        with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            if there is not None:
                there.wait()
            self.decode(take, grid)
            trim_memory()
            if self._renderer.vocoder is not None:
                self.vocode(take)

    def decode(self, take: int, grid: Int[Tensor, "rows columns"]) -> Float[Tensor, "mels frames"]:
        """The mel of one take as far as its known codes `grid` say, around [-1, 1]."""
        with self._renderer.autocast():
            self._mels[take].grow(grid)
        return self._mels[take].mel

    def vocode(self, take: int) -> Float[Tensor, "samples"]:
        """The waveform of one take as far as its mel is done; without a vocoder, when all is. What is whole is given once, and let go."""
        growing = self._mels[take]
        if self._renderer.vocoder is None:
            return self._renderer.vocode(growing.mel)
        with self._renderer.autocast():
            self._sounds[take].grow(growing.mel, growing.done)
        is_whole = growing.done == growing.mel.shape[1]
        return (self._sounds.pop(take) if is_whole else self._sounds[take]).waveform

    def wait(self) -> None:
        """Let what goes on beside come to its end.

        Raises:
            Exception: what went wrong there.
        """
        while self._begun:
            self._begun.popleft().result()
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)
        if self._renderer.device.type == "cuda":  # which answers before it has done what it was asked for
            torch.cuda.current_stream().synchronize()
