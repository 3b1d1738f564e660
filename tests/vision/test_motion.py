"""Motion: levels of still, moving and noisy videos, normalised curves, synthetic motion."""

import numpy as np
import pytest

from unsilent.vision.motion import MotionMeter, normalise, synthetic_motion

FRAMES = 212


def measure(greys):
    """Levels of consecutive frames."""
    meter = MotionMeter()
    for number, grey in enumerate(greys):
        meter.add(number, np.clip(grey, 0, 255).astype(np.uint8))
    return np.stack([meter.levels[number] for number in range(len(greys))])


def hammer(hits, scale=1.0, noise=0.6, n=FRAMES):
    """Frames of a bright bar that comes down at each hit and returns slowly, on grey, with camera noise."""
    rng, tops = np.random.default_rng(0), np.full(n, 12)
    for hit in hits:
        tops[hit - 2 : hit + 3] = 10, 9, 20, 17, 14
    for i in range(n):
        frame = np.full((48, 64), 60.0)
        frame[tops[i] : tops[i] + 12, 40:52] = 160
        yield scale * frame + rng.normal(0, noise, frame.shape)


def test_still_video_has_no_motion():
    assert np.array_equal(normalise(measure(np.full((50, 48, 64), 90))), np.zeros((50, 2)))


def test_camera_noise_gives_small_curves():
    assert normalise(measure(list(hammer([])))).max() < 0.5


def test_curves_peak_at_hits():
    hits = [30, 75, 140]
    curves = normalise(measure(list(hammer(hits))))
    for hit in hits:
        assert curves[hit - 4 : hit + 5].argmax(0).tolist() == [4, 4]
    assert np.median(curves) < 0.1
    assert (curves[hits] > 0.9).all()


@pytest.mark.parametrize("scale", [0.4, 1.5])
def test_curves_hardly_depend_on_brightness(scale):
    """The logarithm turns brightness into an offset, for changes above noise."""
    hits = [30, 75, 140]
    normal, other = (normalise(measure(list(hammer(hits, by, 0.2 * by)))) for by in (1.0, scale))
    assert abs(normal - other).max() < 0.25


def test_cut_between_scenes_does_not_change_other_frames():
    """One extreme level among ordinary events."""
    levels = np.tile(np.linspace(0, 2, 50), 4)[:, None].repeat(2, axis=1)
    cut = levels.copy()
    cut[100] = 6.0
    others = np.arange(len(levels)) != 100
    np.testing.assert_allclose(normalise(cut)[others], normalise(levels)[others], atol=0.05)
    assert normalise(cut)[100].tolist() == [2, 2]


def test_repeated_frames_keep_their_level():
    """Ten frames per second shown at 21.5: levels do not drop to 0 in between, but do in a still video."""
    new = [np.roll(np.arange(48 * 64).reshape(48, 64) % 251, 7 * i) for i in range(20)]
    levels = measure([new[i * 10 // 21] for i in range(40)] + [new[19]] * 4)
    assert (levels[3:38] > 1).all()
    assert (levels[-1] == 0).all()


def test_gap_in_the_frame_numbers_is_not_motion():
    meter = MotionMeter()
    for number, grey in ((3, 10), (4, 200), (9, 10)):
        meter.add(number, np.full((48, 64), grey, np.uint8))
    assert [bool(meter.levels[number].any()) for number in (3, 4, 9)] == [False, True, False]


@pytest.fixture
def strength():
    """Onset strength, in dB, of fifteen claps."""
    events = np.random.default_rng(1).choice(FRAMES - 20, 15, replace=False) + 10
    rises = np.full(FRAMES, 0.3)
    rises[events] = np.random.default_rng(2).uniform(4, 15, 15)
    return rises


def test_synthetic_motion_correlates_with_onsets(strength):
    """On average, most at a lag of at most one frame; different for each seed."""
    curves = [normalise(synthetic_motion(strength, np.random.default_rng(seed))) for seed in range(100)]
    moving = np.stack([curve for curve in curves if curve.any()])
    assert 0.55 < len(moving) / 100 < 0.85
    assert (moving.min(), moving.max()) == (0.0, 2.0)
    correlation = {
        lag: np.mean([[np.corrcoef(np.roll(strength, lag), curve[:, k])[0, 1] for k in (0, 1)] for curve in moving]) for lag in range(-6, 7)
    }
    assert max(correlation, key=correlation.get) in (-1, 0)
    assert 0.25 < max(correlation.values()) < 0.7
    assert abs(correlation[-6]) < 0.1 > abs(correlation[6])
    assert not np.array_equal(moving[0], moving[1])


def test_synthetic_motion_is_determined_by_the_generator(strength):
    first, again = (synthetic_motion(strength, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(first, again)


@pytest.mark.parametrize("n", [1, 4, 44])
def test_synthetic_motion_of_any_length_is_finite(n):
    for seed in range(8):
        levels = synthetic_motion(np.zeros(n), np.random.default_rng(seed))
        assert levels.shape == (n, 2)
        assert np.isfinite(normalise(levels)).all()
