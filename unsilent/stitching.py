"""Long sounds from networks that see a clip at a time: codes decoded in overlapping windows, mels vocoded in chunks with context.

The networks' memory stays that of one window, or an eighth more, whatever the length. Not here: choosing the codes (`sampling`).
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unsilent.models.codebook import Codebook

OVERLAP_COLUMNS = 8  # code columns that neighbouring windows share and blend over
# What is hardly longer than a clip, such as a video of ten seconds, is decoded as one; two windows would take twice as long.
WHOLE_CLIPS = 1.125
CHUNK_CONTEXTS = 40  # length of what is vocoded at once, in contexts, of which it needs one on each side: 5 % more work, little memory


@torch.inference_mode()
def decode_grid(codebook: Codebook, grid: Int[Tensor, "rows columns"]) -> Float[Tensor, "mels frames"]:
    """Decode codes of any length to a mel in [-1, 1] (unbounded around it).

    Up to an eighth more than one clip is decoded whole. Longer grids are decoded a clip at a time: the decoder's normalisation and
    attention look at all they are given, so a window is what it was trained on. Neighbours share 8 columns, over which one fades linearly
    into the next.
    """
    clip = codebook.config.clip
    n_columns = grid.shape[1]
    if n_columns <= WHOLE_CLIPS * clip.columns:
        return codebook.decode_codes(grid[None])[0]
    mel = torch.zeros(clip.mels, n_columns * clip.downsampling, device=grid.device)
    overlap = OVERLAP_COLUMNS * clip.downsampling
    rise = (torch.arange(overlap, device=grid.device) + 0.5) / overlap
    for start in [*range(0, n_columns - clip.columns, clip.columns - OVERLAP_COLUMNS), n_columns - clip.columns]:
        window = codebook.decode_codes(grid[None, :, start : start + clip.columns])[0]
        first = start * clip.downsampling
        if start:
            known = mel[:, first : first + overlap]
            window = torch.cat([known * (1 - rise) + window[:, :overlap] * rise, window[:, overlap:]], dim=1)
        mel[:, first : first + window.shape[1]] = window
    return mel


@torch.inference_mode()
def vocode(
    vocoder: Callable[[Tensor], Tensor], mel01: Float[Tensor, "mels frames"], context_frames: int, hop: int
) -> Float[Tensor, "samples"]:
    """Vocode a mel of any length in chunks.

    Args:
        vocoder: mel in [0, 1] `[batch, mels, frames]` to waveform `[batch, frames * hop]`.
        mel01: in [0, 1].
        context_frames: how far a sample can depend on the mel; every chunk is given this much on each side, which is cut away afterwards,
            so that the result equals that of one whole pass (to floating-point rounding).
        hop: samples per mel frame.
    """
    frames = mel01.shape[1]
    chunk = CHUNK_CONTEXTS * max(1, context_frames)
    whole = torch.empty(frames * hop, device=mel01.device)  # in place, or ten minutes would be there twice
    for start in range(0, frames, chunk):
        stop = min(frames, start + chunk)
        first, last = max(0, start - context_frames), min(frames, stop + context_frames)
        waveform = vocoder(mel01[None, :, first:last])[0]
        whole[start * hop : stop * hop] = waveform[(start - first) * hop : (stop - first) * hop]
    return whole
