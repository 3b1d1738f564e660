"""Single pictures: colours, the way up, and what is no picture."""

import numpy as np
import pytest
from PIL import Image

from unsilent.errors import MediaError
from unsilent.media.still import read_still


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_pictures_of_any_kind_are_rgb(tmp_path, mode):
    Image.new("RGB", (30, 20), (255, 255, 255)).convert(mode).save(tmp_path / "white.png")
    picture = read_still(tmp_path / "white.png")
    assert (picture.shape, picture.dtype, picture.min()) == ((20, 30, 3), np.uint8, 255)


def test_a_picture_is_turned_as_it_is_shown(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.new("RGB", (30, 20)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_still(tmp_path / "turned.jpg").shape == (30, 20, 3)


@pytest.mark.parametrize("content", [None, b"", b"no picture", "cut"], ids=["missing", "empty", "text", "cut off"])
def test_what_is_no_picture_is_refused(tmp_path, content):
    path = tmp_path / "bad.png"
    if content == "cut":
        Image.effect_noise((64, 64), 50).save(path)
        path.write_bytes(path.read_bytes()[:300])
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(MediaError, match=r"bad.png cannot be read as a picture: "):
        read_still(path)
