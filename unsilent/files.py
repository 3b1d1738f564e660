"""Files on disk: the cache folder, atomic replacement, and an exclusive lock between processes."""

import errno
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from unsilent.errors import MediaError, UnsilentError

try:
    import fcntl
except ImportError:  # Windows has no flock
    fcntl = None


def cache_folder() -> Path:
    """Folder of files that can be downloaded again.

    Returns:
        `$UNSILENT_CACHE` if set, else `$XDG_CACHE_HOME/unsilent`, else `~/.cache/unsilent`.

    Source:
        XDG Base Directory Specification 0.8: a value of `$XDG_CACHE_HOME` that is not absolute is ignored.
    """
    if chosen := os.environ.get("UNSILENT_CACHE"):
        return Path(chosen).expanduser()
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (xdg if xdg.is_absolute() else Path.home() / ".cache") / "unsilent"


def require_path(path: Path) -> None:
    """Refuse a path that does not exist.

    Raises:
        MediaError: if it does not; says of a web address that the file must be downloaded first.
    """
    if path.exists():
        return
    if re.match(r"[a-z][a-z0-9+.-]+:/", str(path)):
        raise MediaError(f"{re.sub(':/+', '://', str(path), count=1)} is an address; download the file first.")
    raise MediaError(f"{path} does not exist.")


@contextmanager
def atomic_write(out: Path, error: type[UnsilentError] = MediaError) -> Iterator[Path]:
    """Give a temporary file beside `out`, which is renamed to `out` when the block ends and removed when it fails.

    Args:
        out: file to write. The temporary file has the same suffix, because libraries choose formats by it.
        error: class to raise.

    Raises:
        UnsilentError: of class `error`, if the folder is missing or not writable, or the disk is full.
    """
    temporary = out.with_name(f".{out.stem[:40]}.{uuid.uuid4().hex[:8]}{out.suffix}")
    try:
        temporary.touch(exist_ok=False)
        yield temporary
        os.replace(temporary, out)
    except OSError as why:
        raise error(f"{out} cannot be written: {why.strerror or why}.") from why
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def try_lock(file: int) -> bool:
    """Take an exclusive lock on an open file without waiting.

    Args:
        file: descriptor; the lock ends when it is closed.

    Returns:
        False if another process holds the lock; True also where the file system has no locks.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as why:
        if why.errno not in (errno.ENOLCK, errno.ENOTSUP):
            raise
    return True
