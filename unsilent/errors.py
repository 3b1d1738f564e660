"""Errors for users: each is one sentence, which the command line prints, and a class to catch."""

import importlib.util
from collections.abc import Iterable


class UnsilentError(Exception):
    """Base class of errors that a user can act on: wrong requests and limits of the machine, not defects of this package."""


class ParameterError(UnsilentError, ValueError):
    """An argument is out of range or does not fit the others; the message says what was given, what is allowed and what to do."""


class ResourceError(UnsilentError):
    """The machine lacks what a valid request needs, such as memory; the same request may succeed later or with less."""


class MediaError(UnsilentError):
    """A media file cannot be read or written; names the file."""


class CheckpointError(UnsilentError):
    """Weights are missing, damaged, or do not fit the network; names the file or weight."""


class DataError(UnsilentError):
    """A table or shard of training data is missing, damaged, or inconsistent."""


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """`did you mean a or b? `, with up to three known names that are similar to `name` or begin with it; empty if there are none.

    Args:
        name: as typed.
        known: names that exist.
        cutoff: least similarity of spelling, in 0..1.
    """
    import difflib  # only errors need it

    known = list(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=cutoff) or [one for one in known if name and one.startswith(name)][:3]
    return f"did you mean {' or '.join(near)}? " if near else ""


def how_to_install(extra: str) -> str:
    """How to install an extra, as the last clause of an error message: from the source, because the package is not on PyPI."""
    return f"run in the source folder of unsilent: pip install '.[{extra}]'"


def require_matplotlib() -> None:
    """Check that matplotlib is installed, before any other work.

    Raises:
        ParameterError: if matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ParameterError(f"drawing needs matplotlib; {how_to_install('plot')}.")
