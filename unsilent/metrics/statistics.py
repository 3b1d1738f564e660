"""Shared functions of the metrics: validation of rows, moments, log-softmax."""

from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from unsilent.errors import ParameterError

_BLOCK = 8192  # rows converted to float64 at once; a test set of 145 000 clips would not fit twice in memory


@dataclass(frozen=True)
class Score:
    """Mean and standard deviation over parts of the data.

    Attributes:
        value: mean over the parts.
        std: population standard deviation over the parts.
    """

    value: float
    std: float

    @classmethod
    def over(cls, parts: list[float]) -> "Score":
        """The score of one value per part."""
        return cls(value=float(np.mean(parts)), std=float(np.std(parts)))


@dataclass(frozen=True)
class Moments:
    """Mean and scatter matrix of rows; adding two gives the moments of both sets of rows together.

    Attributes:
        count: number of rows.
        mean: mean of each column, float64.
        scatter: sum over rows of the outer product of the deviation from the mean, float64.

    Source:
        Chan, Golub and LeVeque 1979, which avoids the cancellation of sums of squares for small deviations from a large mean.
    """

    count: int
    mean: Float[np.ndarray, "dim"]
    scatter: Float[np.ndarray, "dim dim"]

    @classmethod
    def of(cls, rows: Float[np.ndarray, "samples dim"]) -> "Moments":
        """Moments of finite rows, one or more."""
        return reduce(add, (cls._of_block(rows[start : start + _BLOCK].astype(np.float64)) for start in range(0, len(rows), _BLOCK)))

    @classmethod
    def _of_block(cls, rows: Float[np.ndarray, "samples dim"]) -> "Moments":
        mean = rows.mean(0)
        return cls(len(rows), mean, (rows - mean).T @ (rows - mean))

    def __add__(self, other: "Moments") -> "Moments":
        count = self.count + other.count
        step = other.mean - self.mean
        scatter = self.scatter + other.scatter + np.outer(step, step) * (self.count * other.count / count)
        return Moments(count, self.mean + step * (other.count / count), scatter)

    @property
    def covariance(self) -> Float[np.ndarray, "dim dim"]:
        """Unbiased estimate from 2 rows or more."""
        return self.scatter / (self.count - 1)


def as_rows(values: np.ndarray | Tensor, what: str, at_least: int) -> Float[np.ndarray, "samples dim"]:
    """Validate values of any float dtype on any device, and convert them to an array.

    Args:
        values: one row per clip.
        what: name of the values in errors.
        at_least: minimum number of rows.

    Raises:
        ParameterError: if the values are not a matrix, have too few rows, or contain NaN or infinity.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()  # numpy has no bfloat16
    if values.ndim != 2:
        raise ParameterError(f"the {what} have {values.ndim} dimensions; give 2, one row per clip.")
    if len(values) < at_least:
        raise ParameterError(f"the {what} have {len(values)} rows; this metric takes {at_least} or more.")
    if bad := int((~np.isfinite(values).all(1)).sum()):
        raise ParameterError(f"{bad} of {len(values)} rows of the {what} hold NaN or infinity; leave those clips out.")
    return values


def refuse_different_widths(one: str, width: int, other: str, other_width: int) -> None:
    """Check that two sets of rows have the same width, so that they can come from one classifier.

    Raises:
        ParameterError: if the widths differ.
    """
    if width != other_width:
        raise ParameterError(
            f"{one} rows have {width} columns, {other} ones {other_width}; take both from the same layer of one classifier."
        )


def log_softmax(logits: Float[np.ndarray, "samples labels"]) -> Float[np.ndarray, "samples labels"]:
    """Log-probabilities in float64; finite for all finite logits."""
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
