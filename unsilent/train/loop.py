"""The loop that every training shares: batches, learning rate, averaging, checkpoints, resuming, one line of progress.

A trainer is anything with the attributes of `Trainer`; it owns its step, so that an adversarial one may step two optimizers.
"""

import logging
import math
import os
import pickle
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning_fabric
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from unsilent.errors import CheckpointError, ParameterError, UnsilentError
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


@runtime_checkable
class ValidatingTrainer(Trainer, Protocol):
    """A trainer that can tell how good its module is on material it does not learn from."""

    def validate(self, fabric: lightning_fabric.Fabric) -> dict[str, float]:
        """Figures of the module, which is in evaluation mode with averaged weights; the lowest `loss` is the best.

        Only the first process is asked, so it must not communicate.
        """
        ...


@dataclass
class Validation:
    """How validation went so far: the lowest loss, and the number of validations since."""

    best: float = math.inf
    since_best: int = 0

    def is_over(self, run: Run) -> bool:
        """Whether patience has run out."""
        return 0 < run.patience <= self.since_best


class TrainingDivergedError(UnsilentError):
    """A loss became infinite or not a number; the last good checkpoint is kept."""


def fit(run: Run, trainer: Trainer, fabric: lightning_fabric.Fabric, resume: bool) -> Path:
    """Train until `run.steps`, or until `run.patience` validations have brought no improvement.

    Args:
        run: all settings.
        trainer: what is trained; its module and optimizers are already set up with `fabric`.
        fabric: launched.
        resume: go on from `run.out` where a checkpoint is there; otherwise start anew.

    Returns:
        The checkpoint folder with the averaged weights: those of the best validation, or the last where nothing is validated.

    Raises:
        ParameterError: if the run asks for validation and the trainer has none.
        TrainingDivergedError: on a loss that is not finite.
        CheckpointError: if `resume` finds a checkpoint of another kind or preset, or a training would be overwritten.
    """
    average = {name: value.detach().clone().float() for name, value in trainer.module.state_dict().items()}
    if not resume and (run.out / "last.pt").exists():
        raise CheckpointError(f"{run.out} holds a training already; go on with --resume, or choose another folder with --set out=FOLDER.")
    if run.valid_every and not isinstance(trainer, ValidatingTrainer):
        raise ParameterError(f"valid_every is {run.valid_every}, but a {run.kind} has no validation yet; set it to 0.")
    validation = Validation()
    first = _load(run, trainer, average, validation) if resume else 0
    writer = SummaryWriter(str(run.out / "log"), purge_step=first) if fabric.is_global_zero else None
    started, result = time.monotonic(), run.out / "checkpoint"
    paths = {name for name, value in run if isinstance(value, Path)}  # which mean nothing elsewhere
    settings = run.model_dump(mode="json", exclude=paths)
    for step in range(first, run.steps):
        if validation.is_over(run):
            log.info("stopped before step %d: %d validations without improvement on %.4f", step + 1, validation.since_best, validation.best)
            break
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = run.learning_rate * rate_factor(step, run)
        rng = np.random.default_rng([run.seed, fabric.global_rank, step])
        torch.manual_seed(int(rng.integers(2**31)))
        losses = {name: float(value.detach()) for name, value in trainer.step(fabric, rng, step).items()}
        if not all(map(math.isfinite, losses.values())):
            raise TrainingDivergedError(f"step {step} (seed {run.seed}, process {fabric.global_rank}) gave {losses}; see {run.out}.")
        _update(average, trainer.module, run.average, step)
        is_last = step + 1 == run.steps
        if fabric.is_global_zero and ((step + 1) % run.log_every == 0 or is_last):
            _report(writer, losses, step, first, started, run)
        record = {"steps": step + 1, "run": settings, "losses": losses}
        if run.valid_every and ((step + 1) % run.valid_every == 0 or is_last):
            figures = _validate(trainer, average, fabric, step)
            is_best = figures["loss"] < validation.best
            validation.best, validation.since_best = (figures["loss"], 0) if is_best else (validation.best, validation.since_best + 1)
            is_last = is_last or validation.is_over(run)
            if fabric.is_global_zero:
                _report_validation(writer, figures, step, is_best)
                if is_best:
                    trainer.save(result, average, record | {"valid": figures})
        if fabric.is_global_zero and ((step + 1) % run.save_every == 0 or is_last):
            _save(run, trainer, average, validation, step + 1)
            if not run.valid_every:
                trainer.save(result, average, record)
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


@torch.no_grad()
def _validate(trainer: ValidatingTrainer, average: dict[str, Tensor], fabric: lightning_fabric.Fabric, step: int) -> dict[str, float]:
    """Figures of the averaged weights, the same on every process; leaves the module as it was."""
    figures: dict[str, float] = {}
    if fabric.is_global_zero:
        own = {name: value.clone() for name, value in trainer.module.state_dict().items()}
        trainer.module.load_state_dict(average)
        trainer.module.eval()
        figures = trainer.validate(fabric)
        trainer.module.load_state_dict(own)
        trainer.module.train()
    figures = fabric.broadcast(figures)
    if not all(map(math.isfinite, figures.values())):
        raise TrainingDivergedError(f"validation after step {step} gave {figures}; the last good checkpoint is kept.")
    return figures


def _report_validation(writer: SummaryWriter, figures: dict[str, float], step: int, is_best: bool) -> None:
    for name, value in figures.items():
        writer.add_scalar(f"valid/{name}", value, step + 1)
    said = " ".join(f"{name} {value:.4f}" for name, value in figures.items())
    log.info("step %d validation  %s%s", step + 1, said, "  (best, kept)" if is_best else "")


def _save(run: Run, trainer: Trainer, average: dict[str, Tensor], validation: Validation, step: int) -> None:
    """Write everything needed to go on beside the old checkpoint, then rename: a kill at any moment leaves a whole one."""
    state = {
        "step": step,
        "kind": run.kind,
        "preset": run.preset,
        "module": trainer.module.state_dict(),
        "average": average,
        "validation": asdict(validation),
        "memory": trainer.memory,
        "others": {name: other.state_dict() for name, other in trainer.others.items()},
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
    }
    run.out.mkdir(parents=True, exist_ok=True)
    temporary = run.out / "last.pt.part"
    torch.save(state, temporary)
    os.replace(temporary, run.out / "last.pt")


def _load(run: Run, trainer: Trainer, average: dict[str, Tensor], validation: Validation) -> int:
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
    average.update({name: value.to(average[name].device) for name, value in state["average"].items()})
    for name, value in state.get("validation", {}).items():
        setattr(validation, name, value)
    for name, value in state["memory"].items():
        trainer.memory[name].copy_(value)
    for optimizer, saved in zip(trainer.optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    log.info("going on from step %d of %s", state["step"], path)
    return state["step"]
