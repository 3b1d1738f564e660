"""`unsilent reconstruct`: a sound through the codebook and back."""

from pathlib import Path

import typer

from unsilent.cli.generate import Device, Precision, Vocoder


def reconstruct(
    source: Path = typer.Argument(..., metavar="AUDIO|VIDEO", show_default=False),
    out: Path = typer.Option(..., "-o", "--out", help="WAV file to write.", show_default=False),
    model: str = typer.Option("everyday", help="A name from `unsilent models`, or a bundle folder."),
    device: Device = typer.Option(Device.auto),
    precision: Precision = typer.Option(Precision.auto),
    vocoder: Vocoder = typer.Option(Vocoder.neural),
) -> None:
    """Send a sound through codebook and vocoder: the best that the codes of a model can express."""
    from unsilent.errors import ParameterError
    from unsilent.media.audio import read_audio, write_wav
    from unsilent.pipeline import load

    if out.suffix.lower() != ".wav":
        raise ParameterError(f"{out} cannot be written: the sound is written as WAV, so name it with .wav.")
    if out.exists() and source.exists() and out.samefile(source):
        raise ParameterError(f"{out} is the source itself; choose another name for the result.")
    pipeline = load(model, device.value, precision.value, vocoder.value)
    waveform = read_audio(source, pipeline.clip.sample_rate)
    write_wav(out, pipeline.reconstruct(waveform), pipeline.clip.sample_rate)
    typer.echo(f"{out}: {len(waveform) / pipeline.clip.sample_rate:.2f} s as {pipeline.bitrate_kbps:.2f} kbit/s of codes")
