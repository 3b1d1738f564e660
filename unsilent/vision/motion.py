"""How much happens in pictures, moment by moment: what tells a sampler when something is to be heard.

Levels are measured, one picture after the other, or made up for a sound that has no pictures of its own; `normalise` makes curves of both.
"""

import numpy as np
from jaxtyping import Float, UInt8

CHANNELS = 2  # of levels and curves: the whole picture, and the place in it where most happens
_CELLS = 4  # places along each side of a picture
_LEAST = 0.5  # steps of brightness of 255 below which a change is hardly one: noise of cameras and codecs
_HELD = 2  # pictures that may repeat one, as they do where a video has fewer a second than are asked for, before they count as still
_USUAL, _FEWEST, _HIGHEST = 98, 0.7, 2.0  # per cent of levels that 1 is above; level above the middle that 1 is at least; end of curves
_RISE_DB = 2.5  # above the usual that what begins is an event


class Watch:
    """Measures how much each picture of a stream differs from the one before.

    Attributes:
        levels: of the pictures seen, by number, `[CHANNELS]`: logarithms of the mean change of brightness, 0 where nothing changes.
    """

    def __init__(self) -> None:
        self.levels: dict[int, Float[np.ndarray, "channels"]] = {}
        self._last: tuple[int, np.ndarray] | None = None
        self._repeats = 0

    def see(self, number: int, grey: UInt8[np.ndarray, "height width"]) -> None:
        """Look at the next picture; one whose number does not follow on the last has nothing to differ from.

        Args:
            number: of the picture, greater than that of the last.
            grey: its brightness; small, with sides that are multiples of 4.
        """
        last, self._last = self._last, (number, grey.astype(np.int16))
        if last is None or last[0] != number - 1:
            self.levels[number] = np.zeros(CHANNELS)
            return
        height, width = (side // _CELLS for side in grey.shape)
        changed = np.abs(self._last[1] - last[1]).reshape(_CELLS, height, _CELLS * width)
        cells = changed.sum(1).reshape(_CELLS, _CELLS, width).mean(2) / height
        self._repeats = 0 if cells.any() else self._repeats + 1
        if 0 < self._repeats <= _HELD:
            self.levels[number] = self.levels[number - 1]
        else:
            self.levels[number] = np.log1p(np.array([cells.mean(), cells.max()]) / _LEAST)


def normalise(levels: Float[np.ndarray, "moments channels"]) -> Float[np.ndarray, "moments channels"]:
    """Curves from 0 to 2 that are alike for lively and quiet scenes: what is above the usual, as a share of its peaks.

    Args:
        levels: of one clip.

    Returns:
        0 up to the median level, 1 where all but a few moments stay below. Where levels hardly vary, they stay small, so noise does; a few
        extreme moments, such as cuts from one scene to another, end at 2 and leave the others as they are.
    """
    above = np.maximum(levels - np.median(levels, axis=0), 0)
    return np.minimum(above / np.maximum(np.percentile(above, _USUAL, axis=0), _FEWEST), _HIGHEST)


def pretend(strength: Float[np.ndarray, "moments"], rng: np.random.Generator) -> Float[np.ndarray, "moments channels"]:
    """Levels that pictures of a sound might have had: most of what begins to sound is seen to, more or less, and other things are seen.

    Args:
        strength: how much begins to sound at each moment, in dB; see `signal.onsets`.
        rng: of how the two go apart.

    Returns:
        Levels as of `Watch`: events at most moments of onset, with gains of their own, spread over a few moments and at most one too early
        or too late; a few without a sound; noise around a level that sways. Three scenes of ten are still.
    """
    n = len(strength)
    if rng.random() < 0.3:
        return np.zeros((n, CHANNELS))
    above = np.maximum(strength - np.median(strength), 0)
    seen = np.minimum(above / max(float(np.percentile(above, _USUAL)), _RISE_DB), _HIGHEST)
    # gains change every four moments or so, about as often as events follow on each other
    seen = seen * _between(np.exp(rng.normal(0, 0.6, n // 4 + 2)) * (rng.random(n // 4 + 2) > 0.2), n)
    seen = seen + (rng.random(n) < rng.uniform(0, 0.04)) * rng.exponential(1.0, n)
    moved = np.roll(seen, rng.choice([-1, -1, 0, 0, 1]))  # light arrives first, and a blow is seen to fall
    width, lively, noise = rng.uniform(0.3, 1.6), rng.uniform(0.7, 2.5), rng.uniform(0.02, 0.3)
    channels = np.stack([rng.uniform(0.4, 1.0) * _spread(moved, width * rng.uniform(1.0, 1.5)), _spread(moved, width)], axis=1)
    sway = rng.uniform(0, 1.5) + _between(rng.normal(0, rng.uniform(0, 0.8), n // 16 + 2), n)
    return np.maximum(sway[:, None] + lively * channels + rng.normal(0, noise, channels.shape), 0)


def _between(knots: Float[np.ndarray, "knots"], n: int) -> Float[np.ndarray, "n"]:
    """A value for each of `n` moments from evenly spaced ones."""
    return np.interp(np.linspace(0, len(knots) - 1, n), np.arange(len(knots)), knots)


def _spread(events: Float[np.ndarray, "moments"], width: float) -> Float[np.ndarray, "moments"]:
    """Events as bumps that rise to their height within `width` moments or so, and fall likewise."""
    kernel = np.exp(-0.5 * (np.arange(-4, 5) / width) ** 2)
    return np.convolve(np.pad(events, 4), kernel, "valid")
