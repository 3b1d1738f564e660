"""What all metrics share: rows checked before they are counted, moments that add up, probabilities that stay finite."""

from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from unsilent.errors import ParameterError

_BLOCK = 8192  # rows widened to float64 together, so that a test set of 145 000 clips needs no second copy in memory


@dataclass(frozen=True)
class Score:
    """A mean over parts of the data, and how much the parts differ.

    Attributes:
        value: mean over the parts.
        std: population standard deviation over the parts.
    """

    value: float
    std: float

    @classmethod
    def over(cls, parts: list[float]) -> "Score":
        """Of one number a part."""
        return cls(value=float(np.mean(parts)), std=float(np.std(parts)))


@dataclass(frozen=True)
class Moments:
    """Mean and scatter of rows; those of two sets add to those of both together.

    Attributes:
        count: rows seen.
        mean: of each column, float64.
        scatter: sum over rows of the outer product of their distance to the mean, float64.

    Source:
        Chan, Golub and LeVeque 1979, which stays exact where sums of squares lose the digits of a small spread around a large mean.
    """

    count: int
    mean: Float[np.ndarray, "dim"]
    scatter: Float[np.ndarray, "dim dim"]

    @classmethod
    def of(cls, rows: Float[np.ndarray | Tensor, "samples dim"]) -> "Moments":
        """Moments of some rows; add them up when the rows come in batches.

        Args:
            rows: one or more, finite.

        Raises:
            ParameterError: if there are no rows, or some are not finite.
        """
        rows = as_rows(rows, "features", at_least=1)
        return reduce(add, (cls._of_block(rows[start : start + _BLOCK].astype(np.float64)) for start in range(0, len(rows), _BLOCK)))

    @classmethod
    def _of_block(cls, rows: Float[np.ndarray, "samples dim"]) -> "Moments":
        mean = rows.mean(0)
        return cls(len(rows), mean, (rows - mean).T @ (rows - mean))

    def __add__(self, other: "Moments") -> "Moments":
        refuse_different_widths("real", len(self.mean), "generated", len(other.mean))
        count = self.count + other.count
        step = other.mean - self.mean
        scatter = self.scatter + other.scatter + np.outer(step, step) * (self.count * other.count / count)
        return Moments(count, self.mean + step * (other.count / count), scatter)

    @property
    def covariance(self) -> Float[np.ndarray, "dim dim"]:
        """Unbiased: the scatter over one less than the rows.

        Raises:
            ParameterError: if it is of less than 2 rows.
        """
        if self.count < 2:
            raise ParameterError(f"a covariance of {self.count} row was asked for; it takes 2 or more.")
        return self.scatter / (self.count - 1)


def as_rows(values: np.ndarray | Tensor, what: str, at_least: int) -> Float[np.ndarray, "samples dim"]:
    """Values of any float type on any device as an array on the CPU.

    Args:
        values: one row a clip.
        what: they are called in errors.
        at_least: rows that the metric takes.

    Raises:
        ParameterError: if they are no table, are too few, or hold NaN or infinity.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        # numpy has no bfloat16
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    if values.ndim != 2:
        raise ParameterError(f"the {what} have {values.ndim} dimensions; give 2, one row a clip.")
    if len(values) < at_least:
        raise ParameterError(f"the {what} have {len(values)} rows; this metric takes {at_least} or more.")
    if bad := int((~np.isfinite(values).all(1)).sum()):
        raise ParameterError(f"{bad} of {len(values)} rows of the {what} hold NaN or infinity; leave those clips out.")
    return values


def refuse_different_widths(one: str, width: int, other: str, other_width: int) -> None:
    """Two sets of rows must be of one classifier.

    Raises:
        ParameterError: with both widths.
    """
    if width != other_width:
        raise ParameterError(
            f"{one} rows have {width} columns, {other} ones {other_width}; take both from the same layer of one classifier."
        )


def log_softmax(logits: Float[np.ndarray, "samples labels"]) -> Float[np.ndarray, "samples labels"]:
    """Logarithms of probabilities in float64; finite for all finite logits."""
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
