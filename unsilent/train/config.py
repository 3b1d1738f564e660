"""Settings of training runs: a TOML file, plus overrides; `unsilent train --explain KIND` prints the descriptions."""

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
from unsilent.models.configs import ConditionKind


class Run(Config):
    """Settings of every training."""

    preset: str = Field(description="name of a preset, whose network sizes are trained")
    shards: Path = Field(description="folder of shards, written by `unsilent data extract`")
    out: Path = Field(description="folder for checkpoints and logs")
    initial: Path | None = Field(
        None, description="checkpoint folder to start from, or a model that has such a network; without it weights are random"
    )
    seed: int = Field(0, description="random seed of weights, batches and dropout")
    steps: int = Field(gt=0, description="optimizer steps")
    batch: int = Field(gt=0, description="items in each process and part of a step")
    accumulate: int = Field(1, gt=0, description="parts of a step, whose gradients are averaged before the weights change")
    learning_rate: float = Field(gt=0, description="largest learning rate")
    warmup_steps: int = Field(100, ge=0, description="steps at the start in which the learning rate rises linearly")
    decay_steps: int = Field(0, ge=0, description="steps at the end in which the learning rate falls linearly to 0")
    betas: tuple[float, float] = Field((0.9, 0.99), description="decay rates of Adam's averages")
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay; for codebooks and classifiers an L2 penalty")
    clip_norm: float = Field(1.0, gt=0, description="largest norm of the gradient")
    average: float = Field(0.999, ge=0, lt=1, description="decay per step of the moving average of the weights; 0 keeps the last weights")
    precision: Literal["32-true", "bf16-mixed"] = Field("32-true", description="precision of the networks")
    devices: int = Field(1, gt=0, description="processes on this machine; not used under torchrun")
    workers: int = Field(1, gt=0, description="threads that prepare batches in advance")
    threads: int = Field(0, ge=0, description="CPU threads of each process; 0 keeps torch's choice")
    save_every: int = Field(200, gt=0, description="steps between saved states")
    log_every: int = Field(50, gt=0, description="steps between lines of progress and points of TensorBoard curves")
    show_every: int = Field(1000, ge=0, description="steps between images and sounds in TensorBoard; 0 shows none")
    valid_every: int = Field(
        0, ge=0, description="steps between validations, the best of which is kept, among them one of `initial`; 0 keeps the last weights"
    )
    valid_items: int = Field(
        256, ge=0, description="crops or clips of a validation, always the same; 0 is every one once, as classifiers do in any case"
    )
    patience: int = Field(0, ge=0, description="validations without improvement before training stops; 0 never stops early")

    @model_validator(mode="after")
    def _check_patience(self) -> "Run":
        if self.patience and not self.valid_every:
            raise ParameterError(f"patience {self.patience} counts validations, but valid_every is 0; set it to the steps between them.")
        return self


class SoundRun(Run):
    """Settings of trainings on crops of sounds."""

    gain_db: tuple[float, float] = Field((-15.0, 6.0), description="range of random gains of crops, in dB")
    speed: tuple[float, float] = Field((1.0, 1.0), description="range of random playback speeds of crops, from 0.5 to 2, pitch included")
    mix_share: float = Field(0.0, ge=0, le=1, description="share of crops that a second sound of the same label is added to")

    @model_validator(mode="after")
    def _check_ranges(self) -> "SoundRun":
        if not self.gain_db[0] <= self.gain_db[1]:
            raise ParameterError(f"gain_db is a range, the lower value first, found {list(self.gain_db)}.")
        if not 0.5 <= self.speed[0] <= self.speed[1] <= 2:
            raise ParameterError(f"speed is a range within 0.5 to 2, the lower value first, found {list(self.speed)}.")
        return self

    @property
    def augmentation(self) -> Augmentation:
        """Random changes of training crops."""
        return Augmentation(self.gain_db, self.speed, self.mix_share)


class CodebookRun(SoundRun):
    """Training of a codebook with reconstruction and codebook losses, a perceptual distance and a mel discriminator."""

    kind: Literal["codebook"]
    crop_columns: int = Field(10, gt=0, description="code columns in a training crop")
    beta: float = Field(0.25, ge=0, description="weight of the commitment loss")
    beta_on_codebook: bool = Field(False, description="apply `beta` to the codebook loss instead, as in the released code")
    codes: Literal["gradient", "average"] = Field(
        "gradient", description="how codes are learnt: by the codebook loss, or as moving averages of the latents that chose them"
    )
    codes_decay: float = Field(0.99, gt=0, lt=1, description="decay per step of these moving averages")
    initialise: Literal["latents", "k-means", "uniform"] = Field(
        "latents",
        description="first codes: latents of the first batch, k-means centres of the latents of eight batches, or random numbers within "
        "1 / (number of codes), as in the released code",
    )
    revive_every: int = Field(100, gt=0, description="steps after which unused codes are moved onto latents of the batch")
    perceptual: Path | None = Field(None, description="checkpoint folder of a trained VGGish-ish, or of a distance made from one")
    perceptual_weight: float = Field(0.0, ge=0, description="weight of the perceptual distance")
    perceptual_untrained: bool = Field(False, description="allow a `perceptual` of random weights, for comparison")
    adversarial_weight: float = Field(0.0, ge=0, description="weight of the discriminator's loss; 0 builds no discriminator")
    adversarial_start: int = Field(0, ge=0, description="first step with the discriminator")
    adaptive_weight: tuple[float, float] = Field(
        (1.0, 1.0), description="range of VQGAN's adaptive factor on the adversarial weight; equal values fix it"
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
            raise ParameterError(f"adaptive_weight is a range from 0, the lower value first, found {list(self.adaptive_weight)}.")
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
        None, description="range from 0 to 1 of random peaks that recordings are scaled to before the gain; without it they are not scaled"
    )
    min_sample_rate: int = Field(22050, ge=0, description="lowest sample rate of recordings in Hz; lower ones lack high frequencies")
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
            raise ParameterError(f"peak is a range within 0 to 1, the lower value first, found {list(self.peak)}.")
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
        None, description="kind of the condition, in place of the preset's; its classes are the labels of the shards"
    )
    released_start: bool = Field(False, description="draw the first weights of feature and class embedders as the released code does")
    real_share: float = Field(0.15, ge=0, le=1, description="share of real clips; the others are composed of sounds and images of a label")
    cut_share: float = Field(0.3, ge=0, le=1, description="share of composed clips that change their label midway")
    feature_noise: float = Field(0.1, ge=0, description="standard deviation of noise on features, relative to that of the features")
    code_noise: float = Field(0.0, ge=0, lt=1, description="share of input codes replaced at random, because sampled codes may be wrong")
    codebook: Path | None = Field(None, description="checkpoint folder of the codebook, whose vectors code embeddings start from")
    sight: Path | None = Field(None, description="checkpoint folder of the classifier of features, for a condition of kind sight")
    ambience: str = Field("", description="kind sight: label of pictures in which nothing is recognised; empty for none")
    label_share: float = Field(0.5, ge=0, le=1, description="kind sight: share of sequences whose label is named rather than seen")
    pause_share: float = Field(0.0, ge=0, le=1, description="share of composed sequences with pauses between their sounds; needs codebook")
    column_share: float = Field(1.0, gt=0, le=1, description="share of columns whose codes a step predicts; neighbours teach much the same")
    condition_dropout: float = Field(0.0, ge=0, lt=1, description="share of sequences without condition, for classifier-free guidance")
    motion_dropout: float = Field(0.0, ge=0, lt=1, description="share of sequences without motion")

    @model_validator(mode="after")
    def _check_validation(self) -> "SamplerRun":
        if self.valid_every and not self.valid_items and self.real_share < 1:
            raise ParameterError(f"valid_items 0 is every real clip once, but real_share is {self.real_share}; set a number.")
        return self

    @model_validator(mode="after")
    def _check_initial(self) -> "SamplerRun":
        if self.codebook and self.initial and not self.pause_share:
            raise ParameterError(
                "codebook has no effect on a training that starts from initial; leave one out, for instance with --set codebook=."
            )
        if self.pause_share and not self.codebook:
            raise ParameterError("pauses are silence in codes; give the codebook that makes them, or set pause_share to 0.")
        return self


class ClassifierRun(SoundRun):
    """Training of a sound classifier on the labels of the shards; the preset gives the mel settings."""

    kind: Literal["classifier"]
    network: Literal["vggishish", "melception"] = Field(description="architecture")
    released_start: bool = Field(False, description="draw the first weights as the released code does")
    crop_frames: int | None = Field(None, gt=0, description="mel frames in a training crop; without it the preset's clip")
    balance: float = Field(0.5, ge=0, le=1, description="labels are drawn by their counts to this power: 0 all alike, 1 as they occur")
    bands: Literal["measured", "vggsound"] = Field(
        "measured", description="mean and deviation of mel bands: of the training crops, or the paper's"
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
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ParameterError(f"cannot read the run {path}: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ParameterError(f"{path} is not TOML: {error}.") from None
    kind = settings.get("kind")
    if kind not in _RUNS:
        raise ParameterError(f"{path} has kind {kind!r}; known kinds are {', '.join(_RUNS)}.")
    for override in overrides:
        key, separator, value = (part.strip() for part in override.partition("="))
        if not separator:
            raise ParameterError(f"--set takes key=value, found {override!r}.")
        if key == "kind":
            raise ParameterError(f"--set cannot change the kind of {path}, which is {kind}; give another run file.")
        if value:
            settings[key] = _parse(value)
        elif key in (known := _RUNS[kind].model_fields):
            settings.pop(key, None)
        else:
            hint = did_you_mean(key, known) or f"known are {', '.join(known)}."
            raise ParameterError(f"--set {key}= removes nothing: a {kind} training has no such setting; {hint.rstrip()}")
    return _RUNS[kind](**settings)


def _check_known(kind: str, key: str) -> None:
    known = _RUNS[kind].model_fields
    if key not in known:
        raise ParameterError(f"a {kind} training has no setting {key!r}; {did_you_mean(key, known)}?")


def _parse(value: str) -> Any:
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return value


def explain(kind: TrainingKind) -> Iterator[tuple[str, str, str, str]]:
    """Settings of a kind of training.

    Yields:
        Name, default, allowed values, and meaning with units.
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
