"""Shards of tones, and codes and pictures of two labels."""

import numpy as np
import pytest

from unsilent.data.shards import write_shard


@pytest.fixture
def shards(tmp_path):
    folder = tmp_path / "shards"
    rng = np.random.default_rng(0)

    def about(i, label, kind="sound"):
        return {"clip_id": f"{label}{i}{kind}", "kind": kind, "label": label, "split": "train", "sample_rate": 22050}

    tones = [np.sin(2 * np.pi * hz / 22050 * np.arange(30000)) * 8000 for hz in (220, 440, 880, 3000)]
    write_shard(folder, "waveforms", [(tone.astype(np.int16), about(i, "ab"[i % 2])) for i, tone in enumerate(tones)], {})
    grids = [(np.full((4, 5), n, np.int16), {**about(n, "ab"[n]), "start_column": 0}) for n in range(2)]
    write_shard(folder, "codes", grids, {})
    pictures = [(rng.standard_normal((3, 6)).astype(np.float16), about(n, "ab"[n], "image")) for n in range(2)]
    write_shard(folder, "features", pictures, {})
    return folder
