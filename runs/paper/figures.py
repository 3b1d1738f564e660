"""Compare sounds of several folders clip by clip: a sheet of mels and a page that plays them. Paper figures 4 to 15 and 20.

    python runs/paper/figures.py FOLDER [FOLDER ...] -o figure8.png [--clips N] [--takes N] [--seed N] [--label LABEL] [--name WHAT ...]

A folder holds sounds, videos with sound, or decoded mels. Their names refer to clips of the first folder, as in `unsilent evaluate`. Clips
are chosen at random from those in all folders. The output is figure8.png, and figure8.html with a player for each sound.
"""

import argparse
import html
import os
import random
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from unsilent.clip import Clip
from unsilent.evaluation.sounds import ClipNames, Sound, find_sounds, take_number
from unsilent.generation.figure import draw_mel
from unsilent.media.audio import read_audio
from unsilent.signal.mel import from_mel01, log_mel01

CLIP = Clip()
INCHES = 3.0, 1.5  # width and height of one mel
LONGEST = 40  # maximum characters of a clip name above a mel


def main() -> None:
    """Parse the command line, draw the sheet and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FIGURE.png")
    parser.add_argument("--clips", type=int, default=6, help="number of clips, one per column")
    parser.add_argument("--takes", type=int, default=1, help="samples of each clip per folder, one per row")
    parser.add_argument("--seed", type=int, default=0, help="random seed for the choice of clips")
    parser.add_argument("--label", help="choose only clips in a folder of this name")
    parser.add_argument("--name", action="append", help="headings of the folders in their order [default: their names]")
    options = parser.parse_args()
    names = options.name or [folder.name for folder in options.folders]
    rows, clips = choose(options.folders, names, options.takes, options.label)
    random.Random(options.seed).shuffle(clips)
    clips = clips[: options.clips]
    if not clips:
        parser.error("the folders have no clip in common")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    draw(rows, clips, options.out)
    options.out.with_suffix(".html").write_text(page(rows, clips, options.out), encoding="utf-8")


Rows = list[tuple[str, dict[str, Sound]]]  # heading and, by clip, a sound


def choose(folders: list[Path], names: list[str], takes: int, label: str | None) -> tuple[Rows, list[str]]:
    """Return the rows of the sheet, and the sorted clips that all rows have."""
    clip_names, rows = ClipNames(_clip(sound, folders[0]) for sound in find_sounds(folders[0])), []
    for name, folder in zip(names, folders, strict=True):
        by_clip = defaultdict(list)
        for sound in sorted(find_sounds(folder), key=lambda sound: take_number(sound.name)):
            by_clip[clip_names.clip_of(_clip(sound, folder))].append(sound)
        by_clip.pop(None, None)  # clips that are not in the first folder
        most = max(map(len, by_clip.values()), default=0)
        for take in range(min(takes, most)):
            heading = f"{name} {take + 1}" if most > 1 and takes > 1 else name
            rows.append((heading, {clip: of_clip[take] for clip, of_clip in by_clip.items() if len(of_clip) > take}))
    common = set.intersection(*(set(of_clip) for _, of_clip in rows))
    return rows, sorted(clip for clip in common if label is None or label in clip.split("/")[:-1])


def _clip(sound: Sound, folder: Path) -> str:
    """Return the clip name of a sound: its folder for the output of `unsilent sample`, otherwise its own name."""
    return sound.name.rpartition("/")[0] if (folder / "samples.json").exists() else sound.name


def draw(rows: Rows, clips: list[str], out: Path) -> None:
    """Draw a grid of mels with one row per heading and one column per clip."""
    size = INCHES[0] * len(clips) + 1, INCHES[1] * len(rows) + 0.5
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(rows), len(clips), squeeze=False)
    for (heading, sounds), line in zip(rows, axes, strict=True):
        for clip, axis in zip(clips, line, strict=True):
            mel = read_mel(sounds[clip])
            draw_mel(axis, mel, mel.shape[1] * CLIP.hop / CLIP.sample_rate, CLIP)
            axis.set(xlabel="", xticks=[], yticks=[])
        line[0].set_ylabel(heading, fontsize=9)
    for clip, axis in zip(clips, axes[0], strict=True):
        axis.set_title(clip if len(clip) <= LONGEST else f"…{clip[1 - LONGEST :]}", fontsize=8)
    figure.savefig(out, dpi=100)


def read_mel(sound: Sound) -> np.ndarray:
    """Read the mel in about [-1, 1] of the first clip of a sound."""
    if sound.is_mel:
        return np.load(sound.path).astype(np.float32)
    waveform = read_audio(sound.path, CLIP.sample_rate)[: CLIP.n_samples]
    return from_mel01(log_mel01(torch.from_numpy(waveform)[None], CLIP))[0].numpy()


def page(rows: Rows, clips: list[str], out: Path) -> str:
    """Return the HTML page with the sheet, and a player for each sound that has a waveform."""
    cells = [f"<tr><th></th>{''.join(f'<th>{html.escape(clip)}</th>' for clip in clips)}</tr>"]
    for heading, sounds in rows:
        players = (_player(sounds[clip], out.parent) for clip in clips)
        cells.append(f"<tr><th>{html.escape(heading)}</th>{''.join(f'<td>{player}</td>' for player in players)}</tr>")
    title, image = html.escape(out.stem), html.escape(out.name)
    head = f'<!doctype html><meta charset="utf-8"><title>{title}</title><h1>{title}</h1><img src="{image}" style="max-width:100%">'
    return f"{head}<table>{''.join(cells)}</table>"


def _player(sound: Sound, folder: Path) -> str:
    if sound.playable is None:
        return "mel only"
    source = html.escape(Path(os.path.relpath(sound.playable.resolve(), folder.resolve())).as_posix())
    return f'<audio controls preload="none" src="{source}"></audio>'


if __name__ == "__main__":
    main()
