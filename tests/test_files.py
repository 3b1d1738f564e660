"""Temporary files, locks, text of spreadsheet programs, and folders."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from unsilent import files
from unsilent.errors import DataError, MediaError


@pytest.fixture(autouse=True)
def new_process(monkeypatch):
    """As if no folder had been swept yet."""
    monkeypatch.setattr(files, "_swept", set())


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from unsilent.files import atomic_write
    with atomic_write(Path(sys.argv[1])) as temporary:
        temporary.write_bytes(b"half")
        if sys.argv[2] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        print("open", flush=True)
        sys.stdin.read()
"""


@pytest.mark.parametrize("name", ["a.mp4", "a.b.mp4", "no_suffix", "é" * 120 + ".mp4", ".hidden"])
def test_files_of_killed_processes_are_removed_by_the_next(tmp_path, name):
    subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path / name), "kill"], check=False)
    (tmp_path / ".mine.deadbeef.mp4").write_bytes(b"of the user")
    assert len(list(tmp_path.iterdir())) == 2
    with files.atomic_write(tmp_path / "other.wav") as temporary:
        temporary.write_bytes(b"whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.deadbeef.mp4", "other.wav"]


def test_files_of_running_processes_are_kept(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path / "a.mp4"), "wait"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "open\n"
    with files.atomic_write(tmp_path / "b.mp4") as temporary:
        temporary.write_bytes(b"whole")
    process.communicate("")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_modes_are_those_of_the_umask(tmp_path, umask):
    """Also of files that a library makes anew, as safetensors does."""
    before = os.umask(umask)
    try:
        with files.atomic_write(tmp_path / "a", durable=True) as temporary:
            temporary.unlink()
            os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_lock_keeps_others_out(tmp_path):
    lock = tmp_path / "out" / ".lock"
    with (
        files.locked(lock, DataError),
        pytest.raises(DataError, match=r"another process is writing .*out; wait"),
        files.locked(lock, DataError),
    ):
        pass
    with files.locked(lock, DataError):
        pass


TABLE = "path,label\r\na.wav,Gänse\r\n"


@pytest.mark.parametrize(
    "content",
    [
        TABLE.encode(),
        TABLE.encode("utf-8-sig"),
        TABLE.encode("utf-16"),
        TABLE.replace(",", ";").encode(),
        TABLE.replace(",", "\t").encode("utf-16"),
        b"\r\n".join([TABLE.encode(), b""]),
    ],
)
def test_tables_of_spreadsheet_programs_are_read(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(content)
    assert files.read_csv(tmp_path / "a.csv", DataError) == [["path", "label"], ["a.wav", "Gänse"]]


def test_another_encoding_is_named(tmp_path):
    (tmp_path / "a.csv").write_bytes(TABLE.encode("latin-1"))
    with pytest.raises(DataError, match=r"line 2 of .*a\.csv is not UTF-8; save it with that encoding"):
        files.read_csv(tmp_path / "a.csv", DataError)


def test_text_without_an_end_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a.csv")
    (tmp_path / "b.csv").symlink_to("/dev/zero")
    for name, kind in (("a.csv", "pipe"), ("b.csv", "device")):
        with pytest.raises(DataError, match=f"{name} is a {kind}; save it to a file first"):
            files.read_csv(tmp_path / name, DataError)


def test_deeply_nested_json_is_refused(tmp_path):
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"a\.json is not JSON, or damaged"):
        files.read_json(tmp_path / "a.json", DataError)


def test_links_are_written_through(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "a.txt").symlink_to("store/latest.txt")
    for text in ("first", "second"):
        with files.atomic_write(tmp_path / "a.txt") as temporary:
            temporary.write_text(text)
        assert (tmp_path / "a.txt").is_symlink()
        assert (tmp_path / "store" / "latest.txt").read_text() == text


def test_pipes_and_devices_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").symlink_to("/dev/full")
    for name, kind in (("a.mp4", "pipe"), ("b.mp4", "device")):
        with pytest.raises(MediaError, match=f"{name} cannot be written: it is a {kind}"), files.atomic_write(tmp_path / name):
            pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


def test_walk_follows_links_once(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "a.wav").touch()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "loop").symlink_to(tmp_path / "store")
    (tmp_path / "in" / "broken").symlink_to(tmp_path / "nothing")
    assert files.walk(tmp_path / "in") == [tmp_path / "in" / "link" / "a.wav"]


def test_a_user_without_a_home_has_no_cache(monkeypatch):
    for name in ("UNSILENT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert files.cache_folder() == Path("/nonexistent/.cache/unsilent")


def test_a_full_disk_names_the_path(tmp_path):
    with pytest.raises(MediaError, match=r"a\.wav cannot be written: No space left on device"), files.atomic_write(tmp_path / "a.wav"):
        raise OSError(28, "No space left on device")
    assert not list(tmp_path.iterdir())
