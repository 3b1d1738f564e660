"""Code order: column by column, low to high frequency, as in the paper."""

import pytest
import torch

from unsilent.errors import ParameterError
from unsilent.models.code_order import to_grid, to_sequence


@pytest.mark.parametrize("columns", [1, 2, 53, 120])
def test_to_grid_inverts_to_sequence(columns):
    grid = torch.randint(1024, (2, 5, columns), generator=torch.Generator().manual_seed(0))
    assert torch.equal(to_grid(to_sequence(grid), 5), grid)


def test_order_is_the_published_one():
    """Row-major indices of a 5 x 53 grid, in the released model's order."""
    grid = torch.arange(265).reshape(1, 5, 53)
    assert to_sequence(grid)[0, :7].tolist() == [0, 53, 106, 159, 212, 1, 54]


def test_incomplete_columns_are_refused():
    with pytest.raises(ParameterError, match="7 codes do not fill complete columns of 5 rows"):
        to_grid(torch.zeros(1, 7, dtype=torch.long), 5)
