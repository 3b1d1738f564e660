"""Class names of the data sets, and their lookup by name."""

from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from math import ceil

from unsilent.errors import ParameterError

_VAS = ("baby", "cough", "dog", "drum", "fireworks", "gun", "hammer", "sneeze")
_SUGGESTIONS = 5  # names in an error message
_SIMILAR = 0.6  # minimum similarity of spelling, in [0, 1]
_STOP_WORDS = {"and", "the", "with", "etc"}


@cache
def classes(data: str) -> tuple[str, ...]:
    """Class names of a data set, by class number.

    Args:
        data: `vggsound` (309 names) or `vas` (8 names).

    Returns:
        The names, sorted as text.

    Raises:
        ParameterError: for another data set.

    Source:
        VGGSound: Chen et al. 2020, CC BY 4.0, names as published, with their misspellings. VAS: Chen et al. 2020 (RegNet), names of its
        folders. The released models number the sorted names.
    """
    if data == "vas":
        return _VAS
    if data == "vggsound":
        lines = files("unsilent").joinpath("labels_vggsound.txt").read_text(encoding="utf-8").splitlines()
        return tuple(line for line in lines if not line.startswith("#"))
    raise ParameterError(f"there are no classes of {data!r}; choose vas or vggsound.")


def find_label(label: str, classes: Sequence[str]) -> int:
    """Class number of a name.

    Args:
        label: a class name; without an exact match, case, extra spaces, underscores and hyphens are ignored. Numbers are not accepted,
            because a wrong one could not be noticed.
        classes: names by class number.

    Returns:
        Index into `classes`.

    Raises:
        ParameterError: if no class has that name; suggests similar ones.
    """
    if label in classes:
        return classes.index(label)
    plain = [_plain(name) for name in classes]
    if _plain(label) in plain:
        return plain.index(_plain(label))
    similar = _similar(label, classes)
    hint = f"did you mean {' or '.join(map(repr, similar))}? " if similar else ""
    raise ParameterError(f"no class is named {label!r} among the model's {len(classes)}; {hint}`unsilent models show NAME` lists all.")


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _similar(label: str, classes: Sequence[str]) -> list[str]:
    """At most five similar names, the most similar first: by spelling, and by common words weighted by their rarity."""
    from difflib import SequenceMatcher

    frequency = Counter(word for name in classes for word in _words(name))
    scores = {}
    for name in classes:
        similarity = SequenceMatcher(None, _plain(label), _plain(name)).ratio()
        shared = sum(max((1 / frequency[own] for own in _words(name) if _same_stem(own, word)), default=0.0) for word in _words(label))
        if shared or similarity >= _SIMILAR:
            scores[name] = similarity + shared
    return sorted(scores, key=scores.__getitem__, reverse=True)[:_SUGGESTIONS]


def _words(name: str) -> set[str]:
    words = (word.strip(",.()") for word in _plain(name).split())
    return {word for word in words if len(word) > 2} - _STOP_WORDS


def _same_stem(one: str, other: str) -> bool:
    """Whether two words share most of their beginning, like `sneeze` and `sneezing`, unlike `bark` and `barn`."""
    beginning = max(3, ceil(0.8 * min(len(one), len(other))))
    return one[:beginning] == other[:beginning]
