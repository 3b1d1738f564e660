"""`unsilent generate`: videos in, the same videos with sound out."""

import json
from enum import StrEnum
from pathlib import Path

import typer
from rich.table import Column

from unsilent.cli.terminal import Bar, print_table, say


class Device(StrEnum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Precision(StrEnum):
    """How to compute; auto takes what is fast here and sounds the same."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    int8 = "int8"


class Vocoder(StrEnum):
    """How a mel becomes a waveform."""

    neural = "neural"
    griffin_lim = "griffin-lim"


class Original(StrEnum):
    """What becomes of the video's own sound."""

    drop = "drop"
    keep = "keep"
    duck = "duck"


def generate(
    inputs: list[Path] = typer.Argument(..., metavar="VIDEO|FOLDER...", help="Videos, or folders of them.", show_default=False),
    out: Path | None = typer.Option(None, "-o", "--out", help="A file for one video, else a folder. [default: STEM.sound.* beside it]"),
    model: str = typer.Option("everyday", help="A name from `unsilent models`, or a bundle folder."),
    seed: int = typer.Option(0, min=0, help="Same seed, video, model and machine: same sound."),
    takes: int = typer.Option(1, min=1, help="Different sounds for each video."),
    top_k: int | None = typer.Option(None, min=1, help="Choose among the k likeliest codes. [default: the model's own]"),
    temperature: float | None = typer.Option(
        None, min=0.0, help="Above 1 more surprising, below 1 more repetitive, 0 the likeliest. [default: the model's own]"
    ),
    guidance: float | None = typer.Option(
        None, min=0.0, help="Above 1 follows what is seen more closely, with less variety. [default: the model's own]"
    ),
    motion: bool = typer.Option(True, "--motion/--no-motion", help="Whether sounds begin when something moves, for models that can."),
    label: str | None = typer.Option(None, help="Class name, for models that want one."),
    device: Device = typer.Option(Device.auto),
    precision: Precision = typer.Option(Precision.auto),
    vocoder: Vocoder = typer.Option(Vocoder.neural),
    original: Original = typer.Option(Original.drop, help="The video's own sound: drop, keep (mixed in), duck (mixed in, quieter)."),
    wav: bool = typer.Option(False, "--wav", help="Also write the sound alone."),
    picture: bool = typer.Option(False, "--picture", help="Also draw frames and spectrogram on one time axis (PNG)."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object per result instead of a table."),
) -> int:
    """Give videos their sound. The pictures are copied untouched."""
    from unsilent import batch
    from unsilent.pipeline import load

    jobs = batch.plan(inputs, out)
    options = batch.Options(seed, takes, top_k, temperature, guidance, motion, label, original.value, wav, picture)
    results: list[batch.Result] = []
    with Bar(len(jobs)) as bar:
        pipeline = load(model, device.value, precision.value, vocoder.value)
        for result in batch.run(pipeline, jobs, options, lambda job: bar.watch(job.video.name)):
            results.append(result)
            bar.finish(len({one.video for one in results}))
            if result.status == "failed":
                say(result.why)
            if as_json:
                typer.echo(json.dumps(batch.as_record(result, options, pipeline)))
    if results and not as_json and (len(jobs) > 1 or results[0].status == "made"):
        _print_results(results)
    if all(result.status != "failed" for result in results):
        return 0
    return 3 if len(jobs) > 1 else 2


def _print_results(results: list) -> None:
    """A table with a row for each take; every row says how fast it was made, or that it was kept or failed."""
    figures = [Column(name, justify="right", no_wrap=True) for name in ("length", "time", "real-time factor")]
    rows = []
    for result in results:
        last = ("", "", result.status)
        if result.status == "made":
            last = (f"{result.seconds:.2f} s", f"{result.spent_seconds:.2f} s", f"{result.real_time_factor:.2f}")
        rows.append((str(result.video), "" if result.status == "failed" else str(result.out), *last))
    print_table([Column("video", overflow="fold"), Column("sound", overflow="fold"), *figures], rows)
