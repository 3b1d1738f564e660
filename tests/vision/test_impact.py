"""Impacts: levels of blows, bounces, pans, cuts and still pictures; memory."""

import numpy as np
import pytest

from unsilent.vision.impact import MEASURES, REACH, ImpactMeter, weights
from unsilent.vision.motion import normalise


def measure(greys):
    """Levels of consecutive frames."""
    meter = ImpactMeter()
    for number, grey in enumerate(greys):
        meter.add(number, np.clip(grey, 0, 255).astype(np.uint8))
    return np.stack([meter.levels[number] for number in range(len(meter.levels))])


def texture(height, width):
    """Smooth random picture, 40 to 200 grey levels."""
    rough = np.random.default_rng(0).uniform(40, 200, (height // 4 + 1, width // 4 + 1))
    return rough.repeat(4, 0).repeat(4, 1)[:height, :width]


def ball(heights, noise=0.3):
    """Frames of a bright ball with its lower edge at these pixels from the top, on a wall, with camera noise."""
    rng, wall, rows = np.random.default_rng(1), 0.3 * texture(48, 64), np.arange(48)[:, None]
    columns = np.arange(64)
    for height in heights:
        inside = np.clip(6.5 - np.hypot(rows - (height - 6), columns - 40), 0, 1)
        yield wall * (1 - inside) + 220 * inside + rng.normal(0, noise, wall.shape)


def bouncing(n, period, top=12.0, ground=44.0):
    """Lower edge of a ball that falls and rises freely: it is at the ground every `period` frames, from `period / 2` on."""
    phase = ((np.arange(n) + period / 2) % period) / period * 2 - 1
    return ground - (ground - top) * (1 - phase**2)


def hammered(n, hits):
    """Lower edge of a hammer that is lifted fast and smoothly, waits, comes down ever faster and stops at each hit."""
    heights = np.full(n, 42.0)
    for hit in hits:
        heights[hit - 14 : hit - 9] = 42 - 30 * (0.5 - 0.5 * np.cos(np.pi * np.linspace(0.1, 1, 5)))
        heights[hit - 9 : hit - 4] = 12
        heights[hit - 4 : hit + 1] = 12 + 30 * np.linspace(0, 1, 5) ** 2
    return heights


def test_levels_peak_where_a_ball_bounces():
    levels = measure(ball(bouncing(120, 20)))[:, 1]
    for bounce in (30, 50, 70, 90):
        assert abs(levels[bounce - 10 : bounce + 10].argmax() - 10) <= 1
    tops = levels[[20, 40, 60, 80, 100]]
    assert tops.max() < 0.3 * levels[[30, 50, 70, 90]].max()


def test_a_stop_counts_more_than_the_fastest_motion():
    """A hammer is lifted faster than it comes down."""
    heights, hits = hammered(140, [30, 70, 110]), [30, 70, 110]
    speeds, curve = np.abs(np.diff(heights, prepend=heights[0])), normalise(measure(ball(heights)))[:, 1]
    fastest = [hit - 15 + int(speeds[hit - 15 : hit].argmax()) for hit in hits]
    assert all(hit - fast > 8 for hit, fast in zip(hits, fastest, strict=True))
    for hit in hits:
        assert abs(curve[hit - 20 : hit + 6].argmax() - 20) <= 1
        assert curve[hit - 1 : hit + 2].max() > 1.5 * curve[hit - 16 : hit - 7].max()


def test_still_video_has_no_level():
    assert not measure([texture(48, 64)] * 40).any()


def test_camera_noise_gives_small_curves():
    assert normalise(measure(ball(np.full(100, 30.0)))).max() < 0.3


@pytest.mark.parametrize("speed", [1, 2])
def test_steady_pan_gives_small_levels(speed):
    wall = texture(48, 64 + 60 * speed)
    levels, blow = measure([wall[:, speed * i : speed * i + 64] for i in range(60)]), measure(ball(bouncing(60, 20)))
    assert levels.mean() < 0.15 * blow[:, 1].max()


def test_cuts_and_flashes_are_no_blows():
    one, other = texture(48, 64), 255 - texture(48, 64)
    assert not measure([one] * 20 + [other] * 20).any()
    assert not measure([one] * 20 + [other] + [one] * 20).any()


def test_repeated_frames_keep_their_measures():
    """A third of the frames of a slower video is shown twice; after three repeats a video counts as still."""
    wall, meter = texture(48, 200), ImpactMeter()
    measures = [meter.measure(wall[:, 2 * i : 2 * i + 64].astype(np.uint8)) for i in (0, 1, 2, 2, 3, 3, 3, 3)]
    assert np.array_equal(measures[3], measures[2])
    assert np.array_equal(measures[6], measures[5])
    assert measures[6].any()
    assert measures[7][0] == 0


def test_gap_in_the_frame_numbers_is_not_motion():
    meter = ImpactMeter()
    for number, grey in ((3, 10), (9, 30), (20, 10)):
        meter.add(number, np.full((48, 64), grey, np.uint8))
    assert sorted(meter.levels) == [3, 9, 20]
    assert not np.stack(list(meter.levels.values())).any()


def test_levels_are_those_of_the_whole_video_while_it_is_read():
    """But for the last frames, whose future is not yet known; memory does not grow by more than a level for each frame."""
    frames, meter = [np.clip(frame, 0, 255).astype(np.uint8) for frame in ball(bouncing(60, 20))], ImpactMeter()
    whole = measure(frames)
    for number, frame in enumerate(frames):
        meter.add(number, frame)
        assert len(meter._recent) <= 2 * REACH + 1
        final = np.stack([meter.levels[n] for n in range(max(1, number + 1 - REACH))])
        if number >= 2 * REACH:
            np.testing.assert_array_equal(final, whole[: len(final)])
    assert sorted(meter.levels) == list(range(60))


def test_weights_ignore_what_stays_the_same():
    shaped = weights().reshape(2, 2 * REACH + 1, MEASURES)
    np.testing.assert_allclose(shaped.sum(1), 0, atol=1e-4)
    assert not shaped[0, :, 9:].any()
