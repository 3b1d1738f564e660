"""Loads a model by name: device and precision are chosen, then its networks are read into a pipeline."""

from unsilent.checkpoints.bundle import load_parts
from unsilent.checkpoints.folders import find_bundle, sampler_config
from unsilent.choices import AnyPrecision, Device, VocoderChoice, check_choice
from unsilent.pipeline import Pipeline
from unsilent.speed.choice import choose_device, choose_precision
from unsilent.speed.threads import SMALL_WEIGHTS, one_thread


def load(name: str = "everyday", device: Device = "auto", precision: AnyPrecision = "auto", vocoder: VocoderChoice = "neural") -> Pipeline:
    """Load a model.

    Args:
        name: of a model whose weights are here, or the path of a bundle folder.
        device: `auto` takes a GPU if there is one.
        precision: `auto` is the fastest that keeps the quality; `Pipeline.precision` says which was chosen.
        vocoder: `neural`, or `griffin-lim` for phase estimation without a network.

    Raises:
        CheckpointError: if weights are missing, damaged, or do not fit.
        ParameterError: for another value, a device that is not there, or a precision that it cannot compute.
    """
    check_choice("vocoder", vocoder, VocoderChoice)
    chosen, folder = choose_device(device), find_bundle(name)
    config = sampler_config(folder)
    settled = choose_precision(precision, chosen, config)
    with one_thread(config.transformer.n_weights < SMALL_WEIGHTS):  # because thousands of small tensors are copied
        parts = load_parts(folder, settled, chosen)
    return Pipeline(parts, chosen, settled, vocoder)
