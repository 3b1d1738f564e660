"""Motion: curves of the impacts in a video, on which the sampler is conditioned for onsets.

Levels are measured in a video (`impact.ImpactMeter`), or synthesised for training sounds without video (`synthetic_motion`).
`normalise` turns either into curves for the sampler.

    frames    at the clip's feature rate
    channels  2: from the whole frame, and from its cells too
"""

import numpy as np
from jaxtyping import Float

CHANNELS = 2
_PEAK_PERCENTILE = 98  # percentile of the levels above the median that is scaled to 1
_MIN_PEAK = 0.7  # lower limit of this percentile
_MAX_CURVE = 2.0  # largest value of a curve
_MIN_PEAK_DB = 2.5  # smallest onset strength above the median that counts as an event
_STILL_SHARE = 0.3  # probability of a still scene in synthetic motion


def normalise(levels: Float[np.ndarray, "frames channels"]) -> Float[np.ndarray, "frames channels"]:
    """Motion curves in [0, 2], comparable between scenes with much and little motion:

        a = max(0, levels - median(levels)),    curve = min(2, a / max(percentile_98(a), 0.7))

    The minimum of 0.7 limits noise if levels hardly vary. The limit of 2 reduces the influence of a single extreme moment.

    Args:
        levels: impact levels of one clip.
    """
    above = np.maximum(levels - np.median(levels, axis=0), 0)
    return np.minimum(above / np.maximum(np.percentile(above, _PEAK_PERCENTILE, axis=0), _MIN_PEAK), _MAX_CURVE)


def synthetic_motion(strength: Float[np.ndarray, "frames"], rng: np.random.Generator) -> Float[np.ndarray, "frames channels"]:
    """Random motion levels as a video of a sound might have them, for training sounds without video.

    Most onsets get an event of random gain, smoothed over a few frames and shifted by at most one frame. A few events have no onset. Noise
    and a slow random baseline are added. Three of ten curves have no motion.

    Args:
        strength: onset strength at each frame, in dB; see `signal.onsets`.
        rng: source of all random numbers.

    Returns:
        Levels with the range of `impact.ImpactMeter`.
    """
    n = len(strength)
    if rng.random() < _STILL_SHARE:
        return np.zeros((n, CHANNELS))
    above = np.maximum(strength - np.median(strength), 0)
    events = np.minimum(above / max(float(np.percentile(above, _PEAK_PERCENTILE)), _MIN_PEAK_DB), _MAX_CURVE)
    # gains change about every four frames, the typical distance between events
    events = events * _interpolate(np.exp(rng.normal(0, 0.6, n // 4 + 2)) * (rng.random(n // 4 + 2) > 0.2), n)
    events = events + (rng.random(n) < rng.uniform(0, 0.04)) * rng.exponential(1.0, n)
    moved = np.roll(events, rng.choice([-1, -1, 0, 0, 1]))  # motion tends to precede its sound
    width, liveliness, noise = rng.uniform(0.3, 1.6), rng.uniform(0.7, 2.5), rng.uniform(0.02, 0.3)
    channels = np.stack([rng.uniform(0.4, 1.0) * _smooth(moved, width * rng.uniform(1.0, 1.5)), _smooth(moved, width)], axis=1)
    baseline = rng.uniform(0, 1.5) + _interpolate(rng.normal(0, rng.uniform(0, 0.8), n // 16 + 2), n)
    return np.maximum(baseline[:, None] + liveliness * channels + rng.normal(0, noise, channels.shape), 0)


def _interpolate(knots: Float[np.ndarray, "knots"], n: int) -> Float[np.ndarray, "n"]:
    """Linear interpolation of evenly spaced values to `n` values."""
    return np.interp(np.linspace(0, len(knots) - 1, n), np.arange(len(knots)), knots)


def _smooth(events: Float[np.ndarray, "frames"], width: float) -> Float[np.ndarray, "frames"]:
    """Convolution with a Gaussian of height 1 and standard deviation `width` frames."""
    kernel = np.exp(-0.5 * (np.arange(-4, 5) / width) ** 2)
    return np.convolve(np.pad(events, 4), kernel, "valid")
