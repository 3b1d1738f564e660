"""A sheet of mels, made ones beside real ones, small enough for a document."""

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

COLUMNS = 4  # of pairs
SECONDS = 5.0
_COLOURS = 64  # of the picture, which makes it a third as large
_DPI = 72


def draw_sheet(pairs: Sequence[tuple[str, np.ndarray, np.ndarray]], clip: Clip, out: Path) -> None:
    """Draw the first seconds of sounds in pairs.

    Args:
        pairs: label, made waveform, real waveform.
        clip: the grid.
        out: PNG to write.
    """
    rows = -(-len(pairs) // COLUMNS)
    figure = Figure(figsize=(3.4 * COLUMNS, 1.5 * rows), layout="constrained")
    axes = figure.subplots(rows, 2 * COLUMNS, squeeze=False)
    for ax in axes.flat[2 * len(pairs) :]:
        ax.set_axis_off()
    for number, (label, *sounds) in enumerate(pairs):
        for side, (kind, waveform) in enumerate(zip(("made", "real"), sounds, strict=True)):
            ax = axes.flat[2 * number + side]
            draw_mel(ax, _mel(waveform, clip), SECONDS, clip)
            ax.set(xlabel="", xticks=[], yticks=[])
            ax.set_title(f"{label}, {kind}", fontsize=8, pad=2)
    drawn = BytesIO()
    figure.savefig(drawn, dpi=_DPI, format="png")
    with Image.open(drawn) as picture:
        picture.convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE).save(out, optimize=True)


def _mel(waveform: np.ndarray, clip: Clip) -> np.ndarray:
    shown = waveform[: round(SECONDS * clip.sample_rate)]
    return from_mel01(log_mel01(torch.from_numpy(shown)[None].float(), clip))[0].numpy()
