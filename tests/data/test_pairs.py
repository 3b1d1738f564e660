"""Code sequences with features and motion: reproducible, of one label in every column, in time."""

import numpy as np
import pytest
import torch

from unsilent.clip import Clip
from unsilent.data.datasets import generators
from unsilent.data.pairs import PairedCodes
from unsilent.data.rows import CodesRow, FeaturesRow, ItemRow
from unsilent.data.shards import write_shard
from unsilent.errors import DataError

CLIP = Clip(frames=160)  # ten columns


def codes_row(columns, item=0, start_column=0, shift_samples=0, speed=1.0):
    return CodesRow(*columns, item=item, variant=0, speed=speed, shift_samples=shift_samples, start_column=start_column)


def test_batch_depends_only_on_the_generators(shards):
    pairs = PairedCodes(shards, "train", CLIP)
    first, second = pairs.batch(generators(3, 0, range(4))), pairs.batch(generators(3, 0, range(4)))
    assert torch.equal(first.codes, second.codes)
    assert torch.equal(first.features, second.features)


def test_a_split_without_labels_is_an_error(shards):
    with pytest.raises(DataError, match="no label of the split 'test'"):
        PairedCodes(shards, "test", CLIP)


def test_codes_and_features_of_a_column_have_one_label(shards):
    """Codes and features are the label's number, so they agree in every column, also where the label changes."""
    codes, features, *_ = PairedCodes(shards, "train", CLIP, real_share=0.0, cut_share=1.0).batch(generators(0, 0, range(32)))
    assert codes.shape == (32, 50)
    assert features.shape == (32, 10, 6)
    columns = codes.reshape(32, 10, 5)
    assert torch.equal(columns, features[..., :5].long())
    assert any(len(set(row[:, 0].tolist())) == 2 for row in columns)


def test_a_short_real_clip_keeps_its_timing_and_repeats(shards):
    codes, features, *_ = PairedCodes(shards, "train", CLIP, real_share=1.0).batch(generators(0, 0, range(1)))
    assert (codes == 7).all()
    expected = torch.arange(36.0).reshape(6, 6)[torch.arange(10) % 6]
    assert torch.equal(features[0], expected)


def test_label_is_that_of_the_first_column(shards):
    """Codes are the label's number, counted from 1."""
    pairs = PairedCodes(shards, "train", CLIP, real_share=0.0, cut_share=1.0)
    batch = pairs.batch(generators(0, 0, range(32)))
    assert (batch.labels + 1).tolist() == batch.codes[:, 0].tolist()
    assert set(batch.labels.tolist()) == {0, 1}


def test_an_unlabelled_clip_has_label_minus_one(shards):
    pairs = PairedCodes(shards, "train", CLIP, real_share=1.0)
    assert pairs.batch(generators(0, 0, range(2))).labels.tolist() == [-1, -1]
    named = PairedCodes(shards, "train", CLIP, real_share=1.0, named_only=True)
    assert not named.real
    assert min(named.batch(generators(0, 0, range(8))).labels) >= 0


def test_several_features_of_each_column_stay_with_it(tmp_path):
    """Codes are the column's number, features the row's: four rows in each column, starting at column 5."""
    columns = "a", "clip", "", "train", 22050
    codes = np.repeat(np.arange(5, 12, dtype=np.int16)[:, None], 5, axis=1)
    write_shard(tmp_path, "codes", [(codes, codes_row(columns, start_column=5))], {})
    rows = np.arange(48, dtype=np.float16)[:, None]
    write_shard(tmp_path, "features", [(rows, FeaturesRow(*columns))], {"rows_per_column": 4})
    codes, features, labels, *_ = PairedCodes(tmp_path, "train", CLIP, real_share=1.0).batch(generators(0, 0, range(1)))
    assert features.shape == (1, 40, 1)
    assert labels.tolist() == [-1]
    columns = codes.reshape(10, 5)[:, 0]
    assert columns.tolist() == [5, 6, 7, 8, 9, 10, 11, 5, 6, 7]
    assert torch.equal(features[0, :, 0].reshape(10, 4), columns[:, None] * 4 + torch.arange(4.0))


@pytest.fixture
def claps(tmp_path):
    """A clap every half second from 0.25 s on, encoded unchanged, shifted by 2000 samples, and faster; an image; and a real clip."""
    rng, wave = np.random.default_rng(0), np.zeros(4 * 22050)
    for start in range(5512, len(wave), 11025):
        wave[start : start + 2000] = rng.standard_normal(2000) * np.exp(-np.arange(2000) / 300)
    sound, image, clip = ((name, kind, "clap", "train", 22050) for name, kind in (("clap", "sound"), ("clap", "image"), ("real", "clip")))
    waves = [((wave * 6000).astype(np.int16), ItemRow(*sound)), (wave.astype(np.int16), ItemRow(*clip))]
    write_shard(tmp_path, "waveforms", waves, {})
    grid = np.zeros((21, 5), np.int16)
    variants = {"unchanged": (0, 1.0), "shifted": (2000, 1.0), "faster": (0, 1.25)}
    codes = [(grid, codes_row(sound, shift_samples=shift, speed=speed)) for shift, speed in variants.values()]
    write_shard(tmp_path, "codes", [*codes, (grid[:5], codes_row(clip, item=1, start_column=5))], {})
    features = [(np.zeros((3, 6), np.float16), FeaturesRow(*image)), (np.zeros((12, 6), np.float16), FeaturesRow(*clip))]
    write_shard(tmp_path, "features", features, {"rows_per_column": 1})
    levels = np.zeros((12, 8), np.float16)
    levels[6, 3] = 3.0  # channel 1 at the second moment of column 6, the second column of the item
    write_shard(tmp_path, "motion", [(levels, ItemRow(*clip))], {})
    return tmp_path


def test_onset_strength_follows_shift_and_speed(claps):
    """Moments are quarters of a column: the clap at 0.25 s is in moment 5, shifted by 2000 samples in 3, 1.25 times as fast in 4."""
    pairs = PairedCodes(claps, "train", CLIP, real_share=0.0, motion=True)
    assert [int(pairs.onset_strength(item, 0, 2).argmax()) for item in (0, 1, 2)] == [5, 3, 4]
    assert int(pairs.onset_strength(0, 2, 3).argmax()) == round(0.75 * CLIP.feature_fps) - 8
    assert pairs.onset_strength(0, 20, 5)[-16:].tolist() == [0] * 16  # after the end of the sound


def test_synthetic_motion_follows_the_onsets(claps):
    """Approximately; some sequences have no motion."""
    pairs = PairedCodes(claps, "train", CLIP, real_share=0.0, cut_share=0.0, motion=True)
    rngs = generators(0, 0, range(64))
    found, again = pairs.batch(rngs).motion, pairs.batch(generators(0, 0, range(64))).motion
    assert torch.equal(found, again)
    assert found.shape == (64, 10, 8)
    assert 0 <= found.min() < found.max() <= 2
    still = (found == 0).flatten(1).all(1)
    assert 8 <= still.sum() <= 32
    strongest = found[~still].reshape(-1, 40, 2)[..., 1]
    # sounds start anywhere, so look for the period of 10.75 moments: correlated after two periods, not after one and a half
    centred = strongest - strongest.mean(1, keepdim=True)
    correlation = {lag: float((centred[:, lag:] * centred[:, :-lag]).mean()) for lag in (16, 21)}
    assert correlation[21] > 0 > correlation[16]


def test_a_short_real_clip_keeps_its_motion_and_repeats(claps):
    motion = PairedCodes(claps, "train", CLIP, real_share=1.0, motion=True).batch(generators(0, 0, range(1))).motion
    assert torch.nonzero(motion[0]).tolist() == [[1, 3], [6, 3]]


def test_clips_without_motion_are_left_out_if_motion_is_wanted(claps):
    write_shard(claps, "motion", [], {})
    with pytest.raises(DataError, match=r"no clip of the split 'train' in .* has both codes and features"):
        PairedCodes(claps, "train", CLIP, real_share=1.0, motion=True)
    assert PairedCodes(claps, "train", CLIP, real_share=1.0).batch(generators(0, 0, range(1))).motion is None


def test_pauses_are_silent_and_move_the_onsets(claps):
    """Codes of claps are 0, those of pauses 7."""
    pairs = PairedCodes(claps, "train", CLIP, 0.0, 0.0, motion=True, silence=np.full(5, 7, np.int16), pause_share=1.0)
    codes = pairs.batch(generators(0, 0, range(32))).codes.reshape(32, 10, 5)
    assert set(codes.unique().tolist()) == {0, 7}
    assert torch.equal(codes, codes[..., :1].expand_as(codes))
    share = (codes == 7).float().mean()
    assert 0.1 < share < 0.9
    without = PairedCodes(claps, "train", CLIP, 0.0, 0.0, motion=True).batch(generators(0, 0, range(32)))
    assert (without.codes == 0).all()


def test_onset_at_the_start_of_a_sound_counts(claps):
    """Silence in front of a sound moves its first onset; without any, an event at the first sample is one too."""
    pairs = PairedCodes(claps, "train", CLIP, real_share=0.0, motion=True)
    loud = np.zeros(8192, np.int16)
    loud[:2000] = 8000 * np.random.default_rng(0).standard_normal(2000).clip(-3, 3)
    pairs.sound_items = [loud]
    pairs.code_rows = [codes_row(("a", "sound", "a", "train", 22050), shift_samples=shift) for shift in (0, -3300)]
    assert int(pairs.onset_strength(0, 0, 2).argmax()) == 0
    pairs.strengths.clear()
    assert int(pairs.onset_strength(1, 0, 2).argmax()) == 3300 // 1024


def test_labels_without_images_are_drawn_blind(claps):
    """Their features are zero and `seen` is false."""
    columns = "other", "sound", "whisper", "train", 22050
    rows = [(grid, row) for grid, row in ((np.full((4, 5), 3, np.int16), codes_row(columns)),)]
    write_shard(claps, "codes", rows, {})
    with pytest.raises(DataError, match="no label of the split 'train'"):
        PairedCodes(claps, "train", CLIP, real_share=0.0)
    pairs = PairedCodes(claps, "train", CLIP, real_share=0.0, cut_share=0.0, blind=True)
    batch = pairs.batch(generators(0, 0, range(3)))
    assert pairs.labels == ["whisper"]
    assert not batch.seen.any()
    assert (batch.features == 0).all()
    assert (batch.codes == 3).all()


def test_without_labels_and_pairs_nothing_can_be_drawn(tmp_path):
    columns = "clip", "", "train", 22050
    write_shard(tmp_path, "codes", [(np.zeros((5, 5), np.int16), codes_row(("a", *columns)))], {})
    write_shard(tmp_path, "features", [(np.zeros((5, 2), np.float16), FeaturesRow("b", *columns))], {"rows_per_column": 1})
    with pytest.raises(DataError, match="no label of the split 'train'"):
        PairedCodes(tmp_path, "train", CLIP)
    with pytest.raises(DataError, match=r"no clip of the split 'train' in .* has both codes and features"):
        PairedCodes(tmp_path, "train", CLIP, real_share=1.0)


def test_in_order_gives_every_real_clip_once(tmp_path):
    """One with two encodings, and one of another split."""
    place = {"item": 0, "speed": 1.0, "shift_samples": 0, "start_column": 0}
    rows = [("a", "valid", 0), ("a", "valid", 1), ("b", "valid", 0), ("c", "train", 0)]
    codes = [
        (np.full((4, 5), n, np.int16), CodesRow(name, "clip", "", split, 22050, variant=v, **place))
        for n, (name, split, v) in enumerate(rows)
    ]
    write_shard(tmp_path, "codes", codes, {})
    features = [
        (np.zeros((10, 6), np.float16), FeaturesRow(name, "clip", "", split, 22050)) for name, split in (("a", "valid"), ("b", "valid"))
    ]
    write_shard(tmp_path, "features", features, {"rows_per_column": 1})
    batches = list(PairedCodes(tmp_path, "valid", CLIP, real_share=1.0).in_order(1))
    assert [(batch.names, batch.codes[0, 0].item()) for batch in batches] == [(["a"], 0), (["b"], 2)]


def test_a_condition_without_features_needs_no_features(tmp_path):
    place = {"item": 0, "variant": 0, "speed": 1.0, "shift_samples": 0, "start_column": 0}
    codes = [(np.full((4, 5), n, np.int16), CodesRow(label, "sound", label, "train", 22050, **place)) for n, label in enumerate("ab")]
    write_shard(tmp_path, "codes", codes, {})
    batch = PairedCodes(tmp_path, "train", CLIP, real_share=1.0, named_only=True, features=False).batch(generators(0, 0, range(20)))
    assert batch.features is None
    assert torch.equal(batch.labels, batch.codes[:, 0])
    assert set(batch.labels.tolist()) == {0, 1}
