"""The material of the small tables: held-out pictures, each with a held-out sound of its label, and what to look at in its place.

The everyday material has pictures and sounds of one label, but not of one scene, and hardly any held-out video. So a real sound stands for
what a picture might sound like, and conditions differ in what is shown: nothing (grey), a picture of another label, the picture, or five
pictures of the label one after another.
"""

from collections import defaultdict
from dataclasses import replace
from fractions import Fraction
from itertools import zip_longest
from pathlib import Path

import av
import numpy as np
from PIL import Image

from unsilent.data.manifest import Row, read_manifest, write_manifest

CONDITIONS = ("nothing", "another-label", "1-picture", "5-pictures")
SIDE, FPS, SECONDS = 256, 2, 10  # of the films of five pictures


def prepare(material: Path, folder: Path, classes: tuple[str, ...], n_clips: int) -> None:
    """Write `CONDITION.parquet` for each of `CONDITIONS`, `reference/LABEL/STEM` with a real sound for each picture, and likewise
    `training-sound/`, in which a sound of the label that trainings heard stands for a picture.

    Args:
        material: manifest of the everyday material.
        folder: to write into.
        classes: labels that the classifier knows; others are left out.
        n_clips: pictures, of all labels in turn.
    """
    root, rows = read_manifest(material)
    kinds: dict[tuple[str, str], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.label in classes:
            kinds[row.kind, row.split][row.label].append(row)
    pictures, sounds, learnt = kinds["image", "valid"], kinds["sound", "valid"], kinds["sound", "train"]
    pairs = [list(zip(pictures[label], sounds[label], strict=False)) for label in sorted(pictures.keys() & sounds.keys())]
    chosen = [pair for turn in zip_longest(*pairs) for pair in turn if pair is not None][:n_clips]
    made = folder / "pictures"
    grey = made / "grey.png"
    made.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (SIDE, SIDE), (128, 128, 128)).save(grey)
    tables: dict[str, list[Row]] = {condition: [] for condition in CONDITIONS}
    for number, (picture, sound) in enumerate(chosen):
        name = f"{picture.label}/{Path(picture.path).stem}"
        row = replace(picture, clip_id=name, path=str(root / picture.path))
        film = made / f"{name}.mp4"
        others = [one for one in pictures[picture.label] if one is not picture]
        _write_film(film, [root / one.path for one in (picture, *others[:4])])
        stranger = next(one for one, _ in chosen[number + 1 :] + chosen if one.label != picture.label)
        tables["nothing"].append(replace(row, path=str(grey.resolve())))
        tables["another-label"].append(replace(row, path=str(root / stranger.path)))
        tables["1-picture"].append(row)
        tables["5-pictures"].append(replace(row, kind="clip", path=str(film.resolve()), duration_seconds=float(SECONDS)))
        heard = learnt[picture.label]
        for place, real in (("reference", sound), ("training-sound", heard[number % len(heard)])):
            link = folder / place / f"{name}{Path(real.path).suffix}"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to((root / real.path).resolve())
    for condition, table in tables.items():
        write_manifest(root, table, folder / f"{condition}.parquet")


def _write_film(path: Path, pictures: list[Path]) -> None:
    """Pictures one after another, in equal shares of the time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = [np.asarray(Image.open(one).convert("RGB").resize((SIDE, SIDE))) for one in pictures]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        for i in range(FPS * SECONDS):
            frame = av.VideoFrame.from_ndarray(shown[i * len(shown) // (FPS * SECONDS)], format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
