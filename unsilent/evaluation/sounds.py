"""Finds the sound files of a folder, and pairs samples with the clips of a reference folder."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from unsilent.errors import ParameterError
from unsilent.files import walk
from unsilent.media.suffixes import SOUND_SUFFIXES, VIDEO_SUFFIXES

MEL_SUFFIX = ".mel.npy"  # a decoded mel: float16 [mels, frames] around [-1, 1]
KEY_BYTES = 16  # length of a content key
_SUFFIXES = (MEL_SUFFIX, *SOUND_SUFFIXES, *VIDEO_SUFFIXES)  # in order of preference
_SEED = re.compile(r"\.seed\d+$")
_TAKE = re.compile(r"(?:\.take|_|/)(\d+)$")


@dataclass(frozen=True)
class Sound:
    """One sound of a folder.

    Attributes:
        name: path below the folder without its suffix, with `/` between folders.
        path: file to classify; mels are preferred to sounds, and sounds to videos.
        playable: sound or video to play; None if there is only a mel.
    """

    name: str
    path: Path
    playable: Path | None

    @property
    def is_mel(self) -> bool:
        """Whether `path` is a mel."""
        return self.path.name.lower().endswith(MEL_SUFFIX)

    def content_key(self) -> bytes:
        """Digest of the file's content; it differs between a mel and a sound with equal bytes."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.sha256(b"mel" if self.is_mel else b"")).digest()[:KEY_BYTES]


def find_sounds(folder: Path) -> list[Sound]:
    """All sounds in and below a folder, sorted by name, without hidden files.

    Raises:
        ParameterError: if `folder` is not a folder, or has no sounds.
    """
    if not folder.is_dir():
        raise ParameterError(f"{folder} is not a folder; give a folder of sounds.")
    files: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in walk(folder):
        below = path.relative_to(folder)
        suffix = next((suffix for suffix in _SUFFIXES if path.name.lower().endswith(suffix)), None)
        if suffix and not any(part.startswith(".") for part in below.parts):
            files[below.as_posix()[: -len(suffix)]].setdefault(suffix, path)
    if not files:
        raise ParameterError(f"{folder} has no sounds; supported are files that end in {', '.join(_SUFFIXES)}.")
    return [_sound(name, found) for name, found in sorted(files.items())]


def _sound(name: str, found: dict[str, Path]) -> Sound:
    ranked = [found[suffix] for suffix in _SUFFIXES if suffix in found]
    return Sound(name, ranked[0], next((found[suffix] for suffix in _SUFFIXES[1:] if suffix in found), None))


class ClipNames:
    """Finds clips by their full names, or by the end of a path if it is unique.

    Either the given name or the clip's may have additional leading folders, but not both: `dog/3` never stands for `cat/3`.

    Args:
        names: names of the clips, with `/` between folders.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = set(names)
        self._by_end: dict[str, set[str]] = defaultdict(set)
        for name in self._names:
            for end in _ends(name):
                self._by_end[end].add(name)

    def find(self, name: str) -> str | None:
        """Clip of a path without suffix; None if no clip or several clips match."""
        return self._first([name])

    def clip_of(self, sample: str) -> str | None:
        """Clip of a sample named `CLIP`, `CLIP/3`, `CLIP_3` or `CLIP.take3`, with optional `.sound` or `.seed7` after `CLIP`; or None."""
        without = _TAKE.sub("", sample)
        return self._first([sample, *(_SEED.sub("", name).removesuffix(".sound") for name in (sample, without))])

    def _first(self, names: list[str]) -> str | None:
        for ends in zip_longest(*map(_ends, names), fillvalue=""):  # longer ends of one name precede shorter ends of another
            for end, name in zip(ends, names, strict=True):
                if end in self._names:
                    return end
                if end == name and len(self._by_end.get(end, ())) == 1:
                    return next(iter(self._by_end[end]))
        return None


def take_number(sample: str) -> int:
    """The number at the end of a sample's name, by which samples of a clip are sorted; 0 without one."""
    found = _TAKE.search(sample)
    return int(found[1]) if found else 0


def _ends(name: str) -> Iterator[str]:
    """`a/b/c` → `a/b/c`, `b/c`, `c`."""
    parts = name.split("/")
    return ("/".join(parts[start:]) for start in range(len(parts)))
