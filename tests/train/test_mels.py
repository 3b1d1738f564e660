"""Codebooks and classifiers train from a folder that has mels and no waveforms."""

import json

import numpy as np
import pytest
import torch

from unsilent import presets
from unsilent.data.shards import Shard, write_shard
from unsilent.errors import DataError
from unsilent.signal.mel import log_mel01
from unsilent.train.config import ClassifierRun, CodebookRun, VocoderRun
from unsilent.train.run import train

COMMON = {"preset": "smoke", "steps": 2, "batch": 2, "warmup_steps": 0, "learning_rate": 1e-3, "show_every": 1}
SMALL = {"network": "vggishish", "crop_frames": 32, "width": 4, "grid": (2, 1), "hidden": 16, "valid_every": 2}


@pytest.fixture
def mels(make_shards, tmp_path):
    waveforms, clip = Shard(make_shards(tmp_path / "waves", ("train", "valid")), "waveforms"), presets.get("smoke").clip
    mels = [log_mel01(torch.from_numpy(waveforms[i] / np.float32(32768))[None], clip)[0].T.numpy() for i in range(len(waveforms))]
    items = [((255 * mel).astype(np.uint8), entry.row) for mel, entry in zip(mels, waveforms.entries, strict=True)]
    write_shard(tmp_path / "mels", "mels", items, {"clip": clip.model_dump()})
    return tmp_path / "mels"


@pytest.mark.parametrize("run", [(CodebookRun, {"kind": "codebook", "crop_columns": 2}), (ClassifierRun, {"kind": "classifier", **SMALL})])
def test_mels_are_enough_for_codebooks_and_classifiers(mels, tmp_path, run):
    kind, settings = run
    folder = train(kind(shards=mels, out=tmp_path / "out", **COMMON, **settings), False)
    assert f'"mels": "{Shard(mels, "mels").digest}"' in json.dumps(json.loads((folder / "config.json").read_text()))


def test_vocoders_need_waveforms(mels, tmp_path):
    with pytest.raises(DataError, match="no shard 'waveforms'"):
        train(VocoderRun(kind="vocoder", shards=mels, out=tmp_path / "out", **COMMON), False)
