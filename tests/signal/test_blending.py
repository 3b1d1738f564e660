"""Blending at cuts."""

import numpy as np

from unsilent.signal.blending import blend

RATE = 22050


def level(sound, start, stop):
    return 10 * np.log10(np.square(sound[start:stop]).mean() + 1e-12)


def test_levels_do_not_jump_at_a_cut():
    """Noise of -3 and -43 dB."""
    noise = np.random.default_rng(0).standard_normal(3 * RATE).astype(np.float32) * np.float32(0.7)
    noise[RATE:] *= np.float32(0.01)
    for sound, cut in ((noise, RATE), (noise[::-1].copy(), 2 * RATE)):
        made, side = blend(sound, [cut], RATE), RATE // 20
        assert abs(level(sound, cut - side, cut) - level(sound, cut, cut + side)) > 35
        assert abs(level(made, cut - side, cut) - level(made, cut, cut + side)) < 8
        assert abs(made[cut] - made[cut - 1]) < 1e-6
        far = np.r_[: cut - round(0.12 * RATE), cut + round(0.3 * RATE) : len(sound)]
        assert np.array_equal(made[far], sound[far])


def test_equal_levels_keep_their_power():
    sound = np.random.default_rng(1).standard_normal(2 * RATE).astype(np.float32)
    made = blend(sound, [RATE], RATE)
    for start in range(RATE - RATE // 10, RATE + RATE // 3, RATE // 20):
        assert abs(level(made, start, start + RATE // 20) - level(sound, start, start + RATE // 20)) < 1.5


def test_cuts_near_each_other_or_the_edges_do_not_overlap():
    sound = np.random.default_rng(2).standard_normal(RATE).astype(np.float32)
    made = blend(sound, [-5, 0, 1, 400, 402, RATE - 1, RATE, 2 * RATE], RATE)
    assert len(made) == RATE
    assert np.isfinite(made).all()
    assert np.abs(made).max() <= np.sqrt(2) * np.abs(sound).max()
    assert np.array_equal(blend(sound, [], RATE), sound)
