"""The loop that every training shares: batches, learning rate, averaging, checkpoints, resuming, one line of progress.

A trainer is anything with the attributes of `Trainer`; it owns its step, so that an adversarial one may step two optimizers.
"""

import logging
import math
import os
import pickle
import time
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning_fabric
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from unsilent.errors import CheckpointError, UnsilentError
from unsilent.train.config import Run

log = logging.getLogger(__name__)


@runtime_checkable
class Trainer(Protocol):
    """What the loop asks of a training.

    Attributes:
        module: the network whose weights (averaged) are the result.
        optimizers: all optimizers; the loop sets their learning rate.
        memory: other tensors that a resumed training needs, changed in place.
        others: networks beside `module` that a resumed training needs, such as a discriminator, by name.
    """

    module: nn.Module
    optimizers: list[torch.optim.Optimizer]
    memory: dict[str, Tensor]
    others: dict[str, nn.Module]

    def step(self, fabric: lightning_fabric.Fabric, rng: np.random.Generator, step: int) -> dict[str, Tensor]:
        """Draw a batch with `rng`, do one optimizer step, return the losses to log."""
        ...

    def save(self, folder: Path, weights: dict[str, Tensor], record: dict[str, Any]) -> None:
        """Write `weights` as a checkpoint folder of this project."""
        ...


class TrainingDivergedError(UnsilentError):
    """A loss became infinite or not a number; the last good checkpoint is kept."""


def fit(run: Run, trainer: Trainer, fabric: lightning_fabric.Fabric, resume: bool) -> Path:
    """Train until `run.steps`.

    Args:
        run: all settings.
        trainer: what is trained; its module and optimizers are already set up with `fabric`.
        fabric: launched.
        resume: go on from `run.out` where a checkpoint is there; otherwise start anew.

    Returns:
        The checkpoint folder with the averaged weights.

    Raises:
        TrainingDivergedError: on a loss that is not finite.
        CheckpointError: if `resume` finds a checkpoint of another kind or preset, or a training would be overwritten.
    """
    average = {name: value.detach().clone().float() for name, value in trainer.module.state_dict().items()}
    if not resume and (run.out / "last.pt").exists():
        raise CheckpointError(f"{run.out} holds a training already; go on with --resume, or choose another folder with --set out=FOLDER.")
    first = _load(run, trainer, average) if resume else 0
    writer = SummaryWriter(str(run.out / "log"), purge_step=first) if fabric.is_global_zero else None
    started, result = time.monotonic(), run.out / "checkpoint"
    for step in range(first, run.steps):
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = run.learning_rate * rate_factor(step, run)
        rng = np.random.default_rng([run.seed, fabric.global_rank, step])
        torch.manual_seed(int(rng.integers(2**31)))
        losses = {name: float(value.detach()) for name, value in trainer.step(fabric, rng, step).items()}
        if not all(map(math.isfinite, losses.values())):
            raise TrainingDivergedError(f"step {step} (seed {run.seed}, process {fabric.global_rank}) gave {losses}; see {run.out}.")
        _update(average, trainer.module, run.average, step)
        if fabric.is_global_zero and ((step + 1) % run.log_every == 0 or step + 1 == run.steps):
            _report(writer, losses, step, first, started, run)
        if fabric.is_global_zero and ((step + 1) % run.save_every == 0 or step + 1 == run.steps):
            _save(run, trainer, average, step + 1)
            paths = {name for name, value in run if isinstance(value, Path)}  # which mean nothing elsewhere
            settings = run.model_dump(mode="json", exclude=paths)
            trainer.save(result, average, {"steps": step + 1, "run": settings, "losses": losses})
    return result


def rate_factor(step: int, run: Run) -> float:
    """Learning rate at `step` (from 0) as a share of the full one: linear rise, plateau, linear fall to nearly zero."""
    rise = min(1.0, (step + 1) / (run.warmup_steps + 1))
    fall = min(1.0, (run.steps - step) / (run.decay_steps + 1))
    return rise * fall


@torch.no_grad()
def _update(average: dict[str, Tensor], module: nn.Module, decay: float, step: int) -> None:
    decay = min(decay, (1 + step) / (10 + step))  # early weights are forgotten quickly
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value.float(), 1 - decay)
        else:
            average[name] = value.clone()


def _report(writer: SummaryWriter, losses: dict[str, float], step: int, first: int, started: float, run: Run) -> None:
    for name, value in losses.items():
        writer.add_scalar(name, value, step + 1)
    seconds = (time.monotonic() - started) / (step + 1 - first)
    left = seconds * (run.steps - step - 1) / 60
    said = " ".join(f"{name} {value:.4f}" for name, value in losses.items())
    log.info("step %d/%d  %s  %.1f items/s  %.0f min left", step + 1, run.steps, said, run.batch * run.devices / seconds, left)


def _save(run: Run, trainer: Trainer, average: dict[str, Tensor], step: int) -> None:
    """Write everything needed to go on beside the old checkpoint, then rename: a kill at any moment leaves a whole one."""
    state = {
        "step": step,
        "kind": run.kind,
        "preset": run.preset,
        "module": trainer.module.state_dict(),
        "average": average,
        "memory": trainer.memory,
        "others": {name: other.state_dict() for name, other in trainer.others.items()},
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
    }
    run.out.mkdir(parents=True, exist_ok=True)
    temporary = run.out / "last.pt.part"
    torch.save(state, temporary)
    os.replace(temporary, run.out / "last.pt")


def _load(run: Run, trainer: Trainer, average: dict[str, Tensor]) -> int:
    path = run.out / "last.pt"
    if not path.exists():
        return 0
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} is damaged: {str(error).splitlines()[0]}") from None
    if (state["kind"], state["preset"]) != (run.kind, run.preset):
        raise CheckpointError(f"{path} is a {state['kind']} of {state['preset']!r}, the run asks for a {run.kind} of {run.preset!r}.")
    others = state.get("others", {})
    if others.keys() != trainer.others.keys():
        had, has = (", ".join(names) or "nothing" for names in (others, trainer.others))
        raise CheckpointError(f"{path} was trained with {had} beside its network, the run asks for {has}; choose another folder.")
    try:
        trainer.module.load_state_dict(state["module"])
        for name, other in trainer.others.items():
            other.load_state_dict(others[name])
    except RuntimeError:
        raise CheckpointError(f"{path} holds a network of other sizes than {run.preset!r} has now; choose another folder.") from None
    average.update(state["average"])
    for name, value in state["memory"].items():
        trainer.memory[name].copy_(value)
    for optimizer, saved in zip(trainer.optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    log.info("going on from step %d of %s", state["step"], path)
    return state["step"]
