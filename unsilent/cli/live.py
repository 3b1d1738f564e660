"""`unsilent live`, and `unsilent generate --stream`: write sound to standard output or a growing WAV while it is generated."""

import re
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unsilent.cli import options
from unsilent.cli.terminal import say

if TYPE_CHECKING:
    from unsilent.generation.streaming import Streamed

PIPE = "-"  # standard input or output
EXAMPLES = options.examples(
    "ffmpeg -i clip.mp4 -f matroska - | unsilent live - | aplay -f S16_LE -r 22050",
    "unsilent live /dev/video0 -o live.wav --label dog",
    "renderer | unsilent live - --raw 320x240@30 -o live.wav",
)


def live(
    source: Annotated[
        str, typer.Argument(metavar="-|DEVICE", help="Source of the frames: `-` for standard input, or a camera.", show_default=False)
    ],
    out: Annotated[
        str, typer.Option("-o", "--out", metavar="-|FILE.wav", help="`-` for 16-bit PCM on standard output, or a growing WAV.")
    ] = PIPE,
    raw: Annotated[
        str | None, typer.Option(metavar="WxH@FPS", help="Standard input is raw RGB frames of this size. [default: a container]")
    ] = None,
    model: options.Model = "everyday",
    seed: options.Seed = 0,
    label: Annotated[str | None, typer.Option(help="Class name of the sound. [default: recognised in the video]")] = None,
    avoid: options.Avoid = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    overwrite: options.Overwrite = False,
) -> None:
    """Generate sound for frames as they arrive. Each column of 0.19 s is generated two frames after its end."""
    from unsilent.checkpoints.folders import find_bundle
    from unsilent.errors import ParameterError

    pictures = None if raw is None else _parse_raw(raw)
    if raw is not None and (pictures is None or source != PIPE):
        raise ParameterError(f"--raw is {raw}, but must be the format of the frames on standard input, such as 320x240@30.")
    check_out(out, overwrite)
    find_bundle(model)
    from unsilent.loading import load

    pipeline = load(model, device, precision)
    write(pipeline.live(source, raw=pictures, seed=seed, label=label, avoid=options.split(avoid)), out, pipeline.clip.sample_rate)


def _parse_raw(raw: str) -> tuple[int, int, float] | None:
    """Width, height and frames per second; None for other text and sizes that no video has."""
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})@(\d{1,4}(?:\.\d{1,6})?)", raw, re.ASCII)
    width, height, fps = (int(found[1]), int(found[2]), float(found[3])) if found else (0, 0, 0.0)
    return (width, height, fps) if fps > 0 and 0 < width * height <= 8192 * 8192 else None


def check_out(out: str, overwrite: bool) -> None:
    """Check the output of a stream before a model is loaded.

    Raises:
        ParameterError: if it is neither `-` nor a WAV, or is a file that unsilent has not written.
        MediaError: if it cannot be written.
    """
    from unsilent import outputs
    from unsilent.errors import ParameterError

    if out == PIPE:
        return
    if Path(out).suffix.lower() != ".wav":
        raise ParameterError(f"-o is {out}, but a stream is written to a .wav file or, with -o -, to standard output.")
    outputs.refuse_unwritable(Path(out))
    if not overwrite:
        outputs.refuse_foreign([Path(out)])


def write(stream: "Iterator[Streamed]", out: str, sample_rate: int) -> "list[Streamed]":
    """Write a stream as it arrives. Then print its length, the time of its first samples and the total time."""
    from unsilent.media.sounds import GrowingWav, as_bytes

    started, first, stretches = time.monotonic(), None, []
    with nullcontext() if out == PIPE else GrowingWav(Path(out), sample_rate) as file:
        for stretch in stream:
            if file is None:
                sys.stdout.buffer.write(as_bytes(stretch.waveform[None], "16"))
                sys.stdout.buffer.flush()
            else:
                file.write(stretch.waveform)
            stretches.append(stretch)
            first = time.monotonic() - started if first is None else first
    seconds, spent = sum(len(one.waveform) for one in stretches) / sample_rate, time.monotonic() - started
    if seconds:
        say(f"{seconds:.2f} s of sound; the first samples came after {first:.2f} s, the last after {spent:.2f} s.")
    return stretches
