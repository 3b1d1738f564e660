"""`unsilent data extract`: resuming after a kill, workers, complete shards, damaged files named."""

import csv
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from PIL import Image

from unsilent.cli.main import run
from unsilent.data.shards import Shard

# Kills itself after some batches, all of which are on disk, in the middle of writing the next.
KILLED = """
import os, signal
from unsilent.data import shards
shards.SAVE_SECONDS = 0.0
add = shards.ShardWriter.add
def killed(writer, *batch):
    if writer.n_batches == 5 and writer._bin.stem == "features":
        writer._data.write(b"torn")
        writer._data.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    add(writer, *batch)
shards.ShardWriter.add = killed
from unsilent.cli.main import main
if __name__ == "__main__":
    main()
"""
BAD = ("cut.mp4", "noise.mp4", "empty.mp4")
CLIPS = ("clip0.mp4", BAD[0], "clip1.mp4", BAD[1], "clip2.mp4", BAD[2], "clip3.mp4")


@pytest.fixture(scope="module")
def material(tmp_path_factory, write_clip):
    """Eight sounds, four images, four clips, and three clips that are damaged after the manifest was made."""
    root = tmp_path_factory.mktemp("material")
    rng = np.random.default_rng(0)
    common = {"label": "x", "split": "train", "licence": ""}
    for i in range(8):
        soundfile.write(root / f"sound{i}.wav", rng.uniform(-0.3, 0.3, 11025 + 900 * i), 22050)
    for i in range(4):
        Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(root / f"image{i}.png")
    for name in CLIPS:
        write_clip(root / name, n_frames=25, sound=rng.uniform(-0.3, 0.3, (1, 22050)))
    tables = {
        "sounds": [{"path": f"sound{i}.wav", **common} for i in range(8)],
        "images": [{"path": f"image{i}.png", **common} for i in range(4)],
        "clips": [{"path": name, **common} for name in CLIPS],
    }
    for name, rows in tables.items():
        with (root / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    assert run(["data", "manifest", str(root), "-o", str(root / "m.parquet"), "--preset", "smoke"]) == 0
    whole = (root / CLIPS[0]).read_bytes()
    for name, content in zip(BAD, (whole[: len(whole) // 2], rng.bytes(5000), b""), strict=True):
        (root / name).write_bytes(content)
    assert run(extraction(root, "once")) == 3
    return root


def extraction(root, out, *options):
    return ["data", "extract", str(root / "m.parquet"), "-o", str(root / out), "--preset", "smoke", *map(str, options)]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.skipif(os.name != "posix", reason="signals as on Unix")
def test_a_killed_extraction_resumes_to_the_same_bytes(material, capfd, caplog):
    done = subprocess.run([sys.executable, "-c", KILLED, *extraction(material, "killed")], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert set(contents(material / "killed")) == {"waveforms.bin", "waveforms.json", "features.bin.part", "features.journal"}
    assert run(extraction(material, "killed")) == 3
    messages = " ".join(record.getMessage() for record in caplog.records)
    assert "waveforms: already extracted" in messages
    assert "features: resuming after 5 of 11 items" in messages
    assert contents(material / "killed") == contents(material / "once")
    out, err = capfd.readouterr()
    assert "12 waveforms, 8 features" in out
    for name in BAD:
        assert f"left out {name.removesuffix('.mp4')}: " in err


PARALLEL = [("--workers", 2), pytest.param(("--workers", 2, "--ray", "local"), marks=pytest.mark.cluster)]


@pytest.mark.parametrize("options", PARALLEL, ids=["processes", "ray"])
def test_workers_give_the_same_bytes(material, options):
    out = f"parallel {len(options)}"
    assert run(extraction(material, out, *options)) == 3
    assert contents(material / out) == contents(material / "once")


def test_all_usable_files_are_extracted_once(material):
    sounds, features = (Shard(material / "once", name) for name in ("waveforms", "features"))
    clips = [f"clip{i}" for i in range(4)]
    assert [entry.row.clip_id for entry in sounds.entries] == [f"sound{i}" for i in range(8)] + clips
    assert [entry.row.clip_id for entry in features.entries] == [f"image{i}" for i in range(4)] + clips
    bad = {name.removesuffix(".mp4") for name in BAD}
    assert {name for name, _ in sounds.left_out} == {name for name, _ in features.left_out} == bad


def test_other_settings_are_refused_without_redo(material, capsys):
    before = contents(material / "once")
    shutil.copytree(material / "once", material / "other")
    assert run(extraction(material, "other", "--seed", 1)) == 2
    assert "features.bin was made with other seed" in capsys.readouterr().err
    assert contents(material / "other") == before
    assert run(extraction(material, "other", "--seed", 1, "--redo")) == 3
    assert Shard(material / "other", "features").extractor["seed"] == 1
