"""Which files of a folder are sounds to judge, and which clip of a reference folder each is a sample of."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from unsilent.errors import ParameterError
from unsilent.media.files import SOUND_SUFFIXES, VIDEO_SUFFIXES

MEL_SUFFIX = ".mel.npy"  # a mel as a codebook decodes it: float16 [mels, frames] around [-1, 1]
_SUFFIXES = (MEL_SUFFIX, *SOUND_SUFFIXES, *VIDEO_SUFFIXES)  # the first that is there is judged
_TAKE = re.compile(r"(?:\.take|_|/)(\d+)$")


@dataclass(frozen=True)
class Sound:
    """One sound of a folder.

    Attributes:
        name: path below the folder without its suffix, with `/` between folders.
        path: file that is judged: a mel where one lies beside the sound, a sound rather than a video.
        heard: file to play; None where there is but a mel.
    """

    name: str
    path: Path
    heard: Path | None

    @property
    def is_mel(self) -> bool:
        """Whether a mel is judged rather than a sound."""
        return self.path.name.lower().endswith(MEL_SUFFIX)


def find_sounds(folder: Path) -> list[Sound]:
    """All sounds in and below a folder, sorted by name; what begins with a dot is left out.

    Raises:
        ParameterError: if it is no folder, or holds no sounds.
    """
    if not folder.is_dir():
        raise ParameterError(f"{folder} is not a folder; name one that holds sounds.")
    files: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in sorted(folder.rglob("*")):
        below = path.relative_to(folder)
        suffix = next((suffix for suffix in _SUFFIXES if path.name.lower().endswith(suffix)), None)
        if suffix and path.is_file() and not any(part.startswith(".") for part in below.parts):
            files[below.as_posix()[: -len(suffix)]].setdefault(suffix, path)
    if not files:
        raise ParameterError(f"{folder} holds no sounds; wanted are files that end in {', '.join(_SUFFIXES)}.")
    return [_sound(name, found) for name, found in sorted(files.items())]


def _sound(name: str, found: dict[str, Path]) -> Sound:
    ranked = [found[suffix] for suffix in _SUFFIXES if suffix in found]
    return Sound(name, ranked[0], next((found[suffix] for suffix in _SUFFIXES[1:] if suffix in found), None))


class Names:
    """Finds clips by name: by the whole, or by the end of a path where only one clip has it.

    Args:
        names: of the clips, with `/` between folders.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._whole = set(names)
        self._ends: dict[str, set[str]] = defaultdict(set)
        for name in self._whole:
            for end in _ends(name):
                self._ends[end].add(name)

    def find(self, name: str) -> str | None:
        """The clip that a path without suffix means, however many folders stand before it here or there; None if none or several."""
        return self._first([name])

    def clip_of(self, sample: str) -> str | None:
        """The clip of which `CLIP`, `CLIP/3`, `CLIP_3`, `CLIP.take3`, or any of these with `.sound` after `CLIP`, is a sample."""
        return self._first([sample, sample.removesuffix(".sound"), _TAKE.sub("", sample).removesuffix(".sound")])

    def _first(self, names: list[str]) -> str | None:
        for ends in zip_longest(*map(_ends, names), fillvalue=""):  # longer ends of any name go before shorter ends of another
            for end in ends:
                if end in self._whole:
                    return end
                if len(self._ends.get(end, ())) == 1:
                    return next(iter(self._ends[end]))
        return None


def take_number(sample: str) -> int:
    """The number at the end of a sample's name, by which samples of a clip are ordered; 0 without one."""
    found = _TAKE.search(sample)
    return int(found[1]) if found else 0


def _ends(name: str) -> Iterator[str]:
    """`a/b/c` → `a/b/c`, `b/c`, `c`."""
    parts = name.split("/")
    return ("/".join(parts[start:]) for start in range(len(parts)))
