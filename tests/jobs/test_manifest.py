"""`make_manifest`: usable files are listed once, others are named, with or without workers."""

import shutil

import numpy as np
import pytest

from unsilent.cli.main import run
from unsilent.data.manifest import read_manifest
from unsilent.errors import DataError, ParameterError
from unsilent.jobs.manifest import make_manifest
from unsilent.jobs.parallel import Parallel


@pytest.fixture
def videos(write_clip, tmp_path):
    """Two classes; one clip is long, one a copy, one silent, one truncated."""
    rng, root = np.random.default_rng(0), tmp_path / "videos"
    for name, seconds, loudness in (("dog/a.mp4", 5, 0.3), ("dog/b.mp4", 1, 0.3), ("cat/c.mp4", 1, 0.3), ("cat/mute.mkv", 1, 0.0)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        codec = "pcm_s16le" if name.endswith("mkv") else "aac"
        write_clip(root / name, n_frames=25 * seconds, sound=loudness * rng.uniform(-1, 1, (1, 22050 * seconds)), sound_codec=codec)
    shutil.copy(root / "dog/b.mp4", root / "dog/copy.mp4")
    (root / "cat/truncated.mp4").write_bytes((root / "cat/c.mp4").read_bytes()[:900])
    return root


def test_command_writes_usable_clips_and_names_the_others(videos, tmp_path, capsys):
    assert run(["data", "manifest", str(videos), "-o", str(tmp_path / "m.parquet"), "--preset", "smoke", "--valid", "1"]) == 3
    root, rows = read_manifest(tmp_path / "m.parquet")
    assert root == videos
    assert [(row.clip_id, row.label, row.split, round(row.start_seconds, 2), round(row.duration_seconds, 2)) for row in rows] == [
        ("cat/c", "cat", "valid", 0.0, 1.0),
        ("dog/a@0", "dog", "valid", 0.0, 2.23),
        ("dog/a@2229", "dog", "valid", 2.23, 2.23),
        ("dog/b", "dog", "valid", 0.0, 1.0),
    ]
    out, err = capsys.readouterr()
    assert "label dog" in out
    assert "4 rows, 3 files, 3 left out" in out
    for words in ("dog/copy.mp4 has the same content as dog/b.mp4", "cat/mute.mkv is silent", "cat/truncated.mp4 is truncated or damaged"):
        assert words in err


def test_workers_give_the_manifest_of_one_process(videos, tmp_path):
    found = [make_manifest(videos, tmp_path / "m.parquet", "smoke", parallel=parallel) for parallel in (Parallel(), Parallel(workers=2))]
    assert found[0] == found[1]


def test_a_folder_without_usable_files_is_refused(videos, tmp_path):
    shutil.rmtree(videos / "dog")
    (videos / "cat/c.mp4").unlink()
    with pytest.raises(DataError, match=r"nothing in .* can be used; the first of 2 reasons: "):
        make_manifest(videos, tmp_path / "m.parquet", "smoke")


def test_shares_above_one_are_refused(videos, tmp_path):
    with pytest.raises(ParameterError, match=r"shares of splits are valid 0\.7, test 0\.5, but must add up to 1 or less"):
        make_manifest(videos, tmp_path / "m.parquet", "smoke", shares={"valid": 0.7, "test": 0.5})
