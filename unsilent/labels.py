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
_SPELT_ALIKE = 0.85  # minimum similarity of spelling of a typing error
_LONGEST = 200  # characters of a label
_SYNONYM_WORTH = 0.5  # score of a synonym; an equal word scores 1
_STOP_WORDS = {"and", "the", "with", "etc"}
_ENDINGS = ("ings", "ing", "ers", "er", "ed", "es", "ie", "s", "e", "y")
_EMPTY_WORDS = {"for", "from", "who", "that", "this", "some", "someone", "something", "playing", "sound", "sounds", "noise", "people"}


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
        label: a class name; without an exact match, case, extra spaces, underscores and hyphens are ignored. Class numbers are refused,
            because a wrong one would go unnoticed.
        classes: names by class number.

    Returns:
        Index into `classes`.

    Raises:
        ParameterError: if no class has that name; the message suggests similar ones. A label of more than 200 characters is refused.
    """
    _require_short(label)
    if label in classes:
        return classes.index(label)
    plain = [_plain(name) for name in classes]
    if _plain(label) in plain:
        return plain.index(_plain(label))
    similar = _similar(label, classes)
    hint = f"did you mean {' or '.join(map(repr, similar))}? " if similar else ""
    raise ParameterError(f"no class is named {label!r} among the model's {len(classes)}; {hint}`unsilent models show NAME` lists all.")


def _require_short(label: str) -> None:
    """Refuse a label whose comparison with all classes would take seconds."""
    if len(label) > _LONGEST:
        raise ParameterError(f"{label[:20]!r}… has {len(label)} characters, but a label has at most {_LONGEST}.")


def nearest_label(label: str, classes: Sequence[str]) -> tuple[int, str]:
    """Class number of a name, or of the class nearest to free text.

    Words are compared by their stems, and with synonyms: those of a table in this package, and those of the same VGGSound class.

    Args:
        label: as typed.
        classes: names by class number.

    Returns:
        Index into `classes`, and a sentence that says which class was taken; the sentence is empty if the label is a class name.

    Raises:
        ParameterError: as in `find_label`, if no word matches any class.
    """
    _require_short(label)
    try:
        return find_label(label, classes), ""
    except ParameterError:
        scores = {name: _worth(label, name, classes) for name in classes}
        best = max(classes, key=lambda name: (scores[name], _spelt_like(label, name)))
        if not scores[best]:
            best = max(classes, key=lambda name: _spelt_like(label, name))
            if _spelt_like(label, best) < _SPELT_ALIKE:
                raise
        return classes.index(best), f"no class is named {label!r}; the nearest, {best!r}, is used."


def is_name_of(word: str, name: str) -> bool:
    """Whether a word equals a class name, ignoring case, extra spaces, underscores and hyphens."""
    return _plain(word) == _plain(name)


def labels_meant(word: str, classes: Sequence[str]) -> tuple[str, ...]:
    """All class names that a word means: those of a kind or family, the one of this name, those that begin with it, or else the nearest.

    Args:
        word: as typed.
        classes: names by class number.

    Returns:
        At least one name. `music` means `piano` and `violin`, `footsteps` also `footsteps_snow`, but `wind` not `wind_chimes`.

    Raises:
        ParameterError: as in `nearest_label`.
    """
    plain = _plain(word)
    kind = _kinds().get(plain, frozenset())
    ways = (
        lambda name: kind & {_plain(name), *_plain(name).split()},
        lambda name: is_name_of(word, name),
        lambda name: _plain(name).startswith(f"{plain} "),
    )
    meant = next(filter(None, (tuple(filter(way, classes)) for way in ways)), ())
    return meant or (classes[nearest_label(word, classes)[0]],)


def _worth(label: str, name: str, classes: Sequence[str]) -> float:
    """Similarity of a label to a class name, summed over its words: heads of synonym groups score most, then equal words, then synonyms."""
    frequency = _frequency(tuple(classes))
    own = {_stem(word): 1 / frequency[word] for word in _words(name) - _EMPTY_WORDS}
    worth = 0.0
    for word in map(_stem, _words(label) - _EMPTY_WORDS):
        is_first = 2 * any(_plain(name) == first and word in group for first, group in _groups())
        synonyms = sum(rarity for one, rarity in own.items() if one in _synonyms(word))
        worth += is_first + (1 + own[word] if word in own else min(_SYNONYM_WORTH * synonyms, 0.9))
    return worth * (1 + 1 / max(1, len(own)))


@cache
def _frequency(classes: tuple[str, ...]) -> Counter[str]:
    return Counter(word for name in classes for word in _words(name))


@cache
def _kinds() -> dict[str, frozenset[str]]:
    """Words of class names by kind of sound, such as `music`; each name of a kind is a key."""
    kinds = dict[str, frozenset[str]]()
    for line in _synonym_lines():
        names, is_kind, words = line.partition("=")
        kinds |= dict.fromkeys(names.split(), frozenset(map(_plain, words.split()))) if is_kind else {}
    return kinds


@cache
def _synonym_lines() -> tuple[str, ...]:
    """Lines of the table of words, without its comments."""
    lines = files("unsilent").joinpath("labels_synonyms.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if not line.startswith("#"))


@cache
def _groups() -> tuple[tuple[str, frozenset[str]], ...]:
    """Synonym groups: the class name that heads the group, and the stems of its words."""
    groups = [[_plain(word) for word in line.split()] for line in _synonym_lines() if "=" not in line]
    return tuple((first, frozenset(map(_stem, [first, *others]))) for first, *others in groups)


@cache
def _synonyms(stem: str) -> frozenset[str]:
    """Stems of words in the same groups, and in the same VGGSound classes."""
    groups = [group for _, group in _groups()]
    groups += [frozenset(map(_stem, _words(name) - _EMPTY_WORDS)) for name in classes("vggsound")]
    return frozenset().union(*(group for group in groups if stem in group))


def _stem(word: str) -> str:
    """A word without its ending: `barks`, `barking` → `bark`; `waves` → `wav`."""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word.removesuffix(ending)
            break
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] else word


def _spelt_like(label: str, name: str) -> float:
    from difflib import SequenceMatcher

    return SequenceMatcher(None, _plain(label), _plain(name)).ratio()


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _similar(label: str, classes: Sequence[str]) -> list[str]:
    """At most five similar names, the most similar first: by spelling, and by shared words weighted by rarity."""
    frequency, scores = _frequency(tuple(classes)), {}
    for name in classes:
        similarity = _spelt_like(label, name)
        shared = sum(max((1 / frequency[own] for own in _words(name) if _same_stem(own, word)), default=0.0) for word in _words(label))
        if shared or similarity >= _SIMILAR:
            scores[name] = similarity + shared
    return sorted(scores, key=scores.__getitem__, reverse=True)[:_SUGGESTIONS]


def _words(name: str) -> set[str]:
    words = (word.strip(",.()") for word in _plain(name).split())
    return {word for word in words if len(word) > 2} - _STOP_WORDS


def _same_stem(one: str, other: str) -> bool:
    """Whether two words share most of their first letters, as `sneeze` and `sneezing` do, and `bark` and `barn` do not."""
    beginning = max(3, ceil(0.8 * min(len(one), len(other))))
    return one[:beginning] == other[:beginning]
