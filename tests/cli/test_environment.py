"""What surrounds the command: no home, closed streams, control characters, other locales."""

import os
import subprocess
import sys

import pytest

from unsilent.cli.terminal import printable, say


def run(command, **environment):
    kept = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME", "UNSILENT_CACHE")}
    words = ["sh", "-c", command.replace("unsilent", f"{sys.executable} -m unsilent", 1)]
    return subprocess.run(words, capture_output=True, text=True, env=kept | environment, check=False)


@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_streams_may_be_closed(streams):
    done = run(f"unsilent models {streams}", HOME="/")
    assert (done.returncode, done.stderr) == (0, "")


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
