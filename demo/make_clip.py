"""Render the demo clip: a slow camera move over scikit-image's photograph of the cat Chelsea (CC0, by Stefan van der Walt).

    python demo/make_clip.py demo/cat.mp4

Needs the `dev` extra. The clip has no sound of its own.
"""

import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image
from skimage.data import chelsea

SECONDS, FPS = 10, 25
WIDTH, HEIGHT = 448, 296  # close to the photograph's 451 x 300, and even, as H.264 requires


def main(out: Path) -> None:
    """Write the clip."""
    photograph = Image.fromarray(chelsea())
    with av.open(str(out), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "23", "preset": "veryslow", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.time_base = Fraction(1, FPS)
        for i in range(SECONDS * FPS):
            frame = av.VideoFrame.from_ndarray(np.asarray(view(photograph, i / (SECONDS * FPS - 1))), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def view(photograph: Image.Image, progress: float) -> Image.Image:
    """Render the camera view at `progress` in [0, 1]: a zoom from the whole cat to its eyes, with slight sideways sway."""
    eased = progress * progress * (3 - 2 * progress)
    zoom = 1.0 + 0.9 * eased
    width, height = photograph.width / zoom, photograph.height / zoom
    x = photograph.width * (0.5 + 0.04 * np.sin(4 * np.pi * progress) * eased)
    y = photograph.height * (0.5 - 0.12 * eased)
    left = float(np.clip(x - width / 2, 0, photograph.width - width))
    top = float(np.clip(y - height / 2, 0, photograph.height - height))
    return photograph.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
