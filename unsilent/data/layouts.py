"""Layouts of training material: tables, VGGSound's list, or class folders. No media file is opened here."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from unsilent.data.manifest import Kind
from unsilent.errors import DataError
from unsilent.files import read_csv, read_text, walk
from unsilent.media.suffixes import IMAGE_SUFFIXES, SOUND_SUFFIXES, VIDEO_SUFFIXES

_TABLES: dict[str, Kind] = {"sounds.csv": "sound", "images.csv": "image", "clips.csv": "clip"}
_SUFFIXES: dict[Kind, tuple[str, ...]] = {"sound": SOUND_SUFFIXES, "image": IMAGE_SUFFIXES, "clip": VIDEO_SUFFIXES}
_VISIBLE_IMPACTS = {"1": True, "0": False, "": None}
_VGGSOUND = "vggsound.csv"
_VGGSOUND_SECONDS = 10  # length of every clip
_EXCERPT = re.compile(r"(?P<source>[\w-]{11})_(\d+)(_\d+)?")  # YouTube's video id and the time


@dataclass(frozen=True)
class Candidate:
    """A file as described by the layout, before it is opened.

    Attributes:
        path: relative to the folder.
        kind: `sound`, `image`, or `clip` (a video with its own sound).
        label: class name; empty if unknown.
        split: `train`, `valid` or `test`; empty if the layout does not specify it.
        source: recording or scene from which the file was cut; all files of a source get the same split. Empty if the file is its own
            source.
        licence: licence stated in the layout.
        visible_impacts: whether impacts are visible in a clip; None if unknown.
    """

    path: str
    kind: Kind
    label: str
    split: str = ""
    source: str = ""
    licence: str = ""
    visible_impacts: bool | None = None

    def __str__(self) -> str:
        return self.path


def survey(folder: Path, lists: Mapping[str, Path] | None = None) -> tuple[list[Candidate], list[tuple[str, str]]]:
    """Find the training material in a folder. The first of these layouts that is present is read:

    - One or more of `sounds.csv`, `images.csv` and `clips.csv`, with the columns path, label and licence. Optional columns: split, scene
      (files of one scene get the same split) and visible_impacts (1, 0, or empty for unknown).
    - `vggsound.csv` in VGGSound's format: YouTube id, start in seconds, label, train or test. Videos are anywhere in the folder, named
      `ID_START_END` in milliseconds or `ID_SECONDS` with six digits.
    - Class folders, with sounds, images or videos anywhere in them, as in VAS. Files outside of class folders have no label.

    Args:
        folder: folder of the material.
        lists: text file of each split with one `CLASS/STEM` or `STEM` per line; replaces the splits of the layout.

    Returns:
        The files, and the names of omitted files with reasons.

    Raises:
        DataError: if no file is found, a table lacks a column, or a list is missing.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}.")
    if any((folder / name).exists() for name in _TABLES):
        found, left_out = [one for name, kind in _TABLES.items() for one in _read_table(folder / name, kind)], []
    elif (folder / _VGGSOUND).exists():
        found, left_out = _read_vggsound(folder)
    else:
        found, left_out = list(_walk(folder)), []
    if lists:
        found, unlisted = _apply_lists(found, lists)
        left_out += unlisted
    if not found:
        why = f"; {len(left_out)} were left out, the first because {left_out[0][1]}" if left_out else ""
        raise DataError(f"{folder} has no sounds, images or videos that its tables or lists name{why}.")
    return found, left_out


def _read_table(path: Path, kind: Kind) -> Iterator[Candidate]:
    if not path.exists():
        return
    names, *rows = read_csv(path, DataError) or [[]]
    if missing := {"path", "label", "licence"} - set(names):
        raise DataError(
            f"{path.name} has no column {' and '.join(map(repr, sorted(missing)))}; its columns are {', '.join(names) or 'none'}."
        )
    for number, row in enumerate(rows, 2):
        if len(row) != len(names):
            raise DataError(f"row {number} of {path.name} has {len(row)} values for {len(names)} columns.")
        record = dict(zip(names, row, strict=True))
        impacts = record.get("visible_impacts") or ""
        if impacts not in _VISIBLE_IMPACTS:
            raise DataError(f"{path.name} has visible_impacts {impacts!r} for {record['path']}; it must be 1, 0 or empty.")
        about = record["label"], record.get("split") or "", record.get("scene") or "", record["licence"]
        yield Candidate(record["path"], kind, *about, _VISIBLE_IMPACTS[impacts])


def _read_vggsound(folder: Path) -> tuple[list[Candidate], list[tuple[str, str]]]:
    videos = {Path(found.path).stem: found.path for found in _walk(folder) if found.kind == "clip"}
    found, missing = [], []
    for name, stems, label, split in read_vggsound_table(folder / _VGGSOUND):
        path = next((videos[stem] for stem in stems if stem in videos), None)
        if path is None:
            missing.append((stems[0], f"there is no video {stems[0]} or {stems[1]}."))
        else:
            found.append(Candidate(path, "clip", label, "" if split == "train" else split, name))
    return found, missing


def read_vggsound_table(path: Path) -> Iterator[tuple[str, tuple[str, str], str, str]]:
    """Rows of VGGSound's table: YouTube id, both forms of the file's stem (first `ID_START_END` in milliseconds), label, split.

    Raises:
        DataError: if the table cannot be read, or a line has other fields.
    """
    for number, record in enumerate(read_csv(path, DataError), 1):
        try:
            name, start, label, split = record
            seconds = int(start)
        except ValueError:
            raise DataError(f"line {number} of {path.name} is not id, second, label and split: {','.join(record)[:80]!r}.") from None
        yield name, (f"{name}_{1000 * seconds}_{1000 * (seconds + _VGGSOUND_SECONDS)}", f"{name}_{seconds:06d}"), label, split


def _walk(folder: Path) -> Iterator[Candidate]:
    kinds = {suffix: kind for kind, suffixes in _SUFFIXES.items() for suffix in suffixes}
    for path in walk(folder):
        kind = kinds.get(path.suffix.lower())
        if kind and not path.name.startswith("."):
            relative = path.relative_to(folder)
            label = relative.parts[0] if len(relative.parts) > 1 else ""
            excerpt = _EXCERPT.fullmatch(path.stem)
            yield Candidate(relative.as_posix(), kind, label, source=excerpt["source"] if excerpt else "")


def _apply_lists(found: list[Candidate], lists: Mapping[str, Path]) -> tuple[list[Candidate], list[tuple[str, str]]]:
    splits: dict[str, str] = {}
    for split, path in lists.items():
        if not path.is_file():
            raise DataError(f"there is no list of clips {path}.")
        splits |= dict.fromkeys(filter(None, map(str.strip, read_text(path, DataError).splitlines())), split)
    listed, left_out, seen = [], [], set()
    for one in found:
        stem = Path(one.path).stem
        name = next((name for name in (f"{one.label}/{stem}", stem, one.path) if name in splits), None)
        if name is None:
            left_out.append((one.path, "it is in none of the lists."))
        else:
            seen.add(name)
            listed.append(replace(one, split=splits[name]))
    left_out += [(name, f"the list of {split} names it, but there is no such file.") for name, split in splits.items() if name not in seen]
    return listed, left_out
