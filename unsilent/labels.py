"""Class names of the data sets: the number that a typed name stands for, and what a classifier's scores say in words."""

from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from math import ceil, exp

from unsilent.errors import ParameterError

_VAS = ("baby", "cough", "dog", "drum", "fireworks", "gun", "hammer", "sneeze")
_SUGGESTIONS = 5  # names in an error message
_ALIKE = 0.6  # similarity of spelling from which on two names are near, in 0..1
_FILLERS = {"and", "the", "with", "etc"}  # words that say nothing about a sound


@cache
def classes(data: str) -> tuple[str, ...]:
    """Class names of a data set; the place of a name is the number that models know it by.

    Args:
        data: `vggsound` (309 names) or `vas` (8 names).

    Returns:
        The names, sorted as text.

    Raises:
        ParameterError: for another data set.

    Source:
        VGGSound: Chen et al. 2020, CC BY 4.0, names as published, misspellings too. VAS: Chen et al. 2020 (RegNet), names of its folders.
        The released models number the sorted names.
    """
    if data == "vas":
        return _VAS
    if data == "vggsound":
        lines = files("unsilent").joinpath("labels_vggsound.txt").read_text(encoding="utf-8").splitlines()
        return tuple(line for line in lines if not line.startswith("#"))
    raise ParameterError(f"the classes of {data!r} were asked for; known are those of vas and vggsound.")


def find_label(label: str, classes: Sequence[str]) -> int:
    """The number of a class that a person names.

    Args:
        label: the name itself; if no name is exactly that, capitals, spaces at the ends or doubled, underscores and hyphens do not matter.
            Numbers are not accepted: a name can be checked, a number cannot.
        classes: all names, in the order of their numbers.

    Returns:
        Index into `classes`.

    Raises:
        ParameterError: if no class has that name; suggests those that are spelt alike or share words.
    """
    if label in classes:
        return classes.index(label)
    plain = [_plain(name) for name in classes]
    if _plain(label) in plain:
        return plain.index(_plain(label))
    near = _near(label, classes)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise ParameterError(f"no class is named {label!r} among the model's {len(classes)}; {hint}`unsilent models show NAME` lists all.")


def most_likely(logits: Sequence[float], classes: Sequence[str], n: int = 10) -> list[tuple[str, float]]:
    """What a classifier heard, in words: the likeliest classes of one sound.

    Args:
        logits: scores of all classes, as `VGGishish` or `Melception` give them for one mel.
        classes: all names, in the order of their numbers.
        n: how many to name, at most.

    Returns:
        Name and probability of each, the likeliest first.

    Raises:
        ParameterError: if there are not as many scores as names.
    """
    if len(logits) != len(classes):
        raise ParameterError(f"{len(logits)} scores given for {len(classes)} classes; they must be those of the classifier's own data.")
    highest = max(logits)
    weights = [exp(score - highest) for score in logits]
    best = sorted(range(len(classes)), key=lambda number: -weights[number])[:n]
    return [(classes[number], weights[number] / sum(weights)) for number in best]


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _near(label: str, classes: Sequence[str]) -> list[str]:
    """At most five names like `label`, nearest first: by spelling, and by words in common, of which a rare one says more."""
    from difflib import SequenceMatcher  # only a mistake needs it

    spread = Counter(word for name in classes for word in _words(name))
    scores = {}
    for name in classes:
        alike = SequenceMatcher(None, _plain(label), _plain(name)).ratio()
        shared = sum(max((1 / spread[own] for own in _words(name) if _kin(own, word)), default=0.0) for word in _words(label))
        if shared or alike >= _ALIKE:
            scores[name] = alike + shared
    return sorted(scores, key=scores.__getitem__, reverse=True)[:_SUGGESTIONS]


def _words(name: str) -> set[str]:
    words = (word.strip(",.()") for word in _plain(name).split())
    return {word for word in words if len(word) > 2} - _FILLERS


def _kin(one: str, other: str) -> bool:
    """Whether two words begin alike, as `sneeze` and `sneezing` do but `bark` and `barn` do not."""
    beginning = max(3, ceil(0.8 * min(len(one), len(other))))
    return one[:beginning] == other[:beginning]
