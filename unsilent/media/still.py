"""Single pictures, in any format that Pillow reads."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from unsilent.errors import MediaError


def read_still(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    """Read a picture as RGB, turned as it is meant to be looked at.

    Raises:
        MediaError: if it is missing, no picture, cut off, or so large that it must be a mistake.
    """
    try:
        with Image.open(path) as picture:
            return np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "it is no picture, or damaged"
        raise MediaError(f"{path} cannot be read as a picture: {why}.") from None
