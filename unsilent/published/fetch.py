"""Downloads published files to the cache, and verifies their digests. If several processes need a file, one downloads it."""

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from unsilent import files, presets
from unsilent.checkpoints import catalog
from unsilent.checkpoints.catalog import Published
from unsilent.checkpoints.folders import SHIPPED, is_here
from unsilent.errors import CheckpointError, ParameterError
from unsilent.files import cache_folder, try_lock
from unsilent.published.download import Download, Progress, matches, part_of, size_of

_LOCK_SECONDS = 0.2  # time between two attempts to lock

# URL to which `/NAME` can be appended: a host or an address in brackets, a port, a path
_FOLDER_URL = re.compile(r"https?://([\w.-]+|\[[\da-f:.]+\])(:\d{1,5})?(/[^\s?#]*)?", re.ASCII | re.IGNORECASE)


def needed(name: str) -> list[Published]:
    """Published files of a model or network that are not installed yet, in the order of installation.

    Raises:
        ParameterError: if there is no published file of that name; the message suggests similar names.
    """
    if name in presets.names() and name not in catalog.names():
        why = "comes with the package" if (SHIPPED / name).exists() else "was never published"
        raise ParameterError(f"there is nothing to fetch: {name!r} {why}.")
    row = catalog.find(name)
    parts = ["melgan", presets.get(name).backbone] if row.kind == "sampler" else []
    return [one for one in (*(catalog.find(part) for part in parts if part), row) if not is_here(one.name)]


def fetch(
    published: Published,
    *,
    mirror: str | None = None,
    progress: Progress = lambda done, total: None,
    folder: Path | None = None,
    wanted: Sequence[Published] = (),
    timeout_seconds: float = 30.0,
    pause: Callable[[float], None] = time.sleep,
) -> Path:
    """Make a published file available and verify its digest; only missing bytes are downloaded.

    The part of an incomplete file is kept as `NAME.part`. A file in the folder is used if its digest matches, and replaced if not. If
    another process downloads the same file, this one waits.

    Args:
        published: row of the catalogue.
        mirror: URL of a folder that replaces the authors' server. Digests are verified as well.
        progress: called with the number of downloaded bytes, and their total if the server sends it.
        folder: folder of the file; `downloads` in `cache_folder()` by default.
        wanted: all files of the same request, which error messages list; only `published` by default.
        timeout_seconds: time without any bytes after which a server counts as unreachable.
        pause: sleeps for a number of seconds before a retry.

    Returns:
        Path of the file.

    Raises:
        CheckpointError: if the file cannot be downloaded, has another digest, or the disk is full.
        ParameterError: if the mirror is not an http or https URL of a folder.
    """
    folder = folder or cache_folder() / "downloads"
    path = folder / published.file_name
    url = published.url if mirror is None else _on_mirror(mirror, published)
    places = " and ".join(f"{row.url} to {folder / row.file_name}" for row in wanted or (published,))
    by_hand = f"download {places} by hand, or choose a mirror with --mirror"
    try:
        if matches(path, published.digest):
            return path
        folder.mkdir(parents=True, exist_ok=True)
        with lock(path, progress):
            if not matches(path, published.digest):  # another process may have downloaded it
                Download(
                    url, path, published.digest, published.size, published.approximate_size, by_hand, progress, timeout_seconds, pause
                ).run()
    except OSError as error:
        raise CheckpointError(f"cannot read or write {path}: {error.strerror or error}; set UNSILENT_CACHE to another folder.") from None
    return path


def _on_mirror(mirror: str, published: Published) -> str:
    if not _FOLDER_URL.fullmatch(mirror):
        raise ParameterError(f"the mirror {mirror!r} is not the URL of a folder; give one such as https://host/folder.")
    return f"{mirror.rstrip('/')}/{quote(published.file_name)}"


@contextlib.contextmanager
def lock(path: Path, progress: Progress) -> Iterator[None]:
    """Keep other processes from making a file or folder. The system releases the lock of a process that dies.

    Args:
        path: file or folder to be made.
        progress: called during waiting with the size of the part.
    """
    if files.fcntl is None:
        yield
        return
    name = path.with_name(path.name + ".lock")
    while True:
        with open(os.open(name, os.O_RDONLY | os.O_CREAT, 0o666), "rb") as file:  # another user's file may be read only
            while not try_lock(file.fileno()):
                progress(size_of(part_of(path)), None)
                time.sleep(_LOCK_SECONDS)
            if not name.exists() or not os.path.samestat(name.stat(), os.fstat(file.fileno())):
                continue  # the holder has removed the lock file, and another process may have made a new one
            try:
                yield
            finally:
                name.unlink(missing_ok=True)
            return
