"""Sounds of several folders beside each other, clip by clip: a sheet of mels and a page that plays them. Paper figures 4 to 15 and 20.

    python runs/paper/figures.py FOLDER [FOLDER ...] -o figure8.png [--clips N] [--takes N] [--seed N] [--label LABEL] [--name WHAT ...]

A folder holds sounds, videos with sound, or decoded mels, named by their clips as `unsilent evaluate` takes them; the first one gives the
names. Clips are drawn at random among those that all folders have. Beside figure8.png there is figure8.html, with a player for each sound.
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
LONGEST = 40  # characters of a name above it


def main() -> None:
    """Read the command line, draw the sheet and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FIGURE.png")
    parser.add_argument("--clips", type=int, default=6, help="columns")
    parser.add_argument("--takes", type=int, default=1, help="rows for each folder that has several samples of a clip")
    parser.add_argument("--seed", type=int, default=0, help="of the random choice of clips")
    parser.add_argument("--label", help="choose only among clips in a folder of this name")
    parser.add_argument("--name", action="append", help="heading of a folder, in their order; its own name without")
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
    """Rows of the sheet, and the clips that all of them have, sorted."""
    clip_names, rows = ClipNames(_clip(sound, folders[0]) for sound in find_sounds(folders[0])), []
    for name, folder in zip(names, folders, strict=True):
        by_clip = defaultdict(list)
        for sound in sorted(find_sounds(folder), key=lambda sound: take_number(sound.name)):
            by_clip[clip_names.clip_of(_clip(sound, folder))].append(sound)
        by_clip.pop(None, None)  # of clips that the first folder does not have
        most = max(map(len, by_clip.values()), default=0)
        for take in range(min(takes, most)):
            heading = f"{name} {take + 1}" if most > 1 and takes > 1 else name
            rows.append((heading, {clip: of_clip[take] for clip, of_clip in by_clip.items() if len(of_clip) > take}))
    common = set.intersection(*(set(of_clip) for _, of_clip in rows))
    return rows, sorted(clip for clip in common if label is None or label in clip.split("/")[:-1])


def _clip(sound: Sound, folder: Path) -> str:
    """The clip of a sound: its folder in one of `unsilent sample`, else its own name."""
    return sound.name.rpartition("/")[0] if (folder / "samples.json").exists() else sound.name


def draw(rows: Rows, clips: list[str], out: Path) -> None:
    """A grid of mels, a row for each heading and a column for each clip."""
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
    """The mel around [-1, 1] of the first clip of a sound."""
    if sound.is_mel:
        return np.load(sound.path).astype(np.float32)
    waveform = read_audio(sound.path, CLIP.sample_rate)[: CLIP.n_samples]
    return from_mel01(log_mel01(torch.from_numpy(waveform)[None], CLIP))[0].numpy()


def page(rows: Rows, clips: list[str], out: Path) -> str:
    """The sheet with a player for each sound that is more than a mel."""
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
