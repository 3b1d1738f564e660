"""What a training run is made of: a TOML file naming a preset, plus overrides; unknown keys are refused."""

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from unsilent.config import Config
from unsilent.data.augmentation import Augmentation
from unsilent.errors import ParameterError


class Run(Config):
    """Settings that every training shares.

    Times and sizes: `steps` optimizer steps in all, `decay_steps` of them with a learning rate falling linearly to zero at the end,
    `warmup_steps` rising at the start; `save_every` and `log_every` in steps.
    """

    preset: str  # row of `unsilent.presets` whose sizes are trained
    shards: Path  # folder written by `unsilent data extract`
    out: Path  # folder for checkpoints and logs
    initial: Path | None = None  # checkpoint folder whose weights are trained further; without it training begins with random ones
    seed: int = 0
    steps: int = Field(gt=0)
    batch: int = Field(gt=0)  # items per process and part of a step
    accumulate: int = Field(default=1, gt=0)  # parts of a step, whose gradients are gathered before weights move
    learning_rate: float = Field(gt=0)
    warmup_steps: int = Field(default=100, ge=0)
    decay_steps: int = Field(default=0, ge=0)
    betas: tuple[float, float] = (0.9, 0.99)  # of Adam
    weight_decay: float = Field(default=0.0, ge=0)
    clip_norm: float = Field(default=1.0, gt=0)  # largest gradient norm
    average: float = Field(default=0.999, ge=0, lt=1)  # decay of the moving average of weights; 0 turns it off
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    devices: int = Field(default=1, gt=0)  # processes of this machine; torchrun decides instead where it is used
    workers: int = Field(default=1, gt=0)  # threads that draw batches ahead
    threads: int = Field(default=0, ge=0)  # CPU threads per process; 0 leaves torch's choice
    save_every: int = Field(default=200, gt=0)
    log_every: int = Field(default=50, gt=0)
    show_every: int = Field(default=1000, ge=0)  # steps between pictures and sounds for TensorBoard; 0 shows none
    valid_every: int = Field(default=0, ge=0)  # steps between validations, the best of which is kept; 0: none, the last weights are kept
    valid_items: int = Field(default=256, gt=0)  # crops or clips that a validation draws, always the same; a classifier hears all sounds
    patience: int = Field(default=0, ge=0)  # validations without improvement after which training stops; 0 never stops early

    @model_validator(mode="after")
    def _can_be_patient(self) -> "Run":
        if self.patience and not self.valid_every:
            raise ParameterError(f"patience {self.patience} counts validations, but valid_every is 0: set it to the steps between them.")
        return self


class SoundRun(Run):
    """A training on crops of sounds."""

    gain_db: tuple[float, float] = (-15.0, 6.0)
    speed: tuple[float, float] = (1.0, 1.0)  # lowest and highest factor that crops are played faster by, pitch and all
    mix_share: float = Field(default=0.0, ge=0, le=1)  # share of crops that a second sound of the same label is mixed into

    @model_validator(mode="after")
    def _has_ranges(self) -> "SoundRun":
        if not self.gain_db[0] <= self.gain_db[1]:
            raise ParameterError(f"gain_db is a range, the lower first, found {list(self.gain_db)}.")
        if not 0.5 <= self.speed[0] <= self.speed[1] <= 2:
            raise ParameterError(f"speed is a range within 0.5 to 2, the lower first, found {list(self.speed)}.")
        return self

    @property
    def augmentation(self) -> Augmentation:
        """How crops vary."""
        return Augmentation(self.gain_db, self.speed, self.mix_share)


class CodebookRun(SoundRun):
    """Training of a codebook with reconstruction and codebook losses, a perceptual distance and a discriminator of mels."""

    kind: Literal["codebook"]
    crop_columns: int = Field(default=10, gt=0)  # code columns in one training crop
    beta: float = Field(default=0.25, ge=0)  # weight of the commitment term
    beta_on_codebook: bool = False  # let `beta` weigh the term that moves the codes instead, as the authors do
    codes: Literal["gradient", "average"] = "gradient"  # how codes learn: by their loss, or as moving averages of what chose them
    codes_decay: float = Field(default=0.99, gt=0, lt=1)  # of these averages, by step
    initialise: Literal["latents", "k-means"] = "latents"  # start codes on latents of the first batch, or on centres of those of eight
    revive_every: int = Field(default=100, gt=0)  # steps after which codes that nothing used are moved to where latents are
    perceptual: Path | None = None  # checkpoint folder of a trained VGGish-ish, or of a distance made from one
    perceptual_weight: float = Field(default=0.0, ge=0)
    perceptual_untrained: bool = False  # allow a checkpoint of random weights, to see what they are worth
    adversarial_weight: float = Field(default=0.0, ge=0)  # 0 builds no discriminator
    adversarial_start: int = Field(default=0, ge=0)  # steps that the discriminator waits
    adaptive_weight: tuple[float, float] = (1.0, 1.0)  # bounds of VQGAN's factor on the adversarial weight; equal ones fix it
    discriminator_width: int = Field(default=64, gt=0)  # channels of its first convolution

    @model_validator(mode="after")
    def _fits(self) -> "CodebookRun":
        if bool(self.perceptual_weight) != (self.perceptual is not None):
            raise ParameterError(
                f"perceptual_weight is {self.perceptual_weight} and perceptual is {self.perceptual or 'not given'}; a distance wants both, "
                "a weight and the checkpoint of a trained classifier."
            )
        if self.perceptual_untrained and self.perceptual is None:
            raise ParameterError("perceptual_untrained has no effect without perceptual, the checkpoint of the distance.")
        if self.adversarial_weight and self.adversarial_start >= self.steps:
            raise ParameterError(
                f"adversarial_start {self.adversarial_start} is not below steps {self.steps}: the discriminator would never be asked; "
                "lower it, or set adversarial_weight to 0."
            )
        if self.codes == "gradient" and "codes_decay" in self.model_fields_set:
            raise ParameterError("codes_decay has no effect on codes that learn by gradient; leave it out or set codes to average.")
        if self.codes == "average" and self.beta_on_codebook:
            raise ParameterError("beta_on_codebook weighs a loss that averaged codes do not learn by; set codes to gradient.")
        if not 0 <= self.adaptive_weight[0] <= self.adaptive_weight[1]:
            raise ParameterError(f"adaptive_weight holds bounds from 0 on, the lower first, found {list(self.adaptive_weight)}.")
        return self


class VocoderRun(SoundRun):
    """Training of a vocoder with spectral losses, a waveform discriminator, or both.

    The loss is `stft_weight` times the two STFT terms, `mel_weight` times the mel term and, from step `adversarial_start` on,
    `adversarial_weight` times what the discriminator says: its scores, and `matching_weight` times its feature matching.
    """

    kind: Literal["vocoder"]
    crop_frames: int = Field(default=64, gt=0)  # mel frames in one training crop
    gain_db: tuple[float, float] = (-20.0, 6.0)
    peak: tuple[float, float] | None = (
        None  # range of peaks that recordings are brought to, before the gain; without it they stay as they are
    )
    min_sample_rate: int = Field(default=22050, ge=0)  # Hz; recordings made at less lack high frequencies
    stft_weight: float = Field(default=1.0, ge=0)
    mel_weight: float = Field(default=15.0, ge=0)
    adversarial_weight: float = Field(default=0.0, ge=0)  # 0 builds no discriminator
    matching_weight: float = Field(default=10.0, ge=0)
    adversarial_start: int = Field(default=0, ge=0)  # steps that the discriminator waits
    discriminator_width: int = Field(default=16, gt=0, multiple_of=4)  # channels of its first convolution

    @model_validator(mode="after")
    def _fits(self) -> "VocoderRun":
        spectral = self.stft_weight or self.mel_weight
        if not spectral and not self.adversarial_weight:
            raise ParameterError("stft_weight, mel_weight and adversarial_weight are all 0, so nothing would be learnt; raise one.")
        if self.adversarial_weight and self.adversarial_start >= self.steps:
            raise ParameterError(
                f"adversarial_start {self.adversarial_start} is not below steps {self.steps}: the discriminator would never be heard; "
                "lower it, or set adversarial_weight to 0."
            )
        if self.adversarial_start and not spectral:
            raise ParameterError(
                f"nothing would be learnt before adversarial_start {self.adversarial_start}, as all other weights are 0; set it to 0."
            )
        if self.peak and not 0 < self.peak[0] <= self.peak[1] <= 1:
            raise ParameterError(f"peak is a range within 0 to 1, the lower first, found {list(self.peak)}.")
        return self


class SamplerRun(Run):
    """Training of the transformer on codes and features."""

    kind: Literal["sampler"]
    real_share: float = Field(default=0.15, ge=0, le=1)  # share of real clips among the pairs
    cut_share: float = Field(default=0.3, ge=0, le=1)  # share of composed clips that change their subject midway
    feature_noise: float = Field(default=0.1, ge=0)  # standard deviation, relative to that of the features
    code_noise: float = Field(default=0.0, ge=0, lt=1)  # share of codes that are read as other ones, as the sampler's own may be wrong
    codebook: Path | None = None  # checkpoint folder of the codes: embeddings begin as its vectors; without it as random ones
    condition_dropout: float = Field(default=0.0, ge=0, lt=1)  # share of sequences that are told nothing, for guidance while sampling
    motion_dropout: float = Field(default=0.0, ge=0, lt=1)  # share of sequences in which nothing moves

    @model_validator(mode="after")
    def _begins_once(self) -> "SamplerRun":
        if self.codebook and self.initial:
            raise ParameterError("codebook has no effect on a training that begins with the weights of initial; leave one out.")
        return self


class ClassifierRun(SoundRun):
    """Training of a classifier of sounds on the labels of the shards; the preset gives the grid of mels."""

    kind: Literal["classifier"]
    network: Literal["vggishish", "melception"]
    crop_frames: int | None = Field(default=None, gt=0)  # mel frames in one training crop; without it the preset's whole clip
    balance: float = Field(default=0.5, ge=0, le=1)  # power of a label's count that it is drawn by: 0 all labels alike, 1 as they come
    bands: Literal["measured", "vggsound"] = "measured"  # mean and deviation of mel bands: of the training crops, or the paper's
    width: int = Field(default=64, gt=0)  # of VGGish-ish: channels of the first convolution
    grid: tuple[int, int] = (5, 10)  # of VGGish-ish: rows and columns before the connected layers
    hidden: int = Field(default=4096, gt=0)  # of VGGish-ish: width of the connected layers
    melception_width: float = Field(default=1.0, gt=0)  # of Melception: share of the paper's channels
    dropout: float = Field(default=0.5, ge=0, lt=1)  # of Melception
    auxiliary_weight: float = Field(default=0.4, ge=0)  # of Melception's second classifier; 0 leaves that untrained

    @model_validator(mode="after")
    def _fits(self) -> "ClassifierRun":
        others = {"vggishish": {"melception_width", "dropout", "auxiliary_weight"}, "melception": {"width", "grid", "hidden"}}[self.network]
        unheard = sorted(others & self.model_fields_set)
        if unheard:
            raise ParameterError(f"{', '.join(unheard)} would have no effect on {self.network}; leave out what is the other network's.")
        return self

    @property
    def hears_auxiliary(self) -> bool:
        """Whether a second classifier is trained too."""
        return self.network == "melception" and self.auxiliary_weight > 0


AnyRun = CodebookRun | VocoderRun | SamplerRun | ClassifierRun
_RUNS = {"codebook": CodebookRun, "vocoder": VocoderRun, "sampler": SamplerRun, "classifier": ClassifierRun}


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
