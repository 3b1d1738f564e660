"""`unsilent generate` in its own process, with the real image network and a tiny sampler."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest

DEMO = Path(__file__).parents[2] / "demo" / "cat.mp4"
COMMAND = "from unsilent.cli.main import main; main()"
# Compiled code that calls back into Python may clear any error, that of Ctrl-C too; seen once in thirty interrupted batches.
SWALLOWING = """
import contextlib
from unsilent.cli import main, terminal
def note(number, frame):
    with contextlib.suppress(KeyboardInterrupt):
        remember(number, frame)
remember, terminal.Interrupts._note = terminal.Interrupts._note, note
main.main()
"""


@pytest.fixture
def start(tiny_bundle, tmp_path):
    """Start `unsilent generate` in a folder of its own."""

    def run(*arguments, code=COMMAND):
        command = [sys.executable, "-c", code, "generate", *map(str, arguments), "--model", str(tiny_bundle)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=environment,
            start_new_session=True,
            preexec_fn=heed_interrupts if os.name == "posix" else None,
        )

    return run


def heed_interrupts():
    """Background jobs of a shell ignore SIGINT, and so would the processes that the tests start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def packets(path):
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(container.streams.video[0]) if packet.size]


def test_generate_writes_the_demo_clip_with_sound(start, tmp_path):
    process = start(DEMO, "-o", "out/cat.mp4", "--wav", "--picture", "--json")
    out, err = process.communicate()
    assert process.returncode == 0, err
    record = json.loads(out)
    assert (record["status"], record["seconds"], record["out"]) == ("made", 10.0, "out/cat.mp4")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["cat.mp4", "cat.mp4.unsilent.json", "cat.png", "cat.wav"]
    assert packets(tmp_path / "out" / "cat.mp4") == packets(DEMO)
    with av.open(str(tmp_path / "out" / "cat.mp4")) as container:
        stream = container.streams.audio[0]
        assert float(stream.duration * stream.time_base) == pytest.approx(10, abs=1024 / stream.rate)


def test_a_damaged_file_does_not_stop_the_others(start, make_clip, tmp_path):
    make_clip("good.mp4")
    (tmp_path / "bad.mp4").write_text("no video")
    process = start("bad.mp4", "good.mp4", "-o", "out")
    out, err = process.communicate()
    assert process.returncode == 3
    assert err.splitlines()[0] == "unsilent: bad.mp4 is not a media file that FFmpeg can read."  # then, on a slow machine, the time left
    assert "out/good.mp4" in out


def test_a_single_damaged_file_exits_with_2(start, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"")
    process = start("bad.mp4")
    assert process.communicate() == ("", "unsilent: bad.mp4 is empty (0 bytes).\n")
    assert process.returncode == 2


@pytest.mark.skipif(os.name != "posix", reason="signals as on Unix")
@pytest.mark.parametrize("swallowed", [False, True])
def test_an_interrupted_batch_keeps_finished_outputs(swallowed, start, make_clip, tmp_path):
    for index in range(40):
        make_clip(f"in{index:02}.mp4", n_frames=50)
    process = start(".", "-o", "out", code=SWALLOWING if swallowed else COMMAND)
    deadline = time.monotonic() + 60
    while not (tmp_path / "out" / "in01.mp4").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert err.splitlines()[-1] == "unsilent: interrupted; finished results are kept."
    assert "Traceback" not in err
    made = sorted(path.name for path in (tmp_path / "out").glob("*.mp4"))
    assert made == [f"in{index:02}.mp4" for index in range(len(made))]
    assert 2 <= len(made) < 40
