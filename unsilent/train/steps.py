"""What the steps of several trainers have in common."""

from collections.abc import Iterator
from contextlib import contextmanager

import lightning_fabric
import torch
from torch import nn


def update(fabric: lightning_fabric.Fabric, module: nn.Module, optimizer: torch.optim.Optimizer, clip_norm: float) -> None:
    """Move weights by the gradients that are there, which are clipped first and forgotten after.

    Args:
        fabric: that both were set up with.
        module: whose gradients.
        optimizer: of its weights.
        clip_norm: largest norm of all gradients together.
    """
    fabric.clip_gradients(module, optimizer, max_norm=clip_norm)
    optimizer.step()
    optimizer.zero_grad()


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
