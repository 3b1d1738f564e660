"""Motion: nothing in a still video, most where something hits; alike in bright and dark; made up for sounds, not exactly as they are."""

import numpy as np
import pytest

from unsilent.vision.motion import Watch, normalise, pretend

MOMENTS = 212


def watch(greys):
    """Levels of pictures one after the other."""
    seen = Watch()
    for number, grey in enumerate(greys):
        seen.see(number, np.clip(grey, 0, 255).astype(np.uint8))
    return np.stack([seen.levels[number] for number in range(len(greys))])


def hammer(hits, scale=1.0, noise=0.6, n=MOMENTS):
    """A bright bar that rises, comes down at each hit and returns slowly, over a grey ground, as a camera sees it."""
    rng, tops = np.random.default_rng(0), np.full(n, 12)
    for hit in hits:
        tops[hit - 2 : hit + 3] = 10, 9, 20, 17, 14
    for i in range(n):
        picture = np.full((48, 64), 60.0)
        picture[tops[i] : tops[i] + 12, 40:52] = 160
        yield scale * picture + rng.normal(0, noise, picture.shape)


def test_a_still_video_has_no_motion():
    assert np.array_equal(normalise(watch(np.full((50, 48, 64), 90))), np.zeros((50, 2)))


def test_noise_of_a_camera_is_hardly_motion():
    assert normalise(watch(list(hammer([])))).max() < 0.5


def test_what_hits_is_seen_in_its_moment():
    hits = [30, 75, 140]
    curves = normalise(watch(list(hammer(hits))))
    for hit in hits:
        assert curves[hit - 4 : hit + 5].argmax(0).tolist() == [4, 4]
    assert np.median(curves) < 0.1
    assert (curves[hits] > 0.9).all()


@pytest.mark.parametrize("scale", [0.4, 1.5])
def test_bright_and_dark_are_alike(scale):
    """Up to the logarithm, which is one for changes that are no noise."""
    hits = [30, 75, 140]
    usual, other = (normalise(watch(list(hammer(hits, by, 0.2 * by)))) for by in (1.0, scale))
    assert abs(usual - other).max() < 0.25


def test_a_cut_leaves_the_rest_as_it_is():
    """One picture that has nothing to do with the one before, among events that go on."""
    levels = np.tile(np.linspace(0, 2, 50), 4)[:, None].repeat(2, axis=1)
    cut = levels.copy()
    cut[100] = 6.0
    others = np.arange(len(levels)) != 100
    np.testing.assert_allclose(normalise(cut)[others], normalise(levels)[others], atol=0.05)
    assert normalise(cut)[100].tolist() == [2, 2]


def test_repeated_pictures_move_as_what_they_repeat():
    """Ten pictures a second shown 21.5 times: a level that holds, not one that jumps to nothing and back; but stillness comes."""
    new = [np.roll(np.arange(48 * 64).reshape(48, 64) % 251, 7 * i) for i in range(20)]
    levels = watch([new[i * 10 // 21] for i in range(40)] + [new[19]] * 4)
    assert (levels[3:38] > 1).all()
    assert (levels[-1] == 0).all()


def test_a_gap_in_the_numbers_is_no_motion():
    seen = Watch()
    for number, grey in ((3, 10), (4, 200), (9, 10)):
        seen.see(number, np.full((48, 64), grey, np.uint8))
    assert [bool(seen.levels[number].any()) for number in (3, 4, 9)] == [False, True, False]


@pytest.fixture
def strength():
    """Onsets of fifteen events in the decibels that a clap rises by."""
    events = np.random.default_rng(1).choice(MOMENTS - 20, 15, replace=False) + 10
    rises = np.full(MOMENTS, 0.3)
    rises[events] = np.random.default_rng(2).uniform(4, 15, 15)
    return rises


def test_made_up_motion_follows_onsets_roughly(strength):
    """Together on the whole, best within a moment of each other, and never the same twice."""
    curves = [normalise(pretend(strength, np.random.default_rng(seed))) for seed in range(100)]
    moving = np.stack([curve for curve in curves if curve.any()])
    assert 0.55 < len(moving) / 100 < 0.85
    assert (moving.min(), moving.max()) == (0.0, 2.0)
    alike = {
        lag: np.mean([[np.corrcoef(np.roll(strength, lag), curve[:, k])[0, 1] for k in (0, 1)] for curve in moving]) for lag in range(-6, 7)
    }
    assert max(alike, key=alike.get) in (-1, 0)
    assert 0.25 < max(alike.values()) < 0.7
    assert abs(alike[-6]) < 0.1 > abs(alike[6])
    assert not np.array_equal(moving[0], moving[1])


def test_made_up_motion_is_its_generators(strength):
    first, again = (pretend(strength, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(first, again)


@pytest.mark.parametrize("n", [1, 4, 44])
def test_any_length_will_do(n):
    for seed in range(8):
        levels = pretend(np.zeros(n), np.random.default_rng(seed))
        assert levels.shape == (n, 2)
        assert np.isfinite(normalise(levels)).all()
