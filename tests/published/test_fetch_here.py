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


def test_fetch_checks_free_space_first(bring, monkeypatch, hostile, tmp_path, part):
    part.write_bytes(bring.content[:500_000])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 2_000_000, 2_000_000))
    free = rf"{re.escape(str(tmp_path))} has 2.00 MB free"
    expected = rf"^{bring.name} needs another 2.50 MB, {free}; free some, or set UNSILENT_CACHE to another folder\.$"
    with pytest.raises(CheckpointError, match=expected):
        bring()
    assert part.stat().st_size == 500_000


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full (/dev/full of Linux)")
@pytest.mark.parametrize(("length", "needed"), [(3_000_000, "another 3.00 MB"), (None, "more space")])
def test_fetch_names_a_full_disk(bring, hostile, monkeypatch, part, length, needed):
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: None)  # keeps the link to /dev/full
    part.symlink_to("/dev/full")
    hostile.script = [hostile.announce(length)]
    with pytest.raises(CheckpointError, match=rf"^{bring.name} needs {needed}, .* has .* free; free some, or set UNSILENT_CACHE"):
        bring()


def test_fetch_names_an_invalid_folder(bring, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"cannot read or write .*file/below/weights-1.pt: Not a directory; set UNSILENT_CACHE"):
        bring(folder=tmp_path / "file" / "below")
    (tmp_path / bring.name).mkdir()
    with pytest.raises(CheckpointError, match=r"cannot read or write .*weights-1.pt: Is a directory; set UNSILENT_CACHE"):
        bring()


def test_fetch_keeps_the_part_after_an_interrupt(bring, hostile, part, tmp_path):
    def interrupt(done, total):
        if done >= 1_000_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bring(progress=interrupt)
    kept = part.stat().st_size
    assert 1_000_000 <= kept < len(bring.content)
    assert here(tmp_path) == {f"{bring.name}.part", f"{bring.name}.part.json"}
    assert bring().read_bytes() == bring.content
    assert hostile.ranges == [None, f"bytes={kept}-"]


@pytest.mark.parametrize("note", ["", "[]", '{"url": 1}', "not JSON"])
def test_fetch_ignores_a_damaged_version_file(bring, hostile, tmp_path, part, note):
    part.write_bytes(bring.content[:1000])
    (tmp_path / f"{bring.name}.part.json").write_text(note)
    assert bring().read_bytes() == bring.content
    assert "If-Range" not in hostile.requests[0][1]


FETCH = """
import sys
from pathlib import Path
from unsilent.checkpoints.catalog import Published
from unsilent.published.fetch import fetch
url, md5, folder = sys.argv[1:]
published = Published("weights", "melgan", url, "none", (), "here", md5=md5)
fetch(published, folder=Path(folder), progress=lambda *step: print(*step, flush=True))
"""


def start(bring, hostile, tmp_path) -> subprocess.Popen:
    code = [sys.executable, "-c", FETCH, f"{hostile.url}/a/{bring.name}", bring.md5, str(tmp_path)]
    return subprocess.Popen(code, stdout=subprocess.PIPE, text=True)


def test_fetch_in_two_processes_downloads_once(bring, hostile, tmp_path):
    def halt_half_way(asked):
        asked.begin(200, len(bring.content))
        asked.give(bring.content[:1_500_000])
        hostile.released.wait(30)
        asked.give(bring.content[1_500_000:])

    hostile.script = [halt_half_way]
    with start(bring, hostile, tmp_path) as first:
        assert first.stdout.readline().endswith(f" {len(bring.content)}\n")
        with start(bring, hostile, tmp_path) as second:
            assert second.stdout.readline().endswith(" None\n")  # it waits for the lock
            hostile.released.set()
            assert [process.wait(30) for process in (first, second)] == [0, 0]
    assert (tmp_path / bring.name).read_bytes() == bring.content
    assert hostile.sent == len(bring.content)
    assert here(tmp_path) == {bring.name}


def test_lock_of_a_killed_process_is_released(bring, hostile, tmp_path, part):
    hostile.script = [hostile.stall_after(1_000_000)]
    with start(bring, hostile, tmp_path) as process:
        while not part.exists() or part.stat().st_size < 1_000_000:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert bring().read_bytes() == bring.content
    assert hostile.sent == len(bring.content)
    assert here(tmp_path) == {bring.name}


def test_lock_notices_a_removed_lock_file(bring, tmp_path):
    """A process that waits for a removed lock file must not mistake it for the new one, which another process may hold."""
    lock = tmp_path / f"{bring.name}.lock"

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

    assert bring(progress=change_hands).read_bytes() == bring.content
    assert n_waits == 2


def test_fetch_works_on_file_systems_without_locks(bring, monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    assert bring().read_bytes() == bring.content


def test_fetch_works_on_systems_without_locks(bring, monkeypatch, tmp_path):
    monkeypatch.setattr(files, "fcntl", None)
    assert bring().read_bytes() == bring.content
    assert here(tmp_path) == {bring.name}


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


def test_fetch_downloads_to_the_cache(bring, monkeypatch, tmp_path):
    monkeypatch.setenv("UNSILENT_CACHE", str(tmp_path / "cache"))
    assert bring(folder=None) == tmp_path / "cache/downloads" / bring.name


def test_checksum_equals_hashlib(bring, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bring.content)
    assert checksum(path, "sha256") == hashlib.sha256(bring.content).hexdigest()
    assert checksum(path, "md5") == bring.md5
    with pytest.raises(CheckpointError, match=r"^cannot read .*nowhere: No such file or directory\.$"):
        checksum(tmp_path / "nowhere", "md5")
