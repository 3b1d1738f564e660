"""Runs a training: sets up processes, builds the trainer, and calls the loop."""

import atexit
import logging
import os
from contextlib import nullcontext
from pathlib import Path

import lightning_fabric
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException

from unsilent import presets
from unsilent.checkpoints.folders import find_part
from unsilent.errors import CheckpointError, ParameterError
from unsilent.files import locked
from unsilent.train.config import AnyRun, ClassifierRun, CodebookRun, VocoderRun
from unsilent.train.loop import fit
from unsilent.train.steps import TrainingDivergedError
from unsilent.train.trainer import Trainer


def train(run: AnyRun, resume: bool) -> Path | None:
    """Train a network.

    Args:
        run: settings from `read_run`.
        resume: resume from `run.out/last.pt` if it exists.

    Returns:
        The checkpoint folder in the first process, None in the others.

    Raises:
        ParameterError: for an unknown preset, or more devices than this machine has.
        DataError: for missing or unusable shards.
        CheckpointError: if a saved state or checkpoint does not fit the run.
        TrainingDivergedError: if a loss or gradient is not finite.
    """
    run = _find_parts(run)
    if run.threads:
        torch.set_num_threads(run.threads)
    try:
        fabric = lightning_fabric.Fabric(accelerator="auto", precision=run.precision, **_processes(run))
    except MisconfigurationException as error:  # more devices than this machine has
        raise ParameterError(f"devices is {run.devices}, which this machine does not have: {' '.join(str(error).split())}") from None
    fabric.launch()
    atexit.register(_destroy_process_group)
    if not fabric.is_global_zero:
        logging.getLogger("unsilent").setLevel(logging.WARNING)  # only the first process reports
    fabric.seed_everything(run.seed, verbose=False)
    with locked(run.out / ".lock", CheckpointError) if fabric.is_global_zero else nullcontext():
        folder = _fit(run, fabric, resume)
    fabric.barrier()  # a process that ends would close connections that others may still use
    return folder


def _fit(run: AnyRun, fabric: lightning_fabric.Fabric, resume: bool) -> Path | None:
    try:
        folder = fit(run, _trainer(run, fabric), fabric, resume)
    except TrainingDivergedError:  # raised in all processes together
        if fabric.is_global_zero:
            raise
        raise SystemExit(2) from None
    return folder if fabric.is_global_zero else None


def _find_parts(run: AnyRun) -> AnyRun:
    """The run with models replaced by the checkpoint folders of their parts."""
    roles = {"initial": run.kind, "codebook": "codebook", "perceptual": "classifier"}
    given = {name: role for name, role in roles.items() if getattr(run, name, None) is not None}
    return run.model_copy(update={name: find_part(role, getattr(run, name)) for name, role in given.items()})


def _destroy_process_group() -> None:
    """End the process group, because its threads would abort the program at exit."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _processes(run: AnyRun) -> dict[str, int]:
    """Fabric's arguments: processes on this machine, or under torchrun, its local processes and the number of machines."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return {"devices": run.devices}
    local, total = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    return {"devices": local, "num_nodes": total // local}


def _trainer(run: AnyRun, fabric: lightning_fabric.Fabric) -> Trainer:
    preset = presets.get(run.preset)
    if isinstance(run, CodebookRun):
        from unsilent.train.codebook import CodebookTrainer

        return CodebookTrainer(run, preset.codebook, fabric)
    if isinstance(run, VocoderRun):
        from unsilent.train.vocoder import VocoderTrainer

        return VocoderTrainer(run, preset.vocoder, fabric)
    if isinstance(run, ClassifierRun):
        from unsilent.train.classifier import ClassifierTrainer

        return ClassifierTrainer(run, preset.clip, fabric)
    from unsilent.train.sampler import SamplerTrainer

    return SamplerTrainer(run, preset.sampler, fabric)
