"""Optimizer steps of all trainers: gradient accumulation over parts of a batch, and averaging over processes."""

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

Batch = Any  # a named tuple of tensors; `names` are the clip ids of its items

_MAX_NAMES = 8  # largest number of clips in an error message


class TrainingDivergedError(UnsilentError):
    """A loss or gradient is infinite or NaN; the last good checkpoint is kept."""


class StepContext:
    """State of the current step, and its method `optimise`, for trainers.

    The batch of a step may have several parts. Gradients accumulate, and weights change after the last part. So in a step of two networks,
    the second one uses the updated first one only in the last part.

    Attributes:
        fabric: must be launched.
        step: number of the step, from 0.
        is_first: whether this is the first part of its batch.
        is_last: whether this is the last part of its batch.
    """

    def __init__(self, fabric: lightning_fabric.Fabric, run: Run) -> None:
        self.fabric, self.run = fabric, run
        self.step, self.is_first, self.is_last = 0, True, True
        self._losses: list[tuple[Tensor, list[str]]] = []  # losses of the step so far, with clip ids
        self._names: list[str] = []

    @contextmanager
    def part(self, step: int, number: int, names: list[str], modules: Sequence[nn.Module]) -> Iterator[None]:
        """Context for processing one part of a batch; processes synchronise gradients only in the last part.

        Args:
            step: number of the step.
            number: number of the part, from 0.
            names: clip ids of the part.
            modules: trained networks, set up with Fabric.
        """
        self.step, self.is_first, self.is_last, self._names = step, number == 0, number + 1 == self.run.accumulate, names
        if self.is_first:
            self._losses = []
        with ExitStack() as stack:
            for module in modules:
                stack.enter_context(self.fabric.no_backward_sync(module, enabled=not self.is_last))
            yield

    def optimise(self, loss: Float[Tensor, ""], module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Accumulate gradients of a loss. In the last part, clip them, step the optimizer, and clear them.

        Args:
            loss: mean loss of the part.
            module: network of the optimizer.
            optimizer: optimizer of the network.

        Raises:
            TrainingDivergedError: if a gradient is not finite; raised in all processes together.
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
        """Error message with the clips whose losses are not finite, or, if all losses are finite, with all clips of the step."""
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
    """Context with a discriminator that passes gradients to its input, but gets none.

    It is the network without Fabric's wrapper, because DDP waits for gradients of every parameter and forbids `torch.autograd.grad` on its
    outputs.
    """
    bare = discriminator.module
    bare.requires_grad_(False)
    with fabric.autocast():
        yield bare
    bare.requires_grad_(True)


def to_device(fabric: lightning_fabric.Fabric, batch: Batch) -> Batch:
    """Move a batch to the device of the networks."""
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
    """Means of metrics over the same `run.valid_items` items at each call, or if it is 0, over each item once.

    Args:
        fabric: determines device and precision.
        run: settings.
        draw: returns a batch with one item for each generator.
        in_order: yields each item once, in batches of the given size; the last may be smaller.
        measure: returns means over a batch.
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
    """Make batch norms use the statistics of all processes' batches; state-dict names are unchanged."""
    if fabric.world_size > 1:
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.__class__ = _SyncBatchNorm2d
    return module


class _SyncBatchNorm2d(nn.BatchNorm2d):
    """Like torch's `SyncBatchNorm`, which supports GPUs only."""

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
    """The vectors of all processes, in the order of processes; each must have the same number."""
    if fabric.world_size == 1:
        return vectors
    everywhere = [torch.empty_like(vectors) for _ in range(fabric.world_size)]
    torch.distributed.all_gather(everywhere, vectors.contiguous())
    return torch.cat(everywhere)
