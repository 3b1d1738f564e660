"""Spectrograms of samples of one clip at several values of top-k ("top-X" in the paper), with the recognised class. Paper figure 16.

python runs/paper/figure16.py REPORT.csv SAMPLES_AT_ONE_X SAMPLES_AT_ANOTHER_X ... -o FIGURE.png [--clip NAME]
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from unsilent.clip import Clip
from unsilent.media.audio import read_audio
from unsilent.signal.mel import log_mel01

INCHES = 1.25  # height of one spectrogram


def main() -> None:
    """Parse the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path, metavar="REPORT.csv")
    parser.add_argument("folders", type=Path, nargs="+", metavar="SAMPLES")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--clip", help="[default: the first]")
    options = parser.parse_args()
    about = {folder: json.loads((folder / "samples.json").read_text()) for folder in options.folders}
    folders = sorted(about, key=lambda folder: -about[folder]["top_k"])
    clip = options.clip or sorted(about[folders[0]]["clips"])[0]
    with options.report.open(newline="", encoding="utf-8") as file:
        results = {(row["system"], row["sample"]): row for row in csv.DictReader(file)}
    figure = Figure(figsize=(9, 0.6 + INCHES * len(folders)), layout="constrained")
    axes = figure.subplots(len(folders), 1, sharex=True, squeeze=False)[:, 0]
    for axis, folder in zip(axes, folders, strict=True):
        axis.imshow(_read(folder / clip), origin="lower", aspect="auto", cmap="magma", vmin=0, vmax=1, interpolation="nearest")
        axis.set(ylabel=f"X = {about[folder]['top_k']}", yticks=[])
        row = results[folder.name, f"{clip}/0"]
        axis.set_title(f"classified as {row['heard as']}, {float(row['probability']):.0%}", loc="right", fontsize=9, pad=2)
    axes[-1].set_xlabel("mel frames of 11.6 ms")
    figure.suptitle(f"{clip}, sampled among the X likeliest codes", fontsize=11)
    figure.savefig(options.out, dpi=110)


def _read(samples: Path) -> np.ndarray:
    """Read the mel in [0, 1] of a clip's first sample."""
    if (samples / "0.mel.npy").exists():
        return (np.load(samples / "0.mel.npy").astype(np.float32) + 1) / 2
    waveform = read_audio(samples / "0.wav", Clip().sample_rate)
    return log_mel01(torch.from_numpy(waveform)[None], Clip())[0].numpy()


if __name__ == "__main__":
    main()
