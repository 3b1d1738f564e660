"""Animated WebP, which FFmpeg cannot decode: Pillow decodes it, and FFmpeg reads the frames as an animated PNG in memory."""

import io
from functools import lru_cache
from pathlib import Path

from unsilent.errors import MediaError

_HEAD = 21  # bytes, up to the flags of the header
_ANIMATED = 0x02  # flag
MAX_PIXELS = 2_000_000_000  # pixels of all frames, which are in memory at once; half a minute of Full HD at 30 fps


def is_animated_webp(path: Path) -> bool:
    """Whether the first bytes of a file are those of an animated WebP."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    return head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and len(head) == _HEAD and bool(head[-1] & _ANIMATED)


def as_animated_png(path: Path) -> io.BytesIO:
    """Convert an animated WebP losslessly to an animated PNG, with durations and transparency.

    Raises:
        MediaError: if the file is damaged, or too large to be decoded in memory.
    """
    state = path.stat()
    buffer = io.BytesIO(_encoded(path, state.st_mtime_ns, state.st_size))
    buffer.name = str(path.absolute())
    return buffer


@lru_cache(maxsize=1)  # because a video is opened several times
def _encoded(path: Path, modified: int, size: int) -> bytes:
    from PIL import Image  # here, because other videos need no Pillow

    buffer = io.BytesIO()
    try:
        with Image.open(path) as image:
            n_pixels = image.width * image.height * image.n_frames
            if n_pixels > MAX_PIXELS:
                raise MediaError(
                    f"{path} has {n_pixels / 1e9:.1f} billion pixels, but at most {MAX_PIXELS / 1e9:.0f} are possible; convert it to MP4."
                )
            image.save(buffer, format="PNG", save_all=True, compress_level=1)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
        raise MediaError(f"{path} is a damaged animated WebP.") from None
    return buffer.getvalue()
