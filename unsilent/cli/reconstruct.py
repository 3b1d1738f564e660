"""`unsilent reconstruct`: a sound through the codebook and back."""

from pathlib import Path
from typing import Annotated

import typer

from unsilent.cli import options
from unsilent.cli.terminal import Bar

EXAMPLES = options.examples(
    "unsilent reconstruct recording.wav -o reconstructed.wav",
    "unsilent reconstruct clip.mp4 -o reconstructed.wav --vocoder griffin-lim",
)


def reconstruct(
    source: Annotated[Path, typer.Argument(metavar="AUDIO|VIDEO", show_default=False)],
    out: Annotated[Path, typer.Option("-o", "--out", help="WAV file to write.", show_default=False)],
    model: options.Model = "everyday",
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    vocoder: options.Vocoder = "neural",
    overwrite: options.Overwrite = False,
) -> None:
    """Send a sound through codebook and vocoder.

    The result is the upper limit of a model's quality, because its codes are those of the sound itself.
    """
    from unsilent.checkpoints.folders import find_bundle
    from unsilent.errors import ParameterError
    from unsilent.files import require_path
    from unsilent.media.audio import read_audio, recorded_rate, write_wav
    from unsilent.outputs import refuse_foreign

    if out.suffix.lower() != ".wav":
        raise ParameterError(f"{out} cannot be written: the sound is written as WAV, so name it with .wav.")
    require_path(source)
    if out.exists() and out.samefile(source):
        raise ParameterError(f"{out} is the source itself; choose another name for the result.")
    if not overwrite:
        refuse_foreign([out])
    find_bundle(model)
    recorded_rate(source)  # refuses a file without sound
    with Bar(1) as bar:
        from unsilent.codec.codec import Codec  # with torch, after the bar is on the screen

        codec = Codec.load(model, device, precision, vocoder)
        bar.watch(source.name)("reconstructing", 0.0)
        waveform = read_audio(source, codec.clip.sample_rate)
        write_wav(out, codec.reconstruct(waveform), codec.clip.sample_rate)
    typer.echo(f"{out}: {len(waveform) / codec.clip.sample_rate:.2f} s as {codec.bitrate_kbps:.2f} kbit/s of codes")
