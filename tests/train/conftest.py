"""Shards of tones, and codes and features of two labels."""

import numpy as np
import pytest

from unsilent.data.rows import CodesRow, FeaturesRow, ItemRow
from unsilent.data.shards import write_shard


def write_shards(folder, splits=("train",)):
    """Four tones, two grids of codes and two images for each split, with the labels `a` and `b`; the same in all splits."""
    rng = np.random.default_rng(0)

    def columns(i, split, kind="sound"):
        label = "ab"[i % 2]
        return f"{label}{i}{kind}", kind, label, split, 22050

    tones = [(np.sin(2 * np.pi * hz / 22050 * np.arange(30000)) * 8000).astype(np.int16) for hz in (220, 440, 880, 3000)]
    write_shard(folder, "waveforms", [(tone, ItemRow(*columns(i, split))) for split in splits for i, tone in enumerate(tones)], {})
    place = {"item": 0, "variant": 0, "speed": 1.0, "shift_samples": 0, "start_column": 0}
    grids = [(np.full((4, 5), n, np.int16), CodesRow(*columns(n, split), **place)) for split in splits for n in range(2)]
    write_shard(folder, "codes", grids, {})
    images = [rng.standard_normal((3, 6)).astype(np.float16) for _ in range(2)]
    features = [(images[n], FeaturesRow(*columns(n, split, "image"))) for split in splits for n in range(2)]
    write_shard(folder, "features", features, {"rows_per_column": 1})
    write_shard(folder, "motion", [], {})  # there are no videos
    return folder


@pytest.fixture
def shards(tmp_path):
    return write_shards(tmp_path / "shards")


@pytest.fixture(scope="session")
def make_shards():
    return write_shards
