"""Rows of shard indexes: what is stored of each item besides its array. docs/data.md describes arrays, dtypes and shapes."""

from dataclasses import dataclass
from typing import Any, TypeVar

from unsilent.data.manifest import Kind


@dataclass(frozen=True)
class ItemRow:
    """Row of the shards `waveforms`, `mels` and `motion`, and the first columns of the others.

    Attributes:
        clip_id: as in the manifest; several items of a shard may be of one clip.
        kind: `sound`, `image`, or `clip` (a video with its own sound).
        label: class name; empty where unknown.
        split: `train`, `valid` or `test`; empty where unknown.
        sample_rate: of the recording in Hz; 0 for images.
    """

    clip_id: str
    kind: Kind
    label: str
    split: str
    sample_rate: int

    def as_json(self) -> dict[str, Any]:
        """Columns in order, without those that are None."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class FeaturesRow(ItemRow):
    """Row of the shard `features`.

    Attributes:
        lowest: of features stored as uint8, the value of 0; None for float16.
        step: of features stored as uint8, the difference between neighbouring values; None for float16.
    """

    lowest: float | None = None
    step: float | None = None


@dataclass(frozen=True)
class CodesRow(ItemRow):
    """Row of the shard `codes`: one encoding of a stretch of a sound.

    Attributes:
        item: index of the sound in the shard `waveforms` or `mels`.
        variant: number of the encoding; 0 encodes the sound unchanged.
        speed: factor that the sound was played faster by before encoding, pitch included.
        shift_samples: samples cut off at the start, after the change of speed; negative for silence put in front of it.
        start_column: code column of the whole encoding at which this stretch starts; a multiple of the clip's columns.
    """

    item: int
    variant: int
    speed: float
    shift_samples: int
    start_column: int


Row = TypeVar("Row", bound=ItemRow)
ROW_TYPES: dict[str, type[ItemRow]] = {
    "waveforms": ItemRow,
    "mels": ItemRow,
    "features": FeaturesRow,
    "motion": ItemRow,
    "codes": CodesRow,
}
