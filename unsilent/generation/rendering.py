"""Streaming decoder: decodes and vocodes finished windows while later codes are being sampled.

This file schedules the classes of `codec.stitching`. Concurrent decoding costs less time than decoding afterwards, because a sampling step
is limited by memory bandwidth on a CPU, and by kernel latency on a GPU.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from types import TracebackType
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unsilent.codec.codec import Codec
from unsilent.codec.stitching import StreamingMel, StreamingWaveform, decoded_windows
from unsilent.generation.progress import Clock, Progress
from unsilent.models.code_order import to_grid
from unsilent.speed.memory import retain_memory, trim_memory


class Finished(NamedTuple):
    """One finished take.

    Attributes:
        waveform: mono in [-1, 1], at the final level.
        mel: log mel, around [-1, 1].
        codes: the grid of codes.
    """

    waveform: Float[np.ndarray, "samples"]
    mel: Float[np.ndarray, "mels frames"]
    codes: Int[np.ndarray, "rows columns"]


class Rendering:
    """Streaming decoder of several takes, and a context manager that ends its background thread.

    A background thread decodes each window except the last when its codes are known, and vocodes the finished mel in chunks. On a GPU it
    has its own stream. It uses as many torch threads as the codec, so results equal decoding at the end bit by bit.

    Args:
        codec: decodes and vocodes.
        n_columns: code columns of the whole sound.
    """

    def __init__(self, codec: Codec, n_columns: int) -> None:
        self._codec, clip, vocoder, device = codec, codec.clip, codec.vocoder, codec.device
        *early, _ = decoded_windows(n_columns, clip)
        self._windows = deque(window.stop for window in early)
        frames, context = n_columns * clip.downsampling, 0 if vocoder is None else vocoder.context_frames
        self._mels = defaultdict(partial(StreamingMel, codec.codebook, n_columns, device))  # by take number
        self._waveforms = defaultdict(partial(StreamingWaveform, codec.vocode_chunk, frames, context, clip.hop, device))
        # the pool sets its thread count once; resetting it per call would race with the sampler's own setting
        self._background = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(codec.threads,))
        self._pending = deque[Future]()
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" and early else None

    def __enter__(self) -> "Rendering":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._background.shutdown(cancel_futures=True)
        finally:
            if self._stream is not None:  # memory must not be reused while a kernel still writes it
                self._stream.synchronize()

    def feed(self, sequences: Int[Tensor, "takes known"]) -> None:
        """Start decoding every window whose codes are complete.

        Args:
            sequences: all codes known so far, whole columns in the order of `code_order`.

        Raises:
            Exception: one raised by the background thread since the last call.
        """
        while self._pending and self._pending[0].done():
            self._pending.popleft().result()
        while self._windows and self._windows[0] * self._codec.clip.rows <= sequences.shape[1]:
            known = sequences[:, : self._windows.popleft() * self._codec.clip.rows]
            ready = None if self._stream is None else torch.cuda.current_stream().record_event()
            for take, grid in enumerate(to_grid(known, self._codec.clip.rows)):
                self._pending.append(self._background.submit(self._render, take, grid, ready))

    @torch.inference_mode()
    def _render(self, take: int, grid: Int[Tensor, "rows columns"], ready: "torch.cuda.Event | None") -> None:
        with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            if ready is not None:
                ready.wait()
            self.decode(take, grid)
            trim_memory()
            if self._codec.vocoder is not None:
                self.vocode(take)

    def decode(self, take: int, grid: Int[Tensor, "rows columns"]) -> Float[Tensor, "mels frames"]:
        """Mel of one take, around [-1, 1], as far as the known codes `grid` reach."""
        with self._codec.computing():
            self._mels[take].feed(grid)
        return self._mels[take].mel

    def vocode(self, take: int) -> Float[Tensor, "samples"]:
        """Waveform of one take as far as its mel is finished. Griffin-Lim needs the whole mel.

        The buffer of a complete waveform is released.
        """
        streaming = self._mels[take]
        if self._codec.vocoder is None:
            return self._codec.vocode(streaming.mel)
        with self._codec.computing():
            self._waveforms[take].feed(streaming.mel, streaming.done)
        is_whole = streaming.done == streaming.mel.shape[1]
        return (self._waveforms.pop(take) if is_whole else self._waveforms[take]).waveform

    def finish(
        self,
        grids: Mapping[int, Int[Tensor, "rows columns"]],
        n_samples: int,
        clock: Clock,
        progress: Progress,
        shape: Callable[[np.ndarray], np.ndarray],
    ) -> list[Finished]:
        """Wait for the background thread, then decode, vocode and shape the rest of each take.

        Args:
            grids: all codes of each take to finish, by take number.
            n_samples: length of the sound.
            clock: gets the laps `codes`, `decode`, `vocode` and `loudness`.
            progress: called with the share of finished takes.
            shape: final processing of a take's waveform, see `shaping.shaper`.
        """
        self.wait()
        clock.lap("codes")
        finished = list[Finished]()
        with retain_memory():
            for take, grid in grids.items():
                mel = self.decode(take, grid)
                clock.lap("decode")
                waveform = self.vocode(take)[:n_samples].cpu().numpy()
                clock.lap("vocode")
                waveform = shape(waveform)
                clock.lap("loudness")
                finished.append(Finished(waveform, mel.cpu().numpy(), grid.cpu().numpy()))
                progress(len(finished) / len(grids))
        return finished

    def wait(self) -> None:
        """Wait for the background thread.

        Raises:
            Exception: one raised by that thread.
        """
        while self._pending:
            self._pending.popleft().result()
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)
        if self._codec.device.type == "cuda":  # kernels run asynchronously
            torch.cuda.current_stream().synchronize()
