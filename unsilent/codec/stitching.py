"""Long sounds from networks that see a clip at a time: codes decoded in overlapping windows, mels vocoded in chunks with context.

The networks' memory stays that of one window, or an eighth more, whatever the length, and they can begin before the last codes are known.
Not here: choosing the codes (`sampling`), when something is begun (`rendering`).
"""

from collections import deque
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unsilent.clip import Clip
from unsilent.models.codebook import Codebook

OVERLAP_COLUMNS = 8  # code columns that neighbouring windows share and blend over
# What is hardly longer than a clip, such as a video of ten seconds, is decoded as one; two windows would take twice as long.
WHOLE_CLIPS = 1.125
# Mel frames that are vocoded at once: in contexts, of which it needs one on each side, which is a sixth more work on a CPU; but no fewer
# than vocoders with short contexts are fast at. A GPU has the memory, and waits for every call.
_CHUNK_CONTEXTS, _CHUNK_FRAMES = {"cpu": 12, "cuda": 160}, {"cpu": 240, "cuda": 960}


def decoded_windows(n_columns: int, clip: Clip) -> list[range]:
    """Code columns of each window that is decoded: all up to an eighth more than one clip, else a clip at a time.

    The decoder's normalisation and attention look at all they are given, so a window is what it was trained on.
    """
    if n_columns <= WHOLE_CLIPS * clip.columns:
        return [range(n_columns)]
    starts = [*range(0, n_columns - clip.columns, clip.columns - OVERLAP_COLUMNS), n_columns - clip.columns]
    return [range(start, start + clip.columns) for start in starts]


class GrowingMel:
    """A mel in [-1, 1] (unbounded around it) of codes that become known column by column.

    Neighbouring windows share 8 columns or more; over 8, one fades linearly into the next.

    Args:
        codebook: in evaluation mode.
        n_columns: of the whole.
        device: that the codebook is on.

    Attributes:
        mel: the whole; from `done` on it is zero or still to be blended.
        done: frames that will not change any more.
    """

    def __init__(self, codebook: Codebook, n_columns: int, device: torch.device) -> None:
        self._codebook, clip = codebook, codebook.config.clip
        self._ahead = deque(decoded_windows(n_columns, clip))
        self.mel, self.done = torch.zeros(clip.mels, n_columns * clip.downsampling, device=device), 0

    @torch.inference_mode()
    def grow(self, known: Int[Tensor, "rows known"]) -> None:
        """Decode all windows that have not been and whose columns are known, given all columns that are."""
        frames = self._codebook.config.clip.downsampling
        while self._ahead and self._ahead[0].stop <= known.shape[1]:
            columns = self._ahead.popleft()
            window = self._codebook.decode_codes(known[None, :, columns.start : columns.stop])[0]
            first = columns.start * frames
            if first:
                overlap = OVERLAP_COLUMNS * frames
                rise = (torch.arange(overlap, device=self.mel.device) + 0.5) / overlap
                faded = self.mel[:, first : first + overlap]
                window = torch.cat([faded * (1 - rise) + window[:, :overlap] * rise, window[:, overlap:]], dim=1)
            self.mel[:, first : first + window.shape[1]] = window
            self.done = self._ahead[0].start * frames if self._ahead else self.mel.shape[1]


def decode_grid(codebook: Codebook, grid: Int[Tensor, "rows columns"]) -> Float[Tensor, "mels frames"]:
    """Decode codes of any length to a mel in [-1, 1] (unbounded around it), as `GrowingMel` does."""
    growing = GrowingMel(codebook, grid.shape[1], grid.device)
    growing.grow(grid)
    return growing.mel


def chunk_frames(context_frames: int, device: torch.device) -> int:
    """Mel frames that are vocoded at once, beside their context."""
    return max(_CHUNK_CONTEXTS[device.type] * context_frames, _CHUNK_FRAMES[device.type])


class GrowingSound:
    """The waveform of a mel that becomes known from left to right, vocoded in chunks.

    Args:
        vocoder: mel `[batch, mels, frames]` to waveform `[batch, frames * hop]`.
        frames: of the whole mel.
        context_frames: how far a sample can depend on the mel; every chunk is given this much on each side, which is cut away afterwards,
            so that the result equals that of one whole pass (to floating-point rounding).
        hop: samples per mel frame.
        device: that the mel is on.

    Attributes:
        waveform: the whole, zeros where it has not been vocoded.
    """

    def __init__(self, vocoder: Callable[[Tensor], Tensor], frames: int, context_frames: int, hop: int, device: torch.device) -> None:
        self._vocoder, self._context, self._hop, self._frames = vocoder, context_frames, hop, frames
        chunk = chunk_frames(context_frames, device)
        self._ahead = deque(range(start, min(frames, start + chunk)) for start in range(0, frames, chunk))
        self.waveform = torch.zeros(frames * hop, device=device)

    @torch.inference_mode()
    def grow(self, mel: Float[Tensor, "mels frames"], done: int) -> None:
        """Vocode all chunks that have not been and whose context is known, given a mel of which that many frames are."""
        while self._ahead and (last := min(self._frames, self._ahead[0].stop + self._context)) <= done:
            chunk = self._ahead.popleft()
            first = max(0, chunk.start - self._context)
            heard = self._vocoder(mel[None, :, first:last])[0]
            start, stop = ((place - first) * self._hop for place in (chunk.start, chunk.stop))
            self.waveform[chunk.start * self._hop : chunk.stop * self._hop] = heard[start:stop]


def vocode(
    vocoder: Callable[[Tensor], Tensor], mel: Float[Tensor, "mels frames"], context_frames: int, hop: int
) -> Float[Tensor, "samples"]:
    """Vocode a mel of any length in chunks; arguments as of `GrowingSound`."""
    growing = GrowingSound(vocoder, mel.shape[1], context_frames, hop, mel.device)
    growing.grow(mel, mel.shape[1])
    return growing.waveform
