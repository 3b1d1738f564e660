"""Threads are changed for small networks only, and always put back."""

import pytest
import torch
from torch import nn

from unsilent.runtime import SMALL_PARAMETERS, stepping_threads


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_a_small_network_steps_on_one_thread():
    with stepping_threads(nn.Linear(4, 4)):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_a_large_one_keeps_all():
    with torch.device("meta"):
        large = nn.Linear(SMALL_PARAMETERS, 1)
    with stepping_threads(large):
        assert torch.get_num_threads() == 2


def test_threads_come_back_after_an_error():
    with pytest.raises(RuntimeError, match="stop"), stepping_threads(nn.Linear(4, 4)):
        raise RuntimeError("stop")
    assert torch.get_num_threads() == 2
