"""Scenes: frames after the end, still images, stretches of a video."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unsilent.errors import MediaError
from unsilent.models.condition import pick_rows
from unsilent.vision.scene import Scene, observe


@pytest.fixture
def picked(pipeline):
    """Numbers of the pictures that the first window picks."""
    clip = pipeline.clip
    return lambda scene: scene.frame_numbers(0, clip, pick_rows(53, 212), repeat=True)


@pytest.fixture
def see(pipeline):
    """What the tiny picture network says of pictures."""
    return lambda scene, numbers: observe(scene, pipeline.clip, pipeline.parts.backbone, pipeline.parts.backbone_row, numbers)


def test_still_image_stands_for_every_frame(picked, see, tmp_path):
    Image.new("RGB", (64, 48), (200, 0, 0)).save(tmp_path / "a.png")
    scene = Scene(tmp_path / "a.png", 0.0)
    assert picked(scene) == [0] * 53
    seen = see(scene, picked(scene))
    assert (seen.features.shape, seen.rows, seen.levels) == ((1, 1280), {0: 0}, {})


def test_later_stretch_has_its_own_frames(picked, see, make_clip):
    """The second second of a video is seen as a video of that second alone is."""

    def grey(first):
        return lambda i: np.full((48, 64, 3), 4 * (first + i), np.uint8)

    whole, half = make_clip("whole.mp4", n_frames=50, pictures=grey(0)), make_clip("half.mp4", n_frames=25, pictures=grey(25))
    first, second = (picked(Scene(whole, 1.0, start)) for start in (0.0, 1.0))
    assert (min(first), max(first)) == (0, 20)
    assert [number - 22 for number in second] == first
    ours, theirs = see(Scene(whole, 1.0, 1.0), second).features, see(Scene(half, 1.0), first).features
    assert abs(ours - theirs).max() < 0.1 * abs(ours - see(Scene(whole, 1.0), first).features).max()


def test_frames_repeat_or_hold_after_the_end_of_a_scene(pipeline):
    clip, scene = pipeline.clip, Scene(Path("a.mp4"), 10.0)  # 215 pictures, the window's first is number 104
    rows = [0, 110, 111, 112]
    assert scene.frame_numbers(26, clip, rows, repeat=True) == [104, 214, 104, 105]
    assert scene.frame_numbers(26, clip, rows, pairs=True, repeat=True) == [104, 104, 105, 106]
    assert scene.frame_numbers(26, clip, rows) == [104, 214, 214, 214]


def test_a_stretch_after_the_end_is_an_error(picked, see, make_clip):
    scene = Scene(make_clip("short.mp4", n_frames=25), 1.0, 7.0)
    with pytest.raises(MediaError, match=r"short.mp4 has no picture from 7.00 s on"):
        see(scene, picked(scene))
