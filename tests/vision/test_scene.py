"""Scenes: frame numbers at the end of a scene, still images, stretches of a video."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unsilent.clip import Clip
from unsilent.errors import MediaError
from unsilent.media.video import stream_frames
from unsilent.models.condition import pick_rows
from unsilent.vision.features import BACKBONES, _resize_and_crop
from unsilent.vision.scene import Scene, observe


@pytest.fixture
def numbers_of(pipeline):
    """Frame numbers of the first window of a scene."""
    clip = pipeline.clip
    return lambda scene: scene.frame_numbers(0, clip, pick_rows(53, 212), repeat=True)


@pytest.fixture
def observed(pipeline):
    """Observation of some frames of a scene by the tiny image network."""
    return lambda scene, numbers: observe(scene, pipeline.clip, pipeline.parts.backbone, pipeline.parts.backbone_row, numbers)


def test_still_image_is_every_frame_of_its_scene(numbers_of, observed, tmp_path):
    Image.new("RGB", (64, 48), (200, 0, 0)).save(tmp_path / "a.png")
    scene = Scene(tmp_path / "a.png", 0.0)
    assert numbers_of(scene) == [0] * 53
    observation = observed(scene, numbers_of(scene))
    assert (observation.features.shape, observation.rows, observation.levels) == ((1, 1280), {0: 0}, {})


def test_stretch_of_a_video_equals_a_video_of_that_stretch(numbers_of, observed, make_clip):
    """For the second second of two."""

    def grey(first):
        return lambda i: np.full((48, 64, 3), 4 * (first + i), np.uint8)

    whole, half = make_clip("whole.mp4", n_frames=50, images=grey(0)), make_clip("half.mp4", n_frames=25, images=grey(25))
    first, second = (numbers_of(Scene(whole, 1.0, start)) for start in (0.0, 1.0))
    assert (min(first), max(first)) == (0, 20)
    assert [number - 22 for number in second] == first
    stretch, alone = observed(Scene(whole, 1.0, 1.0), second).features, observed(Scene(half, 1.0), first).features
    assert abs(stretch - alone).max() < 0.1 * abs(stretch - observed(Scene(whole, 1.0), first).features).max()


def test_frames_repeat_or_the_last_one_stays_at_the_end_of_a_scene(pipeline):
    clip, scene = pipeline.clip, Scene(Path("a.mp4"), 10.0)  # 215 frames, the window starts at number 104
    rows = [0, 110, 111, 112]
    assert scene.frame_numbers(26, clip, rows, repeat=True) == [104, 214, 104, 105]
    assert scene.frame_numbers(26, clip, rows, pairs=True, repeat=True) == [104, 104, 105, 106]
    assert scene.frame_numbers(26, clip, rows) == [104, 214, 214, 214]


def test_stretch_after_the_end_is_refused(numbers_of, observed, make_clip):
    scene = Scene(make_clip("short.mp4", n_frames=25), 1.0, 7.0)
    with pytest.raises(MediaError, match=r"short.mp4 has no frame at or after 7.00 s"):
        observed(scene, numbers_of(scene))


def test_resnet50_sees_frames_as_pillow_scales_them(make_clip, monkeypatch):
    """A large video of noise, so that every other filter gives other levels; two decoders round conversion to RGB alike."""
    seen = []
    monkeypatch.setattr("unsilent.vision.scene.extract", lambda frames, *_, **__: seen.extend(frames) or torch.zeros(len(seen), 1))
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3)).astype(np.uint8)
    path, expects = make_clip("large.mp4", n_frames=5, size=(640, 480), images=lambda i: noise), BACKBONES["resnet50"]
    observe(Scene(path, 0.2), Clip(), torch.nn.Identity(), expects, [0])
    _, whole = next(stream_frames(path, 21.5))
    pillow = np.asarray(Image.fromarray(whole).resize((341, 256), Image.Resampling.BILINEAR))[16:240, 58:282]
    given = _resize_and_crop(seen[0], expects).permute(1, 2, 0).numpy()
    assert np.abs(given.astype(int) - pillow).max() <= 1
