"""Exemplars: codes of short stretches of recordings of each class. The sampler continues one of them.

classes   classes of the sampler
each      exemplars of one class
rows      sampled codes of one column
columns   code columns of one exemplar
"""

import torch
from jaxtyping import Int
from pydantic import Field
from torch import Tensor, nn

from unsilent.config import MAX_SIZE, Config


class ExemplarsConfig(Config):
    """Sizes of a table of exemplars."""

    classes: int = Field(gt=0, le=MAX_SIZE, description="Classes of the sampler.")
    each: int = Field(gt=0, le=MAX_SIZE, description="Exemplars of one class.")
    rows: int = Field(gt=0, le=MAX_SIZE, description="Codes of one column.")
    columns: int = Field(gt=0, le=MAX_SIZE, description="Code columns of one exemplar.")


class Exemplars(nn.Module):
    """The table of exemplars.

    Attributes:
        codes: codes of each exemplar; those of silence for classes without recordings.
        silence: codes of silence, for the unconditional rows of guidance.
    """

    codes: Int[Tensor, "classes each rows columns"]
    silence: Int[Tensor, "rows columns"]

    def __init__(self, config: ExemplarsConfig) -> None:
        super().__init__()
        self.config = config
        shape = config.rows, config.columns
        self.register_buffer("codes", torch.zeros(config.classes, config.each, *shape, dtype=torch.int16))
        self.register_buffer("silence", torch.zeros(shape, dtype=torch.int16))
