"""Every error a user can meet, so that the command line can say it in one sentence and callers can catch it by kind."""


class UnsilentError(Exception):
    """Root of all errors that are the request's fault rather than a defect of this package."""


class ParameterError(UnsilentError, ValueError):
    """An argument is out of range or does not fit the others; says what was asked, what was found, and what to do."""


class MediaError(UnsilentError):
    """A media file cannot be read or written; names the file."""


class CheckpointError(UnsilentError):
    """Weights are missing, damaged, or do not fit the network; names the culprit."""


class DataError(UnsilentError):
    """A table or shard of training data is missing, damaged, or inconsistent."""
