"""Configurations of the networks: their sizes, without torch, so that presets and checkpoints can be read without it."""

from typing import Literal

from pydantic import Field, model_validator

from unsilent.clip import Clip
from unsilent.config import MAX_DEPTH, MAX_SIZE, Config
from unsilent.errors import ParameterError

ConditionKind = Literal["none", "features", "class", "features+class", "coordinates", "columns", "sight"]


class CodebookConfig(Config):
    """Sizes of a codebook. The defaults are the paper's for VGGSound (72.1 M parameters).

    Source:
        Released configs/vggsound_codebook.yaml.
    """

    clip: Clip = Field(default=Clip(), description="The time and frequency grid.")
    n_codes: int = Field(default=1024, gt=1, le=MAX_SIZE, description="Entries of the codebook: 1024 for VGGSound, 128 for VAS.")
    dim: int = Field(default=256, gt=0, le=MAX_SIZE, description="Width of one code vector.")
    channels: int = Field(default=128, gt=0, le=MAX_SIZE, description="Channels at full resolution.")
    multipliers: tuple[int, ...] = Field(default=(1, 1, 2, 2, 4), description="Channels at each resolution, in units of `channels`.")
    n_blocks: int = Field(
        default=2, gt=0, le=MAX_DEPTH, description="Residual blocks per resolution of the encoder; decoders have one more."
    )

    def model_post_init(self, _context: object) -> None:
        """Check the number of resolutions against the clip's downsampling."""
        if 2 ** (len(self.multipliers) - 1) != self.clip.downsampling:
            raise ParameterError(
                f"{len(self.multipliers)} multipliers downsample by {2 ** (len(self.multipliers) - 1)}, "
                f"the clip by {self.clip.downsampling}."
            )


class ResidualCodebookConfig(Config):
    """Sizes of a residual codebook; the defaults are those of the `everyday` model."""

    clip: Clip = Field(default=Clip(levels=12), description="The time and frequency grid; its rows are the levels that a sampler predicts.")
    levels: int = Field(default=16, gt=0, le=MAX_DEPTH, description="Rows of the grid: codes per column.")
    n_codes: int = Field(default=1024, gt=1, le=MAX_SIZE, description="Entries of each level's codebook.")
    dim: int = Field(default=170, gt=0, le=MAX_SIZE, description="Width of latents and codes.")
    groups: int = Field(default=5, ge=0, le=MAX_SIZE, description="Groups of bands whose level is coded frame by frame; divides the bands.")
    textures: int = Field(default=10, ge=0, le=MAX_SIZE, description="Groups of bands whose texture is coded; divides the bands.")
    patch: int = Field(default=4, gt=0, le=MAX_SIZE, description="Mel frames averaged before encoding; divides the downsampling.")
    beam: int = Field(default=16, gt=0, le=MAX_DEPTH, description="Width of the beam search over levels while encoding.")

    @model_validator(mode="after")
    def _divides(self) -> "ResidualCodebookConfig":
        if self.clip.downsampling % self.patch:
            raise ParameterError(f"columns of {self.clip.downsampling} frames are not a multiple of patches of {self.patch}.")
        for groups in (self.groups, self.textures):
            if groups and self.clip.mels % groups:
                raise ParameterError(f"{self.clip.mels} mel bands are not a multiple of {groups} groups.")
        if not 1 <= self.clip.levels <= self.levels:
            raise ParameterError(f"clip.levels is {self.clip.levels}, but must be 1 to {self.levels}, the levels of the codebook.")
        return self

    @property
    def patches(self) -> int:
        """Patches in one column."""
        return self.clip.downsampling // self.patch

    @property
    def n_features(self) -> int:
        """Width of a column's features, the input of the linear map."""
        return self.clip.mels * self.patches + self.groups * self.clip.downsampling + self.textures


class TransformerConfig(Config):
    """Sizes of a transformer; the paper's are 24 layers, 16 heads, width 1024."""

    layers: int = Field(gt=0, le=MAX_DEPTH, description="Blocks of attention and MLP.")
    heads: int = Field(gt=0, le=MAX_SIZE, description="Attention heads; must divide `width`.")
    width: int = Field(gt=0, le=MAX_SIZE, description="Width of the residual stream; the MLPs are four times as wide.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout in training, of attention weights and of each residual.")

    @model_validator(mode="after")
    def _divides(self) -> "TransformerConfig":
        if self.width % self.heads:
            raise ParameterError(f"a width of {self.width} is not divisible by {self.heads} heads.")
        return self

    @property
    def n_weights(self) -> int:
        """Weights in all matrices: 12 width² per block, 4 for attention and 8 for the MLP."""
        return 12 * self.layers * self.width**2


class ConditionConfig(Config):
    """Kind and sizes of a condition.

    `none` is the published "no feats": one random vector instead of a feature. `coordinates` are codes that increase with time. Both are
    unconditional models in the paper's tables. All kinds of the paper are a prefix of the sequence. `columns`, which is not in the paper,
    is added to the embeddings: each position gets the condition at the time of the code that it predicts. `sight` is like `columns`, but
    embeds a class instead of the feature: the label, or the classes that a linear classifier recognises from the features.
    """

    kind: ConditionKind = Field(description="Content of the condition and its place in the sequence.")
    n_features: int = Field(default=0, ge=0, le=MAX_SIZE, description="Visual features of one clip.")
    feature_dim: int = Field(default=0, ge=0, le=MAX_SIZE, description="Width of one feature.")
    n_classes: int = Field(default=0, ge=0, le=MAX_SIZE, description="Classes.")
    motion: int = Field(default=0, ge=0, le=MAX_SIZE, description="Motion values per code column, see `unsilent.vision.motion`.")
    ambience: int | None = Field(default=None, ge=0, description="Class for frames in which nothing is recognised, for kind sight.")

    @model_validator(mode="after")
    def _fits_kind(self) -> "ConditionConfig":
        wants_features = self.kind in ("none", "features", "features+class", "columns", "sight")
        wants_classes = self.kind in ("class", "features+class", "sight")
        if wants_features != bool(self.n_features and self.feature_dim) or bool(self.n_features) != bool(self.feature_dim):
            raise ParameterError(f"{self.n_features} features of width {self.feature_dim} do not fit a condition of kind {self.kind!r}.")
        if wants_classes != bool(self.n_classes):
            raise ParameterError(f"{self.n_classes} classes do not fit a condition of kind {self.kind!r}.")
        if self.ambience is not None and not (self.kind == "sight" and self.ambience < self.n_classes):
            raise ParameterError(f"ambience {self.ambience} does not fit a condition of kind {self.kind!r} and {self.n_classes} classes.")
        if self.motion and not self.by_column:
            raise ParameterError(f"{self.motion} motion values do not fit a condition of kind {self.kind!r}.")
        return self

    @property
    def by_column(self) -> bool:
        """Whether the condition is one vector per code column, added to the embeddings, instead of a prefix."""
        return self.kind in ("columns", "sight")

    def n_tokens(self, clip: Clip) -> int:
        """Length of the prefix before the codes; a single start position for a condition by column."""
        if self.kind == "coordinates":
            return clip.n_codes
        if self.by_column:
            return 1
        return self.n_features + bool(self.n_classes)


class SightConfig(Config):
    """Sizes of a linear classifier of visual features."""

    feature_dim: int = Field(gt=0, le=MAX_SIZE, description="Width of one feature.")
    n_classes: int = Field(gt=0, le=MAX_SIZE, description="Classes.")
    ambience: int | None = Field(default=None, ge=0, description="Class for frames in which nothing is recognised; None has no such class.")


class SamplerConfig(Config):
    """Sizes of a sampler."""

    clip: Clip = Field(default=Clip(), description="The time and frequency grid.")
    codes: int = Field(gt=1, le=MAX_SIZE, description="Entries of the codebook.")
    transformer: TransformerConfig = Field(description="Sizes of the transformer.")
    condition: ConditionConfig = Field(description="Kind and sizes of the condition.")

    @model_validator(mode="after")
    def _has_columns(self) -> "SamplerConfig":
        if self.condition.kind == "sight":
            raise ParameterError("a condition of kind sight belongs to a sampler over columns (residual_sampler).")
        if self.condition.kind == "columns" and self.condition.n_features > self.clip.columns:
            raise ParameterError(
                f"{self.condition.n_features} features were given for {self.clip.columns} code columns; give at most one per column."
            )
        return self


class ResidualSamplerConfig(Config):
    """Sizes of the sampler of a residual codebook; `clip.levels` is the number of sampled levels."""

    clip: Clip = Field(description="The time grid; its rows are the sampled levels.")
    codes: int = Field(gt=1, le=MAX_SIZE, description="Entries of each level's codebook.")
    dim: int = Field(gt=0, le=MAX_SIZE, description="Width of a code vector.")
    transformer: TransformerConfig = Field(description="Sizes of the transformer over columns.")
    inner: int = Field(gt=0, le=MAX_SIZE, description="Width of the network over levels.")
    inner_blocks: int = Field(gt=0, le=MAX_DEPTH, description="MLP blocks of the network over levels.")
    condition: ConditionConfig = Field(description="Kind and sizes of the condition.")

    @model_validator(mode="after")
    def _fits(self) -> "ResidualSamplerConfig":
        if not self.condition.by_column:
            raise ParameterError(f"a sampler over columns takes a condition of kind columns or sight, not {self.condition.kind!r}.")
        if self.condition.n_features > self.clip.columns:
            raise ParameterError(
                f"{self.condition.n_features} features were given for {self.clip.columns} code columns; give at most one per column."
            )
        return self


AnySamplerConfig = SamplerConfig | ResidualSamplerConfig


class MelGANConfig(Config):
    """Sizes of the generator; the defaults are the paper's."""

    mels: int = Field(default=80, gt=0, le=MAX_SIZE, description="Mel bands.")
    width: int = Field(default=32, gt=0, le=MAX_SIZE, description="Channels at the sample rate; each earlier stage has twice as many.")
    ratios: tuple[int, ...] = Field(default=(8, 8, 2, 2), min_length=1, description="Upsampling of each stage; the product is the hop.")
    residual_blocks: int = Field(default=3, gt=0, le=MAX_DEPTH, description="Residual blocks per stage, with dilations 1, 3, 9...")


class VocosConfig(Config):
    """Sizes of a vocoder with an iSTFT head."""

    clip: Clip = Field(default=Clip(), description="The time and frequency grid.")
    width: int = Field(default=256, gt=0, le=MAX_SIZE, description="Channels of the trunk, which runs at the frame rate.")
    hidden: int = Field(default=768, gt=0, le=MAX_SIZE, description="Channels inside a ConvNeXt block.")
    n_blocks: int = Field(default=8, gt=0, le=MAX_DEPTH, description="ConvNeXt blocks.")
    kernel: int = Field(default=7, gt=0, le=MAX_SIZE, description="Kernel size of a block's convolution, in frames; odd.")
    rounds: int = Field(
        default=20,
        ge=0,
        le=MAX_DEPTH,
        description="Iterations of the consistency refinement at inference; each costs two transforms. Training uses 0.",
    )

    @model_validator(mode="after")
    def _can_invert(self) -> "VocosConfig":
        if 2 * self.clip.hop > self.clip.n_fft:
            raise ParameterError(
                f"a hop of {self.clip.hop} is more than half of an FFT of {self.clip.n_fft}: windows must overlap to be inverted."
            )
        return self
