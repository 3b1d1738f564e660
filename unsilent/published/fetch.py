"""Brings published files here: goes on where a download broke off, and lets nothing be used whose digest does not fit."""

import contextlib
import hashlib
import http
import http.client
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

from unsilent import files
from unsilent.checkpoints.catalog import Published
from unsilent.errors import CheckpointError, ParameterError
from unsilent.files import cache_folder, try_lock
from unsilent.version import __version__

_PIECE = 1 << 20  # bytes read at a time
_LARGEST = 1 << 34  # bytes; no published file comes near
_RETRIES = 5  # in a row that bring less than a piece
_LOCK_SECONDS = 0.2  # between two looks at whether another process is done

# A host or an address in brackets, a port, a path; nothing that could not be followed by `/NAME`.
_FOLDER_URL = re.compile(r"https?://([\w.-]+|\[[\da-f:.]+\])(:\d{1,5})?(/[^\s?#]*)?", re.ASCII | re.IGNORECASE)

Progress = Callable[[int, int | None], None]


def _silently(done: int, total: int | None) -> None:
    """What is called where nobody wants to know how far it is."""


def checksum(path: Path, algorithm: str, progress: Progress = _silently) -> str:
    """Digest of a file of any size, which is read in pieces of 1 MiB.

    Args:
        path: the file.
        algorithm: "md5" or "sha256".
        progress: told after each piece how many bytes are done and how many there are.

    Returns:
        Hex digits, lower case.

    Raises:
        CheckpointError: if the file cannot be read.
    """
    running, done = hashlib.new(algorithm, usedforsecurity=False), 0  # thus MD5 works where the system forbids it for secrets
    try:
        with open(path, "rb") as file:
            total = os.fstat(file.fileno()).st_size
            while piece := file.read(_PIECE):
                running.update(piece)
                done += len(piece)
                progress(done, total)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}.") from None
    return running.hexdigest()


def verify(path: Path, published: Published, progress: Progress = _silently) -> None:
    """Make sure that a file is the published one.

    Args:
        path: the file.
        published: what it should be.
        progress: as for `checksum`.

    Raises:
        CheckpointError: if it cannot be read or its digest is another; shows the beginnings of both.
    """
    algorithm, expected = published.digest
    found = checksum(path, algorithm, progress)
    if not found.startswith(expected):
        raise CheckpointError(f"{path} is damaged or another file: {_compare(published, found)}; fetch it again.")


def _compare(published: Published, found: str) -> str:
    algorithm, expected = published.digest
    return f"its {algorithm.upper()} is {found[:12]}... instead of {expected[:12]}..."


def fetch(
    published: Published,
    *,
    mirror: str | None = None,
    progress: Progress = _silently,
    folder: Path | None = None,
    timeout_seconds: float = 30.0,
    pause: Callable[[float], None] = time.sleep,
) -> Path:
    """Have a published file on this machine, whole and verified; download only what is missing of it.

    What has come of an unfinished file lies beside it as `NAME.part`. A file put into the folder by hand is taken if its digest fits, and
    replaced if not. If another process is fetching the same file, its end is waited for.

    Args:
        published: which file.
        mirror: URL of a folder to ask instead of the authors' server. The digest is the same, so it need not be trusted.
        progress: told now and then how many bytes are here and, where the server says, how many there are.
        folder: where the file belongs; `downloads` in `cache_folder()` by default.
        timeout_seconds: without a sign of life after which a server counts as gone.
        pause: waits for that many seconds before a retry.

    Returns:
        Its path.

    Raises:
        CheckpointError: if the file cannot be had: no network, refused, the wrong bytes, no room on the disk. What has come is kept unless
            it is known to be wrong.
        ParameterError: if the mirror is no http or https URL of a folder.
    """
    folder = folder or cache_folder() / "downloads"
    path = folder / published.file_name
    url = published.url if mirror is None else _on_mirror(mirror, published)
    try:
        if _is_here(path, published):
            return path
        folder.mkdir(parents=True, exist_ok=True)
        with alone(path, progress):
            if not _is_here(path, published):  # the other process may have brought it
                _Download(published, url, path, progress, timeout_seconds, pause).run()
    except OSError as error:
        raise CheckpointError(f"cannot read or write {path}: {error.strerror or error}; set UNSILENT_CACHE to another folder.") from None
    return path


def _is_here(path: Path, published: Published) -> bool:
    algorithm, expected = published.digest
    return path.is_file() and checksum(path, algorithm).startswith(expected)


def _on_mirror(mirror: str, published: Published) -> str:
    if not _FOLDER_URL.fullmatch(mirror):
        raise ParameterError(f"the mirror {mirror!r} is no URL of a folder; give one such as https://host/folder.")
    return f"{mirror.rstrip('/')}/{quote(published.file_name)}"


@contextlib.contextmanager
def alone(path: Path, progress: Progress) -> Iterator[None]:
    """Let one process at a time download a file; the system takes the lock from one that dies."""
    if files.fcntl is None:
        yield
        return
    lock = path.with_name(path.name + ".lock")
    while True:
        with open(lock, "ab") as file:
            while not try_lock(file.fileno()):
                progress(_size(_part(path)), None)
                time.sleep(_LOCK_SECONDS)
            if not lock.exists() or not os.path.samestat(lock.stat(), os.fstat(file.fileno())):
                continue  # who held it has removed it, and a third may have made a new one
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _say_bytes(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} bytes"


class _BrokenOff(Exception):
    """An attempt ended early; the next may go on from there. Says what happened, without a full stop."""


class _Unfit(Exception):
    """What has come is not the published file and cannot become it. Says why, without a full stop."""


class _WebOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https, never from https to http."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if new.scheme == "https" or (old.scheme, new.scheme) == ("http", "http"):
            return super().redirect_request(req, fp, code, msg, headers, newurl)
        fp.close()
        raise CheckpointError(f"{old.netloc} redirects from {old.scheme} to {new.scheme}, which is refused; name a mirror with --mirror.")


class _Download:
    """One file on its way; `done` is how many bytes are in the part file."""

    def __init__(
        self, published: Published, url: str, path: Path, progress: Progress, timeout_seconds: float, pause: Callable[[float], None]
    ) -> None:
        self.url, self.path, self.progress, self.timeout_seconds, self.pause = url, path, progress, timeout_seconds, pause
        self.host = urlsplit(url).netloc
        self.published = published
        self.part = _part(path)
        self.origin = path.with_name(path.name + ".part.json")  # which version of the file the part is of
        self.done, self.total = _size(self.part), published.size
        self.has_gone_on = False  # some of it was asked for apart from its beginning

    def run(self) -> None:
        """Attempt until the file is whole, then give it its name."""
        elsewhere = f"put {self.path.name} at {self.path}, or name a mirror with --mirror"
        try:
            self._complete()
        except _BrokenOff as error:
            kept = f"; {_say_bytes(self.done)} are kept, fetch again to go on from there" if self.done else ""
            raise CheckpointError(f"{error}{kept}; if it stays so or if this machine has no network, {elsewhere}.") from None
        except _Unfit as error:
            self._forget()
            raise CheckpointError(f"{error}; what came was deleted; {elsewhere}.") from None
        os.replace(self.part, self.path)
        self.origin.unlink(missing_ok=True)

    def _complete(self) -> None:
        try:
            self._persist()
        except _Unfit:
            if not self.has_gone_on:
                raise
            self._forget()  # the beginning may have been damaged or of another version: once more, all of it
            self._persist()

    def _persist(self) -> None:
        if _is_here(self.part, self.published):
            return
        failures, furthest, moved = 0, self.done, False
        while True:
            try:
                return self._attempt()
            except _BrokenOff:
                if _is_here(self.part, self.published):
                    return  # the server has announced more than there is
                gained = self.done - furthest
                furthest, moved = max(furthest, self.done), moved or gained > 0
                failures = 0 if gained >= _PIECE else failures + 1
                if not moved or failures > _RETRIES:
                    raise
                self.pause(float(2**failures))

    def _forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.origin.unlink(missing_ok=True)
        self.done = 0

    def _attempt(self) -> None:
        """Ask for what is missing and take it in.

        Raises:
            _BrokenOff: if less came than was announced.
            _Unfit: if it goes on from something else, or all came and it is another file.
        """
        with self._ask() as response:
            self._place(response)
            if self.total is not None and self.total - self.done > shutil.disk_usage(self.path.parent).free:
                raise self._no_room()
            try:
                self._take_in(response)
            except OSError as error:
                raise (self._no_room() if error.errno in (errno.ENOSPC, errno.EDQUOT) else error) from None
        if self.total is not None and self.done < self.total:
            raise _BrokenOff(f"{self.host} broke off after {_say_bytes(self.done)} of {_say_bytes(self.total)}")
        found = checksum(self.part, self.published.digest[0])
        if not found.startswith(self.published.digest[1]):
            raise _Unfit(f"{self.url} is another file: {_compare(self.published, found)} after {self.done} bytes")

    def _take_in(self, response: http.client.HTTPResponse) -> None:
        with open(self.part, "ab" if self.done else "wb") as file:
            for piece in self._pieces(response):
                file.write(piece)
                file.flush()
                self.done += len(piece)
                self.progress(self.done, self.total)
                if self.done > _LARGEST:
                    raise CheckpointError(f"{self.url} does not end after {_say_bytes(self.done)}; name a mirror with --mirror.")

    def _pieces(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        while self.total is None or self.done < self.total:
            wanted = _PIECE if self.total is None else min(_PIECE, self.total - self.done)
            try:
                piece = response.read1(wanted)  # what has come, since a stalled `read` would lose it
            except (OSError, http.client.HTTPException) as error:
                raise _BrokenOff(f"{self.host} broke off after {_say_bytes(self.done)} ({self._reason(error)})") from None
            if not piece:
                return
            yield piece

    def _no_room(self) -> CheckpointError:
        needed = "more room" if self.total is None else f"another {_say_bytes(self.total - self.done)}"
        free = _say_bytes(shutil.disk_usage(self.path.parent).free)
        place = f"{self.path.parent} has {free} free"
        return CheckpointError(f"{self.path.name} needs {needed}, {place}; make room or set UNSILENT_CACHE to another folder.")

    def _ask(self) -> http.client.HTTPResponse:
        headers = {"User-Agent": f"unsilent/{__version__}"}
        if self.done:
            self.has_gone_on = True
            headers["Range"] = f"bytes={self.done}-"
            if validator := self._read_validator():
                headers["If-Range"] = validator
        request = urllib.request.Request(self.url, headers=headers)
        try:
            return urllib.request.build_opener(_WebOnly).open(request, timeout=self.timeout_seconds)
        except urllib.error.HTTPError as error:
            error.close()
            raise self._refusal(error.code) from None
        except urllib.error.URLError as error:
            raise _BrokenOff(f"cannot reach {self.host} ({self._reason(error.reason)})") from None
        except (OSError, ValueError, OverflowError, http.client.HTTPException) as error:  # the middle two: no such address or port
            raise _BrokenOff(f"{self.host} gave no answer ({self._reason(error)})") from None

    def _reason(self, error: object) -> str:
        if isinstance(error, TimeoutError):
            return f"nothing came for {self.timeout_seconds:g} s"
        return getattr(error, "strerror", None) or str(error) or type(error).__name__

    def _refusal(self, code: int) -> Exception:
        """What a status other than success means."""
        if code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and self.done:
            return _Unfit(f"{self.url} ends before the {self.done} bytes that are here")
        if code in (301, 302, 303, 307, 308):
            return CheckpointError(f"{self.url} redirects in circles or to what is no web address; name a mirror with --mirror.")
        phrase = http.HTTPStatus(code).phrase if code in set(http.HTTPStatus) else "an unknown status"
        problem = f"{self.url} answers {code} ({phrase})"
        if code >= 500 or code == http.HTTPStatus.TOO_MANY_REQUESTS:
            return _BrokenOff(problem)
        return CheckpointError(f"{problem}; put {self.path.name} at {self.path}, or name a mirror with --mirror.")

    def _place(self, response: http.client.HTTPResponse) -> None:
        """Find out where in the file the response begins and where the file ends; forget what is here if it begins at the beginning."""
        if response.headers.get_content_type() == "text/html":
            raise CheckpointError(f"{self.url} answers with a web page; does this network ask for a login, or is the mirror another?")
        length = response.headers.get("Content-Length", "")
        end = int(length) if length.isdecimal() else None
        begin = 0
        if response.status == http.HTTPStatus.PARTIAL_CONTENT:
            span = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", ""))
            if not span or int(span[1]) != self.done:
                raise _Unfit(f"{self.url} answers with another part than the one from byte {self.done} on")
            begin, end = self.done, int(span[2]) + 1 if span[3] == "*" else int(span[3])
        size = self.published.size
        if None not in (size, end) and size != end:
            raise CheckpointError(f"{self.url} is another file: it has {end} bytes instead of {size}; name a mirror with --mirror.")
        if not begin:
            self._forget()
            self._write_validator(response)
        self.total = size if end is None else end

    def _write_validator(self, response: http.client.HTTPResponse) -> None:
        tag = response.headers.get("ETag", "")
        strong = "" if tag.startswith("W/") else tag  # weak ones do not vouch for bytes
        validator = strong or response.headers.get("Last-Modified", "")
        self.origin.write_text(json.dumps({"url": self.url, "validator": validator}))

    def _read_validator(self) -> str:
        """What the server called the version of the part; empty if it did not, or if another server did, whose names mean nothing here."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            origin = json.loads(self.origin.read_text())
            if origin["url"] == self.url:
                return str(origin["validator"])
        return ""
