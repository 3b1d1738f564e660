"""All errors meant for users: the command line prints them in one sentence, callers catch them by class."""

from collections.abc import Iterable


class UnsilentError(Exception):
    """Root of all errors that a user can act on: the request's fault or the machine's, not a defect of this package."""


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


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`did you mean a or b`: up to three of the known names, similar to `name` if there are any."""
    import difflib  # only errors need it

    known = list(known)
    return f"did you mean {' or '.join(difflib.get_close_matches(name, known, n=3) or known[:3])}"


def how_to_install(extra: str) -> str:
    """How to install an extra, as the last clause of an error message; from the source, because the package is on no index."""
    return f"run in the source folder of unsilent: pip install '.[{extra}]'"
