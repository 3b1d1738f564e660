"""Settings of data augmentation; without torch, because configurations import them."""

from typing import NamedTuple


class Augmentation(NamedTuple):
    """Random augmentation of a crop of a sound.

    Attributes:
        gain_db: lowest and highest gain in dB.
        speed: lowest and highest playback speed, which changes pitch too.
        mix_share: share of crops, 0 to 1, to which another sound of the same label is added, 0 to 12 dB lower.
    """

    gain_db: tuple[float, float] = (0.0, 0.0)
    speed: tuple[float, float] = (1.0, 1.0)
    mix_share: float = 0.0
