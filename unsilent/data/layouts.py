"""What material a folder holds, by any of the layouts that people have: tables, lists of data sets, or folders named after classes."""

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from unsilent.data.manifest import Kind
from unsilent.errors import DataError
from unsilent.media.files import IMAGE_SUFFIXES, SOUND_SUFFIXES, VIDEO_SUFFIXES

_TABLES: dict[str, Kind] = {"sounds.csv": "sound", "images.csv": "image", "clips.csv": "clip"}
_SUFFIXES: dict[Kind, tuple[str, ...]] = {"sound": SOUND_SUFFIXES, "image": IMAGE_SUFFIXES, "clip": VIDEO_SUFFIXES}
_VGGSOUND = "vggsound.csv"
_VGGSOUND_SECONDS = 10  # of every clip
_EXCERPT = re.compile(r"(?P<source>[\w-]{11})_(\d+)(_\d+)?")  # of a video on the web, by its name there and the time


@dataclass(frozen=True)
class Candidate:
    """A file as a layout tells of it; nobody has looked into it yet.

    Attributes:
        path: relative to the folder.
        kind: `sound`, `image`, or `clip` (a video with its own sound).
        label: class name; empty where unknown.
        split: as the layout says; empty where it does not.
        source: name of the recording that it was cut from, where the layout tells; empty for the file itself.
        licence: as the layout says.
    """

    path: str
    kind: Kind
    label: str
    split: str = ""
    source: str = ""
    licence: str = ""

    def __str__(self) -> str:
        return self.path


def survey(folder: Path, lists: Mapping[str, Path] | None = None) -> tuple[list[Candidate], list[tuple[str, str]]]:
    """Find the material of a folder. The first of these layouts that it has counts:

    - `sounds.csv`, `images.csv`, `clips.csv`, any of them, with the columns path, label, licence and, but for `clips.csv`, split;
    - `vggsound.csv` as VGGSound comes: name on the web, first second, label, train or test, with videos `NAME_START_END` in milliseconds
      or `NAME_SECONDS` of six digits, anywhere in or below the folder;
    - folders named after their classes, with sounds, pictures or videos in or below them, as VAS comes; what lies in no such folder has no
      label.

    Args:
        folder: to look through.
        lists: split → text file that names its files one a line, as `CLASS/STEM` or `STEM`, in place of what the layout says.

    Returns:
        What there is, and names of what is left out, with reasons.

    Raises:
        DataError: if nothing is found, a table lacks a column, or a list is missing.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}.")
    if any((folder / name).exists() for name in _TABLES):
        found, missing = [row for name, kind in _TABLES.items() for row in _read_table(folder / name, kind)], []
    elif (folder / _VGGSOUND).exists():
        found, missing = _read_vggsound(folder)
    else:
        found, missing = list(_walk(folder)), []
    if lists:
        found, unlisted = _listed(found, lists)
        missing += unlisted
    if not found:
        said = f"; {len(missing)} were left out, the first because {missing[0][1]}" if missing else ""
        raise DataError(f"{folder} holds no sounds, pictures or videos that any table or list names{said}.")
    return found, missing


def _read_table(path: Path, kind: Kind) -> Iterator[Candidate]:
    if not path.exists():
        return
    with path.open(newline="", encoding="utf-8") as file:
        records = list(csv.DictReader(file))
    for record in records:
        try:
            name = record["path"]
            scene = "" if "split" in record else _scene(name)
            yield Candidate(name, kind, record["label"], record.get("split", ""), scene, record["licence"])
        except KeyError as error:
            raise DataError(f"{path.name} has no column {error}.") from None


def _scene(path: str) -> str:
    """Excerpts of one scene differ in a running number in front and an excerpt number behind; what lies between names the scene."""
    return Path(path).stem.partition("-")[2][:28]


def _read_vggsound(folder: Path) -> tuple[list[Candidate], list[tuple[str, str]]]:
    videos = {Path(found.path).stem: found.path for found in _walk(folder) if found.kind == "clip"}
    found, missing = [], []
    with (folder / _VGGSOUND).open(newline="", encoding="utf-8") as file:
        for number, record in enumerate(csv.reader(file), 1):
            try:
                name, start, label, split = record
                seconds = int(start)
            except ValueError:
                raise DataError(f"line {number} of {_VGGSOUND} is not name, second, label and split: {','.join(record)[:80]!r}.") from None
            stems = (f"{name}_{1000 * seconds}_{1000 * (seconds + _VGGSOUND_SECONDS)}", f"{name}_{seconds:06d}")
            path = next((videos[stem] for stem in stems if stem in videos), None)
            if path is None:
                missing.append((stems[0], f"there is no video {stems[0]} or {stems[1]}."))
            else:
                found.append(Candidate(path, "clip", label, "" if split == "train" else split, name))
    return found, missing


def _walk(folder: Path) -> Iterator[Candidate]:
    kinds = {suffix: kind for kind, suffixes in _SUFFIXES.items() for suffix in suffixes}
    for path in sorted(folder.rglob("*")):
        kind = kinds.get(path.suffix.lower())
        if kind and path.is_file() and not path.name.startswith("."):
            below = path.relative_to(folder)
            label = below.parts[0] if len(below.parts) > 1 else ""
            excerpt = _EXCERPT.fullmatch(path.stem)
            yield Candidate(below.as_posix(), kind, label, source=excerpt["source"] if excerpt else "")


def _listed(found: list[Candidate], lists: Mapping[str, Path]) -> tuple[list[Candidate], list[tuple[str, str]]]:
    splits: dict[str, str] = {}
    for split, path in lists.items():
        if not path.is_file():
            raise DataError(f"there is no list of clips {path}.")
        splits |= dict.fromkeys(filter(None, map(str.strip, path.read_text(encoding="utf-8").splitlines())), split)
    kept, left_out, seen = [], [], set()
    for one in found:
        stem = Path(one.path).stem
        name = next((name for name in (f"{one.label}/{stem}", stem, one.path) if name in splits), None)
        if name is None:
            left_out.append((one.path, "it is in none of the lists."))
        else:
            seen.add(name)
            kept.append(Candidate(one.path, one.kind, one.label, splits[name], one.source, one.licence))
    left_out += [(name, f"the list of {split} names it, but there is no such file.") for name, split in splits.items() if name not in seen]
    return kept, left_out
