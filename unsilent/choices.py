"""Allowed values of options, without heavy imports, so that `unsilent --help` is fast."""

from typing import Any, Literal, get_args

from unsilent.errors import ParameterError

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["float32", "bfloat16", "int8"]
AnyPrecision = Literal["auto", "float32", "bfloat16", "int8"]
VocoderChoice = Literal["neural", "griffin-lim"]
Original = Literal["drop", "keep", "duck"]  # the video's own sound: left out, mixed in, or mixed in at lower level
PrimeKeep = Literal["codes", "samples"]  # which part of a prime is kept: its codes, or its exact samples
Layer = Literal["replace", "mix"]  # whether a retake replaces the existing sound or is mixed with it
Bits = Literal["16", "24", "32f"]  # bits per sample in a file; 32f is floating point
SoundRate = Literal[44100, 48000]  # Hz of written files; the default is the model's rate
Scenes = Literal["auto", "off"]  # whether each shot between cuts is conditioned on its own frames only
Keep = Literal["mel", "wav"]  # which form of a sampled sound is written
FeatureDtype = Literal["float16", "uint8"]
SoundShard = Literal["waveforms", "mels"]  # how sounds are stored for training
Loudness = Literal["normalise", "keep"]  # level of training sounds: -23 LUFS, or as recorded
TrainingKind = Literal["codebook", "vocoder", "sampler", "classifier"]

MAX_TAKES = 1000  # takes of one request, because all are in memory at once
MAX_SAMPLED = 4000  # the same limit including candidates


def check_choice(name: str, value: object, choices: Any) -> None:
    """Refuse a value that is not in a `Literal`.

    Args:
        name: the argument's name, for the message.
        value: the given value.
        choices: a `Literal` type.

    Raises:
        ParameterError: if the value is not a choice; the message lists the choices.
    """
    *others, last = map(repr, get_args(choices))
    if value not in get_args(choices):
        raise ParameterError(f"{name} is {value!r}, but must be {', '.join(others)} or {last}.")
