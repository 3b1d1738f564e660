"""Tiny videos whose pictures carry their number, so that a test can tell which picture it was given."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

BITS = 8
CELL = 8  # pixels of the square that stands for a bit


def draw(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """An RGB picture with its number as black and white squares along the top; the rest is red at the left and blue at the right."""
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    picture[:, : width // 2, 0] = 200
    picture[:, width // 2 :, 2] = 200
    for bit in range(BITS):
        picture[:CELL, bit * CELL : (bit + 1) * CELL] = 255 if number >> bit & 1 else 0
    return picture


def read_number(picture: np.ndarray) -> int:
    """The number that `draw` has put into a picture of the same size."""
    middles = picture[CELL // 2, CELL // 2 : BITS * CELL : CELL].mean(axis=1)
    assert np.all((middles < 80) | (middles > 175)), f"not a number: {middles}"
    return int(np.dot(middles > 127, 1 << np.arange(BITS)))


def write_clip(
    path: Path,
    *,
    n_frames: int = 20,
    fps: Fraction | int = 25,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    size: tuple[int, int] = (64, 48),
    times: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    first: int = 0,
    options: dict[str, str] | None = None,
    rotation: int | None = None,
    mirrored: bool = False,
    pictures: Callable[[int], np.ndarray] | None = None,
    sound: np.ndarray | None = None,
    sound_rate: int = 22050,
    sound_codec: str = "aac",
    sound_at: float = 0.0,
) -> Path:
    """Write a clip of numbered pictures.

    `times` are time stamps in units of `time_base` (None spaces the pictures evenly); `first` is how many pictures' worth of time goes
    before the first; `rotation` is in counter-clockwise degrees; `sound` is `[channels, samples]`, heard from `sound_at` seconds on.
    """
    width, height = size
    time_base = time_base or 1 / Fraction(fps)
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=fps)
        video.width, video.height, video.pix_fmt = width, height, pix_fmt
        video.codec_context.time_base = time_base
        video.options = {"crf": "10", "g": "10"} | (options or {}) if codec == "libx264" else options or {}
        if rotation is not None:
            video.set_display_rotation(rotation, hflip=mirrored)
        if sound is not None:
            audio = container.add_stream(sound_codec, rate=sound_rate)
            audio.layout = "stereo" if len(sound) == 2 else "mono"
        for index in range(n_frames if times is None else len(times)):
            picture = pictures(index) if pictures else draw(index, height, width)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.time_base = time_base
            frame.pts = first + index if times is None else times[index]
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if sound is not None:
            frame = av.AudioFrame.from_ndarray(sound.astype(np.float32), format="fltp", layout=audio.layout.name)
            frame.sample_rate, frame.time_base, frame.pts = sound_rate, Fraction(1, sound_rate), round(sound_at * sound_rate)
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path


@pytest.fixture
def make_clip(tmp_path: Path) -> Callable[..., Path]:
    """`make_clip("name.mp4", **as_write_clip)` in a folder of the test's own."""
    return lambda name, **options: write_clip(tmp_path / name, **options)


@pytest.fixture(name="draw")
def draw_fixture() -> Callable[..., np.ndarray]:
    return draw


@pytest.fixture(name="read_number")
def read_number_fixture() -> Callable[[np.ndarray], int]:
    return read_number


@pytest.fixture
def clicks() -> Callable[..., np.ndarray]:
    """`clicks(n_samples, *positions)`: silence with a single loud sample at each position."""

    def build(n_samples: int, *positions: int) -> np.ndarray:
        waveform = np.zeros(n_samples, dtype=np.float32)
        waveform[list(positions)] = 0.9
        return waveform

    return build


@pytest.fixture
def small_files_only():
    """Writing more than 16 kB to a file fails, as on a full disk."""
    resource = pytest.importorskip("resource", reason="limits on file sizes exist on Unix only")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
