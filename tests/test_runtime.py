"""Threads are changed for small networks only, and always put back."""

import pytest
import torch

from unsilent.runtime import SMALL_WEIGHTS, stepping_threads


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_a_small_network_steps_on_one_thread():
    with stepping_threads(16):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_a_large_one_keeps_all():
    with stepping_threads(SMALL_WEIGHTS):
        assert torch.get_num_threads() == 2


def test_threads_come_back_after_an_error():
    with pytest.raises(RuntimeError, match="stop"), stepping_threads(16):
        raise RuntimeError("stop")
    assert torch.get_num_threads() == 2
