"""Allowed values of options, without heavy imports, so that `unsilent --help` is fast."""

from typing import Any, Literal, get_args

from unsilent.errors import ParameterError

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["float32", "bfloat16", "int8"]
AnyPrecision = Literal["auto", "float32", "bfloat16", "int8"]
VocoderChoice = Literal["neural", "griffin-lim"]
Original = Literal["drop", "keep", "duck"]  # the video's own sound: left out, mixed in, mixed in quieter
PrimeKeep = Literal["codes", "samples"]  # what is kept of a real beginning
Layer = Literal["replace", "mix"]  # what a retake does to the sound that is there
Bits = Literal["16", "24", "32f"]  # of samples in a file; 32f is floating point
SoundRate = Literal[44100, 48000]  # Hz, in place of the model's own
Scenes = Literal["auto", "off"]  # whether what follows a cut is looked at by itself
Keep = Literal["mel", "wav"]  # what is written of a sample
FeatureDtype = Literal["float16", "uint8"]
SoundShard = Literal["waveforms", "mels"]  # how sounds are stored for training
Loudness = Literal["normalise", "keep"]  # of training sounds: -23 LUFS, or as recorded
TrainingKind = Literal["codebook", "vocoder", "sampler", "classifier"]

MAX_TAKES = 1000  # sounds of one video in one request, because all are in memory at once
MAX_SAMPLED = 4000  # the same with the candidates that are not kept


def check_choice(name: str, value: object, choices: Any) -> None:
    """Refuse a value that is not in a `Literal`.

    Args:
        name: of the argument, for the message.
        value: as given.
        choices: a `Literal` type.

    Raises:
        ParameterError: if it is not one of them; names those allowed.
    """
    *others, last = map(repr, get_args(choices))
    if value not in get_args(choices):
        raise ParameterError(f"{name} is {value!r}, but must be {', '.join(others)} or {last}.")
