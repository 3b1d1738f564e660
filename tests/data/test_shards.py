"""Shards come back as they went in, and a broken one is noticed."""

import numpy as np
import pytest

from unsilent.data.shards import Shard, write_shard
from unsilent.errors import DataError


def test_round_trip(tmp_path):
    items = [(np.arange(6, dtype=np.int16).reshape(3, 2), {"clip_id": "a"}), (np.ones((1, 2), np.int16), {"clip_id": "b"})]
    assert write_shard(tmp_path, "codes", items, {"how": 1}) == 2
    shard = Shard(tmp_path, "codes")
    assert len(shard) == 2
    assert shard.extractor == {"how": 1}
    for i, (array, about) in enumerate(items):
        np.testing.assert_array_equal(shard[i], array)
        assert shard.entries[i].about == about


def test_a_missing_shard_is_named(tmp_path):
    with pytest.raises(DataError, match="no shard 'codes'"):
        Shard(tmp_path, "codes")


def test_a_short_file_is_noticed(tmp_path):
    write_shard(tmp_path, "codes", [(np.zeros((4, 2), np.int16), {})], {})
    (tmp_path / "codes.bin").write_bytes(b"123")
    with pytest.raises(DataError, match="has 3 bytes, its index promises 16"):
        Shard(tmp_path, "codes")


def test_an_interrupted_write_leaves_no_index(tmp_path):
    def items():
        yield np.zeros((4, 2), np.int16), {}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path, "codes", items(), {})
    with pytest.raises(DataError, match="no shard"):
        Shard(tmp_path, "codes")
