"""Cuts: found where pictures change for good, and nowhere else."""

import numpy as np
import pytest

from unsilent.vision.cuts import CutMeter

SIZE = (48, 64)


def found(frames):
    meter = CutMeter()
    for number, frame in enumerate(frames):
        meter.add(number, frame)
    return meter.cuts()


def texture(seed):
    low = 70 * seed % 200
    return np.random.default_rng(seed).integers(low, low + 50, SIZE).astype(np.uint8)


def test_cuts_between_still_scenes_are_found():
    scenes = [[texture(seed)] * length for seed, length in enumerate((20, 31, 12, 40))]
    assert found([frame for scene in scenes for frame in scene]) == [20, 51, 63]


def test_scenes_of_the_same_levels_are_told_apart():
    """Each place upside down: its histogram stays."""
    rng = np.random.default_rng(4)
    coarse = rng.uniform(60, 200, (12, 16)).repeat(4, 0).repeat(4, 1)
    both = [coarse, coarse.reshape(4, 12, 64)[:, ::-1].reshape(48, 64)]
    frames = [(both[number >= 30] + 4 * rng.standard_normal(SIZE)).clip(0, 255).astype(np.uint8) for number in range(60)]
    assert found(frames) == [30]


def test_noise_pans_fades_and_flashes_are_no_cuts():
    rng, wide = np.random.default_rng(0), np.random.default_rng(1).integers(0, 256, (48, 400)).astype(np.uint8)
    still = texture(3).astype(float)
    assert found([(still + 8 * rng.standard_normal(SIZE)).clip(0, 255).astype(np.uint8) for _ in range(40)]) == []
    assert found([wide[:, 5 * i : 5 * i + 64] for i in range(60)]) == []
    other = texture(5).astype(float)
    fade = [still] * 15 + [still + (other - still) * i / 20 for i in range(20)] + [other] * 15
    assert found([frame.astype(np.uint8) for frame in fade]) == []
    flash = [still] * 20 + [np.full(SIZE, 250.0)] * 2 + [still] * 20
    assert found([frame.astype(np.uint8) for frame in flash]) == []


@pytest.mark.parametrize("n_frames", [0, 1, 5])
def test_short_videos_have_no_cuts(n_frames):
    assert found([texture(i) for i in range(n_frames)]) == []


def test_a_slow_video_has_no_cut_at_each_picture():
    """One picture a second, in each of which something else is seen."""
    rng = np.random.default_rng(5)
    pictures = [(100 + 60 * rng.standard_normal((12, 16))).clip(60, 140).repeat(4, 0).repeat(4, 1).astype(np.uint8) for _ in range(6)]
    assert found([picture for picture in pictures for _ in range(21)]) == []
