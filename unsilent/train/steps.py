"""Optimizer steps, shared by all trainers: gradient accumulation over parts of a batch and averaging over processes."""

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

Batch = Any  # a named tuple of tensors, with the clips of its items as `names`

_MAX_NAMES = 8  # clips that an error message lists


class TrainingDivergedError(UnsilentError):
    """A loss or a gradient is infinite or NaN; the last good checkpoint is kept."""


class StepContext:
    """State of the current step, and `optimise`, for trainers.

    The batch of a step may have several parts. Gradients accumulate, and weights change after the last part. So if a step trains two
    networks, the second uses the updated first only in the last part.

    Attributes:
        fabric: launched.
        step: number of the step, from 0.
        is_first: whether this is the first part of its batch.
        is_last: whether this is the last part of its batch.
    """

    def __init__(self, fabric: lightning_fabric.Fabric, run: Run) -> None:
        self.fabric, self.run = fabric, run
        self.step, self.is_first, self.is_last = 0, True, True
        self._losses: list[tuple[Tensor, list[str]]] = []  # of the step so far, with the clips of the part
        self._names: list[str] = []

    @contextmanager
    def part(self, step: int, number: int, names: list[str], modules: Sequence[nn.Module]) -> Iterator[None]:
        """While one part of a batch is processed; processes synchronise gradients in the last part only.

        Args:
            step: number of the step.
            number: of the part, from 0.
            names: clips of the part.
            modules: networks that are trained, set up with Fabric.
        """
        self.step, self.is_first, self.is_last, self._names = step, number == 0, number + 1 == self.run.accumulate, names
        if self.is_first:
            self._losses = []
        with ExitStack() as stack:
            for module in modules:
                stack.enter_context(self.fabric.no_backward_sync(module, enabled=not self.is_last))
            yield

    def optimise(self, loss: Float[Tensor, ""], module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Accumulate gradients of a loss; in the last part, clip them, change the weights, and clear the gradients.

        Args:
            loss: mean over the part.
            module: network of the optimizer.
            optimizer: to step.

        Raises:
            TrainingDivergedError: if a gradient is not finite, in all processes at once.
        """
        self._losses.append((loss.detach(), self._names))
        self.fabric.backward(loss / self.run.accumulate)
        if self.is_last:
            norm = self.fabric.clip_gradients(module, optimizer, max_norm=self.run.clip_norm, error_if_nonfinite=False)
            if not torch.isfinite(norm):
                raise TrainingDivergedError(self._divergence())
            optimizer.step()
            optimizer.zero_grad()

    def _divergence(self) -> str:
        """Message with the clips of losses that are not finite, or, if only gradients are not, with all clips of the step."""
        parts = [(bool(torch.isfinite(loss)), names) for loss, names in self._losses]
        if self.fabric.world_size > 1:
            everywhere: list[list[tuple[bool, list[str]]]] = [[]] * self.fabric.world_size
            torch.distributed.all_gather_object(everywhere, parts)
            parts = [part for one in everywhere for part in one]
        what = "gradients that are" if all(is_finite for is_finite, _ in parts) else "a loss that is"
        suspects = [names for is_finite, names in parts if not is_finite] or [names for _, names in parts]
        unique = list(dict.fromkeys(name for names in suspects for name in names))
        listed = ", ".join(unique[:_MAX_NAMES]) + (f" and {len(unique) - _MAX_NAMES} more" if len(unique) > _MAX_NAMES else "")
        return f"step {self.step} has {what} not finite, from the clips {listed}; the last good checkpoint is kept in {self.run.out}."


@contextmanager
def frozen(fabric: lightning_fabric.Fabric, discriminator: nn.Module) -> Iterator[nn.Module]:
    """A discriminator that passes gradients to its input but gets none itself.

    The block receives the network without Fabric's wrapper, because DDP waits for gradients of every parameter and forbids
    `torch.autograd.grad` on its outputs.
    """
    bare = discriminator.module
    bare.requires_grad_(False)
    with fabric.autocast():
        yield bare
    bare.requires_grad_(True)


def to_device(fabric: lightning_fabric.Fabric, batch: Batch) -> Batch:
    """The batch on the device of the networks."""
    if fabric.device.type == "cpu":
        return batch
    return batch._make(x.pin_memory().to(fabric.device, non_blocking=True) if isinstance(x, Tensor) else x for x in batch)


def mean_metrics(
    fabric: lightning_fabric.Fabric,
    run: Run,
    draw: Callable[[list[np.random.Generator]], Batch],
    in_order: Callable[[int], Iterator[Batch]],
    measure: Callable[[Batch], dict[str, Float[Tensor, ""]]],
) -> dict[str, float]:
    """Means of metrics over `run.valid_items` items, which are always the same, or over every item once.

    Args:
        fabric: gives device and precision.
        run: settings.
        draw: a batch with one item for each generator.
        in_order: every item once, in batches of the given size; the last may be smaller.
        measure: means over a batch.
    """
    starts = range(0, run.valid_items, run.batch)
    drawn = (draw(generators(run.seed, 0, range(start, min(start + run.batch, run.valid_items)))) for start in starts)
    sums, n_items = Counter[str](), 0
    for batch in drawn if run.valid_items else in_order(run.batch):
        batch = to_device(fabric, batch)
        with fabric.autocast():
            sums.update({name: value.item() * len(batch.names) for name, value in measure(batch).items()})
        n_items += len(batch.names)
    return {name: value / n_items for name, value in sums.items()}


def synchronise_batch_norms(fabric: lightning_fabric.Fabric, module: nn.Module) -> nn.Module:
    """Let batch norms use the statistics of all processes' batches; weights and their names stay."""
    if fabric.world_size > 1:
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.__class__ = _SyncBatchNorm2d
    return module


class _SyncBatchNorm2d(nn.BatchNorm2d):
    """As torch's `SyncBatchNorm`, which is for GPUs only."""

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        if not self.training:
            return super().forward(x)
        values = x.float()
        mean = _ProcessMean.apply(values.mean(dim=(0, 2, 3)))
        centred = values - mean[:, None, None]
        variance = _ProcessMean.apply(centred.square().mean(dim=(0, 2, 3)))
        with torch.no_grad():
            n = x.numel() // x.shape[1] * torch.distributed.get_world_size()
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


class _ProcessMean(torch.autograd.Function):
    """Mean over processes, with gradients."""

    @staticmethod
    def forward(ctx: object, value: Float[Tensor, "channels"]) -> Float[Tensor, "channels"]:
        return _process_mean(value)

    @staticmethod
    def backward(ctx: object, gradient: Float[Tensor, "channels"]) -> Float[Tensor, "channels"]:
        return _process_mean(gradient)


def _process_mean(value: Float[Tensor, "channels"]) -> Float[Tensor, "channels"]:
    total = value.clone()
    torch.distributed.all_reduce(total)
    return total / torch.distributed.get_world_size()


def all_gather_vectors(fabric: lightning_fabric.Fabric, vectors: Float[Tensor, "n dim"]) -> Float[Tensor, "all dim"]:
    """The vectors of all processes, in their order; each must have the same number."""
    if fabric.world_size == 1:
        return vectors
    everywhere = [torch.empty_like(vectors) for _ in range(fabric.world_size)]
    torch.distributed.all_gather(everywhere, vectors.contiguous())
    return torch.cat(everywhere)
