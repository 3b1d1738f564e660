"""From a loss to moved weights, over parts of a batch and over processes alike: what the steps of all trainers have in common."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import lightning_fabric
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from unsilent.data.datasets import generators
from unsilent.errors import UnsilentError
from unsilent.train.config import Run

Batch = Any  # a named tuple of tensors, and of `names`, the clips they are from

_SPOKEN = 8  # names of a batch that an error tells, of each process


class TrainingDivergedError(UnsilentError):
    """A loss or a gradient became infinite or not a number; the last good checkpoint is kept."""


class Learning:
    """What a trainer's step works with: the engine, and `learn`.

    The batch of a step may come in parts, whose gradients are gathered; weights move with the last. Where a step trains two networks, the
    second is judged by the moved first only in the last part.

    Attributes:
        fabric: launched.
        step: number of the optimizer step.
        is_first, is_last: whether this is the first or the last part of its batch.
    """

    def __init__(self, fabric: lightning_fabric.Fabric, run: Run) -> None:
        self.fabric, self.run = fabric, run
        self.step, self.is_first, self.is_last = 0, True, True
        self._seen: list[tuple[Tensor, list[str]]] = []  # losses of the step so far, and the clips they are of
        self._names: list[str] = []

    @contextmanager
    def part(self, step: int, number: int, names: list[str], modules: Sequence[nn.Module]) -> Iterator[None]:
        """While one part of a batch is learnt from; other processes are waited for in the last.

        Args:
            step: that the part is of.
            number: of the part, from 0 on.
            names: of the clips in it.
            modules: that are trained, as the engine set them up.
        """
        self.step, self.is_first, self.is_last, self._names = step, number == 0, number + 1 == self.run.accumulate, names
        if self.is_first:
            self._seen = []
        with ExitStack() as stack:
            for module in modules:
                stack.enter_context(self.fabric.no_backward_sync(module, enabled=not self.is_last))
            yield

    def learn(self, loss: Float[Tensor, ""], module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Gather gradients of a loss; in the last part, clip them, move the weights and forget the gradients.

        Args:
            loss: mean over the part.
            module: whose weights the optimizer moves.
            optimizer: of these weights.

        Raises:
            TrainingDivergedError: if a gradient is not finite, in all processes at once.
        """
        self._seen.append((loss.detach(), self._names))
        self.fabric.backward(loss / self.run.accumulate)
        if self.is_last:
            norm = self.fabric.clip_gradients(module, optimizer, max_norm=self.run.clip_norm, error_if_nonfinite=False)
            if not torch.isfinite(norm):
                raise TrainingDivergedError(self._sentence())
            optimizer.step()
            optimizer.zero_grad()

    def _sentence(self) -> str:
        """Which clips have led astray: those of losses that are no number, or all of the step where only gradients are none."""
        batches = [(bool(torch.isfinite(loss)), names) for loss, names in self._seen]
        if self.fabric.world_size > 1:
            everywhere: list[list[tuple[bool, list[str]]]] = [[]] * self.fabric.world_size
            torch.distributed.all_gather_object(everywhere, batches)
            batches = [batch for one in everywhere for batch in one]
        what = "gradients that are" if all(is_finite for is_finite, _ in batches) else "a loss that is"
        guilty = [names for is_finite, names in batches if not is_finite] or [names for _, names in batches]
        unique = list(dict.fromkeys(name for names in guilty for name in names))
        said = ", ".join(unique[:_SPOKEN]) + (f" and {len(unique) - _SPOKEN} more" if len(unique) > _SPOKEN else "")
        return f"step {self.step} has {what} not finite, from the clips {said}; the last good checkpoint is kept in {self.run.out}."


@contextmanager
def judging(fabric: lightning_fabric.Fabric, judge: nn.Module) -> Iterator[nn.Module]:
    """A discriminator that gives gradients to what it judges and gets none itself.

    It comes without the engine's wrapper, which would have other processes wait for its gradients, and lets nobody but itself ask for any.
    """
    bare = judge.module
    bare.requires_grad_(False)
    with fabric.autocast():
        yield bare
    bare.requires_grad_(True)


def to_device(fabric: lightning_fabric.Fabric, batch: Batch) -> Batch:
    """The batch where the networks are."""
    if fabric.device.type == "cpu":
        return batch
    return batch._make(x.pin_memory().to(fabric.device, non_blocking=True) if isinstance(x, Tensor) else x for x in batch)


def mean_figures(
    fabric: lightning_fabric.Fabric,
    run: Run,
    draw: Callable[[list[np.random.Generator]], Batch],
    judge: Callable[[Batch], dict[str, Tensor]],
) -> dict[str, float]:
    """Figures of `run.valid_items` items, which are drawn the same way each time.

    Args:
        fabric: gives device and precision.
        run: its settings.
        draw: a batch with one item by each generator, as a trainer's `draw`.
        judge: means over a batch.
    """
    sums: Counter[str] = Counter()
    for start in range(0, run.valid_items, run.batch):
        items = range(start, min(start + run.batch, run.valid_items))
        batch = to_device(fabric, draw(generators(run.seed, 0, items)))
        with fabric.autocast():
            sums.update({name: value.item() * len(items) for name, value in judge(batch).items()})
    return {name: value / run.valid_items for name, value in sums.items()}


def share_statistics(fabric: lightning_fabric.Fabric, module: nn.Module) -> nn.Module:
    """Let batch norms see the batches of all processes, as if there were one; the weights and their names stay."""
    if fabric.world_size > 1:
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.__class__ = _SharedBatchNorm2d
    return module


class _SharedBatchNorm2d(nn.BatchNorm2d):
    """torch's `SyncBatchNorm` is for GPUs only."""

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        if not self.training:
            return super().forward(x)
        values = x.float()
        mean = _SharedMean.apply(values.mean(dim=(0, 2, 3)))
        centred = values - mean[:, None, None]
        variance = _SharedMean.apply(centred.square().mean(dim=(0, 2, 3)))
        with torch.no_grad():
            n = x.numel() // x.shape[1] * torch.distributed.get_world_size()
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


class _SharedMean(torch.autograd.Function):
    """Mean over processes, with a gradient."""

    @staticmethod
    def forward(ctx: object, value: Tensor) -> Tensor:
        return _mean_of_all(value)

    @staticmethod
    def backward(ctx: object, slope: Tensor) -> Tensor:
        return _mean_of_all(slope)


def _mean_of_all(value: Tensor) -> Tensor:
    total = value.clone()
    torch.distributed.all_reduce(total)
    return total / torch.distributed.get_world_size()


def gathered(fabric: lightning_fabric.Fabric, vectors: Float[Tensor, "n dim"]) -> Float[Tensor, "all dim"]:
    """The vectors of all processes, which have equally many, in the order of processes."""
    if fabric.world_size == 1:
        return vectors
    everywhere = [torch.empty_like(vectors) for _ in range(fabric.world_size)]
    torch.distributed.all_gather(everywhere, vectors.contiguous())
    return torch.cat(everywhere)
