"""The interface between trainers and the training loop."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning_fabric
import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.optim import Optimizer

from unsilent.train.report import Examples
from unsilent.train.steps import Batch, StepContext


@dataclass(frozen=True)
class StepResult:
    """Result of one part of a step.

    Attributes:
        metrics: losses and other scalars to log.
        replaced: rows of a weight that were replaced instead of optimised, by state-dict name; their moving average restarts.
    """

    metrics: dict[str, Float[Tensor, ""]]
    replaced: dict[str, list[Int64[Tensor, "_"]]] = field(default_factory=dict)


@dataclass(eq=False)
class Trainer(ABC):
    """A network in training, with its losses and data.

    Attributes:
        module: network whose moving average is the result, set up with Fabric.
        optimizers: all optimizers; the loop sets their learning rates.
        data: digests of the shards and checkpoints that the training depends on, by name.
        tensors: further tensors of the state, changed in place.
        others: further networks of the state, such as a discriminator.
    """

    module: nn.Module
    optimizers: list[Optimizer]
    data: dict[str, str]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    others: dict[str, nn.Module] = field(default_factory=dict)

    @abstractmethod
    def draw(self, rngs: Sequence[np.random.Generator]) -> Batch:
        """Return a batch with one item for each generator. Threads call it in advance, so it must depend on the generators only."""

    @abstractmethod
    def step(self, context: StepContext, batch: Batch) -> StepResult:
        """Train on one part of a batch, which is on the networks' device."""

    @abstractmethod
    def examples(self, batch: Batch) -> Examples:
        """Outputs for a batch of two, for TensorBoard.

        The module is in evaluation mode with averaged weights. Only the first process calls this, so it must not communicate.
        """

    @abstractmethod
    def validate(self, fabric: lightning_fabric.Fabric) -> dict[str, float]:
        """Metrics on validation data; the weights with the lowest `loss` are kept.

        The module is in evaluation mode with averaged weights. Only the first process calls this, so it must not communicate.
        """

    @abstractmethod
    def save(self, folder: Path, weights: dict[str, Tensor], record: dict[str, Any]) -> None:
        """Write `weights` as a checkpoint folder."""
