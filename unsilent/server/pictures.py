"""Data that the page draws: mels, attention maps and features as bytes, waveform envelopes, and stills of a video."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from unsilent.clip import Clip
from unsilent.files import atomic_write
from unsilent.media.video import stream_frames

MOST_FRAMES = 4096  # maximum frames of a drawn mel; longer mels are averaged
OUTLINE = 2000  # maximum number of pairs of minimum and maximum sample
STILLS, STILL_SIDE = 12, 90


def to_bytes(mel: Float[np.ndarray, "mels frames"], every: int = 1) -> bytes:
    """Quantise a mel in [-1, 1] to one byte per value, frame by frame, low bands first.

    Args:
        mel: mel of a sound; an incomplete group of frames at the end is dropped.
        every: number of frames that are averaged to one.
    """
    n = mel.shape[1] // every
    mean = mel[:, : n * every].reshape(len(mel), n, every).mean(2)
    return _quantised((np.clip(mean, -1, 1) + 1) / 2).T.tobytes()


def write(out: Path, waveform: Float[np.ndarray, "samples"], mel: Float[np.ndarray, "mels frames"], clip: Clip) -> dict[str, Any]:
    """Write a sound's mel to `out.mel` and its envelope to `out.outline`, as int8 pairs of minimum and maximum.
    Returns the file names and the size of the mel."""
    every = max(1, -(-mel.shape[1] // MOST_FRAMES))
    data = to_bytes(mel, every)
    _write(out.with_suffix(".mel"), data)
    edges = np.linspace(0, len(waveform), min(OUTLINE, len(waveform)) + 1).astype(int)[:-1]
    pairs = np.stack([np.minimum.reduceat(waveform, edges), np.maximum.reduceat(waveform, edges)], axis=1)
    _write(out.with_suffix(".outline"), np.round(np.clip(pairs, -1, 1) * 127).astype(np.int8).tobytes())
    frames = len(data) // len(mel)
    sizes = {"bands": len(mel), "frames": frames, "mel_seconds": round(frames * every * clip.hop / clip.sample_rate, 4)}
    return {"mel": f"{out.stem}.mel", "outline": f"{out.stem}.outline", **sizes}


def write_map(out: Path, values: Float[np.ndarray, "rows columns"]) -> dict[str, Any]:
    """Write a matrix as bytes, column by column, scaled from its minimum to its maximum. More than 512 rows are averaged.
    Returns the file name, the size and the range of values."""
    every = -(-len(values) // 512)
    values = np.asarray(values, dtype=np.float32)[: len(values) // every * every].reshape(-1, every, values.shape[1]).mean(1)
    low, high = float(values.min()), float(values.max())
    _write(out, _quantised((values - low) / (high - low or 1.0)).T.tobytes())
    return {"file": out.name, "rows": len(values), "columns": values.shape[1], "low": low, "high": high}


def write_stills(out: Path, video: Path, seconds: float) -> dict[str, Any]:
    """Write evenly spaced stills of a video side by side as WebP. Returns the file name and the number of stills."""
    found = [frame for _, frame in stream_frames(video, STILLS / seconds, short_side=STILL_SIDE)][:STILLS]
    with atomic_write(out) as temporary:
        Image.fromarray(np.concatenate(found, axis=1)).save(temporary, "WEBP", quality=70)
    return {"file": out.name, "n": len(found)}


def _quantised(shares: Float[np.ndarray, "rows columns"]) -> UInt8[np.ndarray, "rows columns"]:
    return np.round(shares * 255).astype(np.uint8)


def _write(out: Path, data: bytes) -> None:
    with atomic_write(out) as temporary:
        temporary.write_bytes(data)
