"""The order in which the sampler writes the grid of codes: column by column in time, from low to high frequency within each.

Paper section 3.2: row by row would reconstruct low frequencies given the high ones of the whole clip, and could not continue a sound.
"""

from jaxtyping import Int
from torch import Tensor

from unsilent.errors import ParameterError


def to_sequence(grid: Int[Tensor, "batch rows columns"]) -> Int[Tensor, "batch sequence"]:
    """Write the columns one after another; row 0, the lowest frequency, comes first."""
    return grid.transpose(1, 2).flatten(1)


def to_grid(sequence: Int[Tensor, "batch sequence"], rows: int) -> Int[Tensor, "batch rows columns"]:
    """The inverse of `to_sequence`, for any number of whole columns.

    Raises:
        ParameterError: if the last column is incomplete.
    """
    if sequence.shape[1] % rows:
        raise ParameterError(f"{sequence.shape[1]} codes do not fill whole columns of {rows} rows.")
    return sequence.unflatten(1, (-1, rows)).transpose(1, 2)
