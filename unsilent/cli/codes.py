"""`unsilent encode` and `unsilent decode`: sounds as files of codes, and back."""

from pathlib import Path
from typing import Annotated

import typer

from unsilent.cli import options
from unsilent.cli.terminal import Bar, say

ENCODE_EXAMPLES = options.examples("unsilent encode recording.wav -o recording.uns", "unsilent encode clip.mp4 -o clip.uns")
DECODE_EXAMPLES = options.examples("unsilent decode recording.uns -o recording.wav")
SUFFIX = ".uns"


def encode(
    source: Annotated[Path, typer.Argument(metavar="AUDIO|VIDEO", show_default=False)],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE.uns", help="File of codes to write.", show_default=False)],
    model: options.Model = "everyday",
    device: options.Device = "auto",
    precision: options.Precision = "auto",
) -> None:
    """Write a sound as a file of codes, of any length."""
    from unsilent.checkpoints.folders import find_bundle
    from unsilent.errors import ParameterError
    from unsilent.files import require_path
    from unsilent.media.audio import read_audio, recorded_rate

    if out.suffix.lower() != SUFFIX:
        raise ParameterError(f"{out} cannot be written: codes are written as {SUFFIX}, so name it with {SUFFIX}.")
    require_path(source)
    find_bundle(model)
    recorded_rate(source)  # refuses a file without sound
    with Bar(1) as bar:
        from unsilent.codec.codec import Codec  # with torch, after the bar is on the screen
        from unsilent.codec.files import encode_file

        codec = Codec.load(model, device, precision)
        bar.watch(source.name)("encoding", 0.0)
        waveform = read_audio(source, codec.clip.sample_rate)
        n_bytes = encode_file(codec, waveform, out)
    seconds = len(waveform) / codec.clip.sample_rate
    typer.echo(f"{out}: {seconds:.2f} s in {n_bytes} bytes, {8 * n_bytes / seconds / 1000:.2f} kbit/s")


def decode(
    source: Annotated[Path, typer.Argument(metavar="FILE.uns", show_default=False)],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE.wav", help="WAV file to write.", show_default=False)],
    model: options.Model = "everyday",
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    vocoder: options.Vocoder = "neural",
) -> int:
    """Read a sound from a file of codes. Damaged parts are silent and named; the exit code is then 3."""
    from unsilent.checkpoints.folders import find_bundle
    from unsilent.errors import ParameterError
    from unsilent.files import require_path
    from unsilent.media.audio import write_wav

    if out.suffix.lower() != ".wav":
        raise ParameterError(f"{out} cannot be written: the sound is written as WAV, so name it with .wav.")
    require_path(source)
    find_bundle(model)
    with Bar(1) as bar:
        from unsilent.codec.codec import Codec  # with torch, after the bar is on the screen
        from unsilent.codec.files import decode_file

        codec = Codec.load(model, device, precision, vocoder)
        bar.watch(source.name)("decoding", 0.0)
        decoded = decode_file(codec, source)
        write_wav(out, decoded.waveform, codec.clip.sample_rate)
    for start, stop in decoded.lost:
        say(f"{source} is damaged from {start:.2f} s to {stop:.2f} s, which is silent in {out}.")
    typer.echo(f"{out}: {len(decoded.waveform) / codec.clip.sample_rate:.2f} s")
    return 3 if decoded.lost else 0
