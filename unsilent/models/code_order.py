"""Order of the codes of a grid in the sampler's sequence: column by column in time, low to high frequency within a column.

In row-by-row order, a sound could not be continued, because every row spans the whole clip. Paper section 3.2.
"""

from jaxtyping import Int, Shaped
from torch import Tensor

from unsilent.errors import ParameterError


def to_sequence(grid: Int[Tensor, "batch rows columns"]) -> Int[Tensor, "batch sequence"]:
    """Concatenate the columns; row 0, the lowest frequency, comes first."""
    return grid.transpose(1, 2).flatten(1)


def to_grid(sequence: Int[Tensor, "batch sequence"], rows: int) -> Int[Tensor, "batch rows columns"]:
    """The inverse of `to_sequence`, for any number of complete columns.

    Raises:
        ParameterError: if the last column is incomplete.
    """
    if sequence.shape[1] % rows:
        raise ParameterError(f"{sequence.shape[1]} codes do not fill complete columns of {rows} rows.")
    return sequence.unflatten(1, (-1, rows)).transpose(1, 2)


def select_columns(sequence: Shaped[Tensor, "batch sequence *rest"], columns: Int[Tensor, "chosen"], rows: int) -> Shaped[Tensor, "..."]:
    """Parts of a sequence that belong to the chosen columns, concatenated."""
    return sequence.unflatten(1, (-1, rows))[:, columns].flatten(1, 2)
