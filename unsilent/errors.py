"""Errors for users. Each has a class to catch and a one-sentence message, which the command line prints."""

import importlib.util
from collections.abc import Iterable


class UnsilentError(Exception):
    """Base class of errors that a user can act on: wrong requests and limits of the machine, not defects of this package."""


class ParameterError(UnsilentError, ValueError):
    """An argument is out of range or contradicts another; the message says what was given, what is allowed and what to do."""


class ResourceError(UnsilentError):
    """The machine lacks what a valid request needs, such as memory; the same request may succeed later or with less."""


class MediaError(UnsilentError):
    """A media file cannot be read or written; the message names the file."""


class CheckpointError(UnsilentError):
    """Weights are missing, damaged, or do not fit the network; the message names the file or weight."""


class DataError(UnsilentError):
    """A table or shard of training data is missing, damaged, or inconsistent."""


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """A suggestion such as `did you mean a or b? `, with up to three names that resemble `name` or begin with it; else empty.

    Args:
        name: as typed.
        known: names that exist.
        cutoff: minimum similarity of spelling, 0 to 1.
    """
    import difflib  # only errors need it

    known = list(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=cutoff) or [one for one in known if name and one.startswith(name)][:3]
    return f"did you mean {' or '.join(near)}? " if near else ""


def how_to_install(extra: str) -> str:
    """Last clause of an error message: how to install an extra from the source, because the package is not on PyPI."""
    return f"run in the source folder of unsilent: pip install '.[{extra}]'"


def require_matplotlib() -> None:
    """Check that matplotlib is installed, before any other work.

    Raises:
        ParameterError: if matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ParameterError(f"drawing needs matplotlib; {how_to_install('plot')}.")
