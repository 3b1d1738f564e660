"""HTTP downloads that resume, retry, and verify the digest."""

import contextlib
import errno
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
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from unsilent.errors import CheckpointError
from unsilent.version import __version__

Progress = Callable[[int, int | None], None]  # downloaded bytes, and their total if known
Digest = tuple[str, str]  # algorithm ("md5" or "sha256"), and all or the first hex digits

_CHUNK = 1 << 20  # bytes read at once
_LARGEST = 1 << 34  # bytes, far above the size of every published file
_MOST_OF_APPROXIMATE = 2  # a download ends with an error above this multiple of the estimated size
_LEAST_RATE, _RATE_SECONDS = 1000, 60  # smallest rate in bytes per second, measured over this many seconds
_LENGTH_DIGITS = 15  # largest number of digits of a Content-Length; longer ones are ignored
_LONGEST_REASON = 100  # characters of a server's or the system's message that are shown
_RETRIES = 5  # consecutive attempts that gain less than a chunk


def checksum(path: Path, algorithm: str) -> str:
    """Digest of a file as lower-case hex digits.

    Args:
        path: the file.
        algorithm: "md5" or "sha256".

    Raises:
        CheckpointError: if the file cannot be read.
    """
    try:
        with open(path, "rb") as file:  # systems that forbid MD5 for security allow this use
            return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}.") from None


def matches(path: Path, digest: Digest) -> bool:
    """Whether a file exists and has this digest."""
    algorithm, expected = digest
    return path.is_file() and checksum(path, algorithm).startswith(expected)


def part_of(path: Path) -> Path:
    """Path of the downloaded part of an incomplete file."""
    return path.with_name(path.name + ".part")


def size_of(path: Path) -> int:
    """Size of a file in bytes; 0 if it does not exist."""
    return path.stat().st_size if path.exists() else 0


class SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https, except from https to http."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        """The redirected request.

        Raises:
            CheckpointError: for a refused redirect.
        """
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if new.scheme == "https" or (old.scheme, new.scheme) == ("http", "http"):
            return super().redirect_request(req, fp, code, msg, headers, newurl)
        fp.close()
        raise CheckpointError(f"{old.netloc} redirects from {old.scheme} to {new.scheme}, which is refused; choose a mirror with --mirror.")


class _IncompleteError(Exception):
    """An attempt ended early; the next one may continue. The message has no full stop."""


class _WrongContentError(Exception):
    """The bytes are not those of the expected file. The message has no full stop."""


@dataclass
class Download:
    """One download, which continues the part that an earlier one left in `part_of(path)`.

    Attributes:
        url: http or https URL.
        path: path of the complete file.
        digest: expected digest.
        size: size in bytes; None if unknown.
        approximate_size: estimated size in bytes; None if unknown. A download of more than twice this size is an error.
        by_hand: clause of errors that says how to get the file without this program.
        progress: called after each chunk.
        timeout_seconds: time without any bytes after which the server counts as unreachable.
        pause: sleeps before a retry.
        done: number of bytes in the part.
    """

    url: str
    path: Path
    digest: Digest
    size: int | None
    approximate_size: int | None
    by_hand: str
    progress: Progress
    timeout_seconds: float
    pause: Callable[[float], None]

    def __post_init__(self) -> None:
        self.host, self.part = urlsplit(self.url).netloc, part_of(self.path)
        self.origin = self.path.with_name(self.path.name + ".part.json")  # URL and version of the part
        self.done, self.total, self.has_resumed = size_of(self.part), self.size, False
        self.limit = self.size or (_MOST_OF_APPROXIMATE * self.approximate_size if self.approximate_size else _LARGEST)

    def run(self) -> None:
        """Download until the file is complete, then rename the part.

        Raises:
            CheckpointError: if the file cannot be downloaded. The downloaded part is kept, unless it is wrong.
            OSError: if a file beside `path` cannot be read or written.
        """
        try:
            self._complete()
        except _IncompleteError as error:
            kept = f"; {_format_bytes(self.done)} are kept, and the same command continues" if self.done else ""
            raise CheckpointError(f"{error}{kept}; if this persists or this machine has no network, {self.by_hand}.") from None
        except _WrongContentError as error:
            self._discard()
            raise CheckpointError(f"{error}; the downloaded part is deleted; {self.by_hand}.") from None
        os.replace(self.part, self.path)
        self.origin.unlink(missing_ok=True)

    def _complete(self) -> None:
        try:
            self._retry()
        except _WrongContentError:
            if not self.has_resumed:
                raise
            self._discard()  # the part may be damaged or of another version, so start again
            self._retry()

    def _retry(self) -> None:
        if matches(self.part, self.digest):
            return
        failures, furthest, has_gained = 0, self.done, False
        while True:
            try:
                return self._attempt()
            except _IncompleteError:
                if matches(self.part, self.digest):
                    return  # the server announced more bytes than the file has
                gained = self.done - furthest
                furthest, has_gained = max(furthest, self.done), has_gained or gained > 0
                failures = 0 if gained >= _CHUNK else failures + 1
                if not has_gained or failures > _RETRIES:
                    raise
                self.pause(float(2**failures))

    def _discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.origin.unlink(missing_ok=True)
        self.done = 0

    def _attempt(self) -> None:
        """Request the missing bytes, and append them to the part.

        Raises:
            _IncompleteError: if fewer bytes arrived than were announced.
            _WrongContentError: if the response is not the missing range, or the complete file has another digest.
        """
        with self._request() as response:
            self._check_headers(response)
            if self.total is not None and self.total - self.done > shutil.disk_usage(self.path.parent).free:
                raise self._no_space()
            try:
                self._append(response)
            except OSError as error:
                raise (self._no_space() if error.errno in (errno.ENOSPC, errno.EDQUOT) else error) from None
        if self.total is not None and self.done < self.total:
            raise _IncompleteError(f"{self.host} closed the connection after {_format_bytes(self.done)} of {_format_bytes(self.total)}")
        algorithm, expected = self.digest
        found = checksum(self.part, algorithm)
        if not found.startswith(expected):
            digests = f"its {algorithm.upper()} is {found[:12]}... instead of {expected[:12]}..."
            raise _WrongContentError(f"{self.url} is another file: {digests} after {self.done} bytes")

    def _append(self, response: http.client.HTTPResponse) -> None:
        with open(self.part, "ab" if self.done else "wb") as file:
            for chunk in self._chunks(response):
                file.write(chunk)
                file.flush()
                self.done += len(chunk)
                self.progress(self.done, self.total)
                if self.done > self.limit:
                    raise CheckpointError(f"{self.url} does not end after {_format_bytes(self.done)}; choose a mirror with --mirror.")

    def _chunks(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        since, before = time.monotonic(), self.done
        while self.total is None or self.done < self.total:
            wanted = min(_CHUNK, (self.limit + 1 if self.total is None else self.total) - self.done)
            try:
                chunk = response.read1(wanted)  # returns the bytes that have arrived; `read` would lose them when the connection stalls
            except (OSError, http.client.HTTPException) as error:
                reason = self._reason(error)
                raise _IncompleteError(f"{self.host} closed the connection after {_format_bytes(self.done)} ({reason})") from None
            if not chunk:
                return
            yield chunk
            if time.monotonic() - since > _RATE_SECONDS:
                if self.done - before < _LEAST_RATE * _RATE_SECONDS:
                    raise _IncompleteError(f"{self.host} sends less than {_LEAST_RATE} bytes per second")
                since, before = time.monotonic(), self.done

    def _no_space(self) -> CheckpointError:
        needed = "more space" if self.total is None else f"another {_format_bytes(self.total - self.done)}"
        free = _format_bytes(shutil.disk_usage(self.path.parent).free)
        place = f"{self.path.parent} has {free} free"
        return CheckpointError(f"{self.path.name} needs {needed}, {place}; free some, or set UNSILENT_CACHE to another folder.")

    def _request(self) -> http.client.HTTPResponse:
        headers = {"User-Agent": f"unsilent/{__version__}"}
        if self.done:
            self.has_resumed = True
            headers["Range"] = f"bytes={self.done}-"
            if validator := self._read_validator():
                headers["If-Range"] = validator
        request = urllib.request.Request(self.url, headers=headers)
        try:
            return urllib.request.build_opener(SafeRedirects).open(request, timeout=self.timeout_seconds)
        except urllib.error.HTTPError as error:
            error.close()
            raise self._refusal(error.code) from None
        except urllib.error.URLError as error:
            raise _IncompleteError(f"cannot reach {self.host} ({self._reason(error.reason)})") from None
        except (
            OSError,
            ValueError,
            OverflowError,
            http.client.HTTPException,
        ) as error:  # ValueError and OverflowError: invalid host or port
            raise _IncompleteError(f"{self.host} did not answer ({self._reason(error)})") from None

    def _reason(self, error: object) -> str:
        if isinstance(error, TimeoutError):
            return f"no bytes for {self.timeout_seconds:g} s"
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}…"

    def _refusal(self, code: int) -> Exception:
        """The error for an HTTP status other than success."""
        if code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and self.done:
            return _WrongContentError(f"{self.url} ends before the {self.done} bytes that were downloaded")
        if code in (301, 302, 303, 307, 308):
            return CheckpointError(f"{self.url} redirects in circles or to another scheme than http; choose a mirror with --mirror.")
        phrase = http.HTTPStatus(code).phrase if code in set(http.HTTPStatus) else "unknown status"
        problem = f"{self.url} answers {code} ({phrase})"
        if code >= 500 or code == http.HTTPStatus.TOO_MANY_REQUESTS:
            return _IncompleteError(problem)
        return CheckpointError(f"{problem}; {self.by_hand}.")

    def _check_headers(self, response: http.client.HTTPResponse) -> None:
        """Check range and size of the response; discard the part if the response starts from the beginning."""
        if response.headers.get_content_type() == "text/html":
            raise CheckpointError(f"{self.url} answers with a web page; does this network need a login, or is the mirror wrong?")
        length = response.headers.get("Content-Length", "")
        end = int(length) if length.isdecimal() and len(length) <= _LENGTH_DIGITS else None
        begin = 0
        if response.status == http.HTTPStatus.PARTIAL_CONTENT:
            span = re.fullmatch(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15}|\*)", response.headers.get("Content-Range", ""))
            if not span or int(span[1]) != self.done:
                raise _WrongContentError(f"{self.url} answers with another range than the one from byte {self.done}")
            begin, end = self.done, int(span[2]) + 1 if span[3] == "*" else int(span[3])
        if None not in (self.size, end) and self.size != end:
            raise CheckpointError(f"{self.url} is another file: it has {end} bytes instead of {self.size}; choose a mirror with --mirror.")
        if end is not None and end > self.limit:
            raise CheckpointError(f"{self.url} has {_format_bytes(end)}, far more than the file; choose a mirror with --mirror.")
        if not begin:
            self._discard()
            self._write_validator(response)
        self.total = self.size if end is None else end

    def _write_validator(self, response: http.client.HTTPResponse) -> None:
        tag = response.headers.get("ETag", "")
        strong = "" if tag.startswith("W/") else tag  # weak tags do not guarantee equal bytes
        validator = strong or response.headers.get("Last-Modified", "")
        self.origin.write_text(json.dumps({"url": self.url, "validator": validator}))

    def _read_validator(self) -> str:
        """The server's validator (ETag or date) of the part; empty if unknown or of another URL."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            origin = json.loads(self.origin.read_text())
            if origin["url"] == self.url:
                return str(origin["validator"])
        return ""


def _format_bytes(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} bytes"
