"""Ground-truth labels of reference clips, from a table, a manifest, folder names, or VGGSounder."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from unsilent.data.manifest import read_manifest
from unsilent.errors import DataError, ParameterError, how_to_install
from unsilent.evaluation.sounds import ClipNames
from unsilent.files import read_csv

FOLDERS, VGGSOUNDER = "folders", "vggsounder"
Labels = dict[str, frozenset[str]]  # labels of each clip that has any
_VGGSOUND_NAME = re.compile(r"(.{11})_(\d+)_(\d+)")  # video, start and end in milliseconds


def read_labels(source: str, clips: Sequence[str]) -> Labels:
    """Read the labels of clips.

    Args:
        source: `folders` (the label of a clip is the name of its folder), `vggsounder` (see `vggsounder_labels`), or a CSV file with the
            columns `path` and `label`, and one row per label of a clip. Paths are matched by `ClipNames.find`.
        clips: names from `find_sounds`.

    Raises:
        DataError: if the table is missing, lacks a column, or no clip has a label.
        ParameterError: if the package with VGGSounder's annotations is not installed.
    """
    if source == FOLDERS:
        pairs = [(clip, clip.rpartition("/")[0].rpartition("/")[2]) for clip in clips]
    elif source == VGGSOUNDER:
        pairs = vggsounder_labels(clips)
    else:
        pairs = _read_table(Path(source))
    return _by_clip(pairs, clips, source)


def read_manifest_labels(path: Path, clips: Sequence[str], split: str | None) -> tuple[Labels, list[str]]:
    """Read the labels of clips from a manifest, and select the clips of a split.

    Args:
        path: manifest from `unsilent data manifest`.
        clips: names from `find_sounds`; `ClipNames.find` matches them with `clip_id`.
        split: split to keep; None keeps all clips, including those that are not in the manifest.

    Raises:
        DataError: if the manifest cannot be read, no clip is in the split, or none has a label.
    """
    rows = [row for row in read_manifest(path)[1] if row.kind != "image" and split in (None, row.split)]
    names = ClipNames(clips)
    in_split = {names.find(row.clip_id) for row in rows}
    kept = [clip for clip in clips if split is None or clip in in_split]
    if not kept:
        raise DataError(
            f"{path} has {len(rows)} sounds of the split {split!r}, but none of them is among the {len(clips)} reference sounds."
        )
    return _by_clip([(row.clip_id, row.label) for row in rows], kept, str(path)), kept


def vggsounder_labels(clips: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of a clip and one of its audible labels in VGGSounder.

    Args:
        clips: names as in VGGSound: `VIDEO_START_END` in milliseconds, or `VIDEO_START` in seconds.

    Raises:
        ParameterError: if the package is not installed.

    Source:
        Zverev et al. 2025, PyPI package `vggsounder`: labels of modality A or AV of clips without background music, the package's default.
    """
    try:
        from vggsounder import VGGSounder
    except ModuleNotFoundError:
        raise ParameterError(f"labels of VGGSounder need the package vggsounder; {how_to_install('vggsounder')}.") from None
    annotated = VGGSounder(modality="A")
    pairs = []
    for clip in clips:
        name = clip.rpartition("/")[2]
        if found := _VGGSOUND_NAME.fullmatch(name):
            name = f"{found[1]}_{int(found[2]) // 1000:06d}"
        if name in annotated:
            pairs += [(clip, label) for label in annotated[name].labels]
    return pairs


def _read_table(path: Path) -> list[tuple[str, str]]:
    if not path.is_file():
        raise DataError(f"there is no table of labels {path}; give a CSV file, {FOLDERS!r} or {VGGSOUNDER!r}.")
    names, *rows = read_csv(path, DataError, errors="surrogateescape") or [[]]  # file names need not be valid text
    missing = {"path", "label"} - set(names)
    if missing:
        raise DataError(f"the table of labels {path} lacks the column {' and '.join(sorted(missing))}; it needs path and label.")
    place, what = names.index("path"), names.index("label")
    return [(row[place].replace("\\", "/"), row[what]) for row in rows if len(row) > max(place, what)]


def _by_clip(pairs: Iterable[tuple[str, str]], clips: Sequence[str], source: str) -> Labels:
    """Labels by clip; rows of other clips are ignored."""
    names, found = ClipNames(clips), defaultdict(set)
    for path, label in pairs:
        clip = names.find(path) or names.find(str(Path(path).with_suffix("")))
        if clip is not None and label:
            found[clip].add(label)
    if not found:
        raise DataError(f"none of the {len(clips)} reference sounds has a label in {source}; it must name them by their paths.")
    return {clip: frozenset(labels) for clip, labels in found.items()}
