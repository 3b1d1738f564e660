"""Data for the small tables: held-out images, each paired with a held-out sound of its label, and the conditions to sample with.

The everyday data has images and sounds of the same label but not of the same scene, and few held-out videos. So the reference of an image
is a sound of its label. Conditions: a grey image, an image of another label, the image, or a video of five images of the label.
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
SIDE, FPS, SECONDS = 256, 2, 10  # of the videos of five images
PRIMED = 6  # minimum seconds of videos that are continued from their first three seconds
TRAINED_ON = 4  # sounds, and images, per label in `classes/`


def prepare(material: Path, folder: Path, classes: tuple[str, ...], n_clips: int) -> None:
    """Write the data for the small tables to a folder.

    - `CONDITION.parquet` for each of `CONDITIONS`, without labels, so that models use the images; `labelled.parquet` has labels
    - `reference/LABEL/STEM` with a held-out sound for each image, and `training-sound/` with a training sound of its label
    - `clips.parquet` with held-out videos, which are also linked in `films/`
    - `classes/LABEL/` with a few training sounds and images per label, for trainings from a folder

    Args:
        material: manifest of the everyday data.
        folder: output folder.
        classes: labels of the classifier; images of other labels are left out.
        n_clips: number of images, taken from all labels in turn.
    """
    root, rows = read_manifest(material)
    kinds: dict[tuple[str, str], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.label in classes:
            kinds[row.kind, row.split][row.label].append(row)
    pictures, sounds, training = kinds["image", "valid"], kinds["sound", "valid"], kinds["sound", "train"]
    pairs = [list(zip(pictures[label], sounds[label], strict=False)) for label in sorted(pictures.keys() & sounds.keys())]
    chosen = [pair for turn in zip_longest(*pairs) for pair in turn if pair is not None][:n_clips]
    images = folder / "pictures"
    grey = images / "grey.png"
    images.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (SIDE, SIDE), (128, 128, 128)).save(grey)
    tables: dict[str, list[Row]] = {name: [] for name in (*CONDITIONS, "labelled")}
    for number, (picture, sound) in enumerate(chosen):
        name = f"{picture.label}/{Path(picture.path).stem}"
        told = replace(picture, clip_id=name, path=str(root / picture.path))
        row = replace(told, label="")
        video = images / f"{name}.mp4"
        others = [one for one in pictures[picture.label] if one is not picture]
        _write_video(video, [root / one.path for one in (picture, *others[:4])])
        other_label = next(one for one, _ in chosen[number + 1 :] + chosen if one.label != picture.label)
        tables["nothing"].append(replace(row, path=str(grey.resolve())))
        tables["another-label"].append(replace(row, path=str(root / other_label.path)))
        tables["1-picture"].append(row)
        tables["labelled"].append(told)
        tables["5-pictures"].append(replace(row, kind="clip", path=str(video.resolve()), duration_seconds=float(SECONDS)))
        for place, real in (("reference", sound), ("training-sound", training[picture.label][number % len(training[picture.label])])):
            _link(folder / place / f"{name}{Path(real.path).suffix}", root / real.path)
    for label in {picture.label for picture, _ in chosen}:
        for kind in ("sound", "image"):
            for number, row in enumerate(kinds[kind, "train"][label][:TRAINED_ON]):
                _link(folder / "classes" / label / f"{number}{Path(row.path).suffix}", root / row.path)
    films = [row for row in rows if row.kind == "clip" and row.split == "valid" and not row.start_seconds]
    films = [row for row in films if row.duration_seconds >= PRIMED][:n_clips]
    tables["clips"] = [replace(row, label="") for row in films]
    for row in films:
        _link(folder / "films" / f"{row.clip_id}{Path(row.path).suffix}", root / row.path)
    for condition, table in tables.items():
        write_manifest(root, table, folder / f"{condition}.parquet")


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(target.resolve())


def _write_video(path: Path, pictures: list[Path]) -> None:
    """Write a video that shows images one after another for equal times."""
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
