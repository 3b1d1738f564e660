"""Pairs of sounds and what is seen: of one label at every moment, a function of their generator alone, with motion that fits."""

import numpy as np
import pytest
import torch

from unsilent.clip import Clip
from unsilent.data.datasets import generators
from unsilent.data.pairs import PairedCodes
from unsilent.data.shards import write_shard
from unsilent.errors import DataError

CLIP = Clip(frames=160)  # ten columns


def test_same_generator_same_batch(shards):
    pairs = PairedCodes(shards, "train", CLIP)
    first, second = pairs.batch(generators(3, 0, range(4))), pairs.batch(generators(3, 0, range(4)))
    assert torch.equal(first.codes, second.codes)
    assert torch.equal(first.features, second.features)


def test_nothing_left_is_an_error(shards):
    with pytest.raises(DataError, match="no label of the split 'test'"):
        PairedCodes(shards, "test", CLIP)


def test_sound_and_picture_of_a_moment_have_one_label(shards):
    """Codes and features were filled with the label's number, so they must agree at every column, also across a change of label."""
    codes, features, *_ = PairedCodes(shards, "train", CLIP, real_share=0.0, cut_share=1.0).batch(generators(0, 0, range(32)))
    assert codes.shape == (32, 50)
    assert features.shape == (32, 10, 6)
    columns = codes.reshape(32, 10, 5)
    assert torch.equal(columns, features[..., :5].long())
    assert any(len(set(row[:, 0].tolist())) == 2 for row in columns)


def test_a_real_clip_keeps_its_own_timing_and_repeats(shards):
    codes, features, *_ = PairedCodes(shards, "train", CLIP, real_share=1.0).batch(generators(0, 0, range(1)))
    assert (codes == 7).all()
    expected = torch.arange(36.0).reshape(6, 6)[torch.arange(10) % 6]
    assert torch.equal(features[0], expected)


def test_labels_are_those_of_the_first_scene(shards):
    """Codes were filled with the label's number, counted from 1."""
    pairs = PairedCodes(shards, "train", CLIP, real_share=0.0, cut_share=1.0)
    batch = pairs.batch(generators(0, 0, range(32)))
    assert (batch.labels + 1).tolist() == batch.codes[:, 0].tolist()
    assert set(batch.labels.tolist()) == {0, 1}


def test_a_real_clip_without_a_name_has_no_label(shards):
    pairs = PairedCodes(shards, "train", CLIP, real_share=1.0)
    assert pairs.batch(generators(0, 0, range(2))).labels.tolist() == [-1, -1]
    named = PairedCodes(shards, "train", CLIP, real_share=1.0, named_only=True)
    assert not named.real
    assert min(named.batch(generators(0, 0, range(8))).labels) >= 0


def test_several_features_for_each_column_stay_beside_it(tmp_path):
    """Codes hold their column's number, features that of their row: four rows to a column, from the fifth column on."""
    about = {"clip_id": "a", "kind": "clip", "label": "", "split": "train", "sample_rate": 22050}
    codes = np.repeat(np.arange(5, 12, dtype=np.int16)[:, None], 5, axis=1)
    write_shard(tmp_path, "codes", [(codes, {**about, "start_column": 5})], {})
    rows = np.arange(48, dtype=np.float16)[:, None]
    write_shard(tmp_path, "features", [(rows, about)], {"rows_per_column": 4})
    codes, features, _, labels, _ = PairedCodes(tmp_path, "train", CLIP, real_share=1.0).batch(generators(0, 0, range(1)))
    assert features.shape == (1, 40, 1)
    assert labels.tolist() == [-1]
    columns = codes.reshape(10, 5)[:, 0]
    assert columns.tolist() == [5, 6, 7, 8, 9, 10, 11, 5, 6, 7]
    assert torch.equal(features[0, :, 0].reshape(10, 4), columns[:, None] * 4 + torch.arange(4.0))


@pytest.fixture
def claps(tmp_path):
    """Claps, one every half second from 0.25 s on, encoded as they are, 2000 samples later, and faster, with a picture; and a real clip."""
    rng, wave = np.random.default_rng(0), np.zeros(4 * 22050)
    for start in range(5512, len(wave), 11025):
        wave[start : start + 2000] = rng.standard_normal(2000) * np.exp(-np.arange(2000) / 300)
    about = {"clip_id": "clap", "kind": "sound", "label": "clap", "split": "train", "sample_rate": 22050}
    clip = about | {"clip_id": "real", "kind": "clip"}
    write_shard(tmp_path, "waveforms", [((wave * 6000).astype(np.int16), about), (wave.astype(np.int16), clip)], {})
    where = {"item": 0, "start_column": 0}
    grid = np.zeros((21, 5), np.int16)
    ways = {"as it is": (0, 1.0), "later": (2000, 1.0), "faster": (0, 1.25)}
    codes = [(grid, {**about, **where, "shift_samples": shift, "speed": speed}) for shift, speed in ways.values()]
    write_shard(tmp_path, "codes", [*codes, (grid[:5], {**clip, **where, "item": 1, "shift_samples": 0, "start_column": 5})], {})
    pictures = [(np.zeros((3, 6), np.float16), about | {"kind": "image"}), (np.zeros((12, 6), np.float16), clip)]
    write_shard(tmp_path, "features", pictures, {})
    levels = np.zeros((12, 8), np.float16)
    levels[6, 3] = 3.0  # the second number of the second picture of column 6, the second of those heard
    write_shard(tmp_path, "motion", [(levels, clip)], {})
    return tmp_path


def test_onsets_are_those_of_the_stretch(claps):
    """Moments are quarters of a column: claps at 0.25 s are in the sixth, earlier by 2000 samples or a fifth in the fourth and fifth."""
    pairs = PairedCodes(claps, "train", CLIP, real_share=0.0, motion=True)
    assert [int(pairs._strength(item, 0, 2).argmax()) for item in (0, 1, 2)] == [5, 3, 4]
    assert int(pairs._strength(0, 2, 3).argmax()) == round(0.75 * CLIP.feature_fps) - 8
    assert pairs._strength(0, 20, 5)[-16:].tolist() == [0] * 16  # after its end


def test_made_up_motion_goes_with_its_sound(claps):
    """What moves in composed clips tells when they begin to sound, but not exactly; in some nothing moves."""
    pairs = PairedCodes(claps, "train", CLIP, real_share=0.0, cut_share=0.0, motion=True)
    rngs = generators(0, 0, range(64))
    found, again = pairs.batch(rngs).motion, pairs.batch(generators(0, 0, range(64))).motion
    assert torch.equal(found, again)
    assert found.shape == (64, 10, 8)
    assert 0 <= found.min() < found.max() <= 2
    still = (found == 0).flatten(1).all(1)
    assert 8 <= still.sum() <= 32
    strongest = found[~still].reshape(-1, 40, 2)[..., 1]
    # the sounds begin anywhere, so it is looked for the period of claps of 10.75 moments: alike after two, unlike after one and a half
    centred = strongest - strongest.mean(1, keepdim=True)
    alike = {lag: float((centred[:, lag:] * centred[:, :-lag]).mean()) for lag in (16, 21)}
    assert alike[21] > 0 > alike[16]


def test_a_real_clip_keeps_its_own_motion_and_repeats(claps):
    motion = PairedCodes(claps, "train", CLIP, real_share=1.0, motion=True).batch(generators(0, 0, range(1))).motion
    assert torch.nonzero(motion[0]).tolist() == [[1, 3], [6, 3]]


def test_clips_without_motion_are_no_pairs_of_it(claps):
    write_shard(claps, "motion", [], {})
    with pytest.raises(DataError, match=r"no clip of the split 'train' in .* has both codes and features"):
        PairedCodes(claps, "train", CLIP, real_share=1.0, motion=True)
    assert PairedCodes(claps, "train", CLIP, real_share=1.0).batch(generators(0, 0, range(1))).motion is None


def test_without_labels_only_real_clips_will_do(tmp_path):
    about = {"clip_id": "a", "kind": "clip", "label": "", "split": "train", "sample_rate": 22050}
    write_shard(tmp_path, "codes", [(np.zeros((5, 5), np.int16), {**about, "start_column": 0})], {})
    write_shard(tmp_path, "features", [(np.zeros((5, 2), np.float16), {**about, "clip_id": "b"})], {})
    with pytest.raises(DataError, match="no label of the split 'train'"):
        PairedCodes(tmp_path, "train", CLIP)
    with pytest.raises(DataError, match=r"no clip of the split 'train' in .* has both codes and features"):
        PairedCodes(tmp_path, "train", CLIP, real_share=1.0)
