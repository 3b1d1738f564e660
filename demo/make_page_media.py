"""Render the media in README: two takes of the demo clip as videos, and the first as a GIF with a playhead over its spectrogram.

    python demo/make_page_media.py docs/demo

Needs the `plot` extra. The sounds are those of `unsilent generate demo/cat.mp4 -o docs/demo/cat.mp4 --takes 2`. The same machine and
number of threads give the same bytes.
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

import unsilent
from unsilent.generation.figure import draw_mel
from unsilent.media.video import stream_frames

CLIP = Path(__file__).parent / "cat.mp4"
TAKES = 2
STILLS = 8  # stills of the video above the spectrogram
GIF_FPS = 5
COLOURS = 128
PLAYHEAD = (80, 220, 255)


def main(folder: Path) -> None:
    """Write `cat.take1.mp4` and further takes, and `cat.gif`."""
    folder.mkdir(parents=True, exist_ok=True)
    takes = unsilent.load("everyday").takes(CLIP, TAKES)
    for number, take in enumerate(takes, start=1):
        take.save_video(folder / f"cat.take{number}.mp4")
    save_gif(takes[0], folder / "cat.gif")


def save_gif(made: unsilent.Generation, out: Path) -> None:
    """Write a GIF of stills above the mel spectrogram, with a playhead that crosses both in real time."""
    still, (left, right, bottom) = _draw(made)
    n_frames = round(made.seconds * GIF_FPS)
    frames = []
    for x in np.linspace(left, right, n_frames, endpoint=False).astype(int):
        frame = still.copy()
        frame[:bottom, x : x + 2] = PLAYHEAD
        frames.append(Image.fromarray(frame))
    palette = frames[0].quantize(COLOURS)  # one for all frames, so that only the playhead changes
    indexed = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    indexed[0].save(out, save_all=True, append_images=indexed[1:], duration=1000 // GIF_FPS, loop=0, optimize=True)


def _draw(made: unsilent.Generation) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Return the figure as RGB `[height, width, 3]`, and the pixel columns of 0 s and of the end with the pixel row of the time axis."""
    figure = Figure(figsize=(8, 3.4), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1, 2])
    width = made.seconds / STILLS
    for time, frame in stream_frames(made.video, 1 / width, short_side=160):
        above.imshow(frame, extent=(time, time + 0.97 * width, 0, 1), aspect="auto")
    above.set(ylim=(0, 1), yticks=[])
    above.tick_params(bottom=False, labelbottom=False)
    above.spines[:].set_visible(False)
    draw_mel(below, made.mel, made.seconds, made.clip)
    canvas.draw()
    pixels, box = np.asarray(canvas.buffer_rgba())[..., :3].copy(), below.get_window_extent()
    return pixels, (round(box.x0), round(box.x1), len(pixels) - round(box.y0))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
