"""Still images: colour modes, orientation, errors."""

import numpy as np
import pytest
from PIL import Image

from unsilent.errors import MediaError
from unsilent.media.image import read_image


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_read_image_converts_any_mode_to_rgb(tmp_path, mode):
    Image.new("RGB", (30, 20), (255, 255, 255)).convert(mode).save(tmp_path / "white.png")
    image = read_image(tmp_path / "white.png")
    assert (image.shape, image.dtype, image.min()) == ((20, 30, 3), np.uint8, 255)


def test_read_image_applies_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    Image.new("RGB", (30, 20)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (30, 20, 3)


@pytest.mark.parametrize("content", [None, b"", b"no image", "truncated"], ids=["missing", "empty", "text", "truncated"])
def test_files_that_are_not_images_are_refused(tmp_path, content):
    path = tmp_path / "bad.png"
    if content == "truncated":
        Image.effect_noise((64, 64), 50).save(path)
        path.write_bytes(path.read_bytes()[:300])
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(MediaError, match=r"bad.png cannot be read as an image: "):
        read_image(path)
