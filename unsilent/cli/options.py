"""Options and helpers that several subcommands share."""

from typing import Annotated

import typer

from unsilent.choices import MAX_TAKES, AnyPrecision, VocoderChoice
from unsilent.choices import Device as DeviceChoice


def examples(*commands: str) -> str:
    """Format the examples at the end of a command's help, one per line."""
    return "\b\nExamples:\n" + "\n".join(f"  {command}" for command in commands)


def split(listed: str | None) -> tuple[str, ...] | None:
    """Split a comma-separated list and strip spaces. None stays None."""
    return None if listed is None else tuple(part.strip() for part in listed.split(","))


def _models_here(incomplete: str) -> list[str]:
    """Names of installed models, for shell completion."""
    from unsilent.checkpoints.folders import present

    return [name for name in present() if name.startswith(incomplete)]


Model = Annotated[str, typer.Option("--model", autocompletion=_models_here, help="Name from `unsilent models`, or folder of a model.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Random seed. The same seed, video, model and machine give the same sound.")]
TopK = Annotated[int | None, typer.Option("--top-k", min=1, help="Sample from the k likeliest codes. [default: set by the model]")]
Candidates = Annotated[
    int | None,
    typer.Option(
        "--candidates", min=1, max=MAX_TAKES, help="Candidate sounds per take, of which the best is kept. [default: set by the model]"
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option("--temperature", min=0.0, help="Above 1 is more varied, below 1 more repetitive, 0 greedy. [default: set by the model]"),
]
Guidance = Annotated[
    float | None,
    typer.Option("--guidance", min=0.0, help="Above 1 follows the video more closely, with less variety. [default: set by the model]"),
]
Avoid = Annotated[
    str | None, typer.Option("--avoid", metavar="LABEL,...", help="Sounds to avoid: class names, or kinds such as speech and music.")
]
Motion = Annotated[bool, typer.Option("--motion/--no-motion", help="Condition on motion, if the model supports it.")]
Device = Annotated[DeviceChoice, typer.Option("--device", help="Device to compute on; auto takes a GPU if there is one.")]
Precision = Annotated[AnyPrecision, typer.Option("--precision", help="Numeric precision; auto is the fastest one without loss of quality.")]
Vocoder = Annotated[VocoderChoice, typer.Option("--vocoder", help="Method from mel to waveform: the model's network, or Griffin-Lim.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Also replace files that unsilent has not written.")]
