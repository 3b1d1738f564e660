"""VGGish-ish: a VGG-16 for mel spectrograms, the sound classifier of the perceptual distance. Paper section 3.1."""

from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from unsilent.config import MAX_SIZE, Config
from unsilent.errors import ParameterError
from unsilent.models.band_statistics import BandStatistics, normalise_bands

# channels of the convolutions between poolings, relative to the first convolution
_STAGES = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))
_HALVINGS = len(_STAGES) - 1
MIN_SIZE = 2**_HALVINGS  # smallest number of bands or frames that leaves one position after all poolings


class VGGishishConfig(Config):
    """Sizes of the classifier; the defaults are the paper's for VGGSound (137.6 M parameters)."""

    bands: BandStatistics = Field(default=BandStatistics(), description="Band statistics of the training data; one entry per mel band.")
    labels: int = Field(default=309, gt=1, le=MAX_SIZE, description="Classes.")
    width: int = Field(default=64, gt=0, le=MAX_SIZE, description="Channels of the first convolution; the last has eight times as many.")
    grid: tuple[int, int] = Field(default=(5, 10), description="Rows and columns of the adaptive average pooling.")
    hidden: int = Field(default=4096, gt=0, le=MAX_SIZE, description="Width of the two fully connected layers.")

    @model_validator(mode="after")
    def _fit(self) -> "VGGishishConfig":
        if self.bands.mels < MIN_SIZE:
            raise ParameterError(f"{self.bands.mels} mel bands are too few for {_HALVINGS} poolings; give {MIN_SIZE} or more.")
        if min(self.grid) < 1:
            raise ParameterError(f"a grid of {self.grid[0]} x {self.grid[1]} has no positions; give 1 x 1 or more.")
        return self


def convolutions(width: int) -> nn.Sequential:
    """The convolutions of VGG-16 for one input channel, at the indices of torchvision's `features`, without its last pooling."""
    layers: list[nn.Module] = []
    inputs = 1
    for index, stage in enumerate(_STAGES):
        if index:
            layers.append(nn.MaxPool2d(2))
        for factor in stage:
            convolution = nn.Conv2d(inputs, factor * width, 3, padding=1)
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(convolution.bias)
            layers += [convolution, nn.ReLU(inplace=True)]
            inputs = factor * width
    return nn.Sequential(*layers)


class VGGishish(nn.Module):
    """Mel spectrogram to logits of sound classes.

    Args:
        config: sizes, and the statistics that standardise the input.

    Source:
        Paper sections 3.1 and 6.1.3, and the released vggishish/model.py: VGG-16 (arXiv 1409.1556) without batch norm, its last pooling and
        dropout. Parameter names are the released ones.
    """

    def __init__(self, config: VGGishishConfig = VGGishishConfig()) -> None:
        super().__init__()
        self.config = config
        self.features = convolutions(config.width)
        rows, columns = config.grid
        self.pool = nn.AdaptiveAvgPool2d((rows, columns))
        self.classifier = nn.Sequential(
            nn.Linear(_STAGES[-1][-1] * config.width * rows * columns, config.hidden),
            nn.ReLU(inplace=True),
            nn.Linear(config.hidden, config.hidden),
            nn.ReLU(inplace=True),
            nn.Linear(config.hidden, config.labels),
        )

    def forward(self, mel01: Float[Tensor, "batch mels frames"]) -> Float[Tensor, "batch labels"]:
        """Logits of a mel in [0, 1] of any length; trained on 848 frames.

        Raises:
            ParameterError: if the bands do not match the statistics, or there are fewer than 16 frames.
        """
        return self.classifier[-1](self.embed(mel01))

    def embed(self, mel01: Float[Tensor, "batch mels frames"]) -> Float[Tensor, "batch hidden"]:
        """The last hidden layer, which metrics compare; `classifier[-1]` maps it to logits. Errors as in `forward`."""
        if mel01.shape[2] < MIN_SIZE:
            raise ParameterError(f"{mel01.shape[2]} mel frames are too few for the classifier, which needs {MIN_SIZE} or more.")
        x = self.features(normalise_bands(mel01, self.config.bands).unsqueeze(1))
        return self.classifier[:-1](self.pool(x).flatten(1))
