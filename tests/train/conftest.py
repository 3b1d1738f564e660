"""Shards of tones, and codes and pictures of two labels."""

import numpy as np
import pytest

from unsilent.data.shards import write_shard


def write_shards(folder, splits=("train",)):
    """Four tones, two grids and two pictures for each split, the same in all; their labels are `a` and `b`."""
    rng = np.random.default_rng(0)

    def about(i, label, split, kind="sound"):
        return {"clip_id": f"{label}{i}{kind}", "kind": kind, "label": label, "split": split, "sample_rate": 22050}

    tones = [(np.sin(2 * np.pi * hz / 22050 * np.arange(30000)) * 8000).astype(np.int16) for hz in (220, 440, 880, 3000)]
    write_shard(folder, "waveforms", [(tone, about(i, "ab"[i % 2], split)) for split in splits for i, tone in enumerate(tones)], {})
    where = {"item": 0, "shift_samples": 0, "start_column": 0}
    grids = [(np.full((4, 5), n, np.int16), {**about(n, "ab"[n], split), **where}) for split in splits for n in range(2)]
    write_shard(folder, "codes", grids, {})
    pictures = [rng.standard_normal((3, 6)).astype(np.float16) for _ in range(2)]
    write_shard(folder, "features", [(pictures[n], about(n, "ab"[n], split, "image")) for split in splits for n in range(2)], {})
    write_shard(folder, "motion", [], {})  # nobody filmed the tones
    return folder


@pytest.fixture
def shards(tmp_path):
    return write_shards(tmp_path / "shards")


@pytest.fixture(scope="session")
def make_shards():
    return write_shards
