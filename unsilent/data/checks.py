"""Looks into every file of a survey: what it really holds, how long, whether anything is heard; and cuts videos into clips."""

import hashlib
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from unsilent.clip import Clip
from unsilent.data.layouts import Candidate
from unsilent.data.manifest import Row
from unsilent.errors import MediaError
from unsilent.media.audio import read_audio, recorded_rate
from unsilent.media.probe import probe
from unsilent.signal.silence import SILENT_PEAK

_SPLITS = ("test", "valid", "train")  # a source that a layout puts into several belongs to the first of these


@dataclass(frozen=True)
class Checked:
    """What is in a file.

    Attributes:
        checksum: SHA-256 of its content.
        sample_rate: of its sound in Hz; 0 without.
        stretches: start and length in seconds of every clip in it; of a picture 0 and 0.
        left_out: start in seconds of every stretch that is no clip, and why.
    """

    checksum: str
    sample_rate: int
    stretches: list[tuple[float, float]]
    left_out: list[tuple[float, str]]


@dataclass(frozen=True)
class Check:
    """Called, gives the work on a `Candidate`: a `Checked`.

    Attributes:
        root: folder that paths start from.
        clip: whose length videos are cut to; what is left over at the end is kept if it has half of that.
    """

    root: Path
    clip: Clip

    def __call__(self) -> Callable[[Candidate], Checked]:
        """Needs nothing but itself."""
        return self.look

    def look(self, candidate: Candidate) -> Checked:
        """Read a file through."""
        path = self.root / candidate.path
        if not path.is_file():
            raise MediaError(f"{path} does not exist.")
        with path.open("rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
        if candidate.kind == "image":
            with Image.open(path) as picture:
                picture.load()
            return Checked(checksum, 0, [(0.0, 0.0)], [])
        rate = self.clip.sample_rate
        seconds = probe(path).seconds if candidate.kind == "clip" else None
        waveform, recorded = read_audio(path, rate), recorded_rate(path)
        seconds = len(waveform) / rate if seconds is None else seconds
        stretches, left_out = [], []
        for start, length in self.cut(seconds) if candidate.kind == "clip" else [(0.0, seconds)]:
            heard = waveform[round(start * rate) : round((start + length) * rate)]
            if length < self.clip.column_seconds or len(heard) < self.clip.column_samples:
                left_out.append((start, f"{candidate.path} has {min(length, len(heard) / rate):.2f} s of sound, too little for anything."))
            elif np.abs(heard).max() <= SILENT_PEAK:
                left_out.append((start, f"{candidate.path} is silent from {start:.2f} s to {start + length:.2f} s."))
            else:
                stretches.append((start, length))
        return Checked(checksum, recorded, stretches, left_out)

    def cut(self, seconds: float) -> list[tuple[float, float]]:
        """Start and length of the clips of a video; a video shorter than a clip is one."""
        whole = int(seconds / self.clip.seconds + 1e-6)
        rest = seconds - whole * self.clip.seconds
        clips = [(number * self.clip.seconds, self.clip.seconds) for number in range(whole)]
        if not whole or rest >= self.clip.seconds / 2:
            clips.append((whole * self.clip.seconds, rest))
        return clips


def as_rows(checked: Iterable[tuple[Candidate, Checked]], shares: dict[str, float]) -> tuple[list[Row], list[tuple[str, str]]]:
    """Rows of a manifest: every content once, and every source in one split.

    Args:
        checked: files and what is in them.
        shares: how much of what no layout has put into a split goes to which, by the name of its source; the rest is `train`.

    Returns:
        Rows, and names of what is left out, with reasons.
    """
    checked = list(checked)
    splits: dict[str, str] = {}
    for one, found in checked:
        source = one.source or found.checksum
        splits[source] = min(splits.get(source, one.split), one.split, key=_rank)
    stems = Counter(str(Path(one.path).with_suffix("")) for one, _ in checked)
    first: dict[str, str] = {}
    rows, left_out = [], []
    for one, found in checked:
        twin = first.setdefault(found.checksum, one.path)
        name = str(Path(one.path).with_suffix(""))
        name = name if stems[name] == 1 else one.path
        source = one.source or found.checksum
        split = splits[source] or _chosen(source, shares)
        if twin != one.path:
            left_out.append((name, f"{one.path} has the same content as {twin}."))
        elif one.split not in ("", split):
            left_out.append((name, f"{one.path} is to be {one.split}, but its source {source} is {split}."))
        else:
            left_out += [(name, why) for _, why in found.left_out]
            for start, seconds in found.stretches:
                clip_id = f"{name}@{round(1000 * start)}" if len(found.stretches) + len(found.left_out) > 1 else name
                rows.append(
                    Row(clip_id, one.path, one.kind, one.label, split, one.licence, start, seconds, found.sample_rate, found.checksum)
                )
    return rows, left_out


def _rank(split: str) -> int:
    return _SPLITS.index(split) if split in _SPLITS else len(_SPLITS)


def _chosen(source: str, shares: dict[str, float]) -> str:
    """A split by the name of a source alone, so that more material changes no choice."""
    place, upto = zlib.crc32(source.encode()) / 2**32, 0.0
    for split, share in shares.items():
        upto += share
        if place < upto:
            return split
    return "train"


def summarise(rows: list[Row], left_out: list[tuple[str, str]]) -> str:
    """What a person wants to know of a manifest: how much there is of what, by split and label, and what is missing."""
    splits = [*sorted({row.split for row in rows}, key=_rank, reverse=True)]
    hours, counts = defaultdict(float), Counter[tuple[str, str]]()
    for row in rows:
        for key in ((row.kind, row.split), (f"label {row.label or '(none)'}", row.split)):
            counts[key] += 1
            hours[key] += row.duration_seconds / 3600
    names = sorted({what for what, _ in counts}, key=lambda what: (what.startswith("label "), what))
    width = max(map(len, names), default=0)
    lines = [f"{'':{width}}" + "".join(f"{split:>20}" for split in splits)]
    for what in names:
        times = {split: f" ({hours[what, split]:.2f} h)" if hours[what, split] else "" for split in splits}
        cells = (f"{counts[what, split]}{times[split]}" for split in splits)
        lines.append(f"{what:{width}}" + "".join(f"{cell:>20}" for cell in cells))
    lines.append(f"{len(rows)} rows, {len({row.path for row in rows})} files, {len(left_out)} left out")
    return "\n".join(lines)
