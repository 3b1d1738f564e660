"""Rows of shard indexes: metadata of each item. docs/data.md describes arrays, dtypes and shapes."""

from dataclasses import dataclass
from typing import Any, TypeVar

from unsilent.data.manifest import Kind


@dataclass(frozen=True)
class ItemRow:
    """Row of the shards `waveforms`, `mels` and `motion`, and the first columns of the others.

    Attributes:
        clip_id: as in the manifest; several items of a shard may have the same clip.
        kind: `sound`, `image`, or `clip` (a video with its own sound).
        label: class name; empty if unknown.
        split: `train`, `valid` or `test`; empty if unknown.
        sample_rate: sample rate of the recording in Hz; 0 for images.
    """

    clip_id: str
    kind: Kind
    label: str
    split: str
    sample_rate: int

    def as_json(self) -> dict[str, Any]:
        """Columns in order, without None values."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class FeaturesRow(ItemRow):
    """Row of the shard `features`.

    Attributes:
        lowest: feature value of a stored 0, for uint8; None for float16.
        step: difference between adjacent stored values, for uint8; None for float16.
    """

    lowest: float | None = None
    step: float | None = None


@dataclass(frozen=True)
class CodesRow(ItemRow):
    """Row of the shard `codes`: one encoding of a stretch of a sound.

    Attributes:
        item: index of the sound in the shard `waveforms` or `mels`.
        variant: number of the encoding; 0 is of the unchanged sound.
        speed: playback speed of the encoded sound, which changes pitch too.
        shift_samples: samples cut off at the start, after the change of speed; negative for silence added before it.
        start_column: first code column of this stretch in the whole encoding; a multiple of the clip's columns.
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
