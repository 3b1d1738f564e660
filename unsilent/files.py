"""Files on disk: the cache folder, atomic replacement, and an exclusive lock between processes."""

import codecs
import csv
import errno
import io
import json
import os
import re
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from unsilent.errors import MediaError, UnsilentError

try:
    import fcntl
except ImportError:  # Windows has no flock
    fcntl = None

_NO_HOME = Path("/nonexistent")  # for users without a home folder: reading finds nothing, writing fails with advice
_MARK = ".unsilent-part"  # in the names of temporary files
_TEMPORARY = re.compile(rf"\.[0-9a-f]{{8}}{re.escape(_MARK)}(\.[^.]*)?$")
_STEM_BYTES = 100  # part of the output's stem in the temporary file's name, because a name has 255 bytes at most
_MAX_TEXT = 256 << 20  # bytes of the largest text file that is read
_swept: set[Path] = set()


def cache_folder() -> Path:
    """Cache folder, for files that can be downloaded again.

    Returns:
        `$UNSILENT_CACHE` if set, else `$XDG_CACHE_HOME/unsilent`, else `~/.cache/unsilent`.

    Source:
        XDG Base Directory Specification 0.8: a value of `$XDG_CACHE_HOME` that is not absolute is ignored.
    """
    if chosen := os.environ.get("UNSILENT_CACHE"):
        return Path(chosen).expanduser()
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if xdg.is_absolute():
        return xdg / "unsilent"
    try:
        return Path.home() / ".cache" / "unsilent"
    except RuntimeError:  # a user without a home, as in containers
        return _NO_HOME / ".cache" / "unsilent"


def require_path(path: Path) -> None:
    """Refuse a path that does not exist.

    Raises:
        MediaError: if it does not; for a URL, the message says that the file must be downloaded first.
    """
    if path.exists():
        return
    if re.match(r"[a-z][a-z0-9+.-]+:/", str(path)):
        raise MediaError(f"{re.sub(':/+', '://', str(path), count=1)} is an address; download the file first.")
    raise MediaError(f"{path} does not exist.")


def real(path: Path) -> Path:
    """The path without symbolic links, like `Path.resolve`, which raises for links in a circle."""
    return Path(os.path.realpath(path))


def require_file(path: Path, error: type[UnsilentError], most: int | None = None) -> None:
    """Refuse a folder, pipe or device, which may have no end, and a file that is too large.

    Args:
        path: existing file.
        error: class to raise.
        most: largest size in bytes; None allows any.

    Raises:
        UnsilentError: of class `error`.
        OSError: if the file does not exist or cannot be reached.
    """
    kind = _kind(path)
    if kind:
        raise error(f"{path} is a {kind}; {'name a file' if kind == 'folder' else 'save it to a file first'}.")
    if most is not None and path.stat().st_size > most:
        raise error(f"{path} has {path.stat().st_size >> 20} MB, but at most {most >> 20} are possible.")


def refuse_special(out: Path, error: type[UnsilentError]) -> None:
    """Refuse to write to a folder, pipe or device.

    Raises:
        UnsilentError: of class `error`.
    """
    if out.exists() and (kind := _kind(out)):
        raise error(f"{out} cannot be written: it is a {kind}; name a file.")


def _kind(path: Path) -> str:
    mode = path.stat().st_mode
    return "" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "pipe" if stat.S_ISFIFO(mode) else "device"


def walk(folder: Path) -> list[Path]:
    """All files in and below a folder, sorted. Symbolic links to folders are followed; each folder is visited once."""
    found, seen = list[Path](), set[str]()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        found += [Path(place, name) for name in names]
    return sorted(path for path in found if path.is_file())


def read_text(path: Path, error: type[UnsilentError], errors: str = "strict") -> str:
    """Read a text file as spreadsheet programs and editors save it: UTF-8 or UTF-16, with or without a byte order mark.

    Args:
        path: file.
        error: class to raise.
        errors: handling of undecodable bytes, see `bytes.decode`.

    Raises:
        UnsilentError: of class `error`, if the file cannot be read, has another encoding or more than 256 MB, or is a pipe or device.
    """
    try:
        require_file(path, error, _MAX_TEXT)
        content = path.read_bytes()
        encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
        return content.decode(encoding, errors)
    except OSError as why:
        raise error(f"{path} cannot be read: {why.strerror}.") from None
    except UnicodeDecodeError as why:
        line = content.count(b"\n", 0, why.start) + 1
        raise error(f"line {line} of {path} is not UTF-8; save it with that encoding (in spreadsheet programs: CSV UTF-8).") from None


def read_csv(path: Path, error: type[UnsilentError], errors: str = "strict") -> list[list[str]]:
    """Rows of a table separated by commas, semicolons or tabs; the first row has the column names.

    Raises:
        UnsilentError: of class `error`, as in `read_text`, or if the text is not a table.
    """
    lines = io.StringIO(read_text(path, error, errors), newline="")
    head = lines.readline()
    lines.seek(0)
    separator = next((one for one in ",;\t" if one in head), ",")
    try:
        return [row for row in csv.reader(lines, delimiter=separator) if row]
    except csv.Error as why:
        raise error(f"{path} is not a table: {why}.") from None


def read_json(path: Path, error: type[UnsilentError]) -> Any:
    """Content of a JSON file.

    Raises:
        UnsilentError: of class `error`, as in `read_text`, or if it is not JSON.
    """
    try:
        require_file(path, error, _MAX_TEXT)
        return json.loads(path.read_bytes())
    except OSError as why:
        raise error(f"{path} cannot be read: {why.strerror}.") from None
    except (ValueError, RecursionError):
        raise error(f"{path} is not JSON, or damaged.") from None


@contextmanager
def atomic_write(out: Path, error: type[UnsilentError] = MediaError, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `out`. It is renamed to `out` when the block ends, and removed if the block fails.

    Temporary files that killed processes left in the folder are removed.

    Args:
        out: file to write; of a symbolic link, its target is written. The temporary file has the same suffix, because libraries choose
            the format by it.
        error: class to raise.
        durable: call fsync before renaming, so that a power failure leaves the old or the new file, never a partial one.

    Raises:
        UnsilentError: of class `error`, if the folder is missing or not writable, `out` is a pipe or device, or the disk is full.
    """
    refuse_special(out, error)
    target = real(out)
    kept = out.stem.encode(errors="surrogateescape")[:_STEM_BYTES].decode(errors="ignore")
    temporary = target.with_name(f".{kept}.{uuid.uuid4().hex[:8]}{_MARK}{out.suffix}")
    try:
        _sweep(target.parent)
        with temporary.open("xb") as file:
            try_lock(file.fileno())  # marks the file as in use, for `_sweep` of other processes
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            yield temporary
            os.chmod(temporary, mode)  # restores the umask's mode, which libraries change
            if durable:
                sync(temporary)
            os.replace(temporary, target)
        if durable:
            sync(target.parent)
    except OSError as why:
        raise error(f"{out} cannot be written: {why.strerror or why}.") from why
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file or folder to disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sweep(folder: Path) -> None:
    """Remove temporary files that killed processes left, once for each folder."""
    if fcntl is None or folder in _swept:
        return
    _swept.add(folder)
    for left in folder.glob(f".*{_MARK}*"):
        if not _TEMPORARY.search(left.name):
            continue
        with suppress(OSError), left.open("rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()


@contextmanager
def locked(path: Path, error: type[UnsilentError]) -> Iterator[None]:
    """Hold a lock file against other processes during the block.

    Args:
        path: lock file, created if missing and never removed.
        error: class to raise.

    Raises:
        UnsilentError: of class `error`, if another process holds the lock, or the file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    except OSError as why:
        raise error(f"{path.parent} cannot be written: {why.strerror or why}.") from None
    with file:
        if not try_lock(file.fileno()):
            raise error(f"another process is writing {path.parent}; wait for it, or choose another folder.")
        yield


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
