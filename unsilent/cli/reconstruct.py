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
    from unsilent.media.audio import read_audio, write_wav
    from unsilent.pipeline import load

    pipeline = load(model, device.value, precision.value, vocoder.value)
    waveform = read_audio(source, pipeline.clip.sample_rate)
    write_wav(out, pipeline.reconstruct(waveform), pipeline.clip.sample_rate)
    typer.echo(f"{out}: {len(waveform) / pipeline.clip.sample_rate:.2f} s as {pipeline.bitrate_kbps:.2f} kbit/s of codes")
