"""Optical flow: it finds known motion, is stored as published, and says what is missing where OpenCV is."""

import io
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from unsilent.errors import ParameterError
from unsilent.vision import flow

MIDDLE = np.s_[64:-64, 64:-64]  # away from the borders, where something comes into view that no flow can know


@pytest.fixture(scope="module", autouse=True)
def _opencv():
    pytest.importorskip("cv2", reason="optical flow needs the extra unsilent[flow]")


def scene(height: int = flow.HEIGHT, width: int = flow.WIDTH, blur: float = 2.0) -> np.ndarray:
    """A picture with texture everywhere, smooth enough to be followed."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(blur))).astype(float)
    return np.clip((picture - picture.mean()) * 3 + 128, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def moved_right() -> np.ndarray:
    return flow.look(np.stack([scene(), np.roll(scene(), 3, axis=1)]))


@pytest.mark.parametrize(("right", "down"), [(3, 0), (-2, 4)])
def test_a_moved_picture_gives_its_motion(right, down):
    earlier = scene()[..., 0]
    found = flow.optical_flow(earlier, np.roll(earlier, (down, right), axis=(0, 1)))[MIDDLE]
    np.testing.assert_allclose(np.median(found, axis=(0, 1)), (right, down), atol=0.1)
    assert np.mean(np.abs(found - (right, down)) < 0.5) > 0.95


def test_motion_is_stored_as_grey_levels(moved_right):
    """3 of 20 pixels is 3 / 40 of the grey levels above the middle."""
    np.testing.assert_allclose(np.median(moved_right[MIDDLE][..., 3:], axis=(0, 1)), (127.5 + 255 * 3 / 40, 127.5), atol=1)


def test_a_still_picture_is_the_middle():
    assert np.all(flow.look(np.stack([scene()] * 2))[..., 3:] == 128)


def test_large_pictures_are_pressed_before_they_are_compared():
    """Twice as wide and three times as high: 6 pixels across become 3, 9 down become 3."""
    earlier = scene(3 * flow.HEIGHT, 2 * flow.WIDTH, blur=6)
    found = flow.look(np.stack([earlier, np.roll(earlier, (9, 6), axis=(0, 1))]))
    assert found.shape == (flow.HEIGHT, flow.WIDTH, 5)
    np.testing.assert_allclose(np.median(found[MIDDLE][..., 3:], axis=(0, 1)), 127.5 + 255 * 3 / 40, atol=1.5)


def test_the_picture_is_the_later_one_after_jpeg(moved_right):
    """Blue, green, red, with the losses of Pillow's JPEG of the same quality."""
    file = io.BytesIO()
    Image.fromarray(np.roll(scene(), 3, axis=1)).save(file, "JPEG", quality=95, subsampling="4:2:0")
    np.testing.assert_allclose(moved_right[..., 2::-1].astype(int), np.asarray(Image.open(file)).astype(int), atol=2)
    assert np.abs(moved_right[..., 2::-1].astype(int) - np.roll(scene(), 3, axis=1)).max() > 10


def test_the_same_pair_gives_the_same_bytes(moved_right):
    assert np.array_equal(flow.look(np.stack([scene(), np.roll(scene(), 3, axis=1)])), moved_right)


def test_grey_levels_of_flow():
    steps = np.array([-1000, -20, -19.93, -0.16, -0.01, 0, 0.07, 0.09, 19.93, 20, 1000], np.float32)
    levels = flow.quantise(np.stack([steps, -steps], axis=-1)[None])[0]
    assert levels[:, 0].tolist() == [0, 0, 0, 126, 127, 128, 128, 128, 255, 255, 255]
    assert levels[:, 1].tolist() == [255, 255, 255, 129, 128, 128, 127, 127, 0, 0, 0]


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ParameterError, match=r"OpenCV is not installed; run in .*: pip install '\.\[flow\]'"):
        flow.look(np.zeros((2, 8, 8, 3), np.uint8))


def test_a_library_without_its_contributed_modules_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(__version__="4.1.0"))
    with pytest.raises(ParameterError, match=r"OpenCV 4.1.0 is installed without them; run in .*: pip install '\.\[flow\]'"):
        flow.look(np.zeros((2, 8, 8, 3), np.uint8))


def test_opencv_is_loaded_only_when_it_is_used():
    """Who looks at single pictures neither has nor waits for it."""
    code = "import sys, unsilent.vision.features, unsilent.models.backbones.bninception; print('cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
