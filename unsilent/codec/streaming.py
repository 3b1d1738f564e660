"""Encoding and decoding of sounds of any length in bounded memory, with the same results as in one pass."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unsilent.clip import Clip
from unsilent.codec.stitching import OVERLAP_COLUMNS, chunk_frames, cross_fade, decoded_windows
from unsilent.signal.mel import from_mel01, log_mel01


def stream_mels(blocks: Iterable[Float[np.ndarray, "_"]], clip: Clip) -> Iterator[Float[Tensor, "mels frames"]]:
    """Mels around [-1, 1] of the consecutive clips of a sound. The last clip is padded with zeros to whole code columns.

    STFT windows at the borders of clips contain the samples of both clips.
    """
    context, length = clip.n_fft // 2, clip.columns * clip.column_samples
    before, waiting, n_waiting = np.zeros(0, np.float32), list[np.ndarray](), 0
    for block in _ending_in_columns(blocks, clip):
        waiting.append(block)
        n_waiting += len(block)
        while n_waiting >= length + context:
            whole = np.concatenate(waiting)
            yield _mel(before, whole[:length], whole[length : length + context], clip)
            before, waiting = whole[length - context : length], [whole[length:]]
            n_waiting -= length
    if n_waiting:
        yield _mel(before, np.concatenate(waiting), np.zeros(0, np.float32), clip)


def _ending_in_columns(blocks: Iterable[Float[np.ndarray, "_"]], clip: Clip) -> Iterator[Float[np.ndarray, "samples"]]:
    n_samples = 0
    for block in blocks:
        n_samples += len(block)
        yield block.astype(np.float32)
    yield np.zeros(clip.columns_for(n_samples) * clip.column_samples - n_samples, np.float32)


def _mel(before: np.ndarray, samples: np.ndarray, after: np.ndarray, clip: Clip) -> Float[Tensor, "mels frames"]:
    mel = log_mel01(torch.from_numpy(np.concatenate([before, samples, after]))[None], clip)[0]
    first = len(before) // clip.hop
    return from_mel01(mel[:, first : first + len(samples) // clip.hop])


def stream_decoded(
    decode: Callable[[Int[Tensor, "rows columns"], int], Float[Tensor, "mels frames"]],
    grid: Int[Tensor, "rows columns"],
    clip: Clip,
    windows: Sequence[range],
) -> Iterator[Float[Tensor, "mels frames"]]:
    """Mel of codes in consecutive pieces; together they equal the result of `stitching.decode_grid`.

    Args:
        decode: decodes a window of codes, given its first column in the whole sound.
        grid: all codes; those outside `windows` may be unknown.
        clip: the codebook's grid.
        windows: those of `stitching.decoded_windows`, or consecutive ones among them; the mel begins with the first.
    """
    kept: Tensor | None = None  # mel of the window before, from the start of the current window
    for window, following in zip(windows, [*windows[1:], None], strict=True):
        mel = cross_fade(kept, decode(grid[:, window.start : window.stop], window.start), clip)
        final = mel.shape[1] if following is None else (following.start - window.start) * clip.downsampling
        kept = mel[:, final:]
        yield mel[:, :final]


def windows_around(columns: range, n_columns: int, clip: Clip) -> list[range]:
    """The decoded windows of a sound that its mel in these columns depends on, and no others."""
    windows = decoded_windows(n_columns, clip)
    first = max(number for number, one in enumerate(windows) if number == 0 or one.start + OVERLAP_COLUMNS <= columns.start)
    last = min(number for number, one in enumerate(windows) if number == len(windows) - 1 or windows[number + 1].start >= columns.stop)
    return windows[first : last + 1]


def stream_vocoded(
    vocoder: Callable[[Float[Tensor, "1 mels frames"]], Float[Tensor, "1 samples"]],
    mels: Iterable[Float[Tensor, "mels _"]],
    context: int,
    hop: int,
) -> Iterator[Float[Tensor, "samples"]]:
    """Waveform of a mel in consecutive pieces; together they equal the result of `stitching.vocode`, which has the same arguments."""
    seen, done = None, 0  # frames in memory, and the number of them that are vocoded
    for mel in chain(mels, [None]):
        is_last = mel is None
        if not is_last:
            seen = mel if seen is None else torch.cat([seen, mel], dim=1)
        while seen is not None and (left := seen.shape[1] - done):
            chunk = chunk_frames(context, seen.device)
            if not is_last and left < chunk + context:
                break
            stop = done + min(chunk, left)
            yield vocoder(seen[None, :, : stop + context])[0, done * hop : stop * hop]
            drop = max(0, stop - context)
            seen, done = seen[:, drop:], stop - drop
