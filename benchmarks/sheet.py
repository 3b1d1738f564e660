"""Figure of mels side by side, such as generated and real ones, small enough for a document.

    python benchmarks/sheet.py OUT.png "version 3=DIR" made=DIR real=DIR --sounds 24

Each DIR has a folder of WAV files per label. For evenly spaced labels that all DIRs have, the first `SECONDS` of the first file are drawn.
"""

import argparse
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import soundfile
import torch
from matplotlib.figure import Figure
from PIL import Image

from unsilent.clip import Clip
from unsilent.generation.figure import draw_mel
from unsilent.signal.mel import from_mel01, log_mel01

SECONDS = 5.0
_COLOURS = 64  # palette of the PNG, which makes the file a third as large
_DPI = 80
_ACROSS = 2  # labels per row


def main() -> None:
    """Draw the first sounds of folders."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("folders", nargs="+", metavar="NAME=DIR")
    parser.add_argument("--sounds", type=int, default=24)
    options = parser.parse_args()
    folders = {name: Path(folder) for name, _, folder in (one.partition("=") for one in options.folders)}
    labels = sorted(set.intersection(*({path.name for path in folder.iterdir() if any(path.glob("*.wav"))} for folder in folders.values())))
    step = max(1, len(labels) // options.sounds)
    clip = Clip()
    rows = [
        (label, {name: soundfile.read(min((folder / label).glob("*.wav")), dtype="float32")[0] for name, folder in folders.items()})
        for label in labels[::step][: options.sounds]
    ]
    draw_sheet(rows, clip, options.out, _ACROSS)


def draw_sheet(rows: Sequence[tuple[str, Mapping[str, np.ndarray]]], clip: Clip, out: Path, across: int = 1) -> None:
    """Draw the mels of each label side by side, cut to the length of the last one and at most `SECONDS`.

    Args:
        rows: pairs of a label and its waveforms by title.
        clip: time and frequency grid.
        out: PNG to write.
        across: number of labels per row.
    """
    kinds, n_rows = len(rows[0][1]), -(-len(rows) // across)
    figure = Figure(figsize=(4.5 * kinds * across, 2 * n_rows), layout="constrained")
    axes = figure.subplots(n_rows, kinds * across, squeeze=False)
    for number, (label, sounds) in enumerate(rows):
        seconds = min(SECONDS, len(list(sounds.values())[-1]) / clip.sample_rate)
        first = number % across * kinds
        for ax, (kind, waveform) in zip(axes[number // across, first : first + kinds], sounds.items(), strict=True):
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


if __name__ == "__main__":
    main()
