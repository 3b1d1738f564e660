"""Inspection of files: lengths, silence, duplicates; and splits that keep each source together."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from unsilent.clip import Clip
from unsilent.data.checks import Check, Content, as_rows, summarise
from unsilent.data.layouts import Candidate
from unsilent.errors import MediaError

CLIP = Clip(frames=64)  # of 0.743 s


def noise(seconds):
    return np.random.default_rng(0).uniform(-0.3, 0.3, (1, round(22050 * seconds)))


@pytest.mark.parametrize(
    ("seconds", "lengths"), [(0.3, [0.3]), (0.743, [0.743]), (1.0, [0.743]), (1.2, [0.743, 0.457]), (2.3, [0.743] * 3)]
)
def test_cut_keeps_a_rest_of_half_a_clip_and_short_videos(seconds, lengths):
    clips = Check(Path(), CLIP).cut(seconds)
    assert [length for _, length in clips] == pytest.approx(lengths, abs=2e-3)
    assert [start for start, _ in clips] == pytest.approx([CLIP.seconds * number for number in range(len(lengths))])


def test_silent_clips_of_a_video_are_left_out(make_clip, tmp_path):
    sound = noise(2.4)
    sound[:, : CLIP.n_samples] = 0
    make_clip("a.mkv", n_frames=60, sound=sound, sound_codec="pcm_s16le")
    found = Check(tmp_path, CLIP)()(Candidate("a.mkv", "clip", ""))
    assert [start for start, _ in found.clips] == pytest.approx([CLIP.seconds, 2 * CLIP.seconds])
    assert found.left_out == [(0.0, "a.mkv is silent from 0.00 s to 0.74 s.")]
    assert found.sample_rate == 22050
    kept = Check(tmp_path, CLIP, keep_silent=True)()(Candidate("a.mkv", "clip", ""))
    assert (len(kept.clips), kept.left_out) == (3, [])


def test_unusable_files_are_named(make_clip, tmp_path):
    make_clip("mute.mp4")
    (tmp_path / "noise.mp4").write_bytes(b"no video at all")
    soundfile.write(tmp_path / "short.wav", noise(0.1)[0], 22050)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "a.png")
    inspect = Check(tmp_path, CLIP)()
    for name, why in (("mute.mp4", "has no audio"), ("noise.mp4", "not a media file"), ("none.mp4", "does not exist")):
        with pytest.raises(MediaError, match=why):
            inspect(Candidate(name, "clip", ""))
    assert inspect(Candidate("short.wav", "sound", "")).left_out == [(0.0, "short.wav has 0.10 s of sound, less than 0.19 s.")]
    assert inspect(Candidate("a.png", "image", "")).clips == [(0.0, 0.0)]


def inspected(name, content=None, split="", source="", clips=1, label="dog"):
    return Candidate(name, "clip", label, split, source), Content(content or name, 22050, [(2.0 * i, 2.0) for i in range(clips)], [])


def test_duplicate_files_are_left_out():
    rows, left_out = as_rows([inspected("a.mp4", "x"), inspected("b.mp4", "y"), inspected("c.mp4", "x")], {})
    assert [row.path for row in rows] == ["a.mp4", "b.mp4"]
    assert left_out == [("c", "c.mp4 has the same content as a.mp4.")]


def test_a_source_is_never_in_two_splits():
    many = [inspected(f"{source}_{i}.mp4", source=f"source{source}", clips=2) for source in range(200) for i in range(3)]
    rows, _ = as_rows(many, {"valid": 0.2, "test": 0.1})
    splits = {}
    for row in rows:
        splits.setdefault(row.path.partition("_")[0], set()).add(row.split)
    assert all(len(of_source) == 1 for of_source in splits.values())
    shares = [sum(of_source == {split} for of_source in splits.values()) / 200 for split in ("valid", "test")]
    assert shares == pytest.approx([0.2, 0.1], abs=0.06)
    assert as_rows(many[:30], {"valid": 0.2, "test": 0.1})[0] == rows[:60]  # adding material changes no split
    rows, left_out = as_rows([inspected("a.mp4", split="train", source="s"), inspected("b.mp4", split="test", source="s")], {})
    assert [(row.path, row.split) for row in rows] == [("b.mp4", "test")]
    assert left_out == [("a", "a.mp4 is listed as train, but its source s is test.")]


def test_rows_follow_the_splits_and_impacts_of_the_table():
    listed = [inspected(f"{split}-001.mp4", split=split, source=split) for split in ("train", "valid", "test")]
    rows, left_out = as_rows([(replace(one, visible_impacts=True), content) for one, content in listed], {"valid": 1.0})
    assert [(row.path, row.split, row.visible_impacts) for row in rows] == [(f"{s}-001.mp4", s, True) for s in ("train", "valid", "test")]
    assert left_out == []


def test_clip_ids_are_unique():
    rows, _ = as_rows([inspected("a.mp4"), inspected("a.wav"), inspected("long.mp4", clips=2)], {})
    assert [row.clip_id for row in rows] == ["a.mp4", "a.wav", "long@0", "long@2000"]


def test_summary_counts_rows_and_hours_by_kind_and_label():
    rows, left_out = as_rows(
        [inspected("a.mp4", split="train", clips=900), inspected("b.mp4", split="valid", label=""), inspected("c.mp4", "b.mp4")], {}
    )
    lines = [" ".join(line.split()) for line in summarise(rows, left_out).splitlines()]
    assert lines == [
        "train valid",
        "clip 900 (0.50 h) 1 (0.00 h)",
        "label (none) 0 1 (0.00 h)",
        "label dog 900 (0.50 h) 0",
        "901 rows, 2 files, 1 left out",
    ]
