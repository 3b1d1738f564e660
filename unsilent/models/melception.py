"""Melception: an Inception v3 for mel spectrograms, the sound classifier of the metrics. Paper section 3.4."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from unsilent.config import MAX_SIZE, Config
from unsilent.errors import ParameterError
from unsilent.models.band_statistics import BandStatistics, normalise_bands

MIN_SIZE = 79  # smallest number of bands or frames that leaves the auxiliary classifier one position


class MelceptionConfig(Config):
    """Sizes of the classifier; the defaults are the paper's for VGGSound (25.2 M parameters)."""

    bands: BandStatistics = Field(default=BandStatistics(), description="Band statistics of the training data; one entry per mel band.")
    labels: int = Field(default=309, gt=1, le=MAX_SIZE, description="Classes.")
    width: float = Field(default=1.0, gt=0, description="Channels of every convolution, relative to the paper's.")
    dropout: float = Field(default=0.5, ge=0, lt=1, description="Dropout before the last layer, in training.")

    @model_validator(mode="after")
    def _fit(self) -> "MelceptionConfig":
        if self.bands.mels < MIN_SIZE:
            raise ParameterError(f"{self.bands.mels} mel bands are too few for Melception; give {MIN_SIZE} or more.")
        return self

    def channels(self, published: int) -> int:
        """Channels of a convolution that has `published` channels in the paper: scaled, rounded to a multiple of 4, at least 4."""
        return max(4, 4 * round(self.width * published / 4))


class ConvNorm(nn.Module):
    """Convolution without bias, BatchNorm, ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1, padding: int | tuple[int, int] = 0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Float[Tensor, "batch inputs height width"]) -> Float[Tensor, "batch outputs new_height new_width"]:
        """Divide height and width by the stride."""
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Branch(NamedTuple):
    """One branch of an Inception block: a sequence of convolutions.

    Attributes:
        name: prefix of the published weights' names.
        convs: rows of (suffix of the name, channels, kernel height and width). Stride 1 pads to keep the size, stride 2 does not pad.
        ends: number of final convolutions in parallel, whose outputs are concatenated.
        stride: stride of the final convolutions.
    """

    name: str
    convs: tuple[tuple[str, int, tuple[int, int]], ...]
    ends: int = 1
    stride: int = 1


_POINT, _ROW, _COLUMN = (1, 1), (1, 7), (7, 1)  # kernels


def _one(channels: int) -> Branch:
    return Branch("branch1x1", (("", channels, _POINT),))


def _small(pooled: int) -> tuple[Branch, ...]:
    return (
        _one(64),
        Branch("branch5x5", (("_1", 48, _POINT), ("_2", 64, (5, 5)))),
        Branch("branch3x3dbl", (("_1", 64, _POINT), ("_2", 96, (3, 3)), ("_3", 96, (3, 3)))),
        Branch("branch_pool", (("", pooled, _POINT),)),
    )


def _long(inner: int) -> tuple[Branch, ...]:
    double = (("_1", inner, _POINT), ("_2", inner, _COLUMN), ("_3", inner, _ROW), ("_4", inner, _COLUMN), ("_5", 192, _ROW))
    return (
        _one(192),
        Branch("branch7x7", (("_1", inner, _POINT), ("_2", inner, _ROW), ("_3", 192, _COLUMN))),
        Branch("branch7x7dbl", double),
        Branch("branch_pool", (("", 192, _POINT),)),
    )


_WIDE = (
    _one(320),
    Branch("branch3x3", (("_1", 384, _POINT), ("_2a", 384, (1, 3)), ("_2b", 384, (3, 1))), ends=2),
    Branch("branch3x3dbl", (("_1", 448, _POINT), ("_2", 384, (3, 3)), ("_3a", 384, (1, 3)), ("_3b", 384, (3, 1))), ends=2),
    Branch("branch_pool", (("", 192, _POINT),)),
)
_HALVE_FIRST = (
    Branch("branch3x3", (("", 384, (3, 3)),), stride=2),
    Branch("branch3x3dbl", (("_1", 64, _POINT), ("_2", 96, (3, 3)), ("_3", 96, (3, 3))), stride=2),
)
_HALVE_SECOND = (
    Branch("branch3x3", (("_1", 192, _POINT), ("_2", 320, (3, 3))), stride=2),
    Branch("branch7x7x3", (("_1", 192, _POINT), ("_2", 192, _ROW), ("_3", 192, _COLUMN), ("_4", 192, (3, 3))), stride=2),
)
# (name, branches). Downsampling blocks concatenate the max-pooled input instead of a pooling branch.
_BLOCKS = (
    ("Mixed_5b", _small(32)),
    ("Mixed_5c", _small(64)),
    ("Mixed_5d", _small(64)),
    ("Mixed_6a", _HALVE_FIRST),
    ("Mixed_6b", _long(128)),
    ("Mixed_6c", _long(160)),
    ("Mixed_6d", _long(160)),
    ("Mixed_6e", _long(192)),
    ("Mixed_7a", _HALVE_SECOND),
    ("Mixed_7b", _WIDE),
    ("Mixed_7c", _WIDE),
)
_NAMES = tuple(name for name, _ in _BLOCKS)
# blocks before and after the input of the auxiliary classifier
_LOWER, _UPPER = _NAMES[: _NAMES.index("Mixed_7a")], _NAMES[_NAMES.index("Mixed_7a") :]


class Mixed(nn.Module):
    """Inception block: the branches' outputs, concatenated over channels."""

    def __init__(self, inputs: int, branches: tuple[Branch, ...], config: MelceptionConfig) -> None:
        super().__init__()
        self.branches = branches
        self.outputs = sum(config.channels(width) for branch in branches for _, width, _ in branch.convs[-branch.ends :])
        self.downsamples = branches[0].stride == 2
        self.outputs += inputs if self.downsamples else 0
        for branch in branches:
            width, shared = inputs, len(branch.convs) - branch.ends
            for index, (rest, published, kernel) in enumerate(branch.convs):
                outputs = config.channels(published)
                stride = branch.stride if index >= shared else 1
                padding = (kernel[0] // 2, kernel[1] // 2) if stride == 1 else 0
                self.add_module(branch.name + rest, ConvNorm(width, outputs, kernel, stride, padding))
                width = outputs if index < shared else width

    def forward(self, x: Float[Tensor, "batch inputs height width"]) -> Float[Tensor, "batch outputs new_height new_width"]:
        """Keep height and width, or halve them."""
        results = []
        for branch in self.branches:
            y = F.avg_pool2d(x, 3, stride=1, padding=1) if branch.name == "branch_pool" else x
            layers = [self.get_submodule(branch.name + rest) for rest, _, _ in branch.convs]
            for layer in layers[: -branch.ends]:
                y = layer(y)
            results += [layer(y) for layer in layers[-branch.ends :]]
        if self.downsamples:
            results.append(F.max_pool2d(x, 3, stride=2))
        return torch.cat(results, dim=1)


class Auxiliary(nn.Module):
    """Auxiliary classifier on the lower blocks, which gives them shorter gradient paths in training."""

    def __init__(self, inputs: int, config: MelceptionConfig) -> None:
        super().__init__()
        inner, outputs = config.channels(128), config.channels(768)
        self.conv0 = ConvNorm(inputs, inner, 1)
        self.conv1 = ConvNorm(inner, outputs, 5)
        self.fc = nn.Linear(outputs, config.labels)

    def forward(self, x: Float[Tensor, "batch inputs height width"]) -> Float[Tensor, "batch labels"]:
        """Logits."""
        return self.fc(self.conv1(self.conv0(F.avg_pool2d(x, 5, stride=3))).mean(dim=(2, 3)))


class WithAuxiliary(NamedTuple):
    """Logits of both classifiers."""

    logits: Float[Tensor, "batch labels"]
    auxiliary: Float[Tensor, "batch labels"]


class Melception(nn.Module):
    """Mel spectrogram to logits of sound classes, and to the features that metrics compare.

    Args:
        config: sizes, and the statistics that standardise the input.

    Source:
        Paper section 3.4 and the released melception.py: Inception v3 (arXiv 1512.00567) for one input channel, without the first two max
        poolings. Parameter names are torchvision's, as there. Differs: PyTorch's default initialisation; optionally narrower.
    """

    def __init__(self, config: MelceptionConfig = MelceptionConfig()) -> None:
        super().__init__()
        self.config = config
        first, second, third, width = map(config.channels, (32, 64, 80, 192))
        self.Conv2d_1a_3x3 = ConvNorm(1, first, 3, stride=2)
        self.Conv2d_2a_3x3 = ConvNorm(first, first, 3)
        self.Conv2d_2b_3x3 = ConvNorm(first, second, 3, padding=1)
        self.Conv2d_3b_1x1 = ConvNorm(second, third, 1)
        self.Conv2d_4a_3x3 = ConvNorm(third, width, 3)
        for name, branches in _BLOCKS:
            self.add_module(name, Mixed(width, branches, config))
            width = self.get_submodule(name).outputs
            if name == _LOWER[-1]:
                self.AuxLogits = Auxiliary(width, config)
        self.dropout = nn.Dropout(config.dropout)
        self.fc = nn.Linear(width, config.labels)

    @property
    def dim(self) -> int:
        """Width of one feature vector: 2048 in the paper."""
        return self.fc.in_features

    def forward(self, mel01: Float[Tensor, "batch mels frames"]) -> Float[Tensor, "batch labels"]:
        """Logits of a mel in [0, 1] of any length; trained on 848 frames.

        Raises:
            ParameterError: if the bands do not match the statistics, or there are fewer than 79 frames.
        """
        return self.fc(self.dropout(self.features(mel01)))

    def forward_with_aux(self, mel01: Float[Tensor, "batch mels frames"]) -> WithAuxiliary:
        """`forward` with the logits of the auxiliary classifier, for training."""
        middle = self._middle(mel01)
        return WithAuxiliary(self.fc(self.dropout(self._top(middle))), self.AuxLogits(middle))

    def features(self, mel01: Float[Tensor, "batch mels frames"]) -> Float[Tensor, "batch dim"]:
        """Mean of the last block over time and frequency, without dropout; `fc` maps it to logits."""
        return self._top(self._middle(mel01))

    def _middle(self, mel01: Float[Tensor, "batch mels frames"]) -> Float[Tensor, "batch channels height width"]:
        """Input of the auxiliary classifier."""
        if mel01.shape[2] < MIN_SIZE:
            raise ParameterError(f"{mel01.shape[2]} mel frames are too few for Melception, which needs {MIN_SIZE} or more.")
        x = self.Conv2d_1a_3x3(normalise_bands(mel01, self.config.bands).unsqueeze(1))
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(x))
        return self._blocks(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), _LOWER)

    def _top(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch dim"]:
        return self._blocks(x, _UPPER).mean(dim=(2, 3))

    def _blocks(
        self, x: Float[Tensor, "batch inputs height width"], names: tuple[str, ...]
    ) -> Float[Tensor, "batch outputs new_height new_width"]:
        for name in names:
            x = self.get_submodule(name)(x)
        return x
