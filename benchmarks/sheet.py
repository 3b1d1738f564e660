"""Figure of pairs of mels, generated and real, small enough for a document."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from unsilent.clip import Clip
from unsilent.generation.figure import draw_mel
from unsilent.signal.mel import from_mel01, log_mel01

SECONDS = 5.0
_COLOURS = 64  # of the PNG, which makes it a third as large
_DPI = 80


def draw_sheet(pairs: Sequence[tuple[str, np.ndarray, np.ndarray]], clip: Clip, out: Path) -> None:
    """Draw a row of two mels for each pair, generated and real; both as long as the real one, `SECONDS` at most.

    Args:
        pairs: label, generated waveform, real waveform.
        clip: the grid.
        out: PNG to write.
    """
    figure = Figure(figsize=(9, 2 * len(pairs)), layout="constrained")
    axes = figure.subplots(len(pairs), 2, squeeze=False)
    for row, (label, *sounds) in zip(axes, pairs, strict=True):
        seconds = min(SECONDS, len(sounds[1]) / clip.sample_rate)
        for ax, kind, waveform in zip(row, ("made", "real"), sounds, strict=True):
            drawn_mel = draw_mel(ax, _mel(waveform, clip), seconds, clip)
            ax.set_title(f"{label}: {kind}", fontsize=9)
            ax.tick_params(labelsize=8)
    figure.colorbar(drawn_mel, ax=axes, label="level (dB)", pad=0.01, aspect=40)
    drawn = BytesIO()
    figure.savefig(drawn, dpi=_DPI, format="png")
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE).save(out, optimize=True)


def _mel(waveform: np.ndarray, clip: Clip) -> np.ndarray:
    shown = waveform[: round(SECONDS * clip.sample_rate)]
    return from_mel01(log_mel01(torch.from_numpy(shown)[None].float(), clip))[0].numpy()
