"""Reading of still images, in any format that Pillow reads."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from unsilent.errors import MediaError


def read_image(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    """Read an image as RGB, with its EXIF orientation applied.

    Raises:
        MediaError: if the file is missing, not an image, truncated, or larger than Pillow's limit.
    """
    from PIL import Image, ImageOps  # here, because videos need no Pillow

    try:
        with Image.open(path) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "it is not an image, or damaged"
        raise MediaError(f"{path} cannot be read as an image: {why}.") from None
