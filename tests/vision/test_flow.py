"""Optical flow: known displacements, published storage format, errors without OpenCV."""

import io
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from unsilent.errors import ParameterError
from unsilent.vision import flow

MIDDLE = np.s_[64:-64, 64:-64]  # without borders, where flow is undefined


@pytest.fixture(scope="module", autouse=True)
def _opencv():
    pytest.importorskip("cv2", reason="optical flow needs the extra unsilent[flow]")


def scene(height: int = flow.HEIGHT, width: int = flow.WIDTH, blur: float = 2.0) -> np.ndarray:
    """An image with smooth texture everywhere."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(blur))).astype(float)
    return np.clip((image - image.mean()) * 3 + 128, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def moved_right() -> np.ndarray:
    return flow.two_stream_input(np.stack([scene(), np.roll(scene(), 3, axis=1)]))


@pytest.mark.parametrize(("right", "down"), [(3, 0), (-2, 4)])
def test_optical_flow_of_a_shifted_image_is_its_displacement(right, down):
    earlier = scene()[..., 0]
    found = flow.optical_flow(earlier, np.roll(earlier, (down, right), axis=(0, 1)))[MIDDLE]
    np.testing.assert_allclose(np.median(found, axis=(0, 1)), (right, down), atol=0.1)
    assert np.mean(np.abs(found - (right, down)) < 0.5) > 0.95


def test_two_stream_input_contains_flow_as_grey_levels(moved_right):
    """3 of 20 pixels are 3 / 40 of the levels above the centre."""
    np.testing.assert_allclose(np.median(moved_right[MIDDLE][..., 3:], axis=(0, 1)), (127.5 + 255 * 3 / 40, 127.5), atol=1)


def test_flow_of_equal_frames_is_128():
    assert np.all(flow.two_stream_input(np.stack([scene()] * 2))[..., 3:] == 128)


def test_frames_are_resized_before_flow_is_computed():
    """Twice as wide and three times as high: displacements of 6 and 9 pixels become 3."""
    earlier = scene(3 * flow.HEIGHT, 2 * flow.WIDTH, blur=6)
    found = flow.two_stream_input(np.stack([earlier, np.roll(earlier, (9, 6), axis=(0, 1))]))
    assert found.shape == (flow.HEIGHT, flow.WIDTH, 5)
    np.testing.assert_allclose(np.median(found[MIDDLE][..., 3:], axis=(0, 1)), 127.5 + 255 * 3 / 40, atol=1.5)


def test_two_stream_input_contains_the_later_frame_after_jpeg(moved_right):
    """As blue, green, red; equal to Pillow's JPEG of the same quality."""
    file = io.BytesIO()
    Image.fromarray(np.roll(scene(), 3, axis=1)).save(file, "JPEG", quality=95, subsampling="4:2:0")
    np.testing.assert_allclose(moved_right[..., 2::-1].astype(int), np.asarray(Image.open(file)).astype(int), atol=2)
    assert np.abs(moved_right[..., 2::-1].astype(int) - np.roll(scene(), 3, axis=1)).max() > 10


def test_two_stream_input_is_deterministic(moved_right):
    assert np.array_equal(flow.two_stream_input(np.stack([scene(), np.roll(scene(), 3, axis=1)])), moved_right)


def test_quantise_clips_and_rounds():
    steps = np.array([-1000, -20, -19.93, -0.16, -0.01, 0, 0.07, 0.09, 19.93, 20, 1000], np.float32)
    levels = flow.quantise(np.stack([steps, -steps], axis=-1)[None])[0]
    assert levels[:, 0].tolist() == [0, 0, 0, 126, 127, 128, 128, 128, 255, 255, 255]
    assert levels[:, 1].tolist() == [255, 255, 255, 129, 128, 128, 127, 127, 0, 0, 0]


def test_missing_opencv_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ParameterError, match=r"OpenCV is not installed; run in .*: pip install '\.\[flow\]'"):
        flow.two_stream_input(np.zeros((2, 8, 8, 3), np.uint8))


def test_opencv_without_contributed_modules_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(__version__="4.1.0"))
    with pytest.raises(ParameterError, match=r"OpenCV 4.1.0 is installed without them; run in .*: pip install '\.\[flow\]'"):
        flow.two_stream_input(np.zeros((2, 8, 8, 3), np.uint8))


def test_opencv_is_imported_on_use_only():
    """Other features do not need it."""
    code = "import sys, unsilent.vision.features, unsilent.models.backbones.bninception; print('cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
