"""What a training run is made of: a TOML file naming a preset, plus overrides; unknown keys are refused."""

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from unsilent.config import Config
from unsilent.errors import ParameterError


class Run(Config):
    """Settings that every training shares.

    Times and sizes: `steps` optimizer steps in all, `decay_steps` of them with a learning rate falling linearly to zero at the end,
    `warmup_steps` rising at the start; `save_every` and `log_every` in steps.
    """

    preset: str  # row of `unsilent.presets` whose sizes are trained
    shards: Path  # folder written by `unsilent data extract`
    out: Path  # folder for checkpoints and logs
    seed: int = 0
    steps: int = Field(gt=0)
    batch: int = Field(gt=0)  # items per process and step
    learning_rate: float = Field(gt=0)
    warmup_steps: int = Field(default=100, ge=0)
    decay_steps: int = Field(default=0, ge=0)
    betas: tuple[float, float] = (0.9, 0.99)  # of Adam
    weight_decay: float = Field(default=0.0, ge=0)
    clip_norm: float = Field(default=1.0, gt=0)  # largest gradient norm
    average: float = Field(default=0.999, ge=0, lt=1)  # decay of the moving average of weights; 0 turns it off
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    devices: int = Field(default=1, gt=0)  # processes
    threads: int = Field(default=0, ge=0)  # CPU threads per process; 0 leaves torch's choice
    save_every: int = Field(default=200, gt=0)
    log_every: int = Field(default=50, gt=0)


class CodebookRun(Run):
    """Training of a codebook with reconstruction and codebook losses."""

    kind: Literal["codebook"]
    crop_columns: int = Field(default=10, gt=0)  # code columns in one training crop
    gain_db: tuple[float, float] = (-15.0, 6.0)
    beta: float = Field(default=0.25, ge=0)  # weight of the commitment term
    revive_every: int = Field(default=100, gt=0)  # steps after which codes that nothing used are moved to where latents are


class VocoderRun(Run):
    """Training of the iSTFT-head vocoder with spectral losses."""

    kind: Literal["vocoder"]
    crop_frames: int = Field(default=64, gt=0)  # mel frames in one training crop
    gain_db: tuple[float, float] = (-20.0, 6.0)
    min_sample_rate: int = Field(default=22050, ge=0)  # Hz; recordings made at less lack high frequencies
    mel_weight: float = Field(default=15.0, ge=0)  # of the mel term, against 1 for each STFT term


class SamplerRun(Run):
    """Training of the transformer on codes and features."""

    kind: Literal["sampler"]
    real_share: float = Field(default=0.15, ge=0, le=1)  # share of real clips among the pairs
    cut_share: float = Field(default=0.3, ge=0, le=1)  # share of composed clips that change their subject midway
    feature_noise: float = Field(default=0.1, ge=0)  # standard deviation, relative to that of the features
    condition_dropout: float = Field(default=0.0, ge=0, lt=1)  # share of sequences that are told nothing, for guidance while sampling


AnyRun = CodebookRun | VocoderRun | SamplerRun
_RUNS = {"codebook": CodebookRun, "vocoder": VocoderRun, "sampler": SamplerRun}


def read_run(path: Path, overrides: list[str]) -> AnyRun:
    """Read a TOML file and apply `key=value` overrides, whose values are TOML too (a bare word is taken as text).

    Raises:
        ParameterError: for a missing or malformed file, an unknown kind or key, or a value out of range.
    """
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ParameterError(f"cannot read the run {path}: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ParameterError(f"{path} is not TOML: {error}.") from None
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise ParameterError(f"--set takes key=value, found {override!r}.")
        settings[key.strip()] = _parse(value.strip())
    kind = settings.get("kind")
    if kind not in _RUNS:
        raise ParameterError(f"{path} has kind {kind!r}; known kinds are {', '.join(_RUNS)}.")
    return _RUNS[kind](**settings)


def _parse(value: str) -> Any:
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return value
