"""Settings of random changes of crops; without torch, because configurations import them."""

from typing import NamedTuple


class Augmentation(NamedTuple):
    """Random changes of a crop of a sound.

    Attributes:
        gain_db: lowest and highest gain in dB.
        speed: lowest and highest playback speed, pitch included.
        mix_share: share of crops, from 0 to 1, that are mixed with another sound of the same label, 0 to 12 dB softer.
    """

    gain_db: tuple[float, float] = (0.0, 0.0)
    speed: tuple[float, float] = (1.0, 1.0)
    mix_share: float = 0.0
