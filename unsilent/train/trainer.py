"""What the loop asks of a training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning_fabric
import numpy as np
import torch
from torch import Tensor, nn

from unsilent.train.report import Examples
from unsilent.train.steps import Batch, Learning


@runtime_checkable
class Trainer(Protocol):
    """One network in training, with what judges it, and its data.

    Attributes:
        module: the network whose weights (averaged) are the result.
        optimizers: all optimizers; the loop sets their learning rate.
        memory: other tensors that a resumed training needs, changed in place.
        others: networks beside `module` that a resumed training needs, such as a discriminator, by name.
        data: digests of what is learnt from, shards and judges, by name.
        replaced: rows of the module's weights, by name, that the last step has set anew rather than moved; their average begins again.
    """

    module: nn.Module
    optimizers: list[torch.optim.Optimizer]
    memory: dict[str, Tensor]
    others: dict[str, nn.Module]
    data: dict[str, str]
    replaced: dict[str, list[Tensor]]

    def draw(self, rngs: Sequence[np.random.Generator]) -> Batch:
        """A batch with one item by each generator; called ahead of time by other threads, so it must depend on nothing else."""
        ...

    def step(self, learning: Learning, batch: Batch) -> dict[str, Tensor]:
        """Learn from one part of a batch, which is on the device; the losses to log."""
        ...

    def examples(self, batch: Batch) -> Examples:
        """What the module, which is in evaluation mode with averaged weights, makes of a batch of two.

        Only the first process is asked, so it must not communicate.
        """
        ...

    def validate(self, fabric: lightning_fabric.Fabric) -> dict[str, float]:
        """Figures of the module, which is in evaluation mode with averaged weights, on material that it does not learn from.

        The lowest `loss` is the best.

        Only the first process is asked, so it must not communicate.
        """
        ...

    def save(self, folder: Path, weights: dict[str, Tensor], record: dict[str, Any]) -> None:
        """Write `weights` as a checkpoint folder of this project."""
        ...
