"""The command `unsilent serve`, as a process: its address, its lock, `kill -9` and restart."""

import os
import re
import signal
import subprocess
import sys

import pytest

import unsilent
from unsilent.cli.main import run


def launch(folder, *options):
    command = [
        sys.executable,
        "-m",
        "unsilent",
        "serve",
        "--port",
        "0",
        "--folder",
        str(folder),
        "--model",
        "tiny",
        "--device",
        "cpu",
        *options,
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    with process.stderr:
        line = process.stderr.readline()
    return process, re.search(r"http://\S+", line)[0]


def test_jobs_survive_kill_9(tiny, tmp_path, make_clip):
    process, address = launch(tmp_path / "served")
    client = unsilent.Client(address, name="a client of the test, long enough")
    source = client.upload(make_clip("a.mp4"))
    jobs = [client.submit(source, unsilent.Request(seed=seed, seconds=20.0), model="tiny") for seed in range(2)]
    process.send_signal(signal.SIGKILL)
    process.wait()
    process, address = launch(tmp_path / "served")
    try:
        again = unsilent.Client(address, name="a client of the test, long enough")
        for job in jobs:
            assert again.wait(job)["state"] == "done"
        assert run(["serve", "--folder", str(tmp_path / "served"), "--port", "0"]) == 2  # one server for each folder
    finally:
        process.terminate()
        assert process.wait(20) in (0, -signal.SIGTERM)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--model", "nosuch"], "no model"), (["--host", "203.0.113.7"], "cannot listen on"),
        (["--manifest", "nosuch.parquet"], "does not exist"),
        (["--manifest", "."], "is a folder; name a file"),
        (["--reports", __file__], "is not a folder; name the folder of the reports"),
        (["--max-mb", "nan"], "--max-mb is nan"), (["--max-memory-gb", "1e308"], "--max-memory-gb is"),
        (["--max-seconds", "0"], "max_seconds"),  (["--token", "short"], "token"),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_settings(tmp_path, capsys, options, text):
    assert run(["serve", "--folder", str(tmp_path), *options]) == 2
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1
