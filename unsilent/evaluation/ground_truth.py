"""What clips are said to sound of, which accuracy is counted against: from a table, from a manifest, from folders, or from VGGSounder."""

import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from unsilent.data.manifest import read_manifest
from unsilent.errors import DataError, ParameterError, how_to_install
from unsilent.evaluation.sounds import Names

FOLDERS, VGGSOUNDER = "folders", "vggsounder"
Truth = dict[str, frozenset[str]]  # labels of each clip; clips without any are not in it
_VGGSOUND_NAME = re.compile(r"(.{11})_(\d+)_(\d+)")  # video, start and end in milliseconds


def read_truth(source: str, clips: Sequence[str]) -> Truth:
    """Labels of clips.

    Args:
        source: `folders` (each clip's label is the folder that it lies in), `vggsounder` (see `vggsounder_truth`), or a CSV file with the
            columns `path` and `label`, in which a clip with several labels has several rows. Paths match as in `Names.find`.
        clips: names, as of `find_sounds`.

    Raises:
        DataError: if the table is missing, lacks a column, or no clip has a label.
        ParameterError: if the package that VGGSounder comes in is not installed.
    """
    if source == FOLDERS:
        pairs = [(clip, clip.rpartition("/")[0].rpartition("/")[2]) for clip in clips]
    elif source == VGGSOUNDER:
        pairs = vggsounder_truth(clips)
    else:
        pairs = _read_table(Path(source))
    return _gather(pairs, clips, source)


def read_manifest_truth(path: Path, clips: Sequence[str], split: str | None) -> tuple[Truth, list[str]]:
    """Labels of clips that a manifest names, and which of the clips are in a split.

    Args:
        path: as `unsilent data manifest` writes it.
        clips: names, as of `find_sounds`; they match `clip_id` as in `Names.find`.
        split: that is asked for; None for all clips, also those that the manifest does not name.

    Raises:
        DataError: if the manifest cannot be read, no clip is in the split, or none has a label.
    """
    rows = [row for row in read_manifest(path)[1] if row.kind != "image" and split in (None, row.split)]
    names = Names(clips)
    inside = {names.find(row.clip_id) for row in rows}
    kept = [clip for clip in clips if split is None or clip in inside]
    if not kept:
        raise DataError(f"{path} has {len(rows)} sounds of the split {split!r}, none of which is among the {len(clips)} reference sounds.")
    return _gather([(row.clip_id, row.label) for row in rows], kept, str(path)), kept


def vggsounder_truth(clips: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of a clip and a label that is heard in it, by VGGSounder's annotators.

    Args:
        clips: names as VGGSound has them, `VIDEO_START_END` in milliseconds or `VIDEO_START` in seconds.

    Raises:
        ParameterError: if the package is not installed.

    Source:
        Zverev et al. 2025, PyPI package `vggsounder`: its audible labels (modality A or AV) of clips without background music, its default.
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
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        table = csv.DictReader(file)
        missing = {"path", "label"} - set(table.fieldnames or ())
        if missing:
            raise DataError(f"the table of labels {path} lacks the column {' and '.join(sorted(missing))}; it needs path and label.")
        return [(row["path"].replace("\\", "/"), row["label"] or "") for row in table]


def _gather(pairs: Iterable[tuple[str, str]], clips: Sequence[str], source: str) -> Truth:
    """Labels by clip; rows of other clips are left out."""
    names, found = Names(clips), defaultdict(set)
    for path, label in pairs:
        clip = names.find(path) or names.find(str(Path(path).with_suffix("")))
        if clip is not None and label:
            found[clip].add(label)
    if not found:
        raise DataError(f"none of the {len(clips)} reference sounds has a label by {source}; it must name them as they lie in the folder.")
    return {clip: frozenset(labels) for clip, labels in found.items()}
