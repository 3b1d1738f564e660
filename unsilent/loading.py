"""Loads a model by name: chooses device and precision, then reads the networks into a pipeline."""

from unsilent.checkpoints.bundle import load_parts
from unsilent.checkpoints.folders import find_bundle, sampler_config
from unsilent.choices import AnyPrecision, Device, VocoderChoice, check_choice
from unsilent.pipeline import Pipeline
from unsilent.speed.choice import choose_device, choose_precision
from unsilent.speed.threads import SMALL_WEIGHTS, one_thread


def load(name: str = "everyday", device: Device = "auto", precision: AnyPrecision = "auto", vocoder: VocoderChoice = "neural") -> Pipeline:
    """Load a model.

    Args:
        name: name of an installed model, or path of a bundle folder.
        device: `auto` takes a GPU if there is one.
        precision: `auto` takes the fastest one that keeps the quality; `Pipeline.precision` has the choice.
        vocoder: `neural`, or `griffin-lim` for phase estimation without a network.

    Raises:
        CheckpointError: if weights are missing, damaged, or do not fit the networks.
        ParameterError: for an unknown value, a missing device, or a precision that the device does not support.
    """
    check_choice("vocoder", vocoder, VocoderChoice)
    chosen, folder = choose_device(device), find_bundle(name)
    config = sampler_config(folder)
    settled = choose_precision(precision, chosen, config)
    with one_thread(config.transformer.n_weights < SMALL_WEIGHTS):  # threads cost more than they save on thousands of small copies
        parts = load_parts(folder, settled, chosen)
    return Pipeline(parts, chosen, settled, vocoder)
