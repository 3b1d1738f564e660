"""From a run file to a finished training: builds the trainer the run asks for and hands it to the loop."""

import atexit
import logging
import os
from pathlib import Path

import lightning_fabric
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException

from unsilent import presets
from unsilent.errors import ParameterError
from unsilent.train.config import AnyRun, ClassifierRun, CodebookRun, VocoderRun
from unsilent.train.loop import fit
from unsilent.train.steps import TrainingDivergedError
from unsilent.train.trainer import Trainer


def train(run: AnyRun, resume: bool) -> Path | None:
    """Train what `run` describes.

    Args:
        run: settings, as `read_run` gives them.
        resume: go on from the last checkpoint in `run.out`, if there is one.

    Returns:
        The checkpoint folder, from the first process alone: None from the others.

    Raises:
        ParameterError: for an unknown preset, or more devices than there are.
        DataError: for missing or unfit shards.
        TrainingDivergedError: on a loss that is not finite.
    """
    if run.threads:
        torch.set_num_threads(run.threads)
    try:
        fabric = lightning_fabric.Fabric(accelerator="auto", precision=run.precision, **_processes(run))
    except MisconfigurationException as error:  # more devices than there are
        raise ParameterError(f"devices is {run.devices}, which does not fit this machine: {' '.join(str(error).split())}") from None
    fabric.launch()
    atexit.register(_leave)
    if not fabric.is_global_zero:
        logging.getLogger("unsilent").setLevel(logging.WARNING)  # one voice is enough
    fabric.seed_everything(run.seed, verbose=False)
    try:
        folder = fit(run, _trainer(run, fabric), fabric, resume)
    except TrainingDivergedError:  # which all processes meet at once
        if fabric.is_global_zero:
            raise
        raise SystemExit(2) from None
    return folder if fabric.is_global_zero else None


def _leave() -> None:
    """Part from the other processes in order: threads of theirs that are still there when a program ends would abort it."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _processes(run: AnyRun) -> dict[str, int]:
    """As many as the run asks for on this machine, or as torchrun has started on how many machines."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return {"devices": run.devices}
    here, everywhere = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    return {"devices": here, "num_nodes": everywhere // here}


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
