"""Material to shards: what is damaged or silent is left out and named, the rest has one loudness and a feature per picture."""

import logging

import numpy as np
import pytest
import torch

from unsilent.clip import Clip
from unsilent.data.extract import PSEUDO_FRAMES, extract_codes, extract_features, extract_waveforms, trim_silent_ends
from unsilent.data.manifest import read_folder
from unsilent.data.shards import Shard, write_shard
from unsilent.features import Backbone
from unsilent.models.codebook import Codebook, CodebookConfig
from unsilent.signal.loudness import loudness_lufs

CLIP = Clip(frames=64)


def quiet(clip_id):
    return None


@pytest.fixture
def waveforms(material, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    extract_waveforms(read_folder(material), material, tmp_path / "shards", CLIP, quiet)
    return tmp_path / "shards"


def test_good_sounds_come_through_at_one_loudness(waveforms, caplog):
    shard = Shard(waveforms, "waveforms")
    assert [entry.about["clip_id"] for entry in shard.entries] == ["low0", "low1", "low2", "high0", "high1", "high2"]
    for i in range(len(shard)):
        assert loudness_lufs(shard[i] / np.float32(32768), 22050) == pytest.approx(-23, abs=0.1)


def test_what_is_left_out_is_named(waveforms, caplog):
    said = " ".join(record.getMessage() for record in caplog.get_records("setup"))
    assert "damaged.wav" in said
    assert "silent.wav is silent or shorter" in said


def test_silent_ends_are_trimmed():
    sound = np.sin(np.arange(1000) / 5)
    padded = np.concatenate([np.zeros(300), sound, np.zeros(500)])
    assert 990 <= len(trim_silent_ends(padded)) <= 1000
    assert len(trim_silent_ends(np.zeros(10))) == 0


class MeanColour(torch.nn.Module):
    """A picture network whose feature is the mean colour, so that a test can predict it."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, images):
        return images.mean((2, 3)) * self.scale


def test_each_picture_gives_a_few_views(material, tmp_path):
    expects = Backbone(dim=3, size=32, short_side=36, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    made = extract_features(read_folder(material), material, tmp_path, CLIP, (MeanColour().eval(), expects), 0, quiet)
    shard = Shard(tmp_path, "features")
    assert made == len(shard) == 6
    assert shard.array.shape == (6 * PSEUDO_FRAMES, 3)
    assert shard[0].max() < 0.3  # the dark label
    assert shard[5].min() > 0.8  # the bright one


def test_codes_are_those_of_the_codebook(waveforms):
    torch.manual_seed(0)
    codebook = Codebook(CodebookConfig(clip=CLIP, n_codes=16, dim=8, channels=8, multipliers=(1, 1, 1, 1, 2), n_blocks=1)).eval()
    extract_codes(codebook, waveforms, 0, quiet)
    codes, sounds = Shard(waveforms, "codes"), Shard(waveforms, "waveforms")
    first = [entry for entry in codes.entries if entry.about["item"] == 0 and entry.about["variant"] == 0]
    assert sum(entry.length for entry in first) == CLIP.columns_for(len(sounds[0]))
    assert [entry.about["start_column"] for entry in first] == [0, 4]
    assert codes.array.shape[1] == CLIP.rows
    assert codes.array.max() < 16


def test_codes_of_mels_are_those_of_the_codebook(tmp_path):
    """Where a data set comes as mels, as the authors' does, each clip has one encoding."""
    torch.manual_seed(0)
    codebook = Codebook(CodebookConfig(n_codes=16, dim=8, channels=8, multipliers=(1, 1, 1, 1, 2), n_blocks=1)).eval()
    mel01 = np.random.default_rng(0).random((848, 80)).astype(np.float16)
    write_shard(tmp_path, "mels", [(mel01, {"clip_id": "a", "kind": "clip", "label": "", "split": "train", "sample_rate": 22050})], {})
    assert extract_codes(codebook, tmp_path, 0, lambda clip_id: None) == 1
    codes = Shard(tmp_path, "codes")
    expected = codebook.encode(2 * torch.from_numpy(mel01.astype(np.float32)).T[None] - 1)[0].T
    assert np.array_equal(codes[0], expected)
    assert (codes.entries[0].about["clip_id"], codes.entries[0].about["start_column"]) == ("a", 0)
