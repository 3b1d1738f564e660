"""What surrounds the command: no home, closed streams and pipes, other users, control characters, other locales."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import unsilent
from unsilent.cli.terminal import printable, say

other_users = pytest.mark.skipif(os.getuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv")


def run(command, **environment):
    kept = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME", "UNSILENT_CACHE")}
    words = ["sh", "-c", command.replace("unsilent", f"{sys.executable} -m unsilent", 1)]
    return subprocess.run(words, capture_output=True, text=True, env=kept | environment, check=False)


@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_streams_may_be_closed(streams):
    done = run(f"unsilent models {streams}", HOME="/")
    assert (done.returncode, done.stderr) == (0, "")


def as_user(number, *command):
    """A command for a user without name, home and groups, who may read everything and write nothing of others."""
    rights = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search", "--bounding-set=-all,+dac_read_search"]
    path = f"PYTHONPATH={Path(unsilent.__file__).parents[1]}"
    return ["setpriv", f"--reuid={number}", f"--regid={number}", "--clear-groups", *rights, "env", "-i", path, sys.executable, *command]


@pytest.fixture
def shared():
    """A folder in which every user may write."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        yield Path(folder)


def written():
    """When each file of the package was written, except for bytecode, which processes of other tests may write."""
    files = (path for path in Path(unsilent.__file__).parent.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path: path.stat().st_mtime_ns for path in files}


@other_users
def test_the_folder_of_the_package_may_be_read_only(make_clip, shared):
    """As for a user of a system's installation, without a home, and a cache that cannot be written."""
    video, out = Path(shutil.copy(make_clip("a.mp4", n_frames=10), shared)), shared / "out"
    before = written()
    command = ["-m", "unsilent", "generate", str(video), "-o", f"{out}/", "--candidates", "1", "--wav"]
    done = subprocess.run(as_user(54321, *command), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.iterdir() if path.suffix != ".json") == ["a.mp4", "a.wav"]
    assert before == written()


HOLD = """
import sys
from pathlib import Path
from unsilent.published.fetch import lock
with lock(Path(sys.argv[1]), lambda done, total: print("waits", flush=True)):
    print("has it", flush=True)
    sys.stdin.readline()
"""


@other_users
def test_two_users_share_a_cache(shared):
    """The second waits until the first has downloaded."""
    users = (54321, 54322)
    first, second = (
        subprocess.Popen(as_user(one, "-c", HOLD, str(shared / "a")), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for one in users
    )
    said = [first.stdout.readline(), second.stdout.readline()]
    assert sorted(said) == ["has it\n", "waits\n"]
    holder, waiter = (first, second) if said[0] == "has it\n" else (second, first)
    holder.communicate("\n")
    assert waiter.communicate("\n")[0].splitlines()[-1] == "has it"
    assert not list(shared.iterdir())


@pytest.mark.parametrize("reader", ["true", "head -1"])
def test_a_pipe_may_end_early(reader):
    done = run(f"unsilent models | {reader}", HOME="/")
    assert done.stderr == ""


def test_a_full_output_is_an_error_of_one_sentence():
    done = run("unsilent models > /dev/full", HOME="/")
    assert (done.returncode, done.stderr) == (2, "unsilent: the system: No space left on device.\n")


def test_too_little_memory_is_an_error_of_one_sentence(make_clip):
    done = run(f"ulimit -v 500000; exec unsilent generate {make_clip('a.mp4', n_frames=3)}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("unsilent: the memory is not enough; ")
    assert done.stderr.count("\n") == 1


def test_a_user_need_not_have_a_home(tmp_path):
    """As in containers: a number without a name, and no variable."""
    code = "import os; os.path.expanduser = lambda path: path; from unsilent.cli.main import run; raise SystemExit(run(['models']))"
    kept = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME", "UNSILENT_CACHE")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=kept, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "everyday" in done.stdout


@pytest.mark.parametrize("locale", ["C", "POSIX", "tr_TR.ISO-8859-9"])
def test_locales_do_not_matter(tmp_path, locale):
    done = run(f"unsilent generate {tmp_path}/é.mp4", LANG=locale, LC_ALL=locale, HOME="/", PYTHONIOENCODING="ascii")
    assert done.returncode == 2
    assert "does not exist" in done.stderr


def test_control_characters_do_not_reach_the_terminal(capsys):
    say("no \x1b]0;title\x07 \x9b31m here\r\n")
    assert capsys.readouterr().err == "unsilent: no \\x1b]0;title\\x07 \\x9b31m here\n"
    assert printable("naïve 狗\n") == "naïve 狗\n"


def test_long_messages_are_shortened(capsys):
    say("x" * 1_000_000 + " is too long.")
    error = capsys.readouterr().err
    assert len(error) < 2100
    assert error.endswith("is too long.\n")
