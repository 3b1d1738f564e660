"""The place of motion, from left to right."""

import numpy as np

from unsilent.vision.place import motion_places


def test_places_follow_what_moves(make_clip):
    def image(number):
        frame = np.full((48, 64, 3), 90, np.uint8)
        x = 4 if number < 40 else 52
        frame[10 + number % 2 * 12 :][:12, x : x + 8] = 230
        return frame

    places = motion_places(make_clip("a.mp4", n_frames=80, images=image))
    assert len(places) == 32
    assert places[4:10].max() < -0.6
    assert places[24:30].min() > 0.6


def test_nothing_moves_in_the_middle(make_clip):
    places = motion_places(make_clip("a.mp4", n_frames=30, images=lambda number: np.full((48, 64, 3), 90, np.uint8)))
    assert np.abs(places).max() < 0.05
