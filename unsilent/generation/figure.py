"""The figure of a generation: frames of the video above the mel spectrogram, on one time axis."""

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from unsilent.clip import Clip
from unsilent.errors import require_matplotlib
from unsilent.files import atomic_write
from unsilent.media.suffixes import OWN_COMMENT
from unsilent.media.video import stream_frames
from unsilent.signal.mel import FLOOR_DB, RANGE_DB, band_centres_hz

N_THUMBNAILS = 10
_TICKS_HZ = (200, 500, 1000, 2000, 4000, 7000)


def draw(
    video: Path,
    mel: Float[np.ndarray, "mels frames"],
    seconds: float,
    clip: Clip,
    title: str,
    out: Path,
    attention: tuple[Float[np.ndarray, "places columns"], str] | None = None,
) -> None:
    """Draw frames and mel of a whole video as PNG, and attention if given.

    Args:
        video: video file.
        mel: log mel in [-1, 1].
        seconds: length of the time axis, which is the video's.
        clip: the grid of the mel.
        title: one line above the frames.
        out: PNG to write.
        attention: image and axis label from `attention.over_time`.

    Raises:
        ParameterError: if matplotlib is not installed.
        MediaError: if the video cannot be read or `out` cannot be written.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    heights = [1, 2.2] if attention is None else [1, 2.2, 1.5]
    figure = Figure(figsize=(12, 1.6 * sum(heights)), layout="constrained")
    above, below, *more = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    _draw_frames(above, video, seconds)
    image = draw_mel(below, mel, seconds, clip)
    figure.colorbar(image, ax=below, label="level (dB)", pad=0.01)
    for axes in more:
        weights, places = attention
        shown_seconds = weights.shape[1] * clip.column_seconds
        image = axes.imshow(weights, origin="lower", aspect="auto", extent=(0, shown_seconds, -0.5, len(weights) - 0.5), cmap="viridis")
        axes.set(xlim=(0, seconds), xlabel="time (s)", ylabel=places)
        figure.colorbar(image, ax=axes, label="attention", pad=0.01)
    # file names in a title need not be valid text, and may contain TeX
    above.set_title(title.encode("utf-8", "backslashreplace").decode(), parse_math=False)
    with warnings.catch_warnings(), atomic_write(out) as temporary:
        warnings.filterwarnings("ignore", message="Glyph")  # the font draws missing glyphs as boxes
        figure.savefig(temporary, dpi=110, format="png", metadata={"Comment": OWN_COMMENT})


def draw_sheet(video: Path, mels: Mapping[str, Float[np.ndarray, "mels frames"]], seconds: float, clip: Clip, out: Path) -> None:
    """Draw a contact sheet as PNG: frames of a video above the mels of several sounds.

    Args:
        video: video file.
        mels: mels by title.
        seconds: length of the time axis.
        clip: the grid of the mels.
        out: PNG to write.

    Raises:
        ParameterError: if matplotlib is not installed.
        MediaError: if the video cannot be read or `out` cannot be written.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 1.6 + 1.7 * len(mels)), layout="constrained")
    above, *rows = figure.subplots(1 + len(mels), 1, sharex=True, height_ratios=[1, *[1.2] * len(mels)])
    _draw_frames(above, video, seconds)
    for axes, (title, mel) in zip(rows, mels.items(), strict=True):
        draw_mel(axes, mel, seconds, clip)
        axes.set(xlabel="time (s)" if axes is rows[-1] else "")
        axes.set_title(title, fontsize="small", loc="left", parse_math=False)
    with atomic_write(out) as temporary:
        figure.savefig(temporary, dpi=80, format="png", metadata={"Comment": OWN_COMMENT})


def draw_mel(axes, mel: Float[np.ndarray, "mels frames"], seconds: float, clip: Clip):
    """Draw a mel in [-1, 1] on matplotlib axes whose time axis has `seconds`; returns the image, for a colour bar."""
    decibels = (np.clip(mel, -1, 1) + 1) / 2 * RANGE_DB + FLOOR_DB
    shown_seconds = mel.shape[1] * clip.hop / clip.sample_rate
    extent = (0, shown_seconds, -0.5, clip.mels - 0.5)
    image = axes.imshow(decibels, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=FLOOR_DB, vmax=0)
    bands = np.interp(_TICKS_HZ, band_centres_hz(clip), np.arange(clip.mels))
    axes.set_yticks(bands, [f"{hz / 1000:g} kHz" for hz in _TICKS_HZ])
    axes.set(xlim=(0, seconds), xlabel="time (s)")
    return image


def _draw_frames(axes, video: Path, seconds: float) -> None:
    fps = N_THUMBNAILS / seconds
    width = 1 / fps
    for time, frame in stream_frames(video, fps, short_side=128):
        axes.imshow(frame, extent=(time, time + width * 0.96, 0, 1), aspect="auto")
    axes.set(xlim=(0, seconds), ylim=(0, 1), yticks=[])
    axes.tick_params(bottom=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
