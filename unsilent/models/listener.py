"""The listener: a pretrained sound classifier whose classes are mean embeddings of recordings.

batch      mel spectrograms side by side
mels       mel bands of this project's grid
frames     mel frames
bands      mel bands that the network was trained on (HTK scale, 0 to 22 050 Hz)
decimated  every second mel frame: one frame of the network, 1024 samples at 44.1 kHz
dim        width of the embedding

Source:
    Ma and Lerch, "Representation learning for the automatic indexing of sound effects libraries" (ISMIR 2022); the network of aisfx 0.1.2.
    Differs: its input is computed from the mels of this project by a linear map, batch norm is folded into the convolutions, and a cosine
    classifier over mean embeddings replaces the trained last layer.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from unsilent.config import MAX_SIZE, Config
from unsilent.signal.mel import FLOOR_DB, RANGE_DB

SHARPNESS = 12.0  # logits are cosines times this
_POOLED_BLOCKS = 3  # blocks after which time and frequency are halved
_FRAME_STEP = 2  # mel frames per frame of the network
_INPUT_SCALE = 9.457798957824707  # divisor of the input in aisfx
_QUIETEST = 1e-4  # unit of power in the logarithmic compression of aisfx
_LOUDEST_LOG = 0.6  # log10 of the power of the loudest band to which inputs are scaled: the median of recordings at aisfx's peak of 0.7
_LOG_RANGE = (-9.0, 4.0)  # log10 of powers


class ListenerConfig(Config):
    """Sizes of a listener; the defaults are those of aisfx 0.1.2."""

    mels: int = Field(default=80, gt=0, le=MAX_SIZE, description="Mel bands of the mels that it is given, on this project's grid.")
    bands: int = Field(default=96, gt=0, le=MAX_SIZE, description="Mel bands of the network's own input.")
    block: int = Field(default=100, gt=0, le=MAX_SIZE, description="Frames of one block; embeddings of blocks are averaged.")
    channels: tuple[int, ...] = Field(default=(64, 128, 256, 512), min_length=1, description="Channels of each pair of convolutions.")
    labels: int = Field(gt=1, le=MAX_SIZE, description="Classes.")


class Listener(nn.Module):
    """Classifies mels by the cosine of their embedding with the mean of each class's recordings.

    Attributes:
        to_bands, band_bias: linear map from decibels / 10 of our bands to log10 of powers of the network's bands.
        centre: mean of the class means, subtracted from every embedding.
        fc: last layer: unit vectors of the classes, times `SHARPNESS`.
    """

    def __init__(self, config: ListenerConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("to_bands", torch.zeros(config.bands, config.mels))
        self.register_buffer("band_bias", torch.zeros(config.bands))
        self.register_buffer("centre", torch.zeros(config.channels[-1]))
        inputs = (1, *config.channels[:-1])
        self.blocks = nn.ModuleList(
            nn.ModuleList([nn.Conv2d(before, after, 3, padding=1), nn.Conv2d(after, after, 3, padding=1)])
            for before, after in zip(inputs, config.channels, strict=True)
        )
        self.fc = nn.Linear(config.channels[-1], config.labels)

    @property
    def block_frames(self) -> int:
        """Mel frames of one block."""
        return self.config.block * _FRAME_STEP

    def forward(self, mel01: Float[Tensor, "batch mels frames"]) -> Float[Tensor, "batch labels"]:
        """Logits of mels in [0, 1]; invariant to level."""
        return self.fc(self.features(mel01))

    def features(self, mel01: Float[Tensor, "batch mels frames"]) -> Float[Tensor, "batch dim"]:
        """Features: the embedding minus the centre, as unit vectors."""
        return F.normalize(self.embed(mel01) - self.centre, dim=1)

    def embed(self, mel01: Float[Tensor, "batch mels frames"]) -> Float[Tensor, "batch dim"]:
        """Mean embedding of blocks of 2.3 s. The last block ends with the sound; a shorter sound is repeated."""
        given, block = self._input(mel01), self.config.block
        if given.shape[1] < block:
            given = given[:, torch.arange(block) % given.shape[1]]
        n = -(-given.shape[1] // block)
        starts = [min(number * block, given.shape[1] - block) for number in range(n)]
        x = torch.cat([given[:, start : start + block] for start in starts])[:, None]
        for number, layers in enumerate(self.blocks):
            for layer in layers:
                x = F.relu(layer(x))
            if number < _POOLED_BLOCKS:
                x = F.max_pool2d(x, 2)
        return x.float().mean(3).amax(2).unflatten(0, (n, -1)).mean(0)  # mean over frequency, maximum over time

    def _input(self, mel01: Float[Tensor, "batch mels frames"]) -> Float[Tensor, "batch decimated bands"]:
        """Input as in the network's training: compressed powers, with the loudest band scaled to `_LOUDEST_LOG`."""
        decibels = mel01[:, :, ::_FRAME_STEP].to(self.to_bands.dtype) * RANGE_DB + FLOOR_DB
        powers = (self.to_bands @ (decibels / 10)).transpose(1, 2) + self.band_bias
        powers = powers + (_LOUDEST_LOG - powers.amax((1, 2), keepdim=True))
        return torch.log1p(10 ** powers.clamp(*_LOG_RANGE) / _QUIETEST) / (_INPUT_SCALE * math.log(10))


class Ranker(NamedTuple):
    """A listener that ranks sounds, and the names of its classes."""

    listener: Listener
    classes: tuple[str, ...]
