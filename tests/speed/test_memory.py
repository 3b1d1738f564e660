"""The limit of a process's memory, in a process of its own."""

import subprocess
import sys

import pytest

SCRIPT = """
import numpy as np, torch
from unsilent.speed.memory import is_out_of_memory, limit_memory
limit_memory(3 << 30)
kept = torch.ones(1 << 28)  # 1 GiB
for allocate in (lambda: torch.empty(1 << 30), lambda: np.empty(1 << 30, np.float32), lambda: bytearray(1 << 32)):
    try:
        allocate()
    except (MemoryError, RuntimeError) as error:
        assert is_out_of_memory(error), error
    else:
        raise AssertionError("4 GiB were given")
assert kept.sum() == 1 << 28
assert not is_out_of_memory(RuntimeError("shapes do not match"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not count a process's own memory")
def test_allocations_beyond_the_limit_fail_and_the_process_goes_on():
    subprocess.run([sys.executable, "-c", SCRIPT], check=True)
