"""Downloads from a faulty server: the result is the published file or an error."""

import hashlib
import random
import re
import socket
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from unsilent.checkpoints.catalog import Published
from unsilent.errors import CheckpointError, ParameterError
from unsilent.published.download import SafeRedirects
from unsilent.published.fetch import fetch

CONTENT = random.Random(0).randbytes(3_000_000)  # as `fetch_file.content`
OTHER = random.Random(1).randbytes(3_000_000)
MD5 = hashlib.md5(CONTENT).hexdigest()
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NAME = "weights-1.pt"


def here(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_fetch_downloads_from_a_good_server(fetch_file, server, tmp_path):
    seen = []
    path = fetch_file(progress=lambda done, total: seen.append((done, total)))
    assert path == tmp_path / NAME
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert seen == sorted(seen)
    assert here(tmp_path) == {NAME}
    assert re.match(r"unsilent/\d", server.requests[0][1]["User-Agent"])


def test_fetch_does_not_download_twice(fetch_file, server):
    fetch_file()
    fetch_file()
    assert server.sent == len(CONTENT)


@pytest.mark.parametrize("digest", [{"md5": MD5}, {"md5": None, "sha256": SHA256}, {"md5": None, "sha256": SHA256[:8]}])
def test_fetch_uses_a_file_placed_by_hand(fetch_file, server, tmp_path, digest):
    (tmp_path / NAME).write_bytes(CONTENT)
    assert fetch_file(**digest).read_bytes() == CONTENT
    assert not server.requests


def test_fetch_replaces_a_damaged_file(fetch_file, tmp_path):
    (tmp_path / NAME).write_bytes(CONTENT[:-1] + b"?")
    assert fetch_file().read_bytes() == CONTENT


def test_fetch_keeps_a_damaged_file_until_the_download_is_complete(fetch_file, server, tmp_path):
    (tmp_path / NAME).write_bytes(b"damaged")
    server.script = [server.answer(404)]
    with pytest.raises(CheckpointError, match="404"):
        fetch_file()
    assert (tmp_path / NAME).read_bytes() == b"damaged"


def test_fetch_resumes_a_broken_download(fetch_file, server):
    server.script = [server.break_after(1_200_000)]
    assert fetch_file().read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1200000-"]
    assert server.sent == len(CONTENT)
    assert fetch_file.pauses == [1.0]


def test_fetch_resumes_in_another_call(fetch_file, server, part):
    server.script = [server.break_after(1_200_000), *[server.hang_up()] * 6]
    with pytest.raises(CheckpointError, match=r"did not answer \(.+\); 1.20 MB are kept, and the same command continues; if this persists"):
        fetch_file()
    assert part.read_bytes() == CONTENT[:1_200_000]
    server.requests.clear()
    assert fetch_file().read_bytes() == CONTENT
    assert server.ranges == ["bytes=1200000-"]
    assert server.sent == len(CONTENT)


def test_fetch_retries_while_each_attempt_makes_progress(fetch_file, server):
    server.files[f"/a/{NAME}"] = content = CONTENT * 5
    stops = range(1_100_000, len(content), 1_100_000)
    assert len(stops) > 10
    server.script = [server.break_after(stop) for stop in stops]
    assert fetch_file(md5=hashlib.md5(content).hexdigest()).read_bytes() == content
    assert server.sent == len(content)
    assert fetch_file.pauses == [1.0] * len(stops)


def test_fetch_limits_attempts_with_little_progress(fetch_file, server, part):
    server.script = [server.break_after(stop) for stop in range(1000, 10_000, 1000)]
    with pytest.raises(CheckpointError, match=r"127.0.0.1:\d+ closed the connection after 6.00 kB of 3.00 MB; 6.00 kB are kept, and"):
        fetch_file()
    assert fetch_file.pauses == [2.0, 4.0, 8.0, 16.0, 32.0]
    assert part.read_bytes() == CONTENT[:6000]


def test_fetch_limits_attempts_without_progress(fetch_file, server, part):
    server.script = [lambda handler: (handler.begin(200, len(CONTENT)), handler.give(CONTENT[:500_000]))] * 20
    with pytest.raises(CheckpointError, match=r"closed the connection after 500.00 kB of 3.00 MB; 500.00 kB are kept"):
        fetch_file()
    assert len(server.requests) == 6
    assert part.read_bytes() == CONTENT[:500_000]


def test_fetch_does_not_count_repeated_bytes_as_progress(fetch_file, server):
    """A server that ignores ranges and breaks off at several places would otherwise be retried forever."""
    far, near = (lambda handler, n=n: (handler.begin(200, len(CONTENT)), handler.give(CONTENT[:n])) for n in (2_000_000, 500_000))
    server.script = [far, near] * 10
    with pytest.raises(CheckpointError, match="closed the connection after"):
        fetch_file()
    assert len(server.requests) == 7


def test_fetch_accepts_a_right_file_with_a_too_long_length(fetch_file, server):
    server.script = [server.announce(len(CONTENT) + 1000)]
    assert fetch_file().read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_fetch_refuses_a_file_cut_by_a_too_short_length(fetch_file, server, tmp_path):
    server.script = [server.announce(2000)]
    with pytest.raises(
        CheckpointError, match=r"is another file: its MD5 is .* after 2000 bytes; the downloaded part is deleted; download http"
    ):
        fetch_file()
    assert here(tmp_path) == set()


def test_fetch_compares_a_known_size_before_downloading(fetch_file, server, part):
    server.script = [server.break_after(5000), server.announce(2000), server.announce(len(CONTENT))]
    with pytest.raises(CheckpointError, match="is another file: it has 2000 bytes instead of 3000000; choose a mirror with --mirror"):
        fetch_file(size=len(CONTENT))
    assert part.read_bytes() == CONTENT[:5000]
    assert fetch_file(size=len(CONTENT)).read_bytes() == CONTENT


def test_fetch_downloads_without_a_length(fetch_file, server):
    seen = []
    server.script = [server.announce(None)]
    assert fetch_file(progress=lambda done, total: seen.append(total)).read_bytes() == CONTENT
    assert set(seen) == {None}


def test_fetch_resumes_without_a_length_if_the_size_is_known(fetch_file, server):
    """The size shows that the connection broke."""
    server.script = [lambda handler: (handler.begin(200, None), handler.give(CONTENT[:7000]))]
    assert fetch_file(size=len(CONTENT)).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=7000-"]


def test_fetch_stops_at_a_known_size(fetch_file, server):
    server.script = [lambda handler: (handler.begin(200, None), handler.give(CONTENT + b"more"))]
    assert fetch_file(size=len(CONTENT)).read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_fetch_resumes_broken_chunked_responses(fetch_file, server):
    def behave(handler):
        handler.begin(200, None, Transfer_Encoding="chunked")
        handler.give(b"1000\r\n" + CONTENT[:0x1000] + b"\r\n1000\r\n" + CONTENT[0x1000:0x1800])

    server.script = [behave]
    assert fetch_file().read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={0x1800}-"]


def test_fetch_deletes_wrong_bytes(fetch_file, server, tmp_path):
    server.files[f"/a/{NAME}"] = OTHER
    expected = rf"/a/weights-1.pt is another file: its MD5 is {hashlib.md5(OTHER).hexdigest()[:12]}\.\.\. instead of {MD5[:12]}\.\.\."
    with pytest.raises(CheckpointError, match=expected):
        fetch_file()
    assert here(tmp_path) == set()
    assert server.sent == len(OTHER)  # once, because the server would send the same again


def test_fetch_verifies_a_partial_sha256(fetch_file, server):
    server.files[f"/a/{NAME}"] = OTHER
    with pytest.raises(CheckpointError, match=rf"its SHA256 is [0-9a-f]{{12}}\.\.\. instead of {SHA256[:8]}\.\.\."):
        fetch_file(md5=None, sha256=SHA256[:8])


def test_fetch_downloads_anew_after_a_damaged_part(fetch_file, server, part):
    part.write_bytes(OTHER[:1_000_000])
    assert fetch_file().read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000000-", None]


def test_fetch_uses_a_complete_part(fetch_file, server, part):
    """As after a power failure between the last byte and the rename."""
    part.write_bytes(CONTENT)
    assert fetch_file().read_bytes() == CONTENT
    assert not server.requests


def test_fetch_downloads_anew_after_a_too_long_part(fetch_file, server, part):
    part.write_bytes(CONTENT + b"more")
    assert fetch_file().read_bytes() == CONTENT
    assert server.ranges == ["bytes=3000004-", None]


def test_fetch_names_status_416(fetch_file, server, part):
    part.write_bytes(CONTENT[:1000])
    server.script = [server.answer(416)] * 2
    with pytest.raises(CheckpointError, match=r"answers 416 \(Requested Range Not Satisfiable\)"):
        fetch_file()


def test_fetch_works_without_ranges(fetch_file, server):
    server.script = [server.break_after(1_000_000), server.announce(len(CONTENT))]
    assert fetch_file().read_bytes() == CONTENT
    assert server.sent == len(CONTENT) + 1_000_000


@pytest.mark.parametrize("span", ["bytes 0-2999999/3000000", "bytes 1500000-2999999/3000000", "bytes */3000000", "nonsense", ""])
def test_fetch_downloads_anew_after_a_wrong_range(fetch_file, server, span):
    server.script = [server.break_after(1_000_000), server.answer(206, CONTENT[1_500_000:], Content_Range=span)]
    assert fetch_file().read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000000-", None]


def test_fetch_refuses_wrong_ranges(fetch_file, server, tmp_path):
    wrong = server.answer(206, CONTENT[5:], Content_Range="bytes 5-2999999/3000000")
    server.script = [server.break_after(1_000_000), wrong, server.break_after(1_000_000), wrong]
    with pytest.raises(CheckpointError, match="answers with another range than the one from byte 1000000; the downloaded part is deleted"):
        fetch_file()
    assert here(tmp_path) == set()


def test_fetch_accepts_a_range_without_the_total(fetch_file, server, part):
    part.write_bytes(CONTENT[:1000])
    server.script = [server.answer(206, CONTENT[1000:], Content_Range=f"bytes 1000-{len(CONTENT) - 1}/*")]
    assert fetch_file().read_bytes() == CONTENT


def test_fetch_downloads_a_changed_file_anew(fetch_file, server):
    """The server sees by the tag that the part is of the old version, and sends all of the new one."""

    def change(handler):
        server.files[f"/a/{NAME}"], server.etag = CONTENT, '"2"'
        handler.content = CONTENT
        handler.serve()

    server.files[f"/a/{NAME}"] = OTHER
    server.script = [server.break_after(1_000_000), change]
    assert fetch_file().read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000000-"]
    assert server.requests[1][1]["If-Range"] == '"1"'
    assert server.sent == len(CONTENT) + 1_000_000


@pytest.mark.parametrize("etag", ["", 'W/"1"'])
def test_fetch_downloads_a_changed_file_anew_without_a_strong_tag(fetch_file, server, etag):
    """Only the digest shows the change."""

    def change(handler):
        server.files[f"/a/{NAME}"] = handler.content = CONTENT
        handler.serve()

    server.files[f"/a/{NAME}"], server.etag = OTHER, etag
    server.script = [server.break_after(1_000_000), change]
    assert fetch_file().read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000000-", None]
    assert all("If-Range" not in headers for _, headers in server.requests)


def test_fetch_uses_the_date_without_a_tag(fetch_file, server):
    server.etag, date = "", "Fri, 30 Jul 2021 21:34:25 GMT"
    server.script = [lambda handler: (handler.begin(200, len(CONTENT), Last_Modified=date), handler.give(CONTENT[:1000]))]
    assert fetch_file().read_bytes() == CONTENT
    assert server.requests[1][1]["If-Range"] == date


def test_fetch_resumes_from_a_mirror(fetch_file, server, part):
    """Without the tag, which is only valid on the first server."""
    server.files[f"/mirror/b/{NAME}"] = CONTENT
    server.script = [server.break_after(1_000_000), *[server.answer(503)] * 5]
    with pytest.raises(CheckpointError, match=r"answers 503 \(Service Unavailable\); 1.00 MB are kept"):
        fetch_file()
    server.requests.clear()
    assert fetch_file(mirror=f"{server.url}/mirror/b/").read_bytes() == CONTENT
    (path, headers), *more = server.requests
    assert (path, headers["Range"], more) == (f"/mirror/b/{NAME}", "bytes=1000000-", [])
    assert "If-Range" not in headers


def test_fetch_verifies_files_of_a_mirror(fetch_file, server):
    server.files[f"/b/{NAME}"] = OTHER
    with pytest.raises(CheckpointError, match=r"/b/weights-1.pt is another file"):
        fetch_file(mirror=f"{server.url}/b")


@pytest.mark.parametrize(
    "mirror",
    ["", "host/folder", "ftp://host/folder", "file:///folder", "https://", "https://host/a b", "https://host/?q=1", "https://ho st",
     "https://name:word@host/", "https://host/#a", "https://hö.st/", "http://[::1/", "https:///a", "http://host:x/", "/folder"],
)  # fmt: skip
def test_fetch_refuses_invalid_mirrors(fetch_file, server, mirror):
    with pytest.raises(ParameterError, match=r"^the mirror '.*' is not the URL of a folder; give one such as https://host/folder\.$"):
        fetch_file(mirror=mirror)
    assert not server.requests


@pytest.mark.parametrize("mirror", ["http://127.0.0.1:99999", "http://a..b/"])
def test_fetch_names_an_unreachable_mirror(fetch_file, mirror):
    with pytest.raises(CheckpointError, match=r"(did not answer|cannot reach) .*; if this persists or this machine has no network"):
        fetch_file(mirror=mirror)


def test_fetch_follows_redirects_also_when_resuming(fetch_file, server):
    server.files["/elsewhere"] = CONTENT
    away = server.redirect("/elsewhere")
    server.script = [away, server.break_after(1_000_000), away]
    assert fetch_file().read_bytes() == CONTENT
    assert server.ranges == [None, None, "bytes=1000000-", "bytes=1000000-"]


@pytest.mark.parametrize(
    ("target", "message"),
    [("ftp://127.0.0.1/x", r"redirects from http to ftp, which is refused; choose a mirror with --mirror\.$"),
     ("file:///etc/passwd", r"redirects in circles or to another scheme than http; choose a mirror with --mirror\.$"),
     (f"/a/{NAME}", r"redirects in circles or to another scheme than http; choose a mirror with --mirror\.$")],
)  # fmt: skip
def test_fetch_refuses_unsafe_redirects(fetch_file, server, target, message):
    server.script = [server.redirect(target)] * 20
    with pytest.raises(CheckpointError, match=message):
        fetch_file()


def test_redirects_from_https_to_http_are_refused():
    class Answer:
        def close(self):
            pass

    follow = SafeRedirects().redirect_request
    asked = urllib.request.Request("https://host/x")
    assert follow(asked, Answer(), 302, "Found", {}, "https://other/x").full_url == "https://other/x"
    with pytest.raises(CheckpointError, match=r"^host redirects from https to http, which is refused; choose a mirror with --mirror"):
        follow(asked, Answer(), 302, "Found", {}, "http://host/x")


def test_fetch_resumes_a_stalled_download(fetch_file, server):
    server.script = [server.stall_after(1_000_000)]
    assert fetch_file(timeout_seconds=0.3).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000000-"]


def test_fetch_gives_up_on_a_server_that_stalls(fetch_file, server):
    server.script = [server.stall_after(None)]
    with pytest.raises(CheckpointError, match=r"did not answer \(no bytes for 0.3 s\); if this persists or this machine has no network"):
        fetch_file(timeout_seconds=0.3)
    assert fetch_file.pauses == []


def test_fetch_gives_up_on_a_server_that_stalls_before_the_first_byte(fetch_file, server, tmp_path):
    server.script = [server.stall_after(0)]
    with pytest.raises(CheckpointError, match=r"closed the connection after 0 bytes \(no bytes for 0.3 s\); if this persists"):
        fetch_file(timeout_seconds=0.3)


def drip(handler):
    """Announce the file, and send ten bytes a tenth of a second."""
    handler.begin(200, len(handler.content))
    for start in range(0, 1000, 10):
        handler.give(handler.content[start : start + 10])
        time.sleep(0.1)


def test_fetch_gives_up_on_a_server_that_is_too_slow(fetch_file, server, monkeypatch, part):
    monkeypatch.setattr("unsilent.published.download._RATE_SECONDS", 0.5)
    server.script = [drip] * 7
    began = time.monotonic()
    with pytest.raises(CheckpointError, match=r"127.0.0.1:\d+ sends less than 1000 bytes per second; \d+ bytes are kept"):
        fetch_file()
    assert time.monotonic() - began < 20
    assert 0 < part.stat().st_size < 1000


@pytest.mark.parametrize("length", [None, 10**9])
def test_fetch_stops_at_twice_the_size_that_the_catalogue_estimates(server, tmp_path, length):
    """Without a length while the bytes arrive, with one before the first byte."""
    row = Published("weights", "melgan", f"{server.url}/a/{NAME}", "none", (), "here", md5=MD5, sha256=None, size=None)
    row = replace(row, approximate_size=1_000_000)
    server.files[f"/a/{NAME}"] = CONTENT
    server.script = [server.announce(length)]
    words = r"does not end after 2\.00 MB; choose a mirror" if length is None else r"has 1\.00 GB, far more than the file; choose a mirror"
    with pytest.raises(CheckpointError, match=words):
        fetch(row, folder=tmp_path, timeout_seconds=5.0)
    assert server.sent <= len(CONTENT)


def test_fetch_ignores_a_length_of_thousands_of_digits(fetch_file, server):
    server.script = [lambda handler: handler.begin(200, None, Content_Length="9" * 5000) or handler.give(handler.content)]
    assert fetch_file().read_bytes() == CONTENT


def test_fetch_names_a_closed_connection(fetch_file, server):
    server.script = [server.hang_up()]
    with pytest.raises(CheckpointError, match=r"did not answer \(Remote end closed connection without response\)"):
        fetch_file()


def test_fetch_names_url_and_path_without_a_connection(fetch_file, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    expected = (
        rf"^cannot reach 127.0.0.1:{port} \(Connection refused\); if this persists or this machine has no network, "
        rf"download http://127.0.0.1:{port}/{NAME} to {re.escape(str(tmp_path / NAME))} by hand, or choose a mirror with --mirror\.$"
    )
    with pytest.raises(CheckpointError, match=expected):
        fetch_file(url=f"http://127.0.0.1:{port}/{NAME}")


def test_fetch_names_an_unknown_host(fetch_file, monkeypatch):
    def lost(*args, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", lost)
    with pytest.raises(CheckpointError, match=r"^cannot reach example.invalid \(Name or service not known\); "):
        fetch_file(url=f"http://example.invalid/{NAME}")


@pytest.mark.parametrize(
    ("status", "message"),
    [(403, r"answers 403 \(Forbidden\); download"), (404, r"answers 404 \(Not Found\); download"),
     (409, r"answers 409 \(Conflict\); download"),
     (500, r"answers 500 \(Internal Server Error\); if this persists"), (429, r"answers 429 \(Too Many Requests\); if this persists"),
     (599, r"answers 599 \(unknown status\); if this persists"), (204, r"is another file: .* after 0 bytes")],
)  # fmt: skip
def test_fetch_names_statuses(fetch_file, server, status, message):
    server.script = [server.answer(status)]
    with pytest.raises(CheckpointError, match=rf"{re.escape(server.url)}/a/{NAME} {message}"):
        fetch_file()
    assert len(server.requests) == 1


def test_fetch_retries_a_busy_server_after_progress(fetch_file, server):
    server.script = [server.break_after(1_500_000), server.answer(503), server.answer(429)]
    assert fetch_file().read_bytes() == CONTENT
    assert fetch_file.pauses == [1.0, 2.0, 4.0]


def test_fetch_refuses_login_pages(fetch_file, server, part):
    page = server.answer(200, b"<html>pay here", Content_Type="text/html; charset=utf-8")
    server.script = [server.break_after(1_000_000), page]
    with pytest.raises(CheckpointError, match="answers with a web page; does this network need a login, or is the mirror wrong"):
        fetch_file()
    assert part.read_bytes() == CONTENT[:1_000_000]
    assert fetch_file().read_bytes() == CONTENT
