"""Downloads and the machine: full disks, invalid folders, interrupts, other processes, the cache folder."""

import errno
import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unsilent import files
from unsilent.errors import CheckpointError
from unsilent.files import cache_folder
from unsilent.published.download import checksum


def here(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_fetch_checks_free_space_first(fetch_file, monkeypatch, server, tmp_path, part):
    part.write_bytes(fetch_file.content[:500_000])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 2_000_000, 2_000_000))
    free = rf"{re.escape(str(tmp_path))} has 2.00 MB free"
    expected = rf"^{fetch_file.name} needs another 2.50 MB, {free}; free some, or set UNSILENT_CACHE to another folder\.$"
    with pytest.raises(CheckpointError, match=expected):
        fetch_file()
    assert part.stat().st_size == 500_000


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full (/dev/full of Linux)")
@pytest.mark.parametrize(("length", "needed"), [(3_000_000, "another 3.00 MB"), (None, "more space")])
def test_fetch_names_a_full_disk(fetch_file, server, monkeypatch, part, length, needed):
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: None)  # keeps the link to /dev/full
    part.symlink_to("/dev/full")
    server.script = [server.announce(length)]
    with pytest.raises(CheckpointError, match=rf"^{fetch_file.name} needs {needed}, .* has .* free; free some, or set UNSILENT_CACHE"):
        fetch_file()


def test_fetch_names_an_invalid_folder(fetch_file, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"cannot read or write .*file/below/weights-1.pt: Not a directory; set UNSILENT_CACHE"):
        fetch_file(folder=tmp_path / "file" / "below")
    (tmp_path / fetch_file.name).mkdir()
    with pytest.raises(CheckpointError, match=r"cannot read or write .*weights-1.pt: Is a directory; set UNSILENT_CACHE"):
        fetch_file()


def test_fetch_keeps_the_part_after_an_interrupt(fetch_file, server, part, tmp_path):
    def interrupt(done, total):
        if done >= 1_000_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_file(progress=interrupt)
    kept = part.stat().st_size
    assert 1_000_000 <= kept < len(fetch_file.content)
    assert here(tmp_path) == {f"{fetch_file.name}.part", f"{fetch_file.name}.part.json"}
    assert fetch_file().read_bytes() == fetch_file.content
    assert server.ranges == [None, f"bytes={kept}-"]


@pytest.mark.parametrize("note", ["", "[]", '{"url": 1}', "not JSON"])
def test_fetch_ignores_a_damaged_version_file(fetch_file, server, tmp_path, part, note):
    part.write_bytes(fetch_file.content[:1000])
    (tmp_path / f"{fetch_file.name}.part.json").write_text(note)
    assert fetch_file().read_bytes() == fetch_file.content
    assert "If-Range" not in server.requests[0][1]


FETCH = """
import sys
from pathlib import Path
from unsilent.checkpoints.catalog import Published
from unsilent.published.fetch import fetch
url, md5, folder = sys.argv[1:]
published = Published("weights", "melgan", url, "none", (), "here", md5=md5)
fetch(published, folder=Path(folder), progress=lambda *step: print(*step, flush=True))
"""


def start(fetch_file, server, tmp_path) -> subprocess.Popen:
    code = [sys.executable, "-c", FETCH, f"{server.url}/a/{fetch_file.name}", fetch_file.md5, str(tmp_path)]
    return subprocess.Popen(code, stdout=subprocess.PIPE, text=True)


def test_fetch_in_two_processes_downloads_once(fetch_file, server, tmp_path):
    def halt_half_way(handler):
        handler.begin(200, len(fetch_file.content))
        handler.give(fetch_file.content[:1_500_000])
        server.released.wait(30)
        handler.give(fetch_file.content[1_500_000:])

    server.script = [halt_half_way]
    with start(fetch_file, server, tmp_path) as first:
        assert first.stdout.readline().endswith(f" {len(fetch_file.content)}\n")
        with start(fetch_file, server, tmp_path) as second:
            assert second.stdout.readline().endswith(" None\n")  # it waits for the lock
            server.released.set()
            assert [process.wait(30) for process in (first, second)] == [0, 0]
    assert (tmp_path / fetch_file.name).read_bytes() == fetch_file.content
    assert server.sent == len(fetch_file.content)
    assert here(tmp_path) == {fetch_file.name}


def test_lock_of_a_killed_process_is_released(fetch_file, server, tmp_path, part):
    server.script = [server.stall_after(1_000_000)]
    with start(fetch_file, server, tmp_path) as process:
        while not part.exists() or part.stat().st_size < 1_000_000:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert fetch_file().read_bytes() == fetch_file.content
    assert server.sent == len(fetch_file.content)
    assert here(tmp_path) == {fetch_file.name}


def test_lock_notices_a_removed_lock_file(fetch_file, tmp_path):
    """A process that waits for a removed lock file must not mistake it for the new one, which another process may hold."""
    lock = tmp_path / f"{fetch_file.name}.lock"

    def hold():
        file = os.open(lock, os.O_CREAT | os.O_WRONLY)
        fcntl.flock(file, fcntl.LOCK_EX)
        return file

    held, n_waits = [hold()], 0

    def change_hands(done, total):
        nonlocal n_waits
        if total is None:
            n_waits += 1
            if n_waits == 1:
                lock.unlink()
                held.append(hold())
            os.close(held.pop(0))

    assert fetch_file(progress=change_hands).read_bytes() == fetch_file.content
    assert n_waits == 2


def test_fetch_works_on_file_systems_without_locks(fetch_file, monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    assert fetch_file().read_bytes() == fetch_file.content


def test_fetch_works_on_systems_without_locks(fetch_file, monkeypatch, tmp_path):
    monkeypatch.setattr(files, "fcntl", None)
    assert fetch_file().read_bytes() == fetch_file.content
    assert here(tmp_path) == {fetch_file.name}


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("UNSILENT_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative/cache"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_folder() == tmp_path / ".cache/unsilent"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == tmp_path / ".cache/unsilent"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg/unsilent"
    monkeypatch.setenv("UNSILENT_CACHE", "~/mine")
    assert cache_folder() == tmp_path / "mine"


def test_fetch_downloads_to_the_cache(fetch_file, monkeypatch, tmp_path):
    monkeypatch.setenv("UNSILENT_CACHE", str(tmp_path / "cache"))
    assert fetch_file(folder=None) == tmp_path / "cache/downloads" / fetch_file.name


def test_checksum_equals_hashlib(fetch_file, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(fetch_file.content)
    assert checksum(path, "sha256") == hashlib.sha256(fetch_file.content).hexdigest()
    assert checksum(path, "md5") == fetch_file.md5
    with pytest.raises(CheckpointError, match=r"^cannot read .*nowhere: No such file or directory\.$"):
        checksum(tmp_path / "nowhere", "md5")
