"""`unsilent reconstruct`, `encode` and `decode`: encode a sound as codes of a model and decode it, with or without a file between."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unsilent.choices import AnyPrecision, Device, VocoderChoice
from unsilent.cli import options
from unsilent.cli.terminal import Bar, say

if TYPE_CHECKING:
    from unsilent.codec.codec import Codec

EXAMPLES = {
    "reconstruct": options.examples(
        "unsilent reconstruct recording.wav -o reconstructed.wav",
        "unsilent reconstruct clip.mp4 -o reconstructed.wav --vocoder griffin-lim",
    ),
    "encode": options.examples(
        "unsilent encode recording.wav -o recording.uns",
        "unsilent encode clip.mp4 -o clip.uns",
        "unsilent encode clip.wav -o clip.uns --entropy",
    ),
    "decode": options.examples(
        "unsilent decode recording.uns -o recording.wav",
        "unsilent decode recording.uns -o part.wav --from 60 --to 70",
        "unsilent decode recording.uns -o recording.wav --vocoder griffin-lim",
    ),
}
Sound = Annotated[Path, typer.Argument(metavar="AUDIO|VIDEO", show_default=False)]
Codes = Annotated[Path, typer.Argument(metavar="FILE.uns", show_default=False)]
OutWav = Annotated[Path, typer.Option("-o", "--out", metavar="FILE.wav", help="WAV file to write.", show_default=False)]
OutCodes = Annotated[Path, typer.Option("-o", "--out", metavar="FILE.uns", help="File of codes to write.", show_default=False)]


def reconstruct(
    source: Sound,
    out: OutWav,
    model: options.Model = "everyday",
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    vocoder: options.Vocoder = "neural",
    overwrite: options.Overwrite = False,
) -> None:
    """Encode a sound as codes and decode it again.

    The result is the upper bound of a model's quality, because no code is predicted.
    """
    from unsilent.media.audio import read_audio, recorded_rate
    from unsilent.media.sounds import write_sound
    from unsilent.outputs import check_pair

    check_pair(source, out, ".wav", "sound", overwrite)
    recorded_rate(source)  # raises for a file without sound
    with _loaded(source, "reconstructing", model, device, precision, vocoder) as codec:
        waveform = read_audio(source, codec.clip.sample_rate)
        write_sound(out, codec.reconstruct(waveform), codec.clip.sample_rate)
    typer.echo(f"{out}: {len(waveform) / codec.clip.sample_rate:.2f} s as {codec.bitrate_kbps:.2f} kbit/s of codes")


def encode(
    source: Sound,
    out: OutCodes,
    entropy: Annotated[
        bool, typer.Option("--entropy", help="Entropy coding with the model's sampler: smaller, but slower to decode.")
    ] = False,
    model: options.Model = "everyday",
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    overwrite: options.Overwrite = False,
) -> None:
    """Encode a sound of any length as a file of codes."""
    from unsilent.media.audio import read_blocks, recorded_rate
    from unsilent.outputs import check_pair

    check_pair(source, out, ".uns", "file of codes", overwrite)
    recorded_rate(source)  # raises for a file without sound
    with _loaded(source, "encoding", model, device, precision) as codec:
        from unsilent.codec.files import encode_file

        written = encode_file(codec, lambda: read_blocks(source, codec.clip.sample_rate), out, entropy)
    seconds = written.n_samples / codec.clip.sample_rate
    typer.echo(f"{out}: {seconds:.2f} s in {written.n_bytes} bytes, {8 * written.n_bytes / seconds / 1000:.2f} kbit/s")


def decode(
    source: Codes,
    out: OutWav,
    start: Annotated[float, typer.Option("--from", min=0.0, metavar="S", help="Start of the part, in seconds.")] = 0.0,
    stop: Annotated[
        float | None, typer.Option("--to", min=0.0, metavar="S", help="End of the part, in seconds. [default: the end]")
    ] = None,
    model: options.Model = "everyday",
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    vocoder: options.Vocoder = "neural",
    overwrite: options.Overwrite = False,
) -> int:
    """Decode a file of codes to a WAV file. Damaged parts become silence and are listed, and the exit code is then 3."""
    from unsilent.errors import DataError
    from unsilent.files import atomic_write
    from unsilent.media.sounds import GrowingWav
    from unsilent.outputs import check_pair, is_codes

    check_pair(source, out, ".wav", "sound", overwrite)
    if not is_codes(source):
        raise DataError(f"{source} is not a file of codes (.uns).")
    with _loaded(source, "decoding", model, device, precision, vocoder) as codec:
        from unsilent.codec.files import decode_file

        decoded = decode_file(codec, source, start, stop)
        with atomic_write(out) as temporary, GrowingWav(temporary, codec.clip.sample_rate) as file:
            for block in decoded.blocks:
                file.write(block)
    for start, stop in decoded.lost:
        say(f"{source} is damaged from {start:.2f} s to {stop:.2f} s; this stretch is silent in {out}.")
    if decoded.disagreed:
        say(f"parts of {source} were encoded with probabilities that differ from this machine's; encode without --entropy.")
    typer.echo(f"{out}: {decoded.n_samples / codec.clip.sample_rate:.2f} s")
    return 3 if decoded.lost else 0


@contextmanager
def _loaded(
    source: Path, doing: str, model: str, device: Device, precision: AnyPrecision, vocoder: VocoderChoice = "neural"
) -> "Iterator[Codec]":
    """Load the codec of a model, and show a progress bar with the file's name and the step."""
    from unsilent.checkpoints.folders import find_bundle, find_codebook

    if find_codebook(model) is None:
        find_bundle(model)
    with Bar(1) as bar:
        from unsilent.codec.codec import Codec  # imports torch, so only after the bar is shown

        codec = Codec.load(model, device, precision, vocoder)
        bar.watch(source.name)(doing, 0.0)
        yield codec
