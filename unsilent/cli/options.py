"""Options shared by several subcommands."""

from typing import Annotated

import typer

from unsilent.choices import MAX_TAKES, AnyPrecision, VocoderChoice
from unsilent.choices import Device as DeviceChoice


def examples(*commands: str) -> str:
    """Last part of a command's help: one example per line."""
    return "\b\nExamples:\n" + "\n".join(f"  {command}" for command in commands)


def split(listed: str | None) -> tuple[str, ...] | None:
    """`a, b` → a and b."""
    return None if listed is None else tuple(part.strip() for part in listed.split(","))


def _models_here(incomplete: str) -> list[str]:
    """Names of installed models, for shell completion."""
    from unsilent.checkpoints.folders import present

    return [name for name in present() if name.startswith(incomplete)]


Model = Annotated[str, typer.Option("--model", autocompletion=_models_here, help="A name from `unsilent models`, or a bundle folder.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Random seed; the same seed, video, model and machine give the same sound.")]
TopK = Annotated[int | None, typer.Option("--top-k", min=1, help="Sample among the k most likely codes. [default: the model's own]")]
Candidates = Annotated[
    int | None,
    typer.Option(
        "--candidates", min=1, max=MAX_TAKES, help="Sounds sampled for each take, of which the best is kept. [default: the model's own]"
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option("--temperature", min=0.0, help="Above 1 more varied, below 1 more repetitive, 0 greedy. [default: the model's own]"),
]
Guidance = Annotated[
    float | None,
    typer.Option("--guidance", min=0.0, help="Above 1 follows the video more closely, with less variety. [default: the model's own]"),
]
Avoid = Annotated[
    str | None, typer.Option("--avoid", metavar="LABEL,...", help="What should not sound: class names, or kinds such as speech and music.")
]
Motion = Annotated[bool, typer.Option("--motion/--no-motion", help="Condition on motion, for models that take it.")]
Device = Annotated[DeviceChoice, typer.Option("--device", help="Where to compute; auto takes a GPU if there is one.")]
Precision = Annotated[AnyPrecision, typer.Option("--precision", help="Numeric precision; auto is the fastest that keeps the quality.")]
Vocoder = Annotated[VocoderChoice, typer.Option("--vocoder", help="Mel to waveform: the model's network, or Griffin-Lim.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Also replace files that unsilent has not made.")]
