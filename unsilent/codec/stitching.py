"""Streaming through networks of limited length: codes are decoded in overlapping windows, mels are vocoded in chunks with context.

Peak memory is that of at most 1.125 windows, whatever the length. Decoding can start before the last codes are known.
"""

from collections import deque
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unsilent.clip import Clip
from unsilent.models.residual_codebook import AnyCodebook

OVERLAP_COLUMNS = 8  # code columns of the cross-fade between neighbouring windows
# Up to this many clips are decoded as one window, so that a video of ten seconds needs only one.
WHOLE_CLIPS = 1.125
# Mel frames vocoded at once, in multiples of the context, and at least `_CHUNK_FRAMES`. With 12 on a CPU, the context on both sides adds a
# sixth to the work. Chunks are longer on a GPU, because each call has latency and there is enough memory.
_CHUNK_CONTEXTS, _CHUNK_FRAMES = {"cpu": 12, "cuda": 160}, {"cpu": 240, "cuda": 960}


def decoded_windows(n_columns: int, clip: Clip) -> list[range]:
    """Code columns of each decoded window: one window up to `WHOLE_CLIPS` clips, else overlapping windows of one clip.

    The decoder's GroupNorm and attention depend on all columns of a window, so windows are as long as in training.
    """
    if n_columns <= WHOLE_CLIPS * clip.columns:
        return [range(n_columns)]
    starts = [*range(0, n_columns - clip.columns, clip.columns - OVERLAP_COLUMNS), n_columns - clip.columns]
    return [range(start, start + clip.columns) for start in starts]


class StreamingMel:
    """A mel around [-1, 1], not clipped, which is decoded window by window as codes become known.

    Neighbouring windows overlap by 8 columns or more, and are cross-faded linearly over 8.

    Args:
        codebook: in evaluation mode.
        n_columns: code columns of the whole sound.
        device: device of the codebook.
        first_column: position of the grid in a longer sound, for codebooks whose noise texture depends on it.

    Attributes:
        mel: the whole mel; from frame `done` on it is 0 or not yet cross-faded.
        done: number of final frames.
    """

    def __init__(self, codebook: AnyCodebook, n_columns: int, device: torch.device, first_column: int = 0) -> None:
        self._codebook, self._first_column, clip = codebook, first_column, codebook.config.clip
        self._windows = deque(decoded_windows(n_columns, clip))
        self.mel, self.done = torch.zeros(clip.mels, n_columns * clip.downsampling, device=device), 0

    @torch.inference_mode()
    def feed(self, known: Int[Tensor, "rows known"]) -> None:
        """Decode each pending window whose codes are complete, given all codes known so far."""
        frames = self._codebook.config.clip.downsampling
        while self._windows and self._windows[0].stop <= known.shape[1]:
            columns = self._windows.popleft()
            window = self._codebook.decode_codes(known[None, :, columns.start : columns.stop], self._first_column + columns.start)[0]
            first = columns.start * frames
            if first:
                window = cross_fade(self.mel[:, first:], window, self._codebook.config.clip)
            self.mel[:, first : first + window.shape[1]] = window
            self.done = self._windows[0].start * frames if self._windows else self.mel.shape[1]


def cross_fade(before: Float[Tensor, "mels rest"] | None, window: Float[Tensor, "mels frames"], clip: Clip) -> Float[Tensor, "mels frames"]:
    """Cross-fade from the window before over the first 8 columns of a window; `before` is None for the first window."""
    if before is None:
        return window
    overlap = OVERLAP_COLUMNS * clip.downsampling
    rise = (torch.arange(overlap, device=window.device) + 0.5) / overlap
    return torch.cat([before[:, :overlap] * (1 - rise) + window[:, :overlap] * rise, window[:, overlap:]], dim=1)


def decode_grid(codebook: AnyCodebook, grid: Int[Tensor, "rows columns"], first_column: int = 0) -> Float[Tensor, "mels frames"]:
    """Decode codes of any length to a mel around [-1, 1], not clipped; see `StreamingMel`."""
    streaming = StreamingMel(codebook, grid.shape[1], grid.device, first_column)
    streaming.feed(grid)
    return streaming.mel


def chunk_frames(context_frames: int, device: torch.device) -> int:
    """Mel frames vocoded at once, not counting their context."""
    return max(_CHUNK_CONTEXTS[device.type] * context_frames, _CHUNK_FRAMES[device.type])


class StreamingWaveform:
    """A waveform that is vocoded chunk by chunk as its mel becomes final.

    Args:
        vocoder: mel `[batch, mels, frames]` to waveform `[batch, frames * hop]`.
        frames: frames of the whole mel.
        context_frames: receptive field on each side. Every chunk is vocoded with this context, which is then cut off, so the result equals
            one pass over the whole mel up to rounding.
        hop: samples per mel frame.
        device: device of the mel.

    Attributes:
        waveform: the whole waveform; 0 where it has not been vocoded.
        done: number of final samples.
    """

    def __init__(self, vocoder: Callable[[Tensor], Tensor], frames: int, context_frames: int, hop: int, device: torch.device) -> None:
        self._vocoder, self._context, self._hop, self._frames = vocoder, context_frames, hop, frames
        chunk = chunk_frames(context_frames, device)
        self._chunks = deque(range(start, min(frames, start + chunk)) for start in range(0, frames, chunk))
        self.waveform, self.done = torch.zeros(frames * hop, device=device), 0

    @torch.inference_mode()
    def feed(self, mel: Float[Tensor, "mels frames"], done: int) -> None:
        """Vocode each pending chunk whose context is final, given the mel and its number of final frames."""
        while self._chunks and (last := min(self._frames, self._chunks[0].stop + self._context)) <= done:
            chunk = self._chunks.popleft()
            first = max(0, chunk.start - self._context)
            samples = self._vocoder(mel[None, :, first:last])[0]
            start, stop = ((frame - first) * self._hop for frame in (chunk.start, chunk.stop))
            self.waveform[chunk.start * self._hop : chunk.stop * self._hop] = samples[start:stop]
            self.done = chunk.stop * self._hop


def vocode(
    vocoder: Callable[[Tensor], Tensor], mel: Float[Tensor, "mels frames"], context_frames: int, hop: int
) -> Float[Tensor, "samples"]:
    """Vocode a mel of any length in chunks; arguments as in `StreamingWaveform`."""
    streaming = StreamingWaveform(vocoder, mel.shape[1], context_frames, hop, mel.device)
    streaming.feed(mel, mel.shape[1])
    return streaming.waveform
