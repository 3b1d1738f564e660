"""Released files: sizes, the middle part, both layouts, shards paired by clip, and errors."""

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest

from unsilent.clip import Clip
from unsilent.data.datasets import generators, open_crops
from unsilent.data.released import ReleasedFolder, read_features, read_mel, write_shards
from unsilent.data.rows import FeaturesRow, ItemRow
from unsilent.data.shards import Shard
from unsilent.errors import DataError, ParameterError

ORIGINAL = Path(__file__).parents[3] / "shared" / "reference" / "original_features"
ORIGINAL_CLIP = "-Qowmc0P9ic_34000_44000"
CLIP = Clip()
SHORT = Clip(frames=160)  # 40 features
MELS = "melspec_10s_22050hz"
RESNET, RGB, FLOW = (f"feature_{name}_21.5fps" for name in ("resnet50_dim2048", "rgb_bninception_dim1024", "flow_bninception_dim1024"))


def put_mel(folder, stem, mel=None):
    """A mel with increasing frames: frame 430 is 0.5."""
    path = folder / MELS / f"{stem}_mel.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.tile(np.arange(860) / 860, (80, 1)) if mel is None else mel)
    return path


def put_features(folder, name, stem, rows=215, width=2048):
    """Features whose rows are 1, 2, 3, ..."""
    path = folder / name / f"{stem}.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.tile(np.arange(1, rows + 1, dtype=np.float32)[:, None], (1, width))
    path.write_bytes(pickle.dumps(values, 4))
    return path


@pytest.fixture
def vas(tmp_path):
    """Two classes, three clips."""
    root = tmp_path / "vas"
    for label, stem in (("dog", "video_00001"), ("baby", "video_00000"), ("dog", "video_00000")):
        put_mel(root / label, stem)
        put_features(root / label, RESNET, stem)
    return root


def original(*parts):
    path = ORIGINAL.joinpath(*parts)
    if not path.exists():
        pytest.skip("the authors' files are not here")
    return path


def test_read_mel_of_a_released_file():
    path = original(f"{ORIGINAL_CLIP}_mel.npy")
    np.testing.assert_array_equal(read_mel(path, CLIP), np.load(path)[:, 6:854].astype(np.float32))


def test_read_features_of_released_files():
    def numpys(name):
        with original(name, f"{ORIGINAL_CLIP}.pkl").open("rb") as file:
            return pickle.load(file, encoding="bytes")

    resnet = numpys(RESNET)
    np.testing.assert_array_equal(read_features(ORIGINAL, ORIGINAL_CLIP, "resnet50", CLIP), resnet[1:213])
    both = np.concatenate([numpys(RGB), numpys(FLOW)], axis=1)
    assert both.shape == (216, 2048)
    np.testing.assert_array_equal(read_features(ORIGINAL, ORIGINAL_CLIP, "bninception", CLIP), both[1:213])


def test_read_mel_keeps_the_middle(tmp_path):
    path = put_mel(tmp_path, "a")
    np.testing.assert_allclose(read_mel(path, CLIP)[7] * 860, np.arange(6, 854), rtol=1e-6)
    np.testing.assert_allclose(read_mel(path, SHORT)[0] * 860, np.arange(350, 510), rtol=1e-6)


@pytest.mark.parametrize("rows", [1, 214, 215, 216, 400])
def test_read_features_keeps_the_middle_of_215_rows(tmp_path, rows):
    put_features(tmp_path, RESNET, "a", rows)
    expected = np.where(np.arange(1, 213) < rows, np.arange(2, 214), 0)
    np.testing.assert_array_equal(read_features(tmp_path, "a", "resnet50", CLIP)[:, 5], expected)


def test_mels_and_features_of_a_shorter_clip_start_at_the_same_time(tmp_path):
    """Frame 350 and row 87 both start at 4.06 s, within half a video frame."""
    put_features(tmp_path, RESNET, "a")
    first = read_features(tmp_path, "a", "resnet50", SHORT)[0, 0] - 1
    start = read_mel(put_mel(tmp_path, "a"), SHORT)[0, 0] * 860
    assert len(read_features(tmp_path, "a", "resnet50", SHORT)) == SHORT.n_features == 40
    assert abs(first / 21.5 - start * 256 / 22050) < 0.5 / 21.5


def test_rgb_features_come_before_flow(tmp_path):
    put_features(tmp_path, RGB, "a", width=1024)
    path = put_features(tmp_path, FLOW, "a", width=1024)
    path.write_bytes(pickle.dumps(np.zeros((215, 1024), np.float32), 2))
    features = read_features(tmp_path, "a", "bninception", CLIP)
    assert features.shape == (212, 2048)
    assert features[:, :1024].min() == 2
    assert features[:, 1024:].max() == 0


@pytest.mark.parametrize(
    ("mel", "said"),
    [
        (np.zeros((80, 859)), "holds an array of 80 x 859; a released mel has 80 x 860"),
        (np.zeros((80, 1200)), "holds an array of 80 x 1200"),
        (np.zeros((860, 80)), "holds an array of 860 x 80"),
        (np.full((80, 860), 1.01), "reaches from 1.01 to 1.01; a released mel stays in 0 to 1"),
        (np.full((80, 860), -0.5), "reaches from -0.5 to -0.5"),
        (np.full((80, 860), np.nan), "reaches from nan to nan"),
    ],
)
def test_mels_of_other_sizes_or_ranges_are_refused(tmp_path, mel, said):
    with pytest.raises(DataError, match=rf"a_mel\.npy {said}"):
        read_mel(put_mel(tmp_path, "a", mel), CLIP)


def test_unusable_features_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"a\.pkl cannot be read: No such file"):
        read_features(tmp_path, "a", "resnet50", CLIP)
    put_features(tmp_path, RESNET, "a", width=1024)
    with pytest.raises(DataError, match=r"a\.pkl holds an array of 215 x 1024; released features have some rows x 2048"):
        read_features(tmp_path, "a", "resnet50", CLIP)
    put_features(tmp_path, RESNET, "a", rows=0)
    with pytest.raises(DataError, match="holds an array of 0 x 2048"):
        read_features(tmp_path, "a", "resnet50", CLIP)
    path = put_features(tmp_path, RESNET, "a")
    path.write_bytes(pickle.dumps(np.where(np.arange(215)[:, None] < 3, np.inf, np.zeros((215, 2048)))))
    with pytest.raises(DataError, match="holds NaN or infinity in 3 of 215 rows"):
        read_features(tmp_path, "a", "resnet50", CLIP)
    put_features(tmp_path, RGB, "a", 216, 1024)
    put_features(tmp_path, FLOW, "a", 214, 1024)
    with pytest.raises(DataError, match=rf"do not belong together: 216 rows in {RGB} and 214 rows in {FLOW}"):
        read_features(tmp_path, "a", "bninception", CLIP)


@pytest.mark.parametrize(
    ("clip", "said"),
    [
        (Clip(sample_rate=16000), "sample_rate of the clip is 16000, but released files have 22050"),
        (Clip(mels=64), "mels of the clip is 64, but released files have 80"),
        (Clip(feature_fps=25.0), r"feature_fps of the clip is 25\.0, but released files have 21\.5"),
        (Clip(frames=864), "a clip of 864 mel frames and 216 features is too long: released files have 860 and 215"),
    ],
)
def test_clips_of_other_settings_are_refused(tmp_path, vas, clip, said):
    for read in (
        lambda: read_mel(vas / "dog" / MELS / "video_00000_mel.npy", clip),
        lambda: read_features(vas / "dog", "video_00000", "resnet50", clip),
        lambda: write_shards(ReleasedFolder(vas), tmp_path / "shards", "resnet50", clip),
    ):
        with pytest.raises(ParameterError, match=said):
            read()


def test_other_backbones_are_refused(vas, tmp_path):
    with pytest.raises(ParameterError, match="backbone is 'clip', but must be resnet50 or bninception, whose features were released"):
        read_features(vas / "dog", "video_00000", "clip", CLIP)
    with pytest.raises(ParameterError, match="backbone is 'clip', but must be"):
        write_shards(ReleasedFolder(vas), tmp_path / "shards", "clip", CLIP)


def test_vas_folders_give_labels(vas):
    folder = ReleasedFolder(vas)
    assert [(clip.clip_id, clip.label) for clip in folder] == [
        ("baby/video_00000", "baby"),
        ("dog/video_00000", "dog"),
        ("dog/video_00001", "dog"),
    ]
    assert len(folder) == 3
    assert all(clip.mel_path.exists() for clip in folder)


def test_vggsound_has_no_labels(tmp_path):
    put_mel(tmp_path, "-Qowmc0P9ic_34000_44000")
    put_mel(tmp_path, "_mel-Abc1234_0_10000")
    assert [(clip.clip_id, clip.label) for clip in ReleasedFolder(tmp_path)] == [
        ("-Qowmc0P9ic_34000_44000", ""),
        ("_mel-Abc1234_0_10000", ""),
    ]


def test_lists_give_splits(vas, tmp_path):
    (tmp_path / "vas_train.txt").write_text("dog/video_00001\nbaby/video_00000\nsneeze/video_00009\n")
    (tmp_path / "vas_valid.txt").write_text("dog/video_00000\n")
    folder = ReleasedFolder(vas, {"train": tmp_path / "vas_train.txt", "valid": tmp_path / "vas_valid.txt"})
    assert [clip.split for clip in folder] == ["train", "valid", "train"]
    assert {clip.split for clip in ReleasedFolder(vas)} == {""}
    with pytest.raises(DataError, match=r"there is no list of clips .*none\.txt"):
        ReleasedFolder(vas, {"train": tmp_path / "none.txt"})


def test_a_folder_without_mels_is_refused(tmp_path):
    put_features(tmp_path / "dog", RESNET, "video_00000")
    with pytest.raises(DataError, match=r"there is no mel in .*; it must contain melspec_10s_22050hz"):
        ReleasedFolder(tmp_path)


def test_shards_equal_the_files(vas, tmp_path):
    rng = np.random.default_rng(0)
    put_mel(vas / "dog", "video_00000", rng.random((80, 860)))
    folder = ReleasedFolder(vas)
    assert write_shards(folder, tmp_path, "resnet50", CLIP) == {"features": 3, "mels": 3}
    features, mels = Shard(tmp_path, "features"), Shard(tmp_path, "mels")
    assert features.extractor == {
        "source": "released files",
        "clip": CLIP.model_dump(),
        "backbone": "resnet50",
        "dim": 2048,
        "rows_per_column": 4,
    }
    for i, item in enumerate(folder):
        row = ItemRow(item.clip_id, "clip", item.label, "", 22050)
        assert mels.entries[i].row == row
        assert features.entries[i].row == FeaturesRow(**vars(row))
        np.testing.assert_array_equal(features[i], read_features(item.folder, item.stem, "resnet50", CLIP))
        assert mels[i].shape == (848, 80)
        assert np.abs(mels[i].T.astype(np.float32) - read_mel(item.mel_path, CLIP)).max() < 0.00025
    assert np.abs(mels[1].T.astype(np.float32) - read_mel(folder.clips[1].mel_path, CLIP)).max() > 0.0002


def test_crops_of_a_whole_clip_are_the_middle_of_its_file(vas, tmp_path):
    """However often they are drawn, as in the released trainings."""
    write_shards(ReleasedFolder(vas), tmp_path / "shards", "resnet50", CLIP)
    crops = open_crops(tmp_path / "shards", "", CLIP.n_samples).batch(generators(0, 0, range(8))).sound
    middle = np.arange(860)[6:854] / 860
    np.testing.assert_allclose(crops, np.broadcast_to(middle, (8, 80, 848)), atol=2e-3)


def test_damaged_files_are_left_out_and_logged(vas, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    (vas / "dog" / RESNET / "video_00000.pkl").write_bytes(b"\x80\x04cos\nsystem\n.")
    put_mel(vas / "dog", "video_00001").write_bytes(b"\x93NUMPY")
    (vas / "baby" / RESNET / "video_00000.pkl").write_bytes(pickle.dumps(np.full((215, 2048), 1e5, np.float32)))
    assert write_shards(ReleasedFolder(vas), tmp_path, "resnet50", CLIP) == {"features": 1, "mels": 2}
    assert [entry.row.clip_id for entry in Shard(tmp_path, "features").entries] == ["dog/video_00001"]
    assert [entry.row.clip_id for entry in Shard(tmp_path, "mels").entries] == ["baby/video_00000", "dog/video_00000"]
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 3
    assert "left out: the resnet50 features of baby/video_00000 reach 100000, too much for float16." in messages[0]
    assert "left out: " in messages[1]
    assert "dog" in messages[1]
    assert "refers to 'os.system'" in messages[1]
    assert "video_00001_mel.npy was not read, because it is truncated" in messages[2]


def test_a_shard_without_items_is_an_error(vas, tmp_path):
    with pytest.raises(DataError, match=r"none of 3 clips in .* has usable features; the log has the reasons"):
        write_shards(ReleasedFolder(vas), tmp_path, "bninception", CLIP)


def test_clips_of_vggsound_get_the_labels_of_its_table(tmp_path):
    for stem in ("-Qowmc0P9ic_34000_44000", "00000000000_1000_11000"):
        put_mel(tmp_path / "vggsound", stem)
    table = tmp_path / "vggsound.csv"
    table.write_text('-Qowmc0P9ic,34,"dog barking",test\nzzzzzzzzzzz,0,"cat purring",train\n')
    assert [clip.label for clip in ReleasedFolder(tmp_path / "vggsound", labels=table)] == ["dog barking", ""]
    table.write_text("zzzzzzzzzzz,0,cat purring,train\n")
    with pytest.raises(DataError, match=r"vggsound\.csv names none of the 2 clips"):
        ReleasedFolder(tmp_path / "vggsound", labels=table)


def test_a_table_of_labels_beside_class_folders_is_refused(vas, tmp_path):
    (tmp_path / "vggsound.csv").write_text("")
    with pytest.raises(ParameterError, match="are classes, so it needs no table of labels; leave out"):
        ReleasedFolder(vas, labels=tmp_path / "vggsound.csv")
