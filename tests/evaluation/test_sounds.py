"""Sound files of folders, and the clips of samples."""

import pytest

from unsilent.errors import ParameterError
from unsilent.evaluation.sounds import ClipNames, find_sounds, take_number


def fill(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def test_find_sounds_sorts_all_kinds_by_name(tmp_path):
    folder = fill(tmp_path, "b.WAV", "a/c.flac", "a.mp3", "d.mp4", "e.mel.npy", "samples.json", "a/.f.wav", ".g/h.wav", "i.npy")
    assert [sound.name for sound in find_sounds(folder)] == ["a", "a/c", "b", "d", "e"]


def test_find_sounds_prefers_mels_to_sounds_to_videos(tmp_path):
    one, two, three = find_sounds(fill(tmp_path, "1.mp4", "1.wav", "2.mel.npy", "2.wav", "2.mp4", "3.mel.npy"))
    assert (one.path.name, one.playable.name, one.is_mel) == ("1.wav", "1.wav", False)
    assert (two.path.name, two.playable.name, two.is_mel) == ("2.mel.npy", "2.wav", True)
    assert (three.path.name, three.playable) == ("3.mel.npy", None)


def test_find_sounds_refuses_a_folder_without_sounds(tmp_path):
    with pytest.raises(ParameterError, match=r"has no sounds; supported are files that end in \.mel\.npy, \.wav"):
        find_sounds(fill(tmp_path, "a.txt"))
    with pytest.raises(ParameterError, match=r"a.txt is not a folder; give a folder of sounds"):
        find_sounds(tmp_path / "a.txt")


@pytest.mark.parametrize(
    "sample", ["x", "x/0", "x/12", "x_3", "x.take2", "x.sound", "x.sound.take1", "dog/x", "dog/x/3", "else/dog/x_1", "else/dog/x.take3"]
)
def test_clip_of_finds_the_clip_of_each_form_of_name(sample):
    assert ClipNames(["dog/x", "cat/y"]).clip_of(sample) == "dog/x"


def test_clip_of_keeps_numbers_at_the_end_of_a_clip_name():
    names = ClipNames(["-Qowmc0P9ic_34000_44000", "-Qowmc0P9ic_34000", "video_00000"])
    assert names.clip_of("-Qowmc0P9ic_34000_44000") == "-Qowmc0P9ic_34000_44000"
    assert names.clip_of("-Qowmc0P9ic_34000_44000_2") == "-Qowmc0P9ic_34000_44000"
    assert names.clip_of("video_00000/1") == "video_00000"
    assert names.clip_of("video_00001") is None


def test_clip_of_distinguishes_equal_stems_by_folder():
    names = ClipNames(["dog/video_1", "baby/video_1", "baby/3"])
    assert names.clip_of("dog/video_1") == "dog/video_1"
    assert names.clip_of("out/baby/video_1.take4") == "baby/video_1"
    assert names.clip_of("video_1") is None
    assert names.clip_of("baby/video_1/3") == "baby/video_1"  # not the clip named 3


@pytest.mark.parametrize("sample", ["hammer/video_00350", "hammer/video_00350/2", "out/hammer/video_00350.take1", "hammer/video_00350_4"])
def test_clip_of_never_gives_the_clip_of_another_class(sample):
    names = ClipNames(["cough/video_00350", "hammer/video_00351"])
    assert names.clip_of(sample) is None
    assert names.find(sample) is None
    assert names.clip_of("video_00350") == "cough/video_00350"


def test_take_number_is_the_number_at_the_end():
    assert [take_number(name) for name in ("x", "x_10", "x.take9", "x/2")] == [0, 10, 9, 2]
