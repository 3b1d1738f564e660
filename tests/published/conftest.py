"""A local web server with faults on demand."""

import hashlib
import http.server
import random
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from unsilent.checkpoints.catalog import Published
from unsilent.published.fetch import fetch


class Handler(http.server.BaseHTTPRequestHandler):
    """One request; the argument of a behaviour in `FaultyServer.script`, with methods to answer."""

    server: "FaultyServer"
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.requests.append((self.path, dict(self.headers)))
        self.content = self.server.files.get(self.path)
        self.close_connection = True
        script = self.server.script
        (script.pop(0) if script else Handler.serve)(self)

    def begin(self, status: int, length: int | None, **headers: str) -> None:
        """Send status and headers; `Content_Range="…"` becomes `Content-Range: …`."""
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        if self.server.etag:
            self.send_header("ETag", self.server.etag)
        for name, value in {"Content_Type": "application/octet-stream", "Connection": "close", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def give(self, content: bytes) -> None:
        """Send a body, counted in `sent`."""
        self.server.sent += len(content)  # first, because the client may check it once the last byte is there
        self.wfile.write(content)
        self.wfile.flush()

    @property
    def wanted(self) -> int:
        """First requested byte; 0 if the requested version is no longer served."""
        if self.headers.get("If-Range") not in (None, self.server.etag):
            return 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        return int(asked[1]) if asked else 0

    def serve(self, until: int | None = None) -> None:
        """Answer correctly, but stop before byte `until`."""
        if self.content is None:
            return self.begin(404, 0)
        start, total = self.wanted, len(self.content)
        if start >= total:
            return self.begin(416, 0, Content_Range=f"bytes */{total}")
        if start:
            self.begin(206, total - start, Content_Range=f"bytes {start}-{total - 1}/{total}")
        else:
            self.begin(200, total)
        self.give(self.content[start:until])
        return None

    def log_message(self, format, *args) -> None:
        pass


class FaultyServer(http.server.ThreadingHTTPServer):
    """Serves `files` by path, and records the requests.

    Attributes:
        files: path, with its slash → content.
        script: behaviours for the next requests, one each; later requests are answered correctly.
        etag: version in the header `ETag`; empty for none.
        requests: path and headers of each request.
        sent: bytes of bodies.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.script: list[Callable[[Handler], None]] = []
        self.etag = '"1"'
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.sent = 0
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def ranges(self) -> list[str | None]:
        """The `Range` of each request."""
        return [headers.get("Range") for _, headers in self.requests]

    def handle_error(self, request, client_address) -> None:
        """Ignore clients that close the connection."""

    # behaviours for `script`, besides `Handler.serve`

    def break_after(self, until: int) -> Callable[[Handler], None]:
        """Send the bytes before `until` and close the connection."""
        return lambda handler: handler.serve(until)

    def announce(self, length: int | None) -> Callable[[Handler], None]:
        """Send the file from its beginning, with this length in the header."""

        def behave(handler: Handler) -> None:
            handler.begin(200, length)
            handler.give(handler.content)

        return behave

    def answer(self, status: int, content: bytes = b"", **headers: str) -> Callable[[Handler], None]:
        """Send this answer."""

        def behave(handler: Handler) -> None:
            handler.begin(status, len(content), **headers)
            handler.give(content)

        return behave

    def redirect(self, url: str) -> Callable[[Handler], None]:
        return self.answer(302, Location=url)

    def stall_after(self, until: int | None) -> Callable[[Handler], None]:
        """Send the bytes before `until`, or with None not even headers, and then nothing until the test ends."""

        def behave(handler: Handler) -> None:
            if until is not None:
                handler.serve(until)
            self.released.wait(30)

        return behave

    def hang_up(self) -> Callable[[Handler], None]:
        """Close the connection without an answer."""
        return lambda handler: None


@pytest.fixture
def server(monkeypatch) -> Iterator[FaultyServer]:
    """A `FaultyServer`, reached without proxies."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    server = FaultyServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def fetch_file(server, tmp_path):
    """`fetch_file(**options)` fetches a file from `server`, and records pauses in `fetch_file.pauses` instead of sleeping.

    The file has the name `fetch_file.name`, the content `fetch_file.content` of 3 MB and the digest `fetch_file.md5`.
    """
    content, name = random.Random(0).randbytes(3_000_000), "weights-1.pt"
    server.files[f"/a/{name}"] = content

    def call(md5: str | None = "", sha256: str | None = None, size: int | None = None, url: str | None = None, **options) -> Path:
        md5 = call.md5 if md5 == "" else md5
        row = Published("weights", "melgan", url or f"{server.url}/a/{name}", "none", (), "here", md5=md5, sha256=sha256, size=size)
        return fetch(row, **{"folder": tmp_path, "timeout_seconds": 5.0, "pause": call.pauses.append, **options})

    call.content, call.name, call.md5, call.pauses = content, name, hashlib.md5(content).hexdigest(), []
    return call


@pytest.fixture
def part(fetch_file, tmp_path) -> Path:
    """Path of the part of the file."""
    return tmp_path / f"{fetch_file.name}.part"
