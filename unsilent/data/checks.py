"""Inspects files (content, length, silence), cuts long videos into clips, and makes the rows of the manifest."""

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

_SPLITS = ("test", "valid", "train")  # priority of splits for a source that is listed in several


@dataclass(frozen=True)
class Content:
    """Content of a file.

    Attributes:
        checksum: SHA-256 of the file.
        sample_rate: sample rate of the sound in Hz; 0 for images.
        clips: start and length in seconds of every usable clip; 0 and 0 for images.
        left_out: start in seconds of every unusable clip, and the reason.
    """

    checksum: str
    sample_rate: int
    clips: list[tuple[float, float]]
    left_out: list[tuple[float, str]]


@dataclass(frozen=True)
class Check:
    """Task for `jobs.parallel`: `Candidate` → `Content`.

    Attributes:
        root: folder of the material.
        clip: length of the clips that videos are cut into; a remainder of half a clip or more is kept.
        keep_silent: whether silent clips are kept.
    """

    root: Path
    clip: Clip
    keep_silent: bool = False

    def __call__(self) -> Callable[[Candidate], Content]:
        """Return `inspect`."""
        return self.inspect

    def inspect(self, candidate: Candidate) -> Content:
        """Read a whole file.

        Raises:
            MediaError: if the file is missing or damaged, or has no sound.
        """
        path = self.root / candidate.path
        if not path.is_file():
            raise MediaError(f"{path} does not exist.")
        with path.open("rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
        if candidate.kind == "image":
            with Image.open(path) as image:
                image.load()
            return Content(checksum, 0, [(0.0, 0.0)], [])
        rate = self.clip.sample_rate
        seconds = probe(path).seconds if candidate.kind == "clip" else None
        waveform, recorded = read_audio(path, rate), recorded_rate(path)
        seconds = len(waveform) / rate if seconds is None else seconds
        clips, left_out = [], []
        for start, length in self.cut(seconds) if candidate.kind == "clip" else [(0.0, seconds)]:
            sound = waveform[round(start * rate) : round((start + length) * rate)]
            if length < self.clip.column_seconds or len(sound) < self.clip.column_samples:
                shorter = min(length, len(sound) / rate)
                left_out.append((start, f"{candidate.path} has {shorter:.2f} s of sound, less than {self.clip.column_seconds:.2f} s."))
            elif not self.keep_silent and np.abs(sound).max() <= SILENT_PEAK:
                left_out.append((start, f"{candidate.path} is silent from {start:.2f} s to {start + length:.2f} s."))
            else:
                clips.append((start, length))
        return Content(checksum, recorded, clips, left_out)

    def cut(self, seconds: float) -> list[tuple[float, float]]:
        """Start and length in seconds of the clips of a video; a video shorter than a clip is a single clip."""
        n_whole = int(seconds / self.clip.seconds + 1e-6)
        rest = seconds - n_whole * self.clip.seconds
        clips = [(number * self.clip.seconds, self.clip.seconds) for number in range(n_whole)]
        if not n_whole or rest >= self.clip.seconds / 2:
            clips.append((n_whole * self.clip.seconds, rest))
        return clips


def as_rows(inspected: Iterable[tuple[Candidate, Content]], shares: dict[str, float]) -> tuple[list[Row], list[tuple[str, str]]]:
    """Rows of a manifest, without duplicate files and with each source in only one split.

    Args:
        inspected: files and their contents.
        shares: share of each split among the sources without a given split, which are assigned by a hash of the source's name; the rest is
            `train`.

    Returns:
        The rows, and the names of omitted files or clips with reasons.
    """
    inspected = list(inspected)
    splits: dict[str, str] = {}
    for one, content in inspected:
        source = one.source or content.checksum
        splits[source] = min(splits.get(source, one.split), one.split, key=_rank)
    stems = Counter(str(Path(one.path).with_suffix("")) for one, _ in inspected)
    first: dict[str, str] = {}
    rows, left_out = [], []
    for one, content in inspected:
        original = first.setdefault(content.checksum, one.path)
        name = str(Path(one.path).with_suffix(""))
        name = name if stems[name] == 1 else one.path
        source = one.source or content.checksum
        split = splits[source] or _draw_split(source, shares)
        if original != one.path:
            left_out.append((name, f"{one.path} has the same content as {original}."))
        elif one.split not in ("", split):
            left_out.append((name, f"{one.path} is listed as {one.split}, but its source {source} is {split}."))
        else:
            left_out += [(name, why) for _, why in content.left_out]
            is_cut = len(content.clips) + len(content.left_out) > 1
            for start, seconds in content.clips:
                clip_id = f"{name}@{round(1000 * start)}" if is_cut else name
                about_file = one.path, one.kind, one.label, split, one.licence
                rows.append(Row(clip_id, *about_file, start, seconds, content.sample_rate, content.checksum, one.visible_impacts))
    return rows, left_out


def _rank(split: str) -> int:
    return _SPLITS.index(split) if split in _SPLITS else len(_SPLITS)


def _draw_split(source: str, shares: dict[str, float]) -> str:
    """Split of a source by a hash of its name, so that added material does not change the split of other sources."""
    position, upto = zlib.crc32(source.encode()) / 2**32, 0.0
    for split, share in shares.items():
        upto += share
        if position < upto:
            return split
    return "train"


def summarise(rows: list[Row], left_out: list[tuple[str, str]]) -> str:
    """Summary as text: number and hours of each kind and label by split, and totals."""
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
