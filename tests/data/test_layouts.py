"""`survey` reads every layout and names what is missing."""

import pytest

from unsilent.data.layouts import Candidate, survey
from unsilent.errors import DataError


@pytest.fixture
def touch(tmp_path):
    def touch(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()

    return touch


def test_folders_of_classes(tmp_path, touch):
    touch(
        "playing piano/a.MP4", "dog/b.wav", "dog/deep/c.jpg", "d.mkv", "dog/notes.txt", "dog/.hidden.mp4", "dog/-abcdefghij_30000_40000.mp4"
    )
    found, missing = survey(tmp_path)
    assert missing == []
    assert {(one.path, one.kind, one.label, one.source) for one in found} == {
        ("playing piano/a.MP4", "clip", "playing piano", ""),
        ("dog/b.wav", "sound", "dog", ""),
        ("dog/deep/c.jpg", "image", "dog", ""),
        ("d.mkv", "clip", "", ""),
        ("dog/-abcdefghij_30000_40000.mp4", "clip", "dog", "-abcdefghij"),
    }


def test_vggsound_table(tmp_path, touch):
    rows = ['---g-f_I2yQ,1,"people marching",test', '--0PQM4-hqg,30,"waterfall, burbling",train', "abcdefghijk,7,dog,train"]
    (tmp_path / "vggsound.csv").write_text("\n".join(rows) + "\n")
    touch("video/---g-f_I2yQ_1000_11000.mp4", "video/--0PQM4-hqg_000030.mp4", "video/nobody-knows_1000_2000.mp4")
    found, missing = survey(tmp_path)
    assert found == [
        Candidate("video/---g-f_I2yQ_1000_11000.mp4", "clip", "people marching", "test", "---g-f_I2yQ"),
        Candidate("video/--0PQM4-hqg_000030.mp4", "clip", "waterfall, burbling", "", "--0PQM4-hqg"),
    ]
    assert missing == [("abcdefghijk_7000_17000", "there is no video abcdefghijk_7000_17000 or abcdefghijk_000007.")]
    (tmp_path / "vggsound.csv").write_text("id,start\n")
    with pytest.raises(DataError, match=r"line 1 of vggsound\.csv is not id, second, label and split"):
        survey(tmp_path)


def test_lists_replace_splits(tmp_path, touch):
    touch("dog/videos/video_00000.mp4", "dog/videos/video_00001.mp4", "cough/videos/video_00000.mp4", "cough/videos/video_00009.mp4")
    (tmp_path / "train.txt").write_text("dog/video_00000\ncough/video_00000\n")
    (tmp_path / "valid.txt").write_text("dog/video_00001\ndog/video_00007\n")
    found, missing = survey(tmp_path, {"train": tmp_path / "train.txt", "valid": tmp_path / "valid.txt"})
    assert {(one.path.rpartition("/")[0], one.path[-5:-4], one.split) for one in found} == {
        ("dog/videos", "0", "train"),
        ("cough/videos", "0", "train"),
        ("dog/videos", "1", "valid"),
    }
    assert missing == [
        ("cough/videos/video_00009.mp4", "it is in none of the lists."),
        ("dog/video_00007", "the list of valid names it, but there is no such file."),
    ]
    with pytest.raises(DataError, match="there is no list of clips"):
        survey(tmp_path, {"test": tmp_path / "none.txt"})


def test_a_table_with_scenes_groups_by_scene(tmp_path):
    lines = ["path,label,split,scene,visible_impacts,licence", "a_1.mp4,dog,valid,a,1,x", "a_2.mp4,dog,,a,0,x", "b.mp4,dog,train,b,,x"]
    (tmp_path / "clips.csv").write_text("\n".join(lines) + "\n")
    found, _ = survey(tmp_path)
    assert [(one.split, one.source, one.visible_impacts) for one in found] == [("valid", "a", True), ("", "a", False), ("train", "b", None)]


def test_a_table_without_scenes_groups_by_file(tmp_path):
    """A number that two names share, as in dog-001 and cat-001, does not make them one scene."""
    (tmp_path / "clips.csv").write_text("path,label,licence\ndog-001.mp4,dog,x\ncat-001.mp4,cat,x\n")
    found, _ = survey(tmp_path)
    assert [(one.split, one.source, one.visible_impacts) for one in found] == [("", "", None), ("", "", None)]


def test_missing_columns_and_wrong_values_are_named(tmp_path):
    (tmp_path / "clips.csv").write_text("path,label,licence,visible_impacts\na.mp4,dog,x,yes\n")
    with pytest.raises(DataError, match=r"clips\.csv has visible_impacts 'yes' for a\.mp4; it must be 1, 0 or empty"):
        survey(tmp_path)
    (tmp_path / "sounds.csv").write_text("path,split\na.wav,train\n")
    with pytest.raises(DataError, match=r"sounds\.csv has no column 'label'"):
        survey(tmp_path)


def test_an_empty_or_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match="has no sounds, images or videos"):
        survey(tmp_path)
    with pytest.raises(DataError, match="there is no folder"):
        survey(tmp_path / "none")
