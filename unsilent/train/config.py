"""Settings of training runs from a TOML file and overrides. `unsilent train --explain KIND` prints the descriptions."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import Field, model_validator
from pydantic.fields import FieldInfo

from unsilent.choices import TrainingKind
from unsilent.config import Config
from unsilent.data.augmentation import Augmentation
from unsilent.errors import ParameterError, did_you_mean
from unsilent.files import read_text
from unsilent.models.configs import ConditionKind


class Run(Config):
    """Settings of every training."""

    preset: str = Field(description="name of the preset that gives the network sizes")
    shards: Path = Field(description="folder of shards, written by `unsilent data extract`")
    out: Path = Field(description="folder for checkpoints and logs")
    initial: Path | None = Field(
        None, description="checkpoint folder of initial weights, or a model that has such a network; without it, weights are random"
    )
    seed: int = Field(0, description="random seed of weights, batches and dropout")
    steps: int = Field(gt=0, description="optimizer steps")
    batch: int = Field(gt=0, description="items per process and part of a step")
    accumulate: int = Field(1, gt=0, description="parts of a step; their gradients are averaged before the weights change")
    learning_rate: float = Field(gt=0, description="largest learning rate")
    warmup_steps: int = Field(100, ge=0, description="steps at the start in which the learning rate rises linearly")
    decay_steps: int = Field(0, ge=0, description="steps at the end in which the learning rate falls linearly to 0")
    betas: tuple[float, float] = Field((0.9, 0.99), description="decay rates of Adam's moving averages")
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay; for codebooks and classifiers, an L2 penalty")
    clip_norm: float = Field(1.0, gt=0, description="largest norm of the gradient")
    average: float = Field(0.999, ge=0, lt=1, description="decay per step of the moving average of weights; 0 uses the last weights")
    precision: Literal["32-true", "bf16-mixed"] = Field("32-true", description="precision of the networks")
    devices: int = Field(1, gt=0, description="processes on this machine; ignored under torchrun")
    workers: int = Field(1, gt=0, description="threads that prepare batches in advance")
    threads: int = Field(0, ge=0, description="CPU threads of each process; 0 keeps torch's choice")
    save_every: int = Field(200, gt=0, description="steps between saved states")
    log_every: int = Field(50, gt=0, description="steps between progress lines and points of TensorBoard curves")
    show_every: int = Field(1000, ge=0, description="steps between images and sounds in TensorBoard; 0 shows none")
    valid_every: int = Field(
        0, ge=0, description="steps between validations, the best of which is kept, among them one of `initial`; 0 keeps the last weights"
    )
    valid_items: int = Field(
        256, ge=0, description="crops or clips of a validation, always the same; 0 uses each one once, as classifiers always do"
    )
    patience: int = Field(0, ge=0, description="validations without improvement before training stops; 0 never stops early")

    @model_validator(mode="after")
    def _check_patience(self) -> "Run":
        if self.patience and not self.valid_every:
            raise ParameterError(f"patience is {self.patience}, but valid_every is 0, so there are no validations; set valid_every.")
        return self


class SoundRun(Run):
    """Settings of trainings on crops of sounds."""

    gain_db: tuple[float, float] = Field((-15.0, 6.0), description="range of random gains of crops, in dB")
    speed: tuple[float, float] = Field((1.0, 1.0), description="range of random playback speeds of crops, from 0.5 to 2; pitch changes too")
    mix_share: float = Field(0.0, ge=0, le=1, description="share of crops to which a second sound of the same label is added")

    @model_validator(mode="after")
    def _check_ranges(self) -> "SoundRun":
        if not self.gain_db[0] <= self.gain_db[1]:
            raise ParameterError(f"gain_db is {list(self.gain_db)}, but must be a range, the lower value first.")
        if not 0.5 <= self.speed[0] <= self.speed[1] <= 2:
            raise ParameterError(f"speed is {list(self.speed)}, but must be a range within 0.5 to 2, the lower value first.")
        return self

    @property
    def augmentation(self) -> Augmentation:
        """Augmentation of training crops."""
        return Augmentation(self.gain_db, self.speed, self.mix_share)


class CodebookRun(SoundRun):
    """Training of a codebook with reconstruction and codebook losses, and optionally a perceptual distance and a discriminator."""

    kind: Literal["codebook"]
    crop_columns: int = Field(10, gt=0, description="code columns in a training crop")
    beta: float = Field(0.25, ge=0, description="weight of the commitment loss")
    beta_on_codebook: bool = Field(
        False, description="apply `beta` to the codebook loss instead of the commitment loss, as in the released code"
    )
    codes: Literal["gradient", "average"] = Field(
        "gradient",
        description="how codes are learnt: by the gradient of the codebook loss, or as moving averages of the latents assigned to them",
    )
    codes_decay: float = Field(0.99, gt=0, lt=1, description="decay per step of these moving averages")
    initialise: Literal["latents", "k-means", "uniform"] = Field(
        "latents",
        description="initial codes: latents of the first batch, k-means centres of the latents of eight batches, or uniform in ± "
        "1 / (number of codes), as in the released code",
    )
    revive_every: int = Field(100, gt=0, description="steps after which unused codes are replaced with latents of the batch")
    perceptual: Path | None = Field(None, description="checkpoint folder of a trained VGGish-ish, or of a distance made from one")
    perceptual_weight: float = Field(0.0, ge=0, description="weight of the perceptual distance")
    perceptual_untrained: bool = Field(False, description="allow a `perceptual` with random weights, for comparison")
    adversarial_weight: float = Field(0.0, ge=0, description="weight of the discriminator's loss; 0 builds no discriminator")
    adversarial_start: int = Field(0, ge=0, description="first step with the discriminator")
    adaptive_weight: tuple[float, float] = Field(
        (1.0, 1.0), description="range of VQGAN's adaptive factor on the adversarial weight; equal values fix the factor"
    )
    discriminator_width: int = Field(64, gt=0, description="channels of the discriminator's first convolution")

    @model_validator(mode="after")
    def _check_losses(self) -> "CodebookRun":
        if bool(self.perceptual_weight) != (self.perceptual is not None):
            raise ParameterError(
                f"perceptual_weight is {self.perceptual_weight} and perceptual is {self.perceptual or 'not given'}; a distance needs both, "
                "a weight and the checkpoint of a trained classifier."
            )
        if self.perceptual_untrained and self.perceptual is None:
            raise ParameterError("perceptual_untrained has no effect without perceptual, the checkpoint of the distance; leave it out.")
        _check_start(self.adversarial_weight, self.adversarial_start, self.steps)
        if self.codes == "gradient" and "codes_decay" in self.model_fields_set:
            raise ParameterError("codes_decay has no effect on codes that learn by gradient; leave it out or set codes to average.")
        if self.codes == "average" and self.beta_on_codebook:
            raise ParameterError("beta_on_codebook weighs a loss that averaged codes do not have; set codes to gradient.")
        if not 0 <= self.adaptive_weight[0] <= self.adaptive_weight[1]:
            raise ParameterError(
                f"adaptive_weight is {list(self.adaptive_weight)}, but must be a range of 0 or more, the lower value first."
            )
        return self


class VocoderRun(SoundRun):
    """Training of a vocoder with spectral losses, a waveform discriminator, or both.

    Loss: `stft_weight` × both STFT losses + `mel_weight` × mel loss, and from step `adversarial_start` on
    + `adversarial_weight` × (adversarial loss + `matching_weight` × feature matching).
    """

    kind: Literal["vocoder"]
    crop_frames: int = Field(64, gt=0, description="mel frames in a training crop")
    gain_db: tuple[float, float] = Field((-20.0, 6.0), description="range of random gains of crops, in dB")
    peak: tuple[float, float] | None = Field(
        None,
        description="range, from 0 to 1, of random peaks to which recordings are scaled before the gain; without it, they are not scaled",
    )
    min_sample_rate: int = Field(
        22050, ge=0, description="lowest sample rate of recordings, in Hz; those with lower rates lack high frequencies"
    )
    stft_weight: float = Field(1.0, ge=0, description="weight of the STFT losses")
    mel_weight: float = Field(15.0, ge=0, description="weight of the mel loss")
    adversarial_weight: float = Field(0.0, ge=0, description="weight of the discriminator's losses; 0 builds no discriminator")
    matching_weight: float = Field(10.0, ge=0, description="weight of feature matching within the discriminator's losses")
    adversarial_start: int = Field(0, ge=0, description="first step with the discriminator")
    discriminator_width: int = Field(16, gt=0, multiple_of=4, description="channels of the discriminator's first convolution")

    @model_validator(mode="after")
    def _check_losses(self) -> "VocoderRun":
        spectral = self.stft_weight or self.mel_weight
        if not spectral and not self.adversarial_weight:
            raise ParameterError("stft_weight, mel_weight and adversarial_weight are all 0, so nothing would be learnt; raise one.")
        _check_start(self.adversarial_weight, self.adversarial_start, self.steps)
        if self.adversarial_start and not spectral:
            raise ParameterError(
                f"nothing would be learnt before adversarial_start {self.adversarial_start}, as all other weights are 0; set it to 0."
            )
        if self.peak and not 0 < self.peak[0] <= self.peak[1] <= 1:
            raise ParameterError(f"peak is {list(self.peak)}, but must be a range within 0 to 1, the lower value first.")
        return self


def _check_start(weight: float, start: int, steps: int) -> None:
    if weight and start >= steps:
        raise ParameterError(
            f"adversarial_start {start} is not below steps {steps}, so the discriminator would never be used; lower it, or set "
            "adversarial_weight to 0."
        )


class SamplerRun(Run):
    """Training of the sampler on codes and features."""

    kind: Literal["sampler"]
    condition: ConditionKind | None = Field(
        None, description="kind of condition that replaces the preset's; its classes are the labels of the shards"
    )
    released_start: bool = Field(False, description="initialise feature and class embedders as the released code does")
    real_share: float = Field(
        0.15, ge=0, le=1, description="share of real clips; other sequences are composed of sounds and images of one label"
    )
    cut_share: float = Field(0.3, ge=0, le=1, description="share of composed sequences that change their label midway")
    feature_noise: float = Field(0.1, ge=0, description="standard deviation of the noise on features, relative to that of the features")
    code_noise: float = Field(
        0.0, ge=0, lt=1, description="share of input codes that are replaced at random, for robustness against wrongly sampled codes"
    )
    codebook: Path | None = Field(None, description="checkpoint folder of the codebook whose vectors initialise code embeddings")
    sight: Path | None = Field(None, description="checkpoint folder of the feature classifier, for a condition of kind sight")
    ambience: str = Field("", description="kind sight: label for frames in which nothing is recognised; empty for none")
    label_share: float = Field(0.5, ge=0, le=1, description="kind sight: share of sequences whose label is given instead of recognised")
    pause_share: float = Field(0.0, ge=0, le=1, description="share of composed sequences with pauses between their sounds; needs codebook")
    column_share: float = Field(
        1.0, gt=0, le=1, description="share of columns whose codes a step predicts; adjacent columns are largely redundant"
    )
    condition_dropout: float = Field(0.0, ge=0, lt=1, description="share of sequences without condition, for classifier-free guidance")
    motion_dropout: float = Field(0.0, ge=0, lt=1, description="share of sequences without motion")

    @model_validator(mode="after")
    def _check_validation(self) -> "SamplerRun":
        if self.valid_every and not self.valid_items and self.real_share < 1:
            raise ParameterError(
                f"valid_items 0 uses each real clip once, but real_share is {self.real_share}; set valid_items to a number."
            )
        return self

    @model_validator(mode="after")
    def _check_initial(self) -> "SamplerRun":
        if self.codebook and self.initial and not self.pause_share:
            raise ParameterError(
                "codebook has no effect on a training that starts from initial; leave one out, for instance with --set codebook=."
            )
        if self.pause_share and not self.codebook:
            raise ParameterError("pause_share needs a codebook, which encodes the silence of pauses; give one, or set pause_share to 0.")
        return self


class ClassifierRun(SoundRun):
    """Training of a sound classifier on the labels of the shards; the preset gives the mel settings."""

    kind: Literal["classifier"]
    network: Literal["vggishish", "melception"] = Field(description="architecture")
    released_start: bool = Field(False, description="initialise weights as the released code does")
    crop_frames: int | None = Field(None, gt=0, description="mel frames in a training crop; without it, those of the preset's clip")
    balance: float = Field(
        0.5, ge=0, le=1, description="weights of labels are their counts to this power: 0 draws all equally often, 1 as often as they occur"
    )
    bands: Literal["measured", "vggsound"] = Field(
        "measured", description="mean and standard deviation of mel bands: measured on training crops, or the paper's"
    )
    width: int = Field(64, gt=0, description="VGGish-ish: channels of the first convolution")
    grid: tuple[int, int] = Field((5, 10), description="VGGish-ish: rows and columns before the linear layers")
    hidden: int = Field(4096, gt=0, description="VGGish-ish: width of the linear layers")
    melception_width: float = Field(1.0, gt=0, description="Melception: channels, relative to the paper's")
    dropout: float = Field(0.5, ge=0, lt=1, description="Melception: dropout before the last layer")
    auxiliary_weight: float = Field(0.4, ge=0, description="Melception: weight of the auxiliary classifier's loss; 0 does not train it")

    @model_validator(mode="after")
    def _check_network(self) -> "ClassifierRun":
        others = {"vggishish": {"melception_width", "dropout", "auxiliary_weight"}, "melception": {"width", "grid", "hidden"}}[self.network]
        if unused := sorted(others & self.model_fields_set):
            raise ParameterError(f"{', '.join(unused)} would have no effect on {self.network}; leave out settings of the other network.")
        return self

    @property
    def has_auxiliary(self) -> bool:
        """Whether the auxiliary classifier is trained."""
        return self.network == "melception" and self.auxiliary_weight > 0


AnyRun = CodebookRun | VocoderRun | SamplerRun | ClassifierRun
_RUNS: dict[str, type[AnyRun]] = {"codebook": CodebookRun, "vocoder": VocoderRun, "sampler": SamplerRun, "classifier": ClassifierRun}


def read_run(path: Path, overrides: list[str]) -> AnyRun:
    """Read a TOML file and apply overrides.

    Args:
        path: run file.
        overrides: `key=value` with a TOML value or a bare word, or `key=` to remove a setting of the file.

    Raises:
        ParameterError: for a missing or malformed file, an unknown kind or setting, a missing setting, or a value out of range.
    """
    try:
        settings = tomllib.loads(read_text(path, ParameterError))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ParameterError(f"{path} is not TOML: {error}.") from None
    kind = settings.get("kind")
    if kind not in _RUNS:
        raise ParameterError(f"{path} has kind {kind!r}; known kinds are {', '.join(_RUNS)}.")
    for override in overrides:
        key, separator, value = (part.strip() for part in override.partition("="))
        if not separator:
            raise ParameterError(f"--set is {override!r}, but must be key=value.")
        if key == "kind":
            raise ParameterError(f"--set cannot change the kind of {path}, which is {kind}; give another run file.")
        if value:
            settings[key] = _parse(value)
        elif key in (known := _RUNS[kind].model_fields):
            settings.pop(key, None)
        else:
            hint = did_you_mean(key, known) or f"known are {', '.join(known)}."
            raise ParameterError(f"--set {key}= cannot remove the setting: a {kind} training does not have it; {hint.rstrip()}")
    return _RUNS[kind](**settings)


def _parse(value: str) -> Any:
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return value


def explain(kind: TrainingKind) -> Iterator[tuple[str, str, str, str]]:
    """Settings of a kind of training.

    Yields:
        Name, default, allowed values, and description with units.
    """
    for name, field in _RUNS[kind].model_fields.items():
        if name != "kind":
            yield name, _format_default(field), _format_allowed(field), field.description or ""


def _format_default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = list(field.default) if isinstance(field.default, tuple) else field.default
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _format_allowed(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return " | ".join(get_args(field.annotation))
    limits = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "multiple_of": "multiple of"}
    return ", ".join(f"{word} {getattr(limit, name)}" for limit in field.metadata for name, word in limits.items() if hasattr(limit, name))
