"""The picture of a generation: frames above, mel below, on one time axis."""

import numpy as np
import pytest
from PIL import Image

from unsilent.clip import Clip
from unsilent.errors import MediaError, ParameterError
from unsilent.generation.figure import draw as draw_picture

CLIP = Clip()


@pytest.fixture
def mel():
    """Two seconds: silence, then full level in the upper half of the bands."""
    mel = np.full((80, 176), -1.0, dtype=np.float32)
    mel[40:, 86:] = 1.0
    return mel


@pytest.fixture
def video(make_clip):
    """Two seconds, red and then blue."""
    return make_clip("v.mp4", n_frames=50, images=lambda index: np.full((48, 64, 3), (200, 0, 0) if index < 25 else (0, 0, 200), np.uint8))


def read(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def columns_of(pixels, colour):
    """Where, from left to right, a colour is seen."""
    return np.flatnonzero((np.abs(pixels - colour).max(axis=2) < 25).any(axis=0))


def test_frames_and_mel_share_one_time_axis(video, mel, tmp_path):
    draw_picture(video, mel, 2.0, CLIP, "title", tmp_path / "p.png")
    pixels = read(tmp_path / "p.png")
    width, above, below = pixels.shape[1], pixels[: pixels.shape[0] // 3], pixels[pixels.shape[0] // 2 :]
    red, blue, loud = columns_of(above, (200, 0, 0)), columns_of(above, (0, 0, 200)), columns_of(below, (252, 253, 191))
    turn = (red.max() + blue.min()) / 2
    assert red.max() < blue.min()
    assert loud.min() == pytest.approx(turn, abs=0.02 * width)
    assert turn - red.min() == pytest.approx(blue.max() - turn, abs=0.02 * width)


@pytest.mark.parametrize("seconds", [0.04, 0.2, 31.0])
def test_any_length_can_be_drawn(make_clip, tmp_path, seconds):
    video = make_clip("v.mp4", n_frames=round(seconds * 25))
    draw_picture(video, np.zeros((80, max(16, round(seconds * 86))), np.float32), seconds, CLIP, "t", tmp_path / "p.png")
    assert read(tmp_path / "p.png").shape[1] > 1000


@pytest.mark.parametrize("title", ["猫.mp4", r"a$\nothing$.mp4", "\udcff.mp4", "[red]", "a\nb"])
def test_any_name_can_be_the_title(video, mel, tmp_path, title):
    """Regression: a dollar sign began a formula."""
    draw_picture(video, mel, 2.0, CLIP, title, tmp_path / "p.png")
    assert (tmp_path / "p.png").exists()


def test_values_beyond_the_range_are_drawn_as_its_ends(video, mel, tmp_path):
    draw_picture(video, mel, 2.0, CLIP, "t", tmp_path / "a.png")
    draw_picture(video, mel * 1.5, 2.0, CLIP, "t", tmp_path / "b.png")
    assert np.array_equal(read(tmp_path / "a.png"), read(tmp_path / "b.png"))


def test_an_unwritable_place_is_named(video, mel, tmp_path):
    with pytest.raises(MediaError, match=r"gone/p\.png cannot be written: No such file or directory"):
        draw_picture(video, mel, 2.0, CLIP, "t", tmp_path / "gone" / "p.png")


def test_a_missing_video_is_named(mel, tmp_path):
    with pytest.raises(MediaError, match=r"gone\.mp4 does not exist"):
        draw_picture(tmp_path / "gone.mp4", mel, 2.0, CLIP, "t", tmp_path / "p.png")
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_it_says_what_to_install(video, mel, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ParameterError, match=r"drawing needs matplotlib; run in the source folder of unsilent: pip install '\.\[plot\]'"):
        draw_picture(video, mel, 2.0, CLIP, "t", tmp_path / "p.png")


def test_what_is_heard_is_drawn(seeing, video):
    """Not what was decoded, where silence or cues change it afterwards."""
    plain, muted = seeing.generate(video), seeing.generate(video, mute=({"start": 0.5, "stop": 1.5},))
    assert plain.heard_mel is plain.mel
    assert np.array_equal(muted.mel, plain.mel)
    assert muted.heard_mel[:, 50:120].max() == -1
    assert muted.heard_mel[:, :30].max() > -1
