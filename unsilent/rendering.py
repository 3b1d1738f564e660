"""From codes to sound, most of a long one while the codes to come are still being sampled.

Here is decided when `stitching` works, not what it does. A step of a large sampler waits for memory most of the time, and on a GPU for its
kernels to follow one another, so what is done beside it costs less than doing it afterwards.
"""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unsilent.models.code_order import to_grid
from unsilent.models.codebook import Codebook
from unsilent.runtime import return_memory, some_threads
from unsilent.signal.griffin_lim import vocode as griffin_lim_vocode
from unsilent.signal.mel import to_mel01
from unsilent.stitching import GrowingMel, GrowingSound, decode_grid, decoded_windows, vocode


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
            return vocode(self.heard, mel, self.vocoder.context_frames, self.clip.hop)

    def heard(self, mel: Float[Tensor, "batch mels frames"]) -> Float[Tensor, "batch samples"]:
        """What the vocoder makes of mels around [-1, 1]."""
        return self.vocoder(to_mel01(mel))


class Rendering:
    """Mels and waveforms of several takes, begun while their codes become known; a context, which ends what goes on beside it.

    As soon as its codes are known, each window but the last is decoded, and what that finishes of the mel vocoded, by a Python thread of
    its own, on a GPU on a stream of its own. It has as many of torch's threads as whoever made this, so nothing is rounded otherwise than
    if all were left for the end.

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
        frames, context = n_columns * clip.downsampling, vocoder.context_frames if vocoder else 0
        self._sounds = [GrowingSound(renderer.heard, frames, context, clip.hop, device) for _ in range(takes if vocoder else 0)]
        self._beside, self._begun, self._threads = ThreadPoolExecutor(1), deque[Future](), torch.get_num_threads()
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" and self._early else None

    def __enter__(self) -> "Rendering":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._beside.shutdown(cancel_futures=True)
        if self._stream is not None:  # memory that is let go must not be taken while it is written
            self._stream.synchronize()

    def hear(self, sequences: Int[Tensor, "takes known"]) -> None:
        """Begin with what can be done, given all codes that are known so far, whole columns in the order of `code_order`.

        Raises what went wrong beside since.
        """
        while self._begun and self._begun[0].done():
            self._begun.popleft().result()
        while self._early and self._early[0] * self._renderer.clip.rows <= sequences.shape[1]:
            known = sequences[:, : self._early.popleft() * self._renderer.clip.rows]
            there = torch.cuda.current_stream().record_event() if self._stream else None
            self._begun.append(self._beside.submit(self._grow, known, there))

    @torch.inference_mode()
    def _grow(self, known: Int[Tensor, "takes known"], there: "torch.cuda.Event | None") -> None:
        with torch.cuda.stream(self._stream), some_threads(self._threads):
            if there is not None:
                there.wait()
            for take, grid in enumerate(to_grid(known, self._renderer.clip.rows)):
                self.decode(take, grid)
                return_memory()
                if self._sounds:
                    self.vocode(take)

    def decode(self, take: int, grid: Int[Tensor, "rows columns"]) -> Float[Tensor, "mels frames"]:
        """The mel of one take as far as its known codes `grid` say, around [-1, 1]."""
        with self._renderer.autocast():
            self._mels[take].grow(grid)
        return self._mels[take].mel

    def vocode(self, take: int) -> Float[Tensor, "samples"]:
        """The waveform of one take as far as its mel is done; whole without a vocoder."""
        growing = self._mels[take]
        if not self._sounds:
            return self._renderer.vocode(growing.mel)
        with self._renderer.autocast():
            self._sounds[take].grow(growing.mel, growing.done)
        return self._sounds[take].waveform

    def wait(self) -> None:
        """Let what goes on beside come to its end; raises what went wrong there."""
        while self._begun:
            self._begun.popleft().result()
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)
